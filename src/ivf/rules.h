/* Which lists each row is in: a pass over the shard for the rule, and what of it stays under a replication.
 *
 * hard      the most likely component (k-means: the nearest mean), ties to the smaller number: the first list
 *           of a row under every rule
 * tau       every component with a responsibility of tau or more, the likeliest first, at most max_lists
 * soar, closure
 *           further lists by geometry (ivf/spill.h), for k-means and mixtures alike
 * need      further lists by what the rows near to it would gain (ivf/need.h), under a replication alone
 *
 * A replication R keeps, over all rows, the lists beyond the first that have the least keys, as many as R
 * times the rows allow (1/responsibility for tau; spill.h and need.h for the others). What it finds is a
 * parameter of the rule: tau, epsilon, the limit of soar's key, or the least gain. */
#ifndef FGMM_IVF_RULES_H
#define FGMM_IVF_RULES_H

#include "ivf/graph.h"
#include "ivf/labels.h"
#include "ivf/workplace.h"

typedef struct {
    fgmm_assign_rule rule;
    double tau, lambda, epsilon;
    double soar_limit;       /* largest key of a second list of soar; infinite: every row has one */
    double least_gain;       /* of a copy of need, see need.h */
    int32_t max_lists;       /* hard 1, soar 2 */
    int32_t neighbors;       /* of need */
    int64_t window_bytes;    /* of need, see need.h */
    const fgmm_graph *graph; /* of need, the caller's; NULL for the others */
    double replication;      /* 0: as the parameters say; else they are what was found */
    int64_t looked_all;      /* rows, over all ranks, for which all centroids were looked at on the host */
} fgmm_rule;

static inline bool fgmm__rule_is_multi(const fgmm_rule *rule)
{
    return rule->rule != FGMM_ASSIGN_HARD;
}

const char *fgmm__rule_name(fgmm_assign_rule rule);

/* Local: from the options, with their defaults; refuses what is out of range. */
fgmm_status fgmm__rule_create(const fgmm_build_options *options, int32_t k, fgmm_rule *out);

/* Collective: the lists of the shard's rows. Sets what a replication found. Memory: 4 bytes a posting; with a
 * replication 12 bytes a posting to choose from, of which a row has at most max_lists. need: rule->graph has
 * been made of the same rows and model. */
fgmm_status fgmm__rule_apply(fgmm_rule *rule, fgmm_workplace *place, const fgmm_model *model,
                             fgmm_labels **out);

#endif
