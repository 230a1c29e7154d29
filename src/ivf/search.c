/* Searching: the lists nearest to each query are found among the centroids, queries are grouped by list, and
 * each list is read once a batch. */
#include "ivf/search.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "ivf/distinct.h"
#include "ivf/scan.h"
#include "ivf/workplace.h"

enum { BATCH_QUERIES = 16384, BATCH_BYTES = 1 << 30 /* of neighbours and probes kept for a batch */ };

struct fgmm_searcher {
    fgmm_comm *comm;
    const fgmm_index *index;
    fgmm_workplace place;
    fgmm_scan *scan;
    fgmm_lists *lists;
    fgmm_distinct *distinct; /* NULL where rows are in one list */
};

/* One batch of this rank's queries. */
struct batch {
    const float *queries; /* [n][dim] */
    int64_t n;
    int32_t k, nprobe;
    int64_t *probes;   /* [n][nprobe] lists, nearest first */
    int64_t *begin;    /* [lists+1] where the queries of each list begin in `visitors` */
    int32_t *visitors; /* [n*nprobe] queries, list by list */
};

fgmm_status fgmm__searcher_create(fgmm_comm *comm, const fgmm_index *index, fgmm_backend_kind backend,
                                  int threads, fgmm_started *started, fgmm_searcher **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_searcher *searcher = NULL;
    fgmm_resources resources = {.backend = backend, .threads = threads};
    status = fgmm__alloc(1, sizeof *searcher, "searching", (void **)&searcher);
    if (status == FGMM_OK)
        status = fgmm__lists_create(index, &searcher->lists);
    if (status == FGMM_OK && index->multi)
        status = fgmm__distinct_create(index, &searcher->distinct);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    searcher->comm = comm;
    searcher->index = index;
    FGMM_TRY(
        fgmm__workplace_open(comm, NULL, &resources, FGMM_SPHERICAL, index->k, started, &searcher->place));
    FGMM_TRY(fgmm__comm_agree(comm, fgmm__scan_create(searcher->place.backend, &searcher->scan)));
    *out = searcher;
    searcher = NULL;
cleanup:
    fgmm__searcher_destroy(searcher);
    return status;
}

void fgmm__searcher_destroy(fgmm_searcher *searcher)
{
    if (searcher == NULL)
        return;
    fgmm__scan_destroy(searcher->scan);
    fgmm__lists_destroy(searcher->lists);
    fgmm__distinct_destroy(searcher->distinct);
    fgmm__workplace_close(&searcher->place);
    free(searcher);
}

/* ---- one batch ---- */

/* The nprobe centroids nearest to each query are its neighbours among the centroids. */
static fgmm_status choose_lists(fgmm_searcher *searcher, struct batch *batch)
{
    fgmm_status status = FGMM_OK;
    const fgmm_index *index = searcher->index;
    fgmm_top *nearest = NULL;
    int32_t *everyone = NULL;
    FGMM_TRY(fgmm__top_create(batch->n, batch->nprobe, false, &nearest));
    FGMM_ALLOC(everyone, batch->n, "queries");
    for (int32_t q = 0; q < batch->n; q++)
        everyone[q] = q;
    FGMM_TRY(fgmm__scan_rows(searcher->scan, nearest, everyone, (int32_t)batch->n, index->centroids, FGMM_F32,
                             index->dim, index->k, NULL, 0));
    fgmm__top_sort(nearest);
    fgmm__top_read(nearest, batch->probes, NULL);
cleanup:
    fgmm__top_destroy(nearest);
    free(everyone);
    return status;
}

/* A counting sort of (query, list) pairs by list. */
static void group_by_list(struct batch *batch, int32_t lists)
{
    int64_t pairs = batch->n * batch->nprobe;
    memset(batch->begin, 0, (size_t)(lists + 1) * sizeof *batch->begin);
    for (int64_t i = 0; i < pairs; i++)
        batch->begin[batch->probes[i] + 1]++;
    for (int32_t j = 0; j < lists; j++)
        batch->begin[j + 1] += batch->begin[j];
    for (int64_t i = pairs - 1; i >= 0; i--) { /* begin[j+1] runs down from the end of list j to its start */
        int64_t list = batch->probes[i];
        batch->visitors[--batch->begin[list + 1]] = (int32_t)(i / batch->nprobe);
    }
    memmove(batch->begin, batch->begin + 1, (size_t)lists * sizeof *batch->begin);
    batch->begin[lists] = pairs;
}

static fgmm_status scan_lists(fgmm_searcher *searcher, const struct batch *batch, fgmm_top *top)
{
    const fgmm_index *index = searcher->index;
    fgmm_lists *lists = searcher->lists;
    fgmm_status status = FGMM_OK;
    for (int32_t j = 0; j < index->k; j++) {
        int32_t visitors = (int32_t)(batch->begin[j + 1] - batch->begin[j]);
        if (visitors == 0)
            continue;
        FGMM_TRY(fgmm__comm_tick(searcher->comm));
        for (fgmm__lists_start(lists, j);;) {
            FGMM_TRY(fgmm__lists_next(lists));
            if (lists->n == 0)
                break;
            FGMM_TRY(fgmm__scan_rows(searcher->scan, top, batch->visitors + batch->begin[j], visitors,
                                     lists->vectors, index->dtype, index->dim, lists->n, lists->ids, 0));
        }
    }
cleanup:
    return status;
}

/* Postings met by the batch's queries, and different rows among them. */
static fgmm_status count_met(fgmm_searcher *searcher, const struct batch *batch, int64_t *scanned,
                             int64_t *distinct)
{
    for (int64_t q = 0; q < batch->n; q++) {
        const int64_t *probes = batch->probes + q * batch->nprobe;
        int64_t met = 0, different;
        for (int32_t i = 0; i < batch->nprobe; i++)
            met += (int64_t)fgmm__index_list_size(searcher->index, (int32_t)probes[i]);
        different = met;
        if (searcher->distinct != NULL) {
            fgmm_status status = fgmm__distinct_count(searcher->distinct, probes, batch->nprobe, &different);
            if (status != FGMM_OK)
                return status;
        }
        *scanned += met;
        *distinct += different;
    }
    return FGMM_OK;
}

/* What a batch did, summed. */
struct tally {
    int64_t scanned, distinct;
    double seconds; /* counting apart: a search that is not measured would not do it */
};

static fgmm_status search_batch(fgmm_searcher *searcher, struct batch *batch, int64_t *ids, float *distances,
                                struct tally *tally)
{
    fgmm_status status = FGMM_OK;
    fgmm_backend *backend = searcher->place.backend;
    fgmm_top *top = NULL;
    double start = fgmm__seconds();
    FGMM_ALLOC(batch->probes, batch->n * batch->nprobe, "probes");
    FGMM_ALLOC(batch->visitors, batch->n * batch->nprobe, "probes");
    FGMM_ALLOC(batch->begin, searcher->index->k + 1, "probes");
    FGMM_TRY(fgmm__top_create(batch->n, batch->k, searcher->index->multi, &top));
    FGMM_TRY(backend->ops->queries_begin(backend, batch->queries, batch->n, searcher->index->dim));
    FGMM_TRY(choose_lists(searcher, batch));
    group_by_list(batch, searcher->index->k);
    FGMM_TRY(scan_lists(searcher, batch, top));
    fgmm__top_sort(top);
    fgmm__top_read(top, ids, distances);
    tally->seconds += fgmm__seconds() - start;
    FGMM_TRY(count_met(searcher, batch, &tally->scanned, &tally->distinct));
cleanup:
    fgmm__top_destroy(top);
    free(batch->probes);
    free(batch->visitors);
    free(batch->begin);
    return status;
}

/* ---- all queries ---- */

static int64_t batch_size(int32_t k, int32_t nprobe)
{
    int64_t bytes = (int64_t)k * (int64_t)sizeof(fgmm_neighbor) + (int64_t)nprobe * 32;
    int64_t n = BATCH_BYTES / bytes;
    return n < 1 ? 1 : n > BATCH_QUERIES ? BATCH_QUERIES : n;
}

static fgmm_status search_mine(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                               int32_t nprobe, int64_t *ids, float *distances, struct tally *tally)
{
    fgmm_status status = FGMM_OK;
    int64_t step = batch_size(k, nprobe);
    for (int64_t at = 0; at < n && status == FGMM_OK; at += step) {
        struct batch batch = {.queries = queries + at * searcher->index->dim,
                              .n = n - at < step ? n - at : step,
                              .k = k,
                              .nprobe = nprobe};
        status = search_batch(searcher, &batch, ids + at * k, distances + at * k, tally);
    }
    if (status != FGMM_OK)
        fgmm__comm_announce_failure(searcher->comm);
    return status;
}

static fgmm_status gather(fgmm_comm *comm, const int64_t *counts, int32_t k, const int64_t *mine,
                          const float *my_distances, int64_t *ids, float *distances)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(fgmm__comm_allgatherv(comm, mine, counts, (size_t)k * sizeof *ids, ids));
    FGMM_TRY(fgmm__comm_allgatherv(comm, my_distances, counts, (size_t)k * sizeof *distances, distances));
cleanup:
    return status;
}

fgmm_status fgmm__searcher_run(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                               int32_t nprobe, int64_t *ids, float *distances, fgmm_search_report *report)
{
    fgmm_status status = FGMM_OK;
    fgmm_comm *comm = searcher->comm;
    int size = fgmm_comm_size(comm), rank = fgmm_comm_rank(comm);
    int64_t *counts = NULL, *my_ids = NULL, my_begin = 0;
    float *my_distances = NULL;
    struct tally tally = {0};
    if (k < 1 || nprobe < 1)
        FGMM_FAIL(FGMM_ERR_INPUT, "-k %d --nprobe %d: both must be at least 1", k, nprobe);
    if (nprobe > searcher->index->k)
        nprobe = searcher->index->k;
    status = fgmm__alloc((size_t)size, sizeof *counts, "results", (void **)&counts);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    for (int r = 0; r < size; r++) {
        counts[r] = n * (r + 1) / size - n * r / size;
        my_begin += r < rank ? counts[r] : 0;
    }
    status = fgmm__alloc((size_t)(counts[rank] * k), sizeof *my_ids, "results", (void **)&my_ids);
    if (status == FGMM_OK)
        status =
            fgmm__alloc((size_t)(counts[rank] * k), sizeof *my_distances, "results", (void **)&my_distances);
    if (status == FGMM_OK)
        status = search_mine(searcher, queries + my_begin * searcher->index->dim, counts[rank], k, nprobe,
                             my_ids, my_distances, &tally);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(gather(comm, counts, k, my_ids, my_distances, ids, distances));
    FGMM_TRY(fgmm__comm_sum_i64(comm, &tally.scanned, 1));
    FGMM_TRY(fgmm__comm_sum_i64(comm, &tally.distinct, 1));
    FGMM_TRY(fgmm__comm_max_f64(comm, &tally.seconds, 1));
    if (report != NULL && n > 0)
        *report = (fgmm_search_report){(double)tally.scanned / (double)n, (double)tally.distinct / (double)n,
                                       tally.seconds};
cleanup:
    free(counts);
    free(my_ids);
    free(my_distances);
    return fgmm__stopped_without_trace(status, "the search");
}

fgmm_status fgmm_search(fgmm_comm *comm, const fgmm_index *index, const float *queries, int64_t n, int32_t k,
                        int32_t nprobe, fgmm_backend_kind backend, int threads, int64_t *ids,
                        float *distances, fgmm_search_report *report)
{
    fgmm_status status = FGMM_OK;
    fgmm_searcher *searcher = NULL;
    FGMM_TRY(fgmm__searcher_create(comm, index, backend, threads, NULL, &searcher));
    FGMM_TRY(fgmm__searcher_run(searcher, queries, n, k, nprobe, ids, distances, report));
cleanup:
    fgmm__searcher_destroy(searcher);
    return status;
}

double fgmm__recall(const int64_t *found, int32_t k, const int64_t *truth, int32_t truth_k, int64_t n)
{
    int64_t hits = 0, wanted = 0;
    int32_t first = k < truth_k ? k : truth_k;
    for (int64_t q = 0; q < n; q++)
        for (int32_t i = 0; i < first; i++) {
            int64_t id = truth[q * truth_k + i];
            if (id < 0)
                continue;
            wanted++;
            for (int32_t j = 0; j < k; j++)
                if (found[q * k + j] == id) {
                    hits++;
                    break;
                }
        }
    return wanted > 0 ? (double)hits / (double)wanted : 0;
}
