/* An evaluation in files, each written beside its name and renamed: BASE.csv holds every curve,
 * BASE-costs.csv the costs at each recall, BASE.json all of it. Without times the bytes are the same on any
 * number of ranks. */
#ifndef FGMM_EVAL_REPORT_FILE_H
#define FGMM_EVAL_REPORT_FILE_H

#include "eval/eval.h"

/* What was asked, beside the options. */
typedef struct {
    const char *data;
    int64_t rows;
    int32_t dim;
    int64_t queries, training_queries;
    double most_storage; /* of the curves to choose from */
} fgmm_eval_facts;

/* Local (one rank). */
fgmm_status fgmm__report_write(const char *base, const fgmm_eval_options *options,
                               const fgmm_eval_facts *facts, const fgmm_eval_report *report);

const char *fgmm__order_name(fgmm_probe_order order);
const char *fgmm__stop_name(bool learnt);

#endif
