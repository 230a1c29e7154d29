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
    int64_t looked_all; /* rows for which all centroids were looked at on the host: of this rank until all
                           have their lists, then over all ranks */
    double known;       /* closure: keys below it were all found, see spill.h; of this rank */
} fgmm_rule;

/* Where the lists of this rank's rows are kept, and what an earlier run left of them. */
typedef struct {
    const char *path;       /* of the file of final lists */
    const char *keyed_path; /* of those that a replication chooses from */
    bool keep;              /* the files bear these names, for a run that goes on from them */
    uint64_t seed;          /* says what the lists are made from */
    /* Takes blocks that an earlier run wrote into lists of the same shape; NULL: there was none. Local. */
    fgmm_status (*take)(void *context, fgmm_labels *labels);
    void *context;
} fgmm_rule_files;

static inline bool fgmm__rule_is_multi(const fgmm_rule *rule)
{
    return rule->rule != FGMM_ASSIGN_HARD;
}

const char *fgmm__rule_name(fgmm_assign_rule rule);

/* Local: from the options, with their defaults; refuses what is out of range. */
fgmm_status fgmm__rule_create(const fgmm_build_options *options, int32_t k, fgmm_rule *out);

/* Whether lists come from two models at once: the first from the mixture, the others from its means. Then the
 * workplace needs its second backend. */
bool fgmm__rule_takes_two(const fgmm_rule *rule, const fgmm_model *model);

/* Shape of the file of final lists of rows [begin, end). */
fgmm_labels_shape fgmm__rule_shape(const fgmm_rule *rule, const fgmm_rule_files *files, int64_t begin,
                                   int64_t end);

/* Collective: the lists of the shard's rows. Sets what a replication found. Disk: 4 bytes a posting; with a
 * replication 12 bytes a posting to choose from, of which a row has at most max_lists. need: rule->graph has
 * been made of the same rows and model.
 * When it is stopped (FGMM_STOPPED), *out holds the lists found so far, keyed under a replication, or is NULL
 * where those cannot be gone on from. */
fgmm_status fgmm__rule_apply(fgmm_rule *rule, fgmm_workplace *place, const fgmm_model *model,
                             const fgmm_rule_files *files, fgmm_labels **out);

#endif
