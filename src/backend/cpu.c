/* The CPU backend: its table, its life. */
#include "backend/cpu_backend.h"

#include <cblas.h>
#include <stdlib.h>

fgmm_status fgmm__cpu_tick(const fgmm_backend *backend)
{
    return backend->comm == NULL ? FGMM_OK : fgmm__comm_tick(backend->comm);
}

static void cpu_destroy(fgmm_backend *backend)
{
    fgmm__cpu_backend *cpu = (fgmm__cpu_backend *)backend;
    if (cpu == NULL)
        return;
    fgmm__cpu_estep_destroy(cpu->estep);
    fgmm__cpu_assign_free(cpu);
    fgmm__cpu_queries_destroy(cpu->queries);
    free(cpu);
}

static fgmm_status cpu_create(fgmm_comm *comm, fgmm_device *device, int threads, fgmm_backend **out)
{
    (void)device;
    fgmm_status status = FGMM_OK;
    fgmm__cpu_backend *cpu = NULL;
    FGMM_ALLOC(cpu, 1, "the CPU backend");
    cpu->base.ops = &fgmm__backend_cpu;
    cpu->base.comm = comm;
    cpu->base.threads = threads < 1 ? 1 : threads;
    /* Our threads take blocks; a product split by OpenBLAS would change its bits with the number of threads.
     */
    openblas_set_num_threads(1);
    *out = &cpu->base;
cleanup:
    return status;
}

static int64_t cpu_workspace_bytes(fgmm_covariance shape, fgmm_moment moment, int32_t k, int32_t dim)
{
    return fgmm__cpu_model_bytes(shape, k, dim) + fgmm__cpu_estep_bytes(moment, k, dim);
}

const fgmm_backend_ops fgmm__backend_cpu = {
    .name = "cpu",
    .create = cpu_create,
    .destroy = cpu_destroy,
    .workspace_bytes = cpu_workspace_bytes,
    .estep_begin = fgmm__cpu_estep_begin,
    .estep_tile = fgmm__cpu_estep_tile,
    .estep_end = fgmm__cpu_estep_end,
    .assign_begin = fgmm__cpu_assign_begin,
    .assign_tile = fgmm__cpu_assign_tile,
    .queries_begin = fgmm__cpu_queries_begin,
    .products_begin = fgmm__cpu_products_begin,
    .neighbors = fgmm__cpu_neighbors,
};
