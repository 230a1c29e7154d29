#define _GNU_SOURCE /* sched_getaffinity */

#include "ivf/workplace.h"

#include <sched.h>
#include <string.h>

#include "base/log.h"

static int threads_of(const fgmm_resources *resources)
{
    cpu_set_t mask;
    if (resources->threads > 0)
        return resources->threads;
    return sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : 1;
}

/* The model's own components, and its means alone where lists are chosen by distance. */
static int64_t backend_bytes(const fgmm_backend *backend, const fgmm_workplace_needs *needs, int32_t dim)
{
    int64_t bytes = backend->ops->workspace_bytes(needs->shape, FGMM_MOMENT_NONE, needs->k, dim);
    if (needs->shape != FGMM_SPHERICAL || needs->second)
        bytes += backend->ops->workspace_bytes(FGMM_SPHERICAL, FGMM_MOMENT_NONE, needs->k, dim);
    return bytes;
}

fgmm_status fgmm__workplace_open(fgmm_comm *comm, const fgmm_dataset *dataset,
                                 const fgmm_resources *resources, fgmm_covariance shape, int32_t k,
                                 fgmm_started *started, fgmm_workplace *place)
{
    fgmm_workplace_needs needs = {.shape = shape, .k = k};
    return fgmm__workplace_open_for(comm, dataset, resources, &needs, started, place);
}

fgmm_status fgmm__workplace_open_for(fgmm_comm *comm, const fgmm_dataset *dataset,
                                     const fgmm_resources *resources, const fgmm_workplace_needs *needs,
                                     fgmm_started *started, fgmm_workplace *place)
{
    fgmm_status status = FGMM_OK;
    *place = (fgmm_workplace){.comm = comm};
    FGMM_TRY(fgmm__comm_agree(comm, fgmm__device_open(comm, resources->backend, &place->device)));
    FGMM_TRY(fgmm__comm_agree(
        comm, fgmm__backend_create(comm, place->device, threads_of(resources), &place->backend)));
    if (needs->second)
        FGMM_TRY(fgmm__comm_agree(
            comm, fgmm__backend_create(comm, place->device, threads_of(resources), &place->second)));
    if (dataset == NULL) {
        if (started != NULL)
            FGMM_TRY(fgmm__comm_agree(comm, started(place->device, 0, NULL)));
        goto cleanup;
    }
    fgmm_shard_options options = {
        .residency = resources->residency,
        .device_memory_bytes = resources->device_memory_bytes,
        .host_memory_bytes = resources->host_memory_bytes,
        .cap_whole_process = true,
        .tile_rows = resources->tile_rows,
        .backend_bytes = backend_bytes(place->backend, needs, fgmm_dataset_dim(dataset)),
        .reserved_bytes = needs->host_bytes,
    };
    FGMM_TRY(
        fgmm__comm_agree(comm, fgmm__shard_create(dataset, comm, place->device, &options, &place->shard)));
    FGMM_TRY(fgmm__comm_agree(comm, fgmm__shard_load_resident(place->shard)));
    if (started != NULL)
        FGMM_TRY(fgmm__comm_agree(
            comm, started(place->device, fgmm__shard_end(place->shard) - fgmm__shard_begin(place->shard),
                          fgmm__shard_where(place->shard))));
cleanup:
    if (status != FGMM_OK)
        fgmm__workplace_close(place);
    return status;
}

void fgmm__workplace_close(fgmm_workplace *place)
{
    fgmm__shard_destroy(place->shard);
    fgmm__backend_destroy(place->second);
    fgmm__backend_destroy(place->backend);
    fgmm__device_close(place->device);
    memset(place, 0, sizeof *place);
}

fgmm_status fgmm__workplace_queries(fgmm_workplace *place, fgmm_metric metric, const float *queries,
                                    int64_t n, int32_t dim)
{
    const fgmm_backend_ops *ops = place->backend->ops;
    return metric == FGMM_IP ? ops->products_begin(place->backend, queries, n, dim)
                             : ops->queries_begin(place->backend, queries, n, dim);
}

fgmm_backend_kind fgmm__neighbors_backend(fgmm_metric metric, fgmm_backend_kind asked)
{
    if (metric != FGMM_IP)
        return asked;
    if (asked == FGMM_BACKEND_CUDA)
        fgmm__warn("inner products are computed on the CPU; --backend cuda has no effect here");
    return FGMM_BACKEND_CPU;
}

void fgmm__show_distances(fgmm_metric metric, float *distances, int64_t n)
{
    for (int64_t i = 0; metric == FGMM_IP && i < n; i++)
        distances[i] = -distances[i];
}

fgmm_status fgmm__stopped_without_trace(fgmm_status status, const char *what)
{
    if (status != FGMM_STOPPED)
        return status;
    fgmm_error_clear();
    return fgmm__fail(FGMM_ERR_RUNTIME,
                      "stopped on request before %s was whole; nothing was written, run the same line again",
                      what);
}
