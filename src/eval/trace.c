#include "eval/trace.h"

#include <math.h>
#include <stdlib.h>

#include "base/log.h"

/* ---- the true neighbours of one query, to be looked up by row ---- */

enum { SLOTS = 512 /* a power of two, far more than the largest of fgmm__eval_ks */ };

typedef struct {
    int64_t ids[SLOTS];
    int32_t places[SLOTS]; /* 1 + the neighbour's place; 0: free */
} wanted_rows;

static uint32_t slot_of(int64_t id)
{
    return (uint32_t)((uint64_t)id * UINT64_C(0x9E3779B97F4A7C15) >> 55);
}

static void want(wanted_rows *wanted, const int64_t *truth, int32_t k)
{
    *wanted = (wanted_rows){.ids = {0}};
    for (int32_t i = 0; i < k; i++) {
        uint32_t slot = slot_of(truth[i]);
        while (wanted->places[slot] != 0)
            slot = (slot + 1) % SLOTS;
        wanted->ids[slot] = truth[i];
        wanted->places[slot] = i + 1;
    }
}

/* The neighbour's place, -1 for another row. */
static int32_t look_up(const wanted_rows *wanted, int64_t id)
{
    uint32_t slot = slot_of(id);
    while (wanted->places[slot] != 0 && wanted->ids[slot] != id)
        slot = (slot + 1) % SLOTS;
    return wanted->places[slot] - 1;
}

/* ---- tracing ---- */

void fgmm__trace_free(fgmm_eval_trace *trace)
{
    free(trace->scanned);
    free(trace->distinct);
    free(trace->found_at);
    free(trace->numbers);
    free(trace->costs);
    free(trace->x);
    free(trace->to_come);
    *trace = (fgmm_eval_trace){.n = 0};
}

static fgmm_status make_room(fgmm_eval_trace *trace, bool sketched)
{
    fgmm_status status = FGMM_OK;
    int64_t steps = trace->n * trace->lists, stops = trace->n * (trace->lists - 1);
    FGMM_ALLOC(trace->scanned, steps, "what queries met");
    FGMM_ALLOC(trace->distinct, steps, "what queries met");
    FGMM_ALLOC(trace->found_at, trace->n * trace->truth_k, "what queries met");
    FGMM_ALLOC(trace->numbers, steps, "what queries met");
    if (sketched)
        FGMM_ALLOC(trace->costs, steps, "what queries met");
    if (trace->lists > 1) {
        FGMM_ALLOC(trace->x, stops * FGMM_STOP_FEATURES, "what queries met");
        FGMM_ALLOC(trace->to_come, stops, "what queries met");
    }
cleanup:
    return status;
}

/* Finds the lists of a batch one by one. */
static void find_lists(fgmm_searcher *searcher, fgmm_probes *probes, int64_t at, fgmm_eval_trace *trace)
{
    for (int32_t p = 0; p < trace->lists; p++) {
        fgmm__probes_find(searcher, probes, NULL, 0, p + 1);
        for (int64_t q = 0; q < probes->n; q++)
            trace->numbers[(at + q) * trace->lists + p] = fgmm__probes_numbers(searcher, probes, q);
    }
}

/* Walks the postings of the query's lists in probing order. */
static fgmm_status walk(fgmm_searcher *searcher, const int64_t *lists, const int64_t *truth,
                        fgmm_eval_trace *trace, int64_t q)
{
    const fgmm_index *index = searcher->index;
    wanted_rows wanted;
    int32_t *found_at = trace->found_at + q * trace->truth_k;
    int64_t scanned = 0, distinct = 0;
    fgmm_status status = FGMM_OK;
    want(&wanted, truth, trace->truth_k);
    for (int32_t i = 0; i < trace->truth_k; i++)
        found_at[i] = INT32_MAX;
    for (int32_t p = 0; p < trace->lists; p++)
        scanned += (int64_t)fgmm__index_list_size(index, (int32_t)lists[p]);
    if (searcher->distinct != NULL)
        FGMM_TRY(fgmm__distinct_begin(searcher->distinct, (uint64_t)scanned));
    scanned = 0;
    for (int32_t p = 0; p < trace->lists; p++) {
        uint64_t begin = index->offsets[lists[p]], end = index->offsets[lists[p] + 1];
        for (uint64_t posting = begin; posting < end; posting++) {
            int64_t id = fgmm__index_id(index, posting);
            if (searcher->distinct != NULL && !fgmm__distinct_add(searcher->distinct, id))
                continue;
            distinct++;
            int32_t place = look_up(&wanted, id);
            if (place >= 0)
                found_at[place] = p + 1;
        }
        scanned += (int64_t)(end - begin);
        trace->scanned[q * trace->lists + p] = scanned;
        trace->distinct[q * trace->lists + p] = distinct;
    }
    status = fgmm__comm_tick(searcher->comm);
cleanup:
    return status;
}

static fgmm_status walk_all(fgmm_searcher *searcher, const fgmm_eval_queries *queries, int64_t begin,
                            fgmm_eval_trace *trace)
{
    fgmm_status status = FGMM_OK;
    int64_t step = fgmm__searcher_batch(searcher, 1, trace->lists);
    int32_t dim = searcher->index->dim;
    fgmm_probes probes = {.n = 0};
    for (int64_t at = 0; at < trace->n; at += step) {
        int64_t n = trace->n - at < step ? trace->n - at : step;
        FGMM_TRY(fgmm__probes_choose(searcher, queries->rows + (begin + at) * dim, n, trace->lists, false,
                                     &probes));
        find_lists(searcher, &probes, at, trace);
        for (int64_t q = 0; q < n; q++) {
            FGMM_TRY(walk(searcher, probes.probes + q * trace->lists,
                          queries->truth + (begin + at + q) * queries->truth_k, trace, at + q));
            fgmm__progress_add(1);
        }
        fgmm__probes_free(&probes);
    }
cleanup:
    fgmm__probes_free(&probes);
    if (status != FGMM_OK)
        fgmm__comm_announce_failure(searcher->comm);
    return status;
}

static fgmm_status skim_all(fgmm_searcher *searcher, const float *rows, int32_t k, fgmm_eval_trace *trace)
{
    fgmm_status status = FGMM_OK;
    int64_t step;
    fgmm__searcher_skip(searcher, true);
    step = fgmm__searcher_batch(searcher, k, trace->lists);
    for (int64_t at = 0; at < trace->n && status == FGMM_OK; at += step)
        status = fgmm__adaptive_costs(searcher, rows + at * trace->dim,
                                      trace->n - at < step ? trace->n - at : step, k, trace->lists,
                                      trace->costs + at * trace->lists);
    if (status != FGMM_OK)
        fgmm__comm_announce_failure(searcher->comm);
    return status;
}

fgmm_status fgmm__trace(fgmm_searcher *searcher, const fgmm_eval_queries *queries, int32_t lists, int32_t k,
                        fgmm_eval_trace *out)
{
    fgmm_status status = FGMM_OK;
    int size = fgmm_comm_size(searcher->comm), rank = fgmm_comm_rank(searcher->comm);
    int64_t begin = queries->n * rank / size;
    int32_t most = fgmm__eval_ks[FGMM_EVAL_KS - 1];
    fgmm_eval_trace trace = {.n = queries->n * (rank + 1) / size - begin,
                             .lists = lists,
                             .dim = searcher->index->dim,
                             .centroids = searcher->index->k,
                             .truth_k = queries->truth_k < most ? queries->truth_k : most};
    status = lists > 1 ? fgmm__stop_check(searcher->index, queries->n, k, lists) : FGMM_OK;
    if (status == FGMM_OK)
        status = make_room(&trace, searcher->index->sketch != NULL);
    if (status == FGMM_OK)
        status = walk_all(searcher, queries, begin, &trace);
    if (status == FGMM_OK && lists > 1)
        status = fgmm__stop_trace(searcher, queries->rows + begin * searcher->index->dim, trace.n, k, lists,
                                  trace.x, trace.to_come);
    if (status == FGMM_OK && trace.costs != NULL)
        status = skim_all(searcher, queries->rows + begin * searcher->index->dim, k, &trace);
    FGMM_TRY(fgmm__comm_agree(searcher->comm, status));
    *out = trace;
    trace = (fgmm_eval_trace){.n = 0};
cleanup:
    fgmm__trace_free(&trace);
    return status;
}

/* ---- tables ---- */

/* known: lists that were found, of which the first `lists` were probed. */
static fgmm_eval_cell cell_after(const fgmm_eval_trace *trace, int64_t q, int32_t lists, int32_t known,
                                 const fgmm_eval_way *way)
{
    int64_t after = q * trace->lists + lists - 1;
    fgmm_eval_cell cell = {.lists = lists,
                           .scanned = trace->scanned[after],
                           .distinct = trace->distinct[after],
                           .work = trace->distinct[after] * trace->dim,
                           .centroids = (int64_t)trace->centroids * trace->dim};
    if (way->sketch > 0) /* the query has a sketch, too */
        cell.work = (trace->costs[after].full + way->sketch) * trace->dim +
                    trace->costs[after].sketches * (way->sketch + 1);
    if (way->centroid_sketch > 0)
        cell.centroids = trace->numbers[q * trace->lists + known - 1];
    const int32_t *found_at = trace->found_at + q * trace->truth_k;
    for (int i = 0; i < FGMM_EVAL_KS; i++)
        for (int32_t place = 0; place < fgmm__eval_ks[i] && place < trace->truth_k; place++)
            cell.hits[i] += found_at[place] <= lists;
    return cell;
}

/* mine: [n][settings] of this rank's queries */
static fgmm_status gather(fgmm_comm *comm, const fgmm_eval_cell *mine, const fgmm_eval_queries *queries,
                          int32_t settings, int32_t dim, fgmm_eval_table *out)
{
    fgmm_status status = FGMM_OK;
    int size = fgmm_comm_size(comm);
    int64_t *counts = NULL;
    int32_t wanted[FGMM_EVAL_KS];
    for (int i = 0; i < FGMM_EVAL_KS; i++)
        wanted[i] = queries->truth_k >= fgmm__eval_ks[i] ? fgmm__eval_ks[i] : 0;
    status = fgmm__table_create(queries->n, settings, dim, wanted, out);
    if (status == FGMM_OK)
        status = fgmm__alloc((size_t)size, sizeof *counts, "a curve", (void **)&counts);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    for (int r = 0; r < size; r++)
        counts[r] = queries->n * (r + 1) / size - queries->n * r / size;
    FGMM_TRY(fgmm__comm_allgatherv(comm, mine, counts, (size_t)settings * sizeof *mine, out->cells));
cleanup:
    free(counts);
    return status;
}

fgmm_status fgmm__trace_fixed(fgmm_comm *comm, const fgmm_eval_trace *trace, const fgmm_eval_queries *queries,
                              const int32_t *nprobe, int32_t settings, const fgmm_eval_way *way,
                              fgmm_eval_table *out)
{
    fgmm_status status = FGMM_OK;
    fgmm_eval_cell *mine = NULL;
    status = fgmm__alloc((size_t)trace->n * (size_t)settings, sizeof *mine, "a curve", (void **)&mine);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    for (int64_t q = 0; q < trace->n; q++)
        for (int32_t s = 0; s < settings; s++)
            mine[q * settings + s] = cell_after(trace, q, nprobe[s], nprobe[s], way);
    FGMM_TRY(gather(comm, mine, queries, settings, trace->dim, out));
cleanup:
    free(mine);
    return status;
}

/* Lists found when a query has probed so many: the next one, too, by which it is decided. */
static int32_t known_after(const fgmm_eval_trace *trace, int32_t lists)
{
    int32_t known = lists + 1 > FGMM_STOP_NEAR ? lists + 1 : FGMM_STOP_NEAR;
    return known < trace->lists ? known : trace->lists;
}

/* A query stops after the first list where the rule expects less than the threshold. */
static void stop_at(const fgmm_eval_trace *trace, int64_t q, const fgmm_stop_rule *rule,
                    const double *thresholds, int32_t settings, const fgmm_eval_way *way,
                    fgmm_eval_cell *cells)
{
    int32_t s = 0, stops = trace->lists - 1;
    double least = INFINITY;
    for (int32_t p = 0; p < stops && s < settings; p++) {
        int64_t at = q * stops + p;
        if (trace->to_come[at] >= 0) /* else fewer than k rows were met: the search goes on */
            least = fmin(least, fgmm__poisson_expect(&rule->to_come, trace->x + at * FGMM_STOP_FEATURES));
        while (s < settings && least < thresholds[s])
            cells[s++] = cell_after(trace, q, p + 1, known_after(trace, p + 1), way);
    }
    while (s < settings)
        cells[s++] = cell_after(trace, q, trace->lists, trace->lists, way);
}

fgmm_status fgmm__trace_learnt(fgmm_comm *comm, const fgmm_eval_trace *trace,
                               const fgmm_eval_queries *queries, const fgmm_stop_rule *rule,
                               const double *thresholds, int32_t settings, const fgmm_eval_way *way,
                               fgmm_eval_table *out)
{
    fgmm_status status = FGMM_OK;
    fgmm_eval_cell *mine = NULL;
    status = fgmm__alloc((size_t)trace->n * (size_t)settings, sizeof *mine, "a curve", (void **)&mine);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    for (int64_t q = 0; q < trace->n; q++)
        stop_at(trace, q, rule, thresholds, settings, way, mine + q * settings);
    FGMM_TRY(gather(comm, mine, queries, settings, trace->dim, out));
cleanup:
    free(mine);
    return status;
}
