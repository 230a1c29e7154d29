/* Checked calls of NCCL, and of CUDA in its company: the device layer with its own checks stands above this
 * one. */
#ifndef FGMM_COMM_NCCL_CHECK_H
#define FGMM_COMM_NCCL_CHECK_H

#include <cuda_runtime_api.h>
#include <nccl.h>
#include "base/status.h"
#include "comm/comm.h"

/* Records "ncclXyz failed on rank R (host H): reason" with place. Returns FGMM_ERR_RUNTIME. */
fgmm_status fgmm__nccl_failed(const fgmm_comm *comm, ncclResult_t code, const char *call, const char *file,
                              int line);
/* The same for the CUDA runtime. */
fgmm_status fgmm__nccl_cuda_failed(const fgmm_comm *comm, cudaError_t code, const char *call,
                                   const char *file, int line);

/* Evaluates the call once; on an error sets `status` and jumps to `cleanup:`. Communicators are non-blocking:
 * ncclInProgress is no error, the caller waits until the communicator is ready again. */
#define FGMM_NCCL(comm, call)                                                                                \
    do {                                                                                                     \
        ncclResult_t nccl_code_ = (call);                                                                    \
        if (nccl_code_ != ncclSuccess && nccl_code_ != ncclInProgress) {                                     \
            status = fgmm__nccl_failed(comm, nccl_code_, #call, __FILE__, __LINE__);                         \
            goto cleanup;                                                                                    \
        }                                                                                                    \
    } while (0)

#define FGMM_NCCL_CUDA(comm, call)                                                                           \
    do {                                                                                                     \
        cudaError_t cuda_code_ = (call);                                                                     \
        if (cuda_code_ != cudaSuccess) {                                                                     \
            status = fgmm__nccl_cuda_failed(comm, cuda_code_, #call, __FILE__, __LINE__);                    \
            goto cleanup;                                                                                    \
        }                                                                                                    \
    } while (0)

#endif
