#include "ivf/adaptive.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

typedef struct {
    fgmm_searcher *searcher;
    fgmm_probes probes;
    fgmm_top *top;
    fgmm_stop_state *states; /* [n] */
    int32_t *going, n_going; /* queries that have not stopped */
    fgmm_neighbor *before;   /* [n][k] the neighbours before the present round */
    int32_t *before_count;   /* [n] */
    int32_t done;            /* rounds */
} rounds;

static void rounds_free(rounds *r)
{
    fgmm__probes_free(&r->probes);
    fgmm__top_destroy(r->top);
    free(r->states);
    free(r->going);
    free(r->before);
    free(r->before_count);
}

static fgmm_status rounds_begin(rounds *r, fgmm_searcher *searcher, const float *queries, int64_t n,
                                int32_t k, int32_t nprobe, bool skip)
{
    fgmm_status status = FGMM_OK;
    r->searcher = searcher;
    FGMM_TRY(fgmm__probes_choose(searcher, queries, n, nprobe, skip, &r->probes));
    FGMM_TRY(fgmm__top_create(n, k, searcher->index->multi, &r->top));
    FGMM_ALLOC(r->states, n, "probes");
    FGMM_ALLOC(r->going, n, "probes");
    FGMM_ALLOC(r->before, n * k, "neighbours");
    FGMM_ALLOC(r->before_count, n, "neighbours");
    fgmm__probes_find(searcher, &r->probes, NULL, 0, nprobe < FGMM_STOP_NEAR ? nprobe : FGMM_STOP_NEAR);
    FGMM_TRY(fgmm__probes_measure(searcher, &r->probes));
    r->n_going = (int32_t)n;
    for (int32_t q = 0; q < n; q++) {
        r->going[q] = q;
        fgmm__stop_begin(&r->states[q], r->probes.distances + (int64_t)q * nprobe, nprobe);
    }
cleanup:
    return status;
}

/* How many of a query's neighbours were not there before the round: a set's difference, so that the order in
 * which they came and went does not matter. */
static int32_t inserted(const rounds *r, int32_t query)
{
    const fgmm_top *top = r->top;
    const fgmm_neighbor *before = r->before + (int64_t)query * top->k;
    int32_t kept = r->before_count[query];
    if (top->count[query] == top->k) {
        fgmm_neighbor farthest = top->heap[(int64_t)query * top->k];
        for (int32_t i = 0; i < r->before_count[query]; i++)
            kept -= fgmm__nearer(farthest, before[i]);
    }
    return top->count[query] - kept;
}

/* Every query that goes on probes its next list. */
static fgmm_status rounds_next(rounds *r)
{
    fgmm_status status = FGMM_OK;
    const fgmm_index *index = r->searcher->index;
    const fgmm_top *top = r->top;
    for (int32_t i = 0; i < r->n_going; i++) {
        int64_t q = r->going[i], slot = q * top->k;
        r->before_count[q] = top->count[q];
        memcpy(r->before + slot, top->heap + slot, (size_t)top->count[q] * sizeof *r->before);
    }
    fgmm__probes_group(&r->probes, index->k, r->going, r->n_going, r->done, r->done + 1);
    FGMM_TRY(fgmm__probes_scan(r->searcher, &r->probes, r->top));
    for (int32_t i = 0; i < r->n_going; i++) {
        int32_t q = r->going[i];
        int32_t list = (int32_t)r->probes.probes[(int64_t)q * r->probes.nprobe + r->done];
        fgmm__stop_advance(&r->states[q], (int64_t)fgmm__index_list_size(index, list), inserted(r, q));
    }
    r->done++;
    if (r->done < r->probes.nprobe) /* what comes next is part of deciding whether it does */
        fgmm__probes_find(r->searcher, &r->probes, r->going, r->n_going, r->done + 1);
cleanup:
    return status;
}

/* What is known of a query before its next list; false while it has fewer than k neighbours. */
static bool features(const rounds *r, int32_t query, float *x)
{
    const fgmm_top *top = r->top;
    if (top->count[query] < top->k)
        return false;
    fgmm__stop_features(&r->states[query], r->probes.distances[(int64_t)query * r->probes.nprobe + r->done],
                        fgmm__top_bound(top, query), x);
    return true;
}

/* ---- searching ---- */

static void stop_some(rounds *r, const fgmm_stop_rule *rule, double threshold)
{
    int32_t going = 0;
    for (int32_t i = 0; i < r->n_going; i++) {
        float x[FGMM_STOP_FEATURES];
        int32_t q = r->going[i];
        if (!features(r, q, x) || fgmm__poisson_expect(&rule->to_come, x) >= threshold)
            r->going[going++] = q;
    }
    r->n_going = going;
}

fgmm_status fgmm__adaptive_search(fgmm_searcher *searcher, const fgmm_stop_rule *rule, double threshold,
                                  const float *queries, int64_t n, int64_t *ids, float *distances,
                                  fgmm_tally *tally)
{
    fgmm_status status = FGMM_OK;
    rounds r = {.done = 0};
    double start = fgmm__seconds();
    FGMM_TRY(rounds_begin(&r, searcher, queries, n, rule->k, rule->max_probes, searcher->skip));
    while (r.n_going > 0 && r.done < rule->max_probes) {
        FGMM_TRY(rounds_next(&r));
        if (r.done < rule->max_probes)
            stop_some(&r, rule, threshold);
    }
    fgmm__top_sort(r.top);
    fgmm__top_read(r.top, ids, distances);
    tally->seconds += fgmm__seconds() - start;
    for (int64_t q = 0; q < n; q++)
        FGMM_TRY(fgmm__probes_count(searcher, &r.probes, q, r.states[q].probes, tally));
cleanup:
    rounds_free(&r);
    return status;
}

/* ---- learning ---- */

/* The k-th nearest row of every query within its first max_probes lists. */
static fgmm_status find_farthest(rounds *r, fgmm_neighbor *farthest)
{
    fgmm_status status = FGMM_OK;
    fgmm_top *nearest = NULL;
    int32_t k = r->top->k;
    FGMM_TRY(fgmm__top_create(r->probes.n, k, r->searcher->index->multi, &nearest));
    fgmm__probes_group(&r->probes, r->searcher->index->k, NULL, 0, 0, r->probes.nprobe);
    FGMM_TRY(fgmm__probes_scan(r->searcher, &r->probes, nearest));
    for (int64_t q = 0; q < r->probes.n; q++)
        farthest[q] = nearest->heap[q * k];
cleanup:
    fgmm__top_destroy(nearest);
    return status;
}

static int32_t to_come_of(const fgmm_top *top, int32_t query, fgmm_neighbor farthest)
{
    const fgmm_neighbor *heap = top->heap + (int64_t)query * top->k;
    int32_t missing = 0;
    for (int32_t i = 0; i < top->k; i++)
        missing += fgmm__nearer(farthest, heap[i]);
    return missing;
}

fgmm_status fgmm__adaptive_trace(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                                 int32_t max_probes, float *x, int32_t *to_come)
{
    fgmm_status status = FGMM_OK;
    rounds r = {.done = 0};
    fgmm_neighbor *farthest = NULL;
    int64_t steps = max_probes - 1;
    FGMM_ALLOC(farthest, n, "neighbours");
    FGMM_TRY(rounds_begin(&r, searcher, queries, n, k, max_probes, false));
    fgmm__probes_find(searcher, &r.probes, NULL, 0, max_probes);
    FGMM_TRY(find_farthest(&r, farthest));
    while (r.done < steps) {
        FGMM_TRY(rounds_next(&r));
        for (int32_t q = 0; q < n; q++) {
            int64_t at = q * steps + r.done - 1;
            to_come[at] =
                features(&r, q, x + at * FGMM_STOP_FEATURES) ? to_come_of(r.top, q, farthest[q]) : -1;
        }
    }
cleanup:
    rounds_free(&r);
    free(farthest);
    return status;
}

fgmm_status fgmm__adaptive_costs(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                                 int32_t max_probes, fgmm_skim_cost *costs)
{
    fgmm_status status = FGMM_OK;
    rounds r = {.done = 0};
    FGMM_TRY(rounds_begin(&r, searcher, queries, n, k, max_probes, true));
    while (r.done < max_probes) {
        FGMM_TRY(rounds_next(&r));
        for (int64_t q = 0; q < n; q++)
            costs[q * max_probes + r.done - 1] = fgmm__skim_cost_of(r.probes.skim, q);
    }
cleanup:
    rounds_free(&r);
    return status;
}
