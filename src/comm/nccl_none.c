/* Builds without CUDA: no GPU to attach. */
#include "comm/internal.h"

fgmm_status fgmm__comm_attach_gpu(fgmm_comm *comm, const unsigned char uuid[16])
{
    (void)comm;
    (void)uuid;
    return fgmm__fail(FGMM_ERR_RUNTIME, "this fgmm was built without CUDA");
}

bool fgmm__comm_has_nccl(const fgmm_comm *comm)
{
    (void)comm;
    return false;
}

fgmm_status fgmm__comm_sum_i64_device(fgmm_comm *comm, int64_t *values, size_t count, void *stream)
{
    (void)comm;
    (void)values;
    (void)count;
    (void)stream;
    return fgmm__fail(FGMM_ERR_RUNTIME, "this fgmm was built without CUDA");
}

void fgmm__nccl_destroy(fgmm_comm *comm)
{
    (void)comm;
}
