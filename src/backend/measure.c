#include "backend/measure.h"

#include <cblas.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/philox.h"
#include "base/status.h"

enum { GEMM_SIZE = 1536, GEMM_REPEATS = 7, WARM_UPS = 2 };

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double fgmm__median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, ascending);
    return 0.5 * (values[(n - 1) / 2] + values[n / 2]);
}

static fgmm_status cpu_gemm(int threads, double *tflops)
{
    fgmm_status status = FGMM_OK;
    const size_t matrix = (size_t)GEMM_SIZE * GEMM_SIZE;
    double seconds[GEMM_REPEATS];
    float *factors = NULL, *products = NULL;
    FGMM_ALLOC(factors, 2 * matrix, "a measured product");
    FGMM_ALLOC(products, (size_t)threads * matrix, "a measured product");
    for (size_t i = 0; i < 2 * matrix; i++)
        factors[i] = (float)fgmm__philox_uniform(0, FGMM_RNG_BENCH, i) - 0.5f;
    openblas_set_num_threads(1); /* ours run the products side by side */
    for (int repeat = -WARM_UPS; repeat < GEMM_REPEATS; repeat++) {
        double begin = fgmm__seconds();
#pragma omp parallel num_threads(threads)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, GEMM_SIZE, GEMM_SIZE, GEMM_SIZE, 1, factors,
                    GEMM_SIZE, factors + matrix, GEMM_SIZE, 0,
                    products + (size_t)omp_get_thread_num() * matrix, GEMM_SIZE);
        if (repeat >= 0)
            seconds[repeat] = fgmm__seconds() - begin;
    }
    *tflops = 2e-12 * GEMM_SIZE * (double)matrix * threads / fgmm__median(seconds, GEMM_REPEATS);
cleanup:
    free(factors);
    free(products);
    return status;
}

static fgmm_status cpu_copy(int threads, int64_t bytes, int reps, double *seconds)
{
    fgmm_status status = FGMM_OK;
    char *from = NULL, *to = NULL;
    FGMM_ALLOC(from, bytes, "a measured copy");
    FGMM_ALLOC(to, bytes, "a measured copy");
    for (int rep = -WARM_UPS; rep < reps; rep++) {
        double begin = fgmm__seconds();
#pragma omp parallel num_threads(threads)
        {
            int64_t first = bytes * omp_get_thread_num() / omp_get_num_threads();
            int64_t end = bytes * (omp_get_thread_num() + 1) / omp_get_num_threads();
            memcpy(to + first, from + first, (size_t)(end - first));
        }
        if (rep >= 0)
            seconds[rep] = fgmm__seconds() - begin;
    }
cleanup:
    free(from);
    free(to);
    return status;
}

fgmm_status fgmm__measure_gemm(fgmm_device *device, int threads, double *tflops)
{
#ifdef FGMM_HAVE_CUDA
    if (device != NULL)
        return fgmm__measure_cuda_gemm(device, tflops);
#endif
    (void)device;
    return cpu_gemm(threads, tflops);
}

fgmm_status fgmm__measure_copy(fgmm_device *device, int threads, int64_t bytes, int reps, double *seconds)
{
#ifdef FGMM_HAVE_CUDA
    if (device != NULL)
        return fgmm__measure_cuda_copy(device, bytes, reps, seconds);
#endif
    (void)device;
    return cpu_copy(threads, bytes, reps, seconds);
}
