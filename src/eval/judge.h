/* One index, searched in one order of probing: its curves. */
#ifndef FGMM_EVAL_JUDGE_H
#define FGMM_EVAL_JUDGE_H

#include "eval/eval.h"

typedef struct {
    fgmm_comm *comm;
    const fgmm_eval_options *options;
    const fgmm_eval_queries *test, *train;
    fgmm_eval_told *told;
    fgmm_eval_report *report; /* gets the curves; has room for them */
    /* of the index at hand */
    fgmm_searcher *searcher;
    double storage, build_seconds;
    char what[32]; /* for the progress line */
} fgmm_judge;

/* Collective. Adds the curve of fixed numbers of lists and, where there is more than one list, that of the
 * learnt stop; with sketches both once more. */
fgmm_status fgmm__judge(fgmm_judge *judge, const fgmm_eval_variant *variant, fgmm_probe_order order);

#endif
