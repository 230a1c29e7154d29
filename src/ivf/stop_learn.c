/* Learning when to stop: the ranks trace their queries, and each fits the rule to all of them, alike. */
#include <stdlib.h>

#include "ivf/adaptive.h"

fgmm_status fgmm__stop_trace(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                             int32_t max_probes, float *x, int32_t *to_come)
{
    fgmm_status status = FGMM_OK;
    int64_t step = fgmm__searcher_batch(searcher, k, max_probes), steps = max_probes - 1;
    for (int64_t at = 0; at < n && status == FGMM_OK; at += step)
        status =
            fgmm__adaptive_trace(searcher, queries + at * searcher->index->dim, n - at < step ? n - at : step,
                                 k, max_probes, x + at * steps * FGMM_STOP_FEATURES, to_come + at * steps);
    if (status != FGMM_OK)
        fgmm__comm_announce_failure(searcher->comm);
    return status;
}

fgmm_status fgmm__stop_check(const fgmm_index *index, int64_t n, int32_t k, int32_t max_probes)
{
    fgmm_status status = FGMM_OK;
    const double most_bytes = 4e9, step_bytes = 2 * (FGMM_STOP_FEATURES + 1) * sizeof(float) + sizeof(double);
    if (index->metric == FGMM_IP)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: built with --metric ip: the stop rule goes by distances; give --nprobe", index->path);
    if (n < 1)
        FGMM_FAIL(FGMM_ERR_INPUT, "no queries to learn from");
    if (max_probes < 2)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: a search of one list has nowhere to stop early", index->path);
    if ((double)n * max_probes * step_bytes > most_bytes)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%lld queries with %d lists each are more than memory should hold to learn from: give "
                  "fewer queries or lower --max-probes",
                  (long long)n, max_probes);
    if (k > index->rows)
        FGMM_FAIL(FGMM_ERR_INPUT, "-k %d: %s holds %lld rows", k, index->path, (long long)index->rows);
cleanup:
    return status;
}

fgmm_status fgmm__stop_fit_shares(fgmm_comm *comm, const float *my_x, const int32_t *my_to_come,
                                  fgmm_stop_rule *rule)
{
    fgmm_status status = FGMM_OK;
    int size = fgmm_comm_size(comm);
    int64_t n = rule->queries, steps = rule->max_probes - 1, *counts = NULL;
    float *x = NULL;
    int32_t *to_come = NULL;
    size_t values = (size_t)(n * steps);
    status = fgmm__alloc((size_t)size, sizeof *counts, "learning when to stop", (void **)&counts);
    for (int r = 0; status == FGMM_OK && r < size; r++)
        counts[r] = n * (r + 1) / size - n * r / size;
    if (status == FGMM_OK)
        status = fgmm__alloc(values * FGMM_STOP_FEATURES, sizeof *x, "learning when to stop", (void **)&x);
    if (status == FGMM_OK)
        status = fgmm__alloc(values, sizeof *to_come, "learning when to stop", (void **)&to_come);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_allgatherv(comm, my_x, counts, (size_t)steps * FGMM_STOP_FEATURES * sizeof *x, x));
    FGMM_TRY(fgmm__comm_allgatherv(comm, my_to_come, counts, (size_t)steps * sizeof *to_come, to_come));
    FGMM_TRY(fgmm__comm_agree(comm, fgmm__stop_fit(x, to_come, rule)));
cleanup:
    free(counts);
    free(x);
    free(to_come);
    return status;
}

fgmm_status fgmm__stop_learn(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                             int32_t max_probes, fgmm_stop_rule *rule)
{
    fgmm_status status = FGMM_OK;
    fgmm_comm *comm = searcher->comm;
    int size = fgmm_comm_size(comm), rank = fgmm_comm_rank(comm);
    int64_t begin = n * rank / size, mine = n * (rank + 1) / size - begin;
    float *x = NULL;
    int32_t *to_come = NULL;
    if (max_probes > searcher->index->k)
        max_probes = searcher->index->k;
    *rule = (fgmm_stop_rule){.k = k, .max_probes = max_probes, .probe_by = searcher->probe_by, .queries = n};
    FGMM_TRY(fgmm__stop_check(searcher->index, n, k, max_probes));
    size_t values = (size_t)mine * (size_t)(max_probes - 1);
    status = fgmm__alloc(values * FGMM_STOP_FEATURES, sizeof *x, "learning when to stop", (void **)&x);
    if (status == FGMM_OK)
        status = fgmm__alloc(values, sizeof *to_come, "learning when to stop", (void **)&to_come);
    if (status == FGMM_OK)
        status = fgmm__stop_trace(searcher, queries + begin * searcher->index->dim, mine, k, max_probes, x,
                                  to_come);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__stop_fit_shares(comm, x, to_come, rule));
cleanup:
    free(x);
    free(to_come);
    return fgmm__stopped_without_trace(status, "the stop rule");
}
