#include "backend/backend.h"

#include <omp.h>

fgmm_status fgmm__backend_create(fgmm_comm *comm, fgmm_device *device, int threads, fgmm_backend **out)
{
    if (threads < 1)
        threads = omp_get_num_procs(); /* heeds the affinity mask */
#ifdef FGMM_HAVE_CUDA
    if (device != NULL)
        return fgmm__backend_cuda.create(comm, device, threads, out);
#endif
    return fgmm__backend_cpu.create(comm, device, threads, out);
}

const fgmm_backend_ops *fgmm__backend_ops_of(bool gpus)
{
    if (!gpus)
        return &fgmm__backend_cpu;
#ifdef FGMM_HAVE_CUDA
    return &fgmm__backend_cuda;
#else
    return NULL;
#endif
}

void fgmm__backend_destroy(fgmm_backend *backend)
{
    if (backend != NULL)
        backend->ops->destroy(backend);
}
