#include "ivf/stop.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

const double fgmm__stop_targets[FGMM_STOP_TARGETS] = {0.8, 0.9, 0.95, 0.98, 0.99};

/* ---- where a query stands ---- */

void fgmm__stop_begin(fgmm_stop_state *state, const double *distances, int32_t n_lists)
{
    int32_t near = n_lists < FGMM_STOP_NEAR ? n_lists : FGMM_STOP_NEAR;
    *state = (fgmm_stop_state){.first = distances[0]};
    for (int32_t i = 0; i < near; i++)
        state->near += distances[i] / near;
}

void fgmm__stop_advance(fgmm_stop_state *state, int64_t rows, int32_t inserted)
{
    state->probes++;
    state->rows += rows;
    state->probes_since = inserted > 0 ? 0 : state->probes_since + 1;
    state->rows_since = inserted > 0 ? 0 : state->rows_since + rows;
    state->recent = state->recent / 2 + inserted;
}

/* Distances may be zero. */
static float log_ratio(double a, double b)
{
    enum { MOST = 20 };
    double ratio = log(fmax(a, DBL_MIN)) - log(fmax(b, DBL_MIN));
    return (float)fmin(fmax(ratio, -MOST), MOST);
}

void fgmm__stop_features(const fgmm_stop_state *state, double next, double kth, float *x)
{
    x[0] = (float)log1p(state->probes);
    x[1] = log_ratio(next, state->first);
    x[2] = log_ratio(next, kth);
    x[3] = log_ratio(kth, state->first);
    x[4] = log_ratio(next, state->near);
    x[5] = (float)log1p(state->probes_since);
    x[6] = (float)log1p((double)state->rows_since);
    x[7] = (float)log1p(state->recent);
    x[8] = (float)log1p((double)state->rows);
}

/* ---- thresholds ---- */

/* The threshold's logarithm is taken to be linear in that of the share missed. */
fgmm_status fgmm__stop_threshold(const fgmm_stop_rule *rule, double target, double *threshold)
{
    const double *targets = fgmm__stop_targets;
    if (!(target >= targets[0] && target <= targets[FGMM_STOP_TARGETS - 1]))
        return fgmm__fail(FGMM_ERR_INPUT, "--recall-target %g: stop rules are learnt for %g to %g", target,
                          targets[0], targets[FGMM_STOP_TARGETS - 1]);
    int at = 1;
    while (at < FGMM_STOP_TARGETS - 1 && targets[at] < target)
        at++;
    double from = log(1 - targets[at - 1]), to = log(1 - targets[at]);
    double share = (log(1 - target) - from) / (to - from);
    *threshold = exp((1 - share) * log(rule->thresholds[at - 1]) + share * log(rule->thresholds[at]));
    return FGMM_OK;
}

/* The least expectation so far, query by query: a query stops where it falls under the threshold. */
typedef struct {
    int64_t queries;
    int32_t steps, k;
    const int32_t *to_come; /* [queries][steps] */
    double *least;          /* [queries][steps] */
} stops;

static fgmm_status foresee(const float *x, const fgmm_stop_rule *rule, stops *s)
{
    fgmm_status status = FGMM_OK;
    FGMM_ALLOC(s->least, s->queries * s->steps, "learning when to stop");
    for (int64_t q = 0; q < s->queries; q++) {
        double least = INFINITY;
        for (int64_t i = q * s->steps; i < (q + 1) * s->steps; i++) {
            if (s->to_come[i] >= 0)
                least = fmin(least, fgmm__poisson_expect(&rule->to_come, x + i * FGMM_STOP_FEATURES));
            s->least[i] = least;
        }
    }
cleanup:
    return status;
}

/* Mean recall under a threshold; *lists: mean lists probed. */
static double recall_under(const stops *s, double threshold, double *lists)
{
    int64_t found = 0, probed = 0;
    for (int64_t q = 0; q < s->queries; q++) {
        const double *least = s->least + q * s->steps;
        int32_t below = 0, above = s->steps; /* the first step under the threshold; steps: none */
        while (below < above) {
            int32_t middle = below + (above - below) / 2;
            if (least[middle] < threshold)
                above = middle;
            else
                below = middle + 1;
        }
        probed += below + 1;
        found += below < s->steps ? s->k - s->to_come[q * s->steps + below] : s->k;
    }
    *lists = (double)probed / (double)s->queries;
    return (double)found / (double)(s->queries * s->k);
}

/* The largest threshold that reaches the target, by bisection: recall falls as the threshold grows. */
static void choose_threshold(const stops *s, double target, double *threshold, double *lists)
{
    enum { STEPS = 60 };
    double low = log(1e-12), high = log(2.0 * s->k);
    for (int i = 0; i < STEPS; i++) {
        double middle = (low + high) / 2;
        if (recall_under(s, exp(middle), lists) >= target)
            low = middle;
        else
            high = middle;
    }
    *threshold = exp(low);
    recall_under(s, *threshold, lists);
}

fgmm_status fgmm__stop_fit(const float *x, const int32_t *to_come, fgmm_stop_rule *rule)
{
    enum { RIDGE = 1 /* observation: features that depend on one another share their weight */ };
    fgmm_status status = FGMM_OK;
    stops s = {.queries = rule->queries, .steps = rule->max_probes - 1, .k = rule->k, .to_come = to_come};
    FGMM_TRY(fgmm__poisson_fit(x, to_come, s.queries * s.steps, FGMM_STOP_FEATURES, RIDGE, &rule->to_come));
    FGMM_TRY(foresee(x, rule, &s));
    for (int i = 0; i < FGMM_STOP_TARGETS; i++)
        choose_threshold(&s, fgmm__stop_targets[i], &rule->thresholds[i], &rule->lists[i]);
cleanup:
    free(s.least);
    return status;
}
