/* Which indexes an evaluation compares: models by rules by storages, and the settings at which each is
 * judged. */
#ifndef FGMM_EVAL_PLAN_H
#define FGMM_EVAL_PLAN_H

#include "fgmm/ivf.h"
#include "ivf/stop.h"

/* One index to build. */
typedef struct {
    int32_t model;
    fgmm_assign_rule rule;
    double replication; /* asked for; 1 for hard lists */
} fgmm_eval_variant;

typedef struct {
    int32_t n;
    fgmm_eval_variant *variants; /* the first is what the others are held against */
    int32_t reference_model;
} fgmm_eval_plan;

/* What the evaluation needs to know of a rule. */
typedef struct {
    fgmm_assign_rule rule;
    bool needs_mixture; /* with k-means it gives hard lists */
    int32_t most_lists; /* a row; 0: --max-lists */
} fgmm_eval_rule;

/* By name; NULL when there is no such rule. */
const fgmm_eval_rule *fgmm__eval_rule(const char *name);

/* Local. Hard lists of the first k-means model come first (of the first model where none is k-means). Left
 * out are copies of hard lists (replication 1, a rule that needs a mixture with k-means) and replications
 * that a rule cannot reach. plan->variants is malloc'd. */
fgmm_status fgmm__plan_create(const fgmm_model *const *models, int32_t n_models,
                              const fgmm_eval_rule *const *rules, int32_t n_rules, const double *replications,
                              int32_t n_replications, int32_t max_lists, fgmm_eval_plan *plan);

enum { FGMM_EVAL_MOST_SETTINGS = 192 };
/* Numbers of lists from 1 to `most`: all up to 16, then steps of a sixteenth and every power of two. Returns
 * how many. */
int32_t fgmm__plan_nprobe(int32_t most, int32_t *nprobe);
/* Thresholds for a rule, descending: a grid from k/2 down to k/2000 rows still expected, and those that the
 * rule learnt for its targets. */
int32_t fgmm__plan_thresholds(const fgmm_stop_rule *rule, double *thresholds);

#endif
