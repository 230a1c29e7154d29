/* Checked calls of the CUDA runtime, for host code. */
#ifndef FGMM_DEVICE_CUDA_CHECK_H
#define FGMM_DEVICE_CUDA_CHECK_H

#include <cuda_runtime_api.h>
#include "base/status.h"

/* Records "GPU 0 (NAME) of rank R on HOST: cudaXyz failed: reason (file:line)". Returns FGMM_ERR_RUNTIME. */
fgmm_status fgmm__cuda_failed(cudaError_t code, const char *call, const char *file, int line);

/* Evaluates the call once; on an error sets `status` and jumps to `cleanup:`. After a kernel launch:
 * FGMM_CUDA(cudaGetLastError()). */
#define FGMM_CUDA(call)                                                                                      \
    do {                                                                                                     \
        cudaError_t cuda_code_ = (call);                                                                     \
        if (cuda_code_ != cudaSuccess) {                                                                     \
            status = fgmm__cuda_failed(cuda_code_, #call, __FILE__, __LINE__);                               \
            goto cleanup;                                                                                    \
        }                                                                                                    \
    } while (0)

#endif
