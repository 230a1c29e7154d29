#include "ivf/device_search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

bool fgmm__device_search_serves(const fgmm_backend *backend, int32_t k)
{
    return backend->ops->lists_search != NULL && k <= FGMM_MOST_NEAREST;
}

/* ---- reading lists for the backend ---- */

struct fgmm_list_feed {
    fgmm_lists *lists;
    int64_t used; /* rows of the present piece that were handed over */
};

static fgmm_status feed(void *context, int32_t list, int64_t begin, int64_t n, void *rows, int64_t *ids)
{
    fgmm_status status = FGMM_OK;
    fgmm_list_feed *from = context;
    fgmm_lists *lists = from->lists;
    size_t row_bytes = (size_t)lists->index->dim * fgmm_dtype_bytes(lists->index->dtype);
    if (begin == 0) {
        fgmm__lists_start(lists, list);
        lists->n = from->used = 0;
    }
    for (int64_t done = 0; done < n;) {
        if (from->used == lists->n) {
            FGMM_TRY(fgmm__lists_next(lists));
            from->used = 0;
        }
        int64_t left = lists->n - from->used, some = left < n - done ? left : n - done;
        memcpy((char *)rows + (size_t)done * row_bytes,
               (char *)lists->vectors + (size_t)from->used * row_bytes, (size_t)some * row_bytes);
        memcpy(ids + done, lists->ids + from->used, (size_t)some * sizeof *ids);
        from->used += some;
        done += some;
    }
cleanup:
    return status;
}

fgmm_status fgmm__device_search_open(fgmm_searcher *searcher)
{
    fgmm_status status = FGMM_OK;
    const fgmm_index *index = searcher->index;
    if (searcher->device_lists != NULL)
        return FGMM_OK;
    FGMM_ALLOC(searcher->feed, 1, "searching");
    searcher->feed->lists = searcher->lists;
    fgmm_list_table table = {.lists = index->k,
                             .dim = index->dim,
                             .dtype = index->dtype,
                             .repeats = index->multi,
                             .offsets = index->offsets,
                             .centroids = index->centroids,
                             .read = feed,
                             .context = searcher->feed};
    FGMM_TRY(searcher->place.backend->ops->lists_open(
        searcher->place.backend, &table, searcher->device_memory_bytes, &searcher->device_lists));
cleanup:
    return status;
}

/* ---- searching ---- */

/* What a batch hands to the backend and gets back. */
typedef struct {
    int32_t *probes;        /* [n][nprobe] */
    fgmm_neighbor *nearest; /* [n][k] */
    int32_t *counts;        /* [n] */
} batch;

/* The order of lists comes from the backend itself, unless it is the model's or has too many places. */
static fgmm_status choose(fgmm_searcher *searcher, const float *queries, bool choose_there, batch *b,
                          fgmm_probes *probes)
{
    fgmm_status status = FGMM_OK;
    int64_t n = probes->n;
    int32_t nprobe = probes->nprobe;
    if (choose_there) {
        FGMM_ALLOC(probes->probes, n * nprobe, "probes");
        goto cleanup;
    }
    FGMM_TRY(fgmm__probes_choose(searcher, queries, n, nprobe, false, probes));
    for (int64_t i = 0; i < n * nprobe; i++)
        b->probes[i] = (int32_t)probes->probes[i];
cleanup:
    return status;
}

static void take_results(const batch *b, int64_t n, int32_t k, int64_t *ids, float *distances)
{
    for (int64_t q = 0; q < n; q++)
        for (int32_t i = 0; i < k; i++) {
            bool there = i < b->counts[q];
            ids[q * k + i] = there ? b->nearest[q * k + i].id : -1;
            distances[q * k + i] = there ? (float)b->nearest[q * k + i].distance : INFINITY;
        }
}

fgmm_status fgmm__device_search(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                                int32_t nprobe, int64_t *ids, float *distances, fgmm_tally *tally)
{
    fgmm_status status = FGMM_OK;
    const fgmm_backend_ops *ops = searcher->place.backend->ops;
    bool choose_there = searcher->posterior == NULL && nprobe <= FGMM_MOST_NEAREST;
    fgmm_probes probes = {.queries = queries, .n = n, .nprobe = nprobe};
    batch b = {NULL, NULL, NULL};
    FGMM_ALLOC(b.probes, n * nprobe, "probes");
    FGMM_ALLOC(b.nearest, n * k, "neighbours");
    FGMM_ALLOC(b.counts, n, "neighbours");
    double start = fgmm__seconds();
    FGMM_TRY(choose(searcher, queries, choose_there, &b, &probes));
    FGMM_TRY(ops->lists_search(searcher->device_lists, queries, n, k, nprobe, choose_there ? nprobe : 0,
                               b.probes, b.nearest, b.counts, NULL));
    take_results(&b, n, k, ids, distances);
    tally->seconds += fgmm__seconds() - start;
    for (int64_t i = 0; choose_there && i < n * nprobe; i++)
        probes.probes[i] = b.probes[i];
    for (int64_t q = 0; q < n; q++)
        FGMM_TRY(fgmm__probes_count(searcher, &probes, q, nprobe, tally));
cleanup:
    fgmm__probes_free(&probes);
    free(b.probes);
    free(b.nearest);
    free(b.counts);
    return status;
}

fgmm_status fgmm__device_search_near(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                                     int32_t nprobe, int32_t kept, int64_t *ids, int32_t *lists)
{
    fgmm_status status = FGMM_OK;
    fgmm_neighbor *nearest = NULL;
    int32_t *counts = NULL;
    FGMM_ALLOC(nearest, n * k, "neighbours");
    FGMM_ALLOC(counts, n, "neighbours");
    FGMM_TRY(searcher->place.backend->ops->lists_search(searcher->device_lists, queries, n, k, nprobe, kept,
                                                        lists, nearest, counts, NULL));
    for (int64_t q = 0; q < n; q++)
        for (int32_t i = 0; i < k; i++)
            ids[q * k + i] = i < counts[q] ? nearest[q * k + i].id : -1;
cleanup:
    free(nearest);
    free(counts);
    return status;
}
