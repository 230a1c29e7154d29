/* Which queries teach and which are judged. Local. */
#ifndef FGMM_EVAL_HOLDOUT_H
#define FGMM_EVAL_HOLDOUT_H

#include <stdint.h>
#include "base/status.h"

/* Draws `train` of n queries, all subsets being as likely; a function of (seed, n, train). order: [n] gets
 * the others and then the drawn ones, each ascending. */
fgmm_status fgmm__hold_out(uint64_t seed, int64_t n, int64_t train, int64_t *order);
/* Puts malloc'd rows of `bytes` bytes in that order. */
fgmm_status fgmm__reorder(void **rows, const int64_t *order, int64_t n, size_t bytes);

#endif
