#include "eval/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ivf/rules.h"

static const fgmm_eval_rule rules_known[] = {
    {.rule = FGMM_ASSIGN_HARD, .most_lists = 1},
    {.rule = FGMM_ASSIGN_TAU, .needs_mixture = true},
    {.rule = FGMM_ASSIGN_SOAR, .most_lists = 2},
    {.rule = FGMM_ASSIGN_CLOSURE},
    {.rule = FGMM_ASSIGN_NEED},
};

const fgmm_eval_rule *fgmm__eval_rule(const char *name)
{
    for (size_t i = 0; i < sizeof rules_known / sizeof *rules_known; i++)
        if (strcmp(fgmm__rule_name(rules_known[i].rule), name) == 0)
            return &rules_known[i];
    return NULL;
}

/* ---- variants ---- */

static int32_t reference_of(const fgmm_model *const *models, int32_t n)
{
    for (int32_t m = 0; m < n; m++)
        if (fgmm_model_algorithm(models[m]) == FGMM_KMEANS)
            return m;
    return 0;
}

static void add(fgmm_eval_plan *plan, int32_t model, fgmm_assign_rule rule, double replication)
{
    plan->variants[plan->n++] = (fgmm_eval_variant){model, rule, replication};
}

static void add_rule(fgmm_eval_plan *plan, int32_t model, bool kmeans, const fgmm_eval_rule *rule,
                     const double *replications, int32_t n_replications, int32_t max_lists)
{
    int32_t most = rule->most_lists > 0 ? rule->most_lists : max_lists;
    if (rule->rule == FGMM_ASSIGN_HARD && model != plan->reference_model)
        add(plan, model, FGMM_ASSIGN_HARD, 1);
    if (rule->rule == FGMM_ASSIGN_HARD || (rule->needs_mixture && kmeans))
        return;
    for (int32_t r = 0; r < n_replications; r++)
        if (replications[r] > 1 && replications[r] <= most)
            add(plan, model, rule->rule, replications[r]);
}

fgmm_status fgmm__plan_create(const fgmm_model *const *models, int32_t n_models,
                              const fgmm_eval_rule *const *rules, int32_t n_rules, const double *replications,
                              int32_t n_replications, int32_t max_lists, fgmm_eval_plan *plan)
{
    fgmm_status status = FGMM_OK;
    *plan = (fgmm_eval_plan){.reference_model = reference_of(models, n_models)};
    FGMM_ALLOC(plan->variants, 1 + n_models * n_rules * (n_replications + 1), "the plan");
    add(plan, plan->reference_model, FGMM_ASSIGN_HARD, 1);
    for (int32_t m = 0; m < n_models; m++)
        for (int32_t r = 0; r < n_rules; r++)
            add_rule(plan, m, fgmm_model_algorithm(models[m]) == FGMM_KMEANS, rules[r], replications,
                     n_replications, max_lists);
cleanup:
    return status;
}

/* ---- settings ---- */

int32_t fgmm__plan_nprobe(int32_t most, int32_t *nprobe)
{
    enum { ALL_UP_TO = 16, STEP = 16 };
    int32_t n = 0, power = 1;
    for (int32_t p = 1; p <= most && n < FGMM_EVAL_MOST_SETTINGS - 1;) {
        nprobe[n++] = p;
        while (power <= p)
            power *= 2;
        int32_t next = p < ALL_UP_TO ? p + 1 : p + p / STEP;
        p = next > power && p < power ? power : next;
    }
    if (nprobe[n - 1] < most)
        nprobe[n++] = most;
    return n;
}

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

int32_t fgmm__plan_thresholds(const fgmm_stop_rule *rule, double *thresholds)
{
    enum { GRID = 64 };
    int32_t n = 0;
    for (int i = 0; i < GRID; i++)
        thresholds[n++] = rule->k / 2.0 * pow(1000, -(double)i / (GRID - 1));
    for (int i = 0; i < FGMM_STOP_TARGETS; i++)
        thresholds[n++] = rule->thresholds[i];
    qsort(thresholds, (size_t)n, sizeof *thresholds, descending);
    return n;
}
