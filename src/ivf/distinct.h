/* How many different rows several lists hold together. Local. */
#ifndef FGMM_IVF_DISTINCT_H
#define FGMM_IVF_DISTINCT_H

#include "ivf/index.h"

typedef struct fgmm_distinct fgmm_distinct;

fgmm_status fgmm__distinct_create(const fgmm_index *index, fgmm_distinct **out);
void fgmm__distinct_destroy(fgmm_distinct *distinct); /* accepts NULL */
/* Empties the set, which then has room for n rows; adds a row and tells whether it was not there yet. */
fgmm_status fgmm__distinct_begin(fgmm_distinct *distinct, uint64_t n);
bool fgmm__distinct_add(fgmm_distinct *distinct, int64_t id);
fgmm_status fgmm__distinct_count(fgmm_distinct *distinct, const int64_t *lists, int32_t n_lists,
                                 int64_t *count);

#endif
