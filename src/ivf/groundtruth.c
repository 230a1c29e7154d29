/* Exact neighbours: every rank offers the rows of its shard to all queries; the ranks' finds are merged. */
#include <stdlib.h>

#include "base/log.h"
#include "ivf/scan.h"
#include "ivf/workplace.h"

enum {
    BATCH_BYTES = 1 << 30 /* of neighbours kept at once */,
    MERGE_BYTES = 64 << 20 /* of neighbours from all ranks */,
    DEVICE_QUERIES = 16384 /* what is found for them has room on the device */
};

static fgmm_status offer_rows(fgmm_workplace *place, fgmm_scan *scan, fgmm_top *top, const int32_t *everyone)
{
    fgmm_status status = FGMM_OK;
    fgmm_tile tile;
    FGMM_TRY(fgmm__shard_start_host(place->shard));
    for (;;) {
        FGMM_TRY(fgmm__shard_next(place->shard, &tile));
        if (tile.rows == 0)
            break;
        FGMM_TRY(fgmm__scan_rows(scan, top, everyone, (int32_t)top->n, tile.data, tile.dtype, tile.dim,
                                 tile.rows, NULL, tile.begin));
        fgmm__progress_add(tile.rows);
    }
cleanup:
    if (status != FGMM_OK)
        fgmm__comm_announce_failure(place->comm);
    return status;
}

/* The same where the backend keeps what it finds: rows come as tiles in its own memory. */
static fgmm_status offer_tiles(fgmm_workplace *place, const float *queries, int32_t dim, fgmm_top *top)
{
    fgmm_status status = FGMM_OK;
    const fgmm_backend_ops *ops = place->backend->ops;
    fgmm_tile tile;
    FGMM_TRY(ops->nearest_begin(place->backend, queries, top->n, dim, top->k));
    FGMM_TRY(fgmm__shard_start(place->shard));
    for (;;) {
        FGMM_TRY(fgmm__shard_next(place->shard, &tile));
        if (tile.rows == 0)
            break;
        FGMM_TRY(ops->nearest_tile(place->backend, &tile));
        fgmm__progress_add(tile.rows);
    }
    FGMM_TRY(ops->nearest_end(place->backend, top->heap, top->count));
cleanup:
    if (status != FGMM_OK)
        fgmm__comm_announce_failure(place->comm);
    return status;
}

static bool tiles_serve(const fgmm_backend *backend, int32_t k)
{
    return backend->ops->nearest_tile != NULL && k <= FGMM_MOST_NEAREST;
}

/* Merges `n` queries from `begin` on: every rank gets all ranks' neighbours and keeps the nearest. */
static fgmm_status merge_some(fgmm_comm *comm, const fgmm_top *mine, int64_t begin, int64_t n, int64_t *ids,
                              float *distances)
{
    fgmm_status status = FGMM_OK;
    int size = fgmm_comm_size(comm);
    int32_t k = mine->k;
    fgmm_top *merged = NULL;
    fgmm_neighbor *theirs = NULL;
    int32_t *counts = NULL;
    status = fgmm__top_create(n, k, false, &merged);
    if (status == FGMM_OK)
        status =
            fgmm__alloc((size_t)size * (size_t)n * (size_t)k, sizeof *theirs, "neighbours", (void **)&theirs);
    if (status == FGMM_OK)
        status = fgmm__alloc((size_t)size * (size_t)n, sizeof *counts, "neighbours", (void **)&counts);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(
        fgmm__comm_allgather(comm, mine->heap + begin * k, (size_t)n * (size_t)k * sizeof *theirs, theirs));
    FGMM_TRY(fgmm__comm_allgather(comm, mine->count + begin, (size_t)n * sizeof *counts, counts));
    for (int rank = 0; rank < size; rank++)
        for (int64_t q = 0; q < n; q++) {
            const fgmm_neighbor *from = theirs + (rank * n + q) * k;
            for (int32_t i = 0; i < counts[rank * n + q]; i++)
                fgmm__top_push(merged, q, from[i].distance, from[i].id);
        }
    fgmm__top_sort(merged);
    fgmm__top_read(merged, ids + begin * k, distances + begin * k);
cleanup:
    fgmm__top_destroy(merged);
    free(theirs);
    free(counts);
    return status;
}

static fgmm_status merge(fgmm_comm *comm, const fgmm_top *mine, int64_t *ids, float *distances)
{
    fgmm_status status = FGMM_OK;
    int64_t step = MERGE_BYTES / ((int64_t)mine->k * (int64_t)sizeof(fgmm_neighbor) * fgmm_comm_size(comm));
    if (step < 1)
        step = 1;
    for (int64_t at = 0; at < mine->n && status == FGMM_OK; at += step)
        status = merge_some(comm, mine, at, mine->n - at < step ? mine->n - at : step, ids, distances);
    return status;
}

/* This rank's rows go through host memory. */
static fgmm_status find_by_scan(fgmm_workplace *place, fgmm_scan *scan, fgmm_metric metric,
                                const float *queries, int32_t dim, fgmm_top *top)
{
    fgmm_status status = FGMM_OK;
    int32_t *everyone = NULL;
    status = fgmm__alloc((size_t)top->n, sizeof *everyone, "queries", (void **)&everyone);
    if (status == FGMM_OK)
        status = fgmm__workplace_queries(place, metric, queries, top->n, dim);
    FGMM_TRY(fgmm__comm_agree(place->comm, status));
    for (int32_t q = 0; q < top->n; q++)
        everyone[q] = q;
    FGMM_TRY(fgmm__comm_agree(place->comm, offer_rows(place, scan, top, everyone)));
cleanup:
    free(everyone);
    return status;
}

static fgmm_status find(fgmm_workplace *place, fgmm_scan *scan, fgmm_metric metric, const float *queries,
                        int64_t n, int32_t dim, int32_t k, int64_t *ids, float *distances)
{
    fgmm_status status = FGMM_OK;
    fgmm_top *top = NULL;
    FGMM_TRY(fgmm__comm_agree(place->comm, fgmm__top_create(n, k, false, &top)));
    if (tiles_serve(place->backend, k))
        FGMM_TRY(fgmm__comm_agree(place->comm, offer_tiles(place, queries, dim, top)));
    else
        FGMM_TRY(find_by_scan(place, scan, metric, queries, dim, top));
    FGMM_TRY(merge(place->comm, top, ids, distances));
cleanup:
    fgmm__top_destroy(top);
    return status;
}

/* Queries that the rows pass by for at once. */
static int64_t batch_size(const fgmm_backend *backend, int32_t k)
{
    const int64_t most = tiles_serve(backend, k) ? DEVICE_QUERIES : INT32_MAX / 2;
    int64_t n = BATCH_BYTES / ((int64_t)k * (int64_t)sizeof(fgmm_neighbor));
    return n < 1 ? 1 : n > most ? most : n;
}

fgmm_status fgmm__groundtruth(fgmm_comm *comm, const fgmm_dataset *dataset, const float *queries, int64_t n,
                              int32_t k, const fgmm_resources *resources, fgmm_started *started, int64_t *ids,
                              float *distances)
{
    fgmm_status status = FGMM_OK;
    fgmm_workplace place = {0};
    fgmm_scan *scan = NULL;
    int32_t dim = fgmm_dataset_dim(dataset);
    int64_t rows = fgmm_dataset_rows(dataset), step;
    fgmm_metric metric = fgmm_dataset_metric(dataset);
    fgmm_resources where = *resources;
    where.backend = fgmm__neighbors_backend(metric, where.backend);
    if (k < 1 || k > rows)
        FGMM_FAIL(FGMM_ERR_INPUT, "-k %d: must be 1 to the number of rows, %lld", k, (long long)rows);
    FGMM_TRY(fgmm__workplace_open(comm, dataset, &where, FGMM_SPHERICAL, 1, started, &place));
    FGMM_TRY(fgmm__comm_agree(comm, fgmm__scan_create(place.backend, &scan)));
    step = batch_size(place.backend, k);
    fgmm__progress_begin("neighbours", "rows",
                         (fgmm__shard_end(place.shard) - fgmm__shard_begin(place.shard)) *
                             ((n + step - 1) / step));
    for (int64_t at = 0; at < n; at += step)
        FGMM_TRY(find(&place, scan, metric, queries + at * dim, n - at < step ? n - at : step, dim, k,
                      ids + at * k, distances + at * k));
    fgmm__show_distances(metric, distances, n * k);
cleanup:
    fgmm__progress_end();
    fgmm__scan_destroy(scan);
    fgmm__workplace_close(&place);
    return fgmm__stopped_without_trace(status, "the ground truth");
}

fgmm_status fgmm_groundtruth(fgmm_comm *comm, const fgmm_dataset *dataset, const float *queries, int64_t n,
                             int32_t k, const fgmm_resources *resources, int64_t *ids, float *distances)
{
    return fgmm__groundtruth(comm, dataset, queries, n, k, resources, NULL, ids, distances);
}
