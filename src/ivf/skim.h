/* Scanning with sketches: a row is passed over, unread, when its sketch says that it is farther than the k-th
 * nearest so far. What is found is the same to the bit as by scanning all. Each query meets the rows of its
 * lists one after the other, so what it passes over does not depend on batches, ranks or threads. Runs on the
 * host, whatever the backend. Local. */
#ifndef FGMM_IVF_SKIM_H
#define FGMM_IVF_SKIM_H

#include "ivf/index.h"
#include "ivf/top.h"

typedef struct fgmm_skim fgmm_skim;

/* queries: [n][dim], the caller's while the skim lives; index: one with a sketch. */
fgmm_status fgmm__skim_create(const fgmm_index *index, const float *queries, int64_t n, int threads,
                              fgmm_skim **out);
void fgmm__skim_destroy(fgmm_skim *skim); /* accepts NULL */

/* Offers the rows of a piece of a list to the queries visitors[n], each there once. */
fgmm_status fgmm__skim_rows(fgmm_skim *skim, fgmm_top *top, const int32_t *visitors, int32_t n,
                            const fgmm_lists *piece);

/* What a query has cost so far. A row whose distance was computed in one list is not computed in another. */
typedef struct {
    int64_t sketches, full; /* looked at; distances computed */
} fgmm_skim_cost;
fgmm_skim_cost fgmm__skim_cost_of(const fgmm_skim *skim, int64_t query);

#endif
