/* Curves against one another. */
#include <math.h>
#include <stdlib.h>

#include "eval/eval.h"

fgmm_status fgmm__eval_compare(const fgmm_eval_report *report, int32_t base, int32_t other, int target,
                               double *ratio, double *low, double *high)
{
    fgmm_status status = FGMM_OK;
    const fgmm_eval_curve *a = &report->curves[base], *b = &report->curves[other];
    double *ratios = NULL;
    FGMM_ALLOC(ratios, report->resamples, "an interval");
    *ratio = (a->costs[target].computed + a->costs[target].centroids) /
             (b->costs[target].computed + b->costs[target].centroids);
    for (int32_t r = 0; r < report->resamples; r++) {
        int64_t at = (int64_t)r * FGMM_EVAL_TARGETS + target;
        ratios[r] = a->drawn[at] / b->drawn[at];
    }
    fgmm__interval(ratios, report->resamples, low, high);
cleanup:
    free(ratios);
    return status;
}

int32_t fgmm__eval_twin(const fgmm_eval_report *report, int32_t of, int32_t model)
{
    const fgmm_eval_curve *a = &report->curves[of];
    int32_t twin = -1;
    for (int32_t c = 0; c < report->n; c++) {
        const fgmm_eval_curve *b = &report->curves[c];
        if (b->variant.model != model || b->variant.rule != a->variant.rule ||
            b->variant.replication != a->variant.replication || b->learnt != a->learnt ||
            b->sketch != a->sketch || b->centroid_sketch != a->centroid_sketch)
            continue;
        if (b->probe_by == a->probe_by)
            return c;
        if (b->probe_by == FGMM_PROBE_CENTROID)
            twin = c;
    }
    return twin;
}

int32_t fgmm__eval_choose(const fgmm_eval_report *report, int target, double storage, bool sketches)
{
    int32_t best = -1;
    double least = INFINITY;
    for (int32_t c = 0; c < report->n; c++) {
        const fgmm_eval_curve *curve = &report->curves[c];
        double cost = curve->costs[target].training;
        if (curve->storage <= storage && (sketches || curve->sketch == 0) && cost < least) {
            least = cost;
            best = c;
        }
    }
    return best;
}
