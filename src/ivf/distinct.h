/* How many different rows several lists hold together. Local. */
#ifndef FGMM_IVF_DISTINCT_H
#define FGMM_IVF_DISTINCT_H

#include "ivf/index.h"

typedef struct fgmm_distinct fgmm_distinct;

fgmm_status fgmm__distinct_create(const fgmm_index *index, fgmm_distinct **out);
void fgmm__distinct_destroy(fgmm_distinct *distinct); /* accepts NULL */
fgmm_status fgmm__distinct_count(fgmm_distinct *distinct, const int64_t *lists, int32_t n_lists,
                                 int64_t *count);

#endif
