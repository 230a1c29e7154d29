/* Searching: queries are dealt to the ranks and searched in batches. */
#include "ivf/search.h"

#include <stdlib.h>

#include "base/clock.h"
#include "ivf/adaptive.h"
#include "ivf/device_search.h"

/* How much of an index a query meets. */
typedef struct {
    int32_t k, nprobe;
    const fgmm_stop_rule *rule; /* NULL: nprobe lists; else at most that many */
    double threshold;
} effort;

fgmm_status fgmm__searcher_create(fgmm_comm *comm, const fgmm_index *index, fgmm_backend_kind backend,
                                  int threads, fgmm_started *started, fgmm_searcher **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_searcher *searcher = NULL;
    fgmm_resources resources = {.backend = fgmm__neighbors_backend(index->metric, backend),
                                .threads = threads};
    status = fgmm__alloc(1, sizeof *searcher, "searching", (void **)&searcher);
    if (status == FGMM_OK)
        status = fgmm__lists_create(index, &searcher->lists);
    if (status == FGMM_OK && index->multi)
        status = fgmm__distinct_create(index, &searcher->distinct);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    searcher->comm = comm;
    searcher->index = index;
    fgmm__searcher_skip(searcher, true);
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
    fgmm__posterior_destroy(searcher->posterior);
    fgmm__coarse_destroy(searcher->coarse);
    if (searcher->device_lists != NULL)
        searcher->place.backend->ops->lists_close(searcher->device_lists);
    free(searcher->feed);
    fgmm__workplace_close(&searcher->place);
    free(searcher);
}

fgmm_status fgmm__searcher_probe_by(fgmm_searcher *searcher, fgmm_probe_order order)
{
    fgmm_status status = FGMM_OK;
    if (order == FGMM_PROBE_POSTERIOR && searcher->index->metric == FGMM_IP)
        return fgmm__fail(
            FGMM_ERR_INPUT,
            "%s: built with --metric ip: a query is no point among the rows, of which the mixture "
            "could say where it lies; leave --probe-by posterior out",
            searcher->index->path);
    fgmm__posterior_destroy(searcher->posterior);
    searcher->posterior = NULL;
    searcher->probe_by = order;
    if (order == FGMM_PROBE_POSTERIOR)
        status =
            fgmm__posterior_create(searcher->index, searcher->place.backend->threads, &searcher->posterior);
    return fgmm__comm_agree(searcher->comm, status);
}

void fgmm__searcher_skip(fgmm_searcher *searcher, bool skip)
{
    searcher->skip = skip && searcher->index->sketch != NULL && searcher->index->metric != FGMM_IP;
}

fgmm_status fgmm__searcher_centroid_sketch(fgmm_searcher *searcher, int32_t m)
{
    fgmm_status status = FGMM_OK;
    fgmm__coarse_destroy(searcher->coarse);
    searcher->coarse = NULL;
    if (m != 0)
        status = fgmm__coarse_create(searcher->comm, searcher->index, m, searcher->place.backend->threads,
                                     &searcher->coarse);
    return fgmm__stopped_without_trace(fgmm__comm_agree(searcher->comm, status), "the search");
}

int64_t fgmm__searcher_batch(const fgmm_searcher *searcher, int32_t k, int32_t nprobe)
{
    enum { SKIMMED = 4096 /* queries at once that remember which rows they met */ };
    int64_t most = fgmm__batch_size(k, nprobe);
    if (searcher->skip && searcher->index->multi && most > SKIMMED)
        most = SKIMMED;
    if (searcher->coarse != NULL && most > fgmm__coarse_batch(searcher->coarse))
        most = fgmm__coarse_batch(searcher->coarse);
    return most;
}

/* ---- one batch ---- */

/* Skimming goes round by round, the nearest lists first: near rows found early rule out the more. */
static fgmm_status scan(fgmm_searcher *searcher, fgmm_probes *probes, fgmm_top *top)
{
    fgmm_status status = FGMM_OK;
    int32_t step = probes->skim != NULL ? 1 : probes->nprobe;
    for (int32_t from = 0; from < probes->nprobe; from += step) {
        fgmm__probes_group(probes, searcher->index->k, NULL, 0, from, from + step);
        FGMM_TRY(fgmm__probes_scan(searcher, probes, top));
    }
cleanup:
    return status;
}

static fgmm_status search_batch(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                                int32_t nprobe, int64_t *ids, float *distances, fgmm_tally *tally)
{
    fgmm_status status = FGMM_OK;
    fgmm_top *top = NULL;
    fgmm_probes probes = {.n = 0};
    double start = fgmm__seconds();
    FGMM_TRY(fgmm__top_create(n, k, searcher->index->multi, &top));
    FGMM_TRY(fgmm__probes_choose(searcher, queries, n, nprobe, searcher->skip, &probes));
    fgmm__probes_find(searcher, &probes, NULL, 0, nprobe);
    FGMM_TRY(scan(searcher, &probes, top));
    fgmm__top_sort(top);
    fgmm__top_read(top, ids, distances);
    tally->seconds += fgmm__seconds() - start;
    for (int64_t q = 0; q < n; q++)
        FGMM_TRY(fgmm__probes_count(searcher, &probes, q, nprobe, tally));
cleanup:
    fgmm__top_destroy(top);
    fgmm__probes_free(&probes);
    return status;
}

/* ---- all queries ---- */

/* A batch is the device's own work, unless a rule asks after every list or rows or centroids are to be passed
 * over. */
static bool on_device(const fgmm_searcher *searcher, const effort *how)
{
    return how->rule == NULL && !searcher->skip && searcher->coarse == NULL &&
           fgmm__device_search_serves(searcher->place.backend, how->k);
}

static fgmm_status search_some(fgmm_searcher *searcher, const float *queries, int64_t n, const effort *how,
                               int64_t *ids, float *distances, fgmm_tally *tally)
{
    if (how->rule != NULL)
        return fgmm__adaptive_search(searcher, how->rule, how->threshold, queries, n, ids, distances, tally);
    if (on_device(searcher, how))
        return fgmm__device_search(searcher, queries, n, how->k, how->nprobe, ids, distances, tally);
    return search_batch(searcher, queries, n, how->k, how->nprobe, ids, distances, tally);
}

static fgmm_status search_mine(fgmm_searcher *searcher, const float *queries, int64_t n, const effort *how,
                               int64_t *ids, float *distances, fgmm_tally *tally)
{
    fgmm_status status = FGMM_OK;
    int32_t k = how->k;
    int64_t step = fgmm__searcher_batch(searcher, k, how->nprobe);
    if (on_device(searcher, how))
        status = fgmm__device_search_open(searcher);
    for (int64_t at = 0; at < n && status == FGMM_OK; at += step) {
        int64_t count = n - at < step ? n - at : step;
        status = search_some(searcher, queries + at * searcher->index->dim, count, how, ids + at * k,
                             distances + at * k, tally);
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

static fgmm_status run(fgmm_searcher *searcher, const float *queries, int64_t n, const effort *how,
                       int64_t *ids, float *distances, fgmm_search_report *report)
{
    fgmm_status status = FGMM_OK;
    fgmm_comm *comm = searcher->comm;
    int size = fgmm_comm_size(comm), rank = fgmm_comm_rank(comm);
    int32_t k = how->k;
    int64_t *counts = NULL, *my_ids = NULL, my_begin = 0;
    float *my_distances = NULL;
    fgmm_tally tally = {0};
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
        status = search_mine(searcher, queries + my_begin * searcher->index->dim, counts[rank], how, my_ids,
                             my_distances, &tally);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(gather(comm, counts, k, my_ids, my_distances, ids, distances));
    fgmm__show_distances(searcher->index->metric, distances, n * k);
    FGMM_TRY(fgmm__comm_sum_i64(comm, &tally.lists, 1));
    FGMM_TRY(fgmm__comm_sum_i64(comm, &tally.scanned, 1));
    FGMM_TRY(fgmm__comm_sum_i64(comm, &tally.distinct, 1));
    FGMM_TRY(fgmm__comm_sum_i64(comm, &tally.full, 1));
    FGMM_TRY(fgmm__comm_sum_i64(comm, &tally.sketches, 1));
    FGMM_TRY(fgmm__comm_sum_i64(comm, &tally.numbers, 1));
    FGMM_TRY(fgmm__comm_max_f64(comm, &tally.seconds, 1));
    if (report != NULL && n > 0)
        *report =
            (fgmm_search_report){.scanned = (double)tally.scanned / (double)n,
                                 .distinct = (double)tally.distinct / (double)n,
                                 .full = (double)tally.full / (double)n,
                                 .sketches = (double)tally.sketches / (double)n,
                                 .centroids = (double)tally.numbers / ((double)n * searcher->index->dim),
                                 .seconds = tally.seconds,
                                 .lists = (double)tally.lists / (double)n};
cleanup:
    free(counts);
    free(my_ids);
    free(my_distances);
    return fgmm__stopped_without_trace(status, "the search");
}

void fgmm__searcher_device_memory(fgmm_searcher *searcher, int64_t bytes)
{
    searcher->device_memory_bytes = bytes;
}

fgmm_status fgmm__searcher_run(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                               int32_t nprobe, int64_t *ids, float *distances, fgmm_search_report *report)
{
    if (k < 1 || nprobe < 1)
        return fgmm__fail(FGMM_ERR_INPUT, "-k %d --nprobe %d: both must be at least 1", k, nprobe);
    effort fixed = {.k = k, .nprobe = nprobe < searcher->index->k ? nprobe : searcher->index->k};
    return run(searcher, queries, n, &fixed, ids, distances, report);
}

fgmm_status fgmm__searcher_run_rule(fgmm_searcher *searcher, const fgmm_stop_rule *rule, double threshold,
                                    const float *queries, int64_t n, int64_t *ids, float *distances,
                                    fgmm_search_report *report)
{
    effort adaptive = {.k = rule->k, .nprobe = rule->max_probes, .rule = rule, .threshold = threshold};
    return run(searcher, queries, n, &adaptive, ids, distances, report);
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
