/* Pairs of queries and rows within a distance, on the device. */
#include "backend/cuda_backend.h"

_Static_assert(sizeof(fgmm_hit) == 16, "the kernel writes hits of this layout");

fgmm_status fgmm__cuda_queries_begin(fgmm_backend *backend, const float *queries, int64_t n, int32_t dim)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    float *on_device = NULL;
    FGMM_TRY(
        fgmm__cuda_put(cuda, BUFFER_QUERIES, queries, (size_t)n * (size_t)dim * sizeof *queries, &on_device));
    FGMM_TRY(fgmm__stream_sync(cuda->stream, backend->comm));
    cuda->n_queries = n;
    cuda->query_dim = dim;
cleanup:
    return status;
}

/* Copies what a call brings to the device. */
static fgmm_status bring(fgmm__cuda_backend *cuda, const int32_t *subset, const double *bounds,
                         const void *rows, size_t row_bytes, int64_t capacity, fgmm_neighbor_view *view)
{
    fgmm_status status = FGMM_OK;
    size_t count = (size_t)view->n_queries;
    if (subset != NULL)
        FGMM_TRY(fgmm__cuda_put(cuda, BUFFER_SUBSET, subset, count * sizeof *subset, &view->subset));
    FGMM_TRY(fgmm__cuda_put(cuda, BUFFER_QUERY_BOUNDS, bounds, count * sizeof *bounds, &view->bounds));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_ROWS, row_bytes, &view->rows));
    FGMM_TRY(fgmm__device_upload(cuda->base.device, cuda->buffers[BUFFER_ROWS].pointer, rows, row_bytes,
                                 cuda->stream)); /* rows are many, and may be pinned */
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_HITS, (size_t)capacity * sizeof(fgmm_hit), &view->hits));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_N_HITS, sizeof *view->n_hits, &view->n_hits));
    FGMM_CUDA(cudaMemsetAsync(view->n_hits, 0, sizeof *view->n_hits, cuda->stream));
cleanup:
    return status;
}

fgmm_status fgmm__cuda_neighbors(fgmm_backend *backend, const int32_t *subset, int32_t n_subset,
                                 const double *bounds, const void *rows, fgmm_dtype dtype, int32_t n_rows,
                                 fgmm_hit *hits, int64_t capacity, int64_t *n_hits)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    unsigned long long found = 0;
    size_t row_bytes = (size_t)n_rows * (size_t)cuda->query_dim * fgmm_dtype_bytes(dtype);
    fgmm_neighbor_view view = {
        .queries = cuda->buffers[BUFFER_QUERIES].pointer,
        .type = (fgmm_row_type)dtype,
        .n_queries = subset == NULL ? (int32_t)cuda->n_queries : n_subset,
        .n_rows = n_rows,
        .dim = cuda->query_dim,
        .capacity = capacity,
    };
    *n_hits = 0;
    if (view.n_queries == 0 || n_rows == 0)
        return FGMM_OK;
    FGMM_TRY(bring(cuda, subset, bounds, rows, row_bytes, capacity, &view));
    FGMM_LAUNCH(fgmm__launch_neighbors(&view, cuda->stream));
    FGMM_TRY(fgmm__device_download(backend->device, &found, view.n_hits, sizeof found, cuda->stream));
    FGMM_TRY(fgmm__stream_sync(cuda->stream, backend->comm));
    *n_hits = (int64_t)found;
    int64_t valid = *n_hits < capacity ? *n_hits : capacity;
    if (valid > 0)
        FGMM_TRY(fgmm__device_download(backend->device, hits, view.hits, (size_t)valid * sizeof *hits,
                                       cuda->stream));
    FGMM_TRY(fgmm__stream_sync(cuda->stream, backend->comm));
cleanup:
    return status;
}
