/* The CUDA backend: its table, its life, its device memory. */
#include "backend/cuda_backend.h"

#include <stdlib.h>
#include <string.h>

static const char *const buffer_names[BUFFER_COUNT] = {
    [BUFFER_OFFSET] = "component offsets",
    [BUFFER_MEAN] = "component means",
    [BUFFER_CENTRE] = "component means",
    [BUFFER_FACTOR] = "component factors",
    [BUFFER_WHITENING] = "the tied factor",
    [BUFFER_ORIGIN] = "the origin",
    [BUFFER_ORIGIN32] = "the origin",
    [BUFFER_ZEROS] = "the origin of whitened rows",
    [BUFFER_TABLE_MEAN] = "the screen's means",
    [BUFFER_TABLE_SCALE] = "the screen's scales",
    [BUFFER_TABLE_TERMS] = "the screen's terms",
    [BUFFER_SM90_RECORDS] = "the screen's records",
    [BUFFER_SM90_ORDER] = "the screen's order",
    [BUFFER_SM90_WIDE] = "the screen's records",
    [BUFFER_SM90_OPERAND] = "rows for the screen",
    [BUFFER_FULL_RECORDS] = "the screen's records",
    [BUFFER_FULL_WHOLES] = "the screen's factors",
    [BUFFER_FULL_ROWS] = "rows for the screen",
    [BUFFER_FULL_VALUES] = "values of candidates",
    [BUFFER_FULL_SORTED] = "candidates by component",
    [BUFFER_FULL_BY_ROW] = "bounds of rows",
    [BUFFER_FULL_COUNTS] = "counts of candidates",
    [BUFFER_CANDIDATES] = "candidate lists",
    [BUFFER_COUNTS] = "candidate counts",
    [BUFFER_DENSE_ROWS] = "lists of dense rows",
    [BUFFER_DENSE_COUNTS] = "counts of dense rows",
    [BUFFER_SLAB] = "the slab of the dense path",
    [BUFFER_ROW_MAX] = "row maxima",
    [BUFFER_ROW_SUM] = "row sums",
    [BUFFER_ROW_BEST] = "row labels",
    [BUFFER_WHITENED] = "whitened rows",
    [BUFFER_WHITENED32] = "whitened rows",
    [BUFFER_WORDS] = "statistics",
    [BUFFER_INVERSE_BOUND] = "the grid",
    [BUFFER_PAIRS] = "pairs of rows and components",
    [BUFFER_MIXTURES] = "the mixture of a fit",
    [BUFFER_MSTEP] = "the M-step",
    [BUFFER_TOP_VALUE] = "the most likely components",
    [BUFFER_TOP_COMPONENT] = "the most likely components",
    [BUFFER_LABELS] = "labels",
    [BUFFER_RESPONSIBILITIES] = "responsibilities",
    [BUFFER_LOG_DENSITY] = "log-densities",
    [BUFFER_POOR] = "badly explained rows",
    [BUFFER_QUERIES] = "queries",
    [BUFFER_SUBSET] = "numbers of queries",
    [BUFFER_QUERY_BOUNDS] = "bounds of queries",
    [BUFFER_ROWS] = "rows to compare with queries",
    [BUFFER_HITS] = "hits",
    [BUFFER_N_HITS] = "the number of hits",
    [BUFFER_SOAR_MEANS] = "centroids",
    [BUFFER_SOAR_ROWS] = "second lists",
};

fgmm_status fgmm__cuda_reserve(fgmm__cuda_backend *cuda, fgmm__cuda_buffer which, size_t bytes, void *out)
{
    fgmm_status status = FGMM_OK;
    if (cuda->buffers[which].bytes < bytes) {
        fgmm__device_free(cuda->base.device, cuda->buffers[which].pointer);
        cuda->buffers[which].pointer = NULL;
        cuda->buffers[which].bytes = 0;
        FGMM_TRY(
            fgmm__device_alloc(cuda->base.device, bytes, buffer_names[which], &cuda->buffers[which].pointer));
        cuda->buffers[which].bytes = bytes;
    }
    memcpy(out, &cuda->buffers[which].pointer, sizeof(void *));
cleanup:
    return status;
}

fgmm_status fgmm__cuda_put(fgmm__cuda_backend *cuda, fgmm__cuda_buffer which, const void *from, size_t bytes,
                           void *out)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(fgmm__cuda_reserve(cuda, which, bytes, out));
    FGMM_TRY(fgmm__cuda_upload(cuda, cuda->buffers[which].pointer, from, bytes));
cleanup:
    return status;
}

static void cuda_destroy(fgmm_backend *backend)
{
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    if (cuda == NULL)
        return;
    fgmm__stream_sync(cuda->stream, NULL); /* buffers may be in use after a failure */
    for (int b = 0; b < BUFFER_COUNT; b++)
        fgmm__device_free(backend->device, cuda->buffers[b].pointer);
    fgmm__pinned_free(backend->device, cuda->dense_counts);
    for (int slot = 0; slot < FGMM_CHUNKS_UNDER_WAY; slot++)
        fgmm__gpu_event_destroy(cuda->counts_ready[slot]);
    fgmm__cuda_nearest_destroy(cuda->nearest);
    for (int half = 0; half < 2; half++)
        fgmm__gpu_event_destroy(cuda->staging.ready[half]);
    fgmm__pinned_free(backend->device, cuda->assign.staging);
    fgmm__cuda_mixture_free(cuda);
    fgmm__cuda_staging_free(cuda);
    free(cuda);
}

/* Whether the kernels of kernels/sm90 run here. FGMM_KERNELS=generic keeps to the portable ones, to compare.
 */
static fgmm_status find_hopper(bool *hopper)
{
    fgmm_status status = FGMM_OK;
    int device = 0, major = 0;
    const char *wish = getenv("FGMM_KERNELS");
    FGMM_CUDA(cudaGetDevice(&device));
    FGMM_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    *hopper = major == 9 && (wish == NULL || strcmp(wish, "generic") != 0);
cleanup:
    return status;
}

static fgmm_status cuda_create(fgmm_comm *comm, fgmm_device *device, int threads, fgmm_backend **out)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = NULL;
    FGMM_ALLOC(cuda, 1, "the CUDA backend");
    cuda->base = (fgmm_backend){&fgmm__backend_cuda, comm, device, threads};
    cuda->stream = fgmm__device_stream(device);
    FGMM_TRY(find_hopper(&cuda->hopper));
    FGMM_TRY(fgmm__mapped_alloc(device, FGMM_CHUNKS_UNDER_WAY * FGMM_CHUNK_QUANTA * sizeof(int32_t),
                                "counts of dense rows", (void **)&cuda->dense_counts));
    for (int slot = 0; slot < FGMM_CHUNKS_UNDER_WAY; slot++)
        FGMM_TRY(fgmm__gpu_event_create(device, &cuda->counts_ready[slot]));
    for (int half = 0; half < 2; half++)
        FGMM_TRY(fgmm__gpu_event_create(device, &cuda->staging.ready[half]));
    *out = &cuda->base;
    cuda = NULL;
cleanup:
    if (cuda != NULL)
        cuda_destroy(&cuda->base);
    return status;
}

static int64_t cuda_workspace_bytes(fgmm_covariance shape, fgmm_moment moment, int32_t k, int32_t dim)
{
    fgmm_sm90_screen screen = fgmm__sm90_serves(fgmm__cuda_form(shape), shape == FGMM_TIED, k, dim);
    bool screened = screen == FGMM_SM90_FULL || (shape != FGMM_FULL && moment != FGMM_MOMENT_FULL);
    fgmm__cuda_plan plan =
        fgmm__cuda_plan_of(shape, k, dim, !screened, FGMM_CHUNK_QUANTA, FGMM_CHUNKS_UNDER_WAY);
    return fgmm__cuda_model_bytes(shape, k, dim) + fgmm__cuda_mixture_bytes(shape, k, dim) +
           fgmm__cuda_estep_bytes(&plan, moment, k, dim) + fgmm__cuda_plan_bytes(&plan, shape, dim) +
           fgmm__cuda_assign_bytes(shape, k, dim) + fgmm__cuda_soar_bytes(k, dim) +
           (shape == FGMM_FULL && screened ? fgmm__cuda_full_bytes(k, dim, plan.chunk_quanta) : 0) +
           (screen == FGMM_SM90_NARROW ? fgmm__cuda_dense_bytes(k, dim, plan.chunk_quanta) : 0);
}

const fgmm_backend_ops fgmm__backend_cuda = {
    .name = "cuda",
    .create = cuda_create,
    .destroy = cuda_destroy,
    .workspace_bytes = cuda_workspace_bytes,
    .estep_begin = fgmm__cuda_estep_begin,
    .estep_tile = fgmm__cuda_estep_tile,
    .estep_end = fgmm__cuda_estep_end,
    .resident = &fgmm__cuda_resident_ops,
    .assign_begin = fgmm__cuda_assign_begin,
    .assign_tile = fgmm__cuda_assign_tile,
    .poor_tile = fgmm__cuda_poor_tile,
    .soar_begin = fgmm__cuda_soar_begin,
    .soar_tile = fgmm__cuda_soar_tile,
    .queries_begin = fgmm__cuda_queries_begin,
    .neighbors = fgmm__cuda_neighbors,
    .lists_open = fgmm__cuda_lists_open,
    .lists_close = fgmm__cuda_lists_close,
    .lists_search = fgmm__cuda_lists_search,
    .nearest_begin = fgmm__cuda_nearest_begin,
    .nearest_tile = fgmm__cuda_nearest_tile,
    .nearest_end = fgmm__cuda_nearest_end,
};
