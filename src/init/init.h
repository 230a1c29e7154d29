/* Starts of a fit: the first means, chosen from rows of the data. */
#ifndef FGMM_INIT_INIT_H
#define FGMM_INIT_INIT_H

#include "comm/comm.h"
#include "data/weights.h"
#include "fgmm/dataset.h"
#include "model/model.h"

/* k-means++ looks at this many rows a component at most, and is used up to this many components. */
enum { FGMM_KMEANSPP_ROWS = 64, FGMM_KMEANSPP_MAX_K = 8192 };

/* All collective; the same on any number of ranks. means: [k][dim] float64, on every rank. */

/* k distinct rows, one drawn in each of k equal strata. */
fgmm_status fgmm__init_random(const fgmm_dataset *dataset, fgmm_comm *comm, uint64_t seed, int32_t k,
                              double *means);

/* k-means++ (Arthur & Vassilvitskii 2007) on a seeded sample of min(N, 64 k) rows. weights: of rows, NULL:
 * each counts as one. */
fgmm_status fgmm__init_kmeanspp(const fgmm_dataset *dataset, const fgmm_weights *weights, fgmm_comm *comm,
                                uint64_t seed, int32_t k, double *means);

/* The origin of the arithmetic: the mean of a seeded sample, rounded to integers for u8 and i8 rows. origin:
 * [dim]. */
fgmm_status fgmm__init_origin(const fgmm_dataset *dataset, fgmm_comm *comm, uint64_t seed, double *origin);

#endif
