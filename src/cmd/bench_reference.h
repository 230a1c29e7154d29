/* The E-step as its definition reads, in float64, for a few rows: what the backends' answers are checked
 * against. */
#ifndef FGMM_CMD_BENCH_REFERENCE_H
#define FGMM_CMD_BENCH_REFERENCE_H

#include "model/stats.h"

typedef struct {
    double log;         /* sum over rows, base 2; hard: minus the squared distances */
    double sums;        /* all of n, s and q: Frobenius norm of the difference over that of the reference, the
                           largest of the three */
} fgmm_reference_error; /* relative */

/* rows: [n][dim] float64 as stored. stats: what a backend says of the same rows. Local. */
fgmm_status fgmm__reference_compare(const fgmm_components *components, const fgmm_grid *grid,
                                    const double *rows, int64_t n, const fgmm_stats *stats,
                                    fgmm_reference_error *out);

#endif
