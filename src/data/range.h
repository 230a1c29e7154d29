/* The smallest and largest value of each dimension over rows that pass by, by all CPU threads. */
#ifndef FGMM_DATA_RANGE_H
#define FGMM_DATA_RANGE_H

#include <stdbool.h>
#include "base/status.h"
#include "fgmm/types.h"

typedef struct fgmm_range fgmm_range;

fgmm_status fgmm__range_create(fgmm_dtype dtype, int32_t dim, fgmm_range **out);
void fgmm__range_destroy(fgmm_range *range); /* accepts NULL */

/* Takes rows [n][dim] in. False: there is a NaN or an infinity among all rows so far. */
bool fgmm__range_add(fgmm_range *range, const void *rows, int64_t n);

/* min, max: [dim]; +infinity and -infinity when no rows came. */
void fgmm__range_get(const fgmm_range *range, double *min, double *max);

#endif
