/* The lists of a query in the order of their centroids, few of whose distances are computed. Centroids have
 * sketches (ivf/sketch.h) along their own principal directions, made when an index is opened for it: nothing
 * is stored. The first 4 coordinates of all centroids give a lower bound of each distance; the bound that is
 * least is raised by the next 4, 8, 16 ... coordinates and at last replaced by the distance itself; a list is
 * the next one when its distance is known and no bound lies below. So the order is that of computing all K
 * distances in float64, ties to the smaller number, to the bit. Runs on the host, whatever the backend. */
#ifndef FGMM_IVF_COARSE_H
#define FGMM_IVF_COARSE_H

#include "ivf/index.h"

/* The sketched centroids of an index. */
typedef struct fgmm_coarse fgmm_coarse;

/* Local but for fgmm__comm_tick. m: coordinates in all, from 1 to the dimension; the index stays the
 * caller's. Memory: 4 (m + levels) bytes a centroid. */
fgmm_status fgmm__coarse_create(fgmm_comm *comm, const fgmm_index *index, int32_t m, int threads,
                                fgmm_coarse **out);
void fgmm__coarse_destroy(fgmm_coarse *coarse); /* accepts NULL */
/* Queries at once, so that what is known of them fits in memory: 18 bytes a query and list. */
int64_t fgmm__coarse_batch(const fgmm_coarse *coarse);

/* How far each query of a batch has got. */
typedef struct fgmm_near_lists fgmm_near_lists;

/* Local. queries: [n][dim], the caller's while this lives. */
fgmm_status fgmm__near_lists_create(const fgmm_coarse *coarse, const float *queries, int64_t n, int threads,
                                    fgmm_near_lists **out);
void fgmm__near_lists_destroy(fgmm_near_lists *near); /* accepts NULL */
/* The query's next list, at most as often as there are lists; *distance: squared, to its centroid. Threads
 * may ask for different queries at once. */
int32_t fgmm__near_lists_next(fgmm_near_lists *near, int64_t query, double *distance);
/* Numbers read for that so far: of the directions, of sketches and of centroids. dim of them are a distance.
 */
int64_t fgmm__near_lists_numbers(const fgmm_near_lists *near, int64_t query);

#endif
