/* Ceilings of a GPU, by the vendor's own product and copy, timed by events on the kernel stream. */
#include "backend/measure.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include "base/philox.h"
#include "device/cuda_check.h"

enum { GEMM_SIZE = 8192, GEMM_REPEATS = 9, WARM_UPS = 3, PATTERN = 1 << 20 };

#define CUBLAS(call)                                                                                         \
    do {                                                                                                     \
        cublasStatus_t code_ = (call);                                                                       \
        if (code_ != CUBLAS_STATUS_SUCCESS)                                                                  \
            FGMM_FAIL(FGMM_ERR_RUNTIME, "%s failed: %s (%s:%d)", #call, cublasGetStatusString(code_),        \
                      __FILE__, __LINE__);                                                                   \
    } while (0)

/* Random halves between -1/2 and 1/2, a pattern repeated: zeros would draw less power and run faster. */
static fgmm_status fill_halves(char *to, size_t bytes, cudaStream_t stream)
{
    fgmm_status status = FGMM_OK;
    uint16_t *pattern = NULL;
    FGMM_ALLOC(pattern, PATTERN, "a measured product");
    for (size_t i = 0; i < PATTERN; i++) /* sign, exponent of [1/4, 1/2), mantissa */
        pattern[i] = (uint16_t)((fgmm__philox(0, FGMM_RNG_BENCH, i, 0).word[0] & 0x83ff) | 0x3400);
    for (size_t at = 0; at < bytes; at += PATTERN * sizeof *pattern)
        FGMM_CUDA(
            cudaMemcpyAsync(to + at, pattern, PATTERN * sizeof *pattern, cudaMemcpyHostToDevice, stream));
    FGMM_CUDA(cudaStreamSynchronize(stream));
cleanup:
    free(pattern);
    return status;
}

fgmm_status fgmm__measure_cuda_gemm(fgmm_device *device, double *tflops)
{
    fgmm_status status = FGMM_OK;
    cudaStream_t stream = fgmm__device_stream(device);
    cublasHandle_t handle = NULL;
    cudaEvent_t begin = NULL, end = NULL;
    void *matrices = NULL;
    const size_t matrix_bytes = (size_t)GEMM_SIZE * GEMM_SIZE * sizeof(uint16_t);
    const float one = 1, zero = 0;
    double seconds[GEMM_REPEATS];
    FGMM_CUDA(cudaMalloc(&matrices, 3 * matrix_bytes));
    FGMM_TRY(fill_halves(matrices, 2 * matrix_bytes, stream));
    CUBLAS(cublasCreate(&handle));
    CUBLAS(cublasSetStream(handle, stream));
    FGMM_CUDA(cudaEventCreate(&begin));
    FGMM_CUDA(cudaEventCreate(&end));
    for (int repeat = -WARM_UPS; repeat < GEMM_REPEATS; repeat++) {
        char *a = matrices, *b = a + matrix_bytes, *c = b + matrix_bytes;
        float milliseconds;
        FGMM_CUDA(cudaEventRecord(begin, stream));
        CUBLAS(cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, GEMM_SIZE, GEMM_SIZE, GEMM_SIZE, &one, a,
                            CUDA_R_16F, GEMM_SIZE, b, CUDA_R_16F, GEMM_SIZE, &zero, c, CUDA_R_16F, GEMM_SIZE,
                            CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
        FGMM_CUDA(cudaEventRecord(end, stream));
        FGMM_CUDA(cudaEventSynchronize(end));
        FGMM_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
        if (repeat >= 0)
            seconds[repeat] = 1e-3 * milliseconds;
    }
    *tflops = 2e-12 * GEMM_SIZE * GEMM_SIZE * (double)GEMM_SIZE / fgmm__median(seconds, GEMM_REPEATS);
cleanup:
    if (begin != NULL)
        cudaEventDestroy(begin);
    if (end != NULL)
        cudaEventDestroy(end);
    if (handle != NULL)
        cublasDestroy(handle);
    cudaFree(matrices);
    return status;
}

fgmm_status fgmm__measure_cuda_copy(fgmm_device *device, int64_t bytes, int reps, double *seconds)
{
    fgmm_status status = FGMM_OK;
    cudaStream_t stream = fgmm__device_stream(device);
    cudaEvent_t begin = NULL, end = NULL;
    void *from = NULL, *to = NULL;
    FGMM_CUDA(cudaMalloc(&from, (size_t)bytes));
    FGMM_CUDA(cudaMalloc(&to, (size_t)bytes));
    FGMM_CUDA(cudaEventCreate(&begin));
    FGMM_CUDA(cudaEventCreate(&end));
    for (int rep = -WARM_UPS; rep < reps; rep++) {
        float milliseconds;
        FGMM_CUDA(cudaEventRecord(begin, stream));
        FGMM_CUDA(cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDeviceToDevice, stream));
        FGMM_CUDA(cudaEventRecord(end, stream));
        FGMM_CUDA(cudaEventSynchronize(end));
        FGMM_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
        if (rep >= 0)
            seconds[rep] = 1e-3 * milliseconds;
    }
cleanup:
    if (begin != NULL)
        cudaEventDestroy(begin);
    if (end != NULL)
        cudaEventDestroy(end);
    cudaFree(from);
    cudaFree(to);
    return status;
}
