/* Further lists of a row by geometry, in float64. c_j are the centroids, c_1 that of the row's first list
 * (the hard rule's), d_j = |x - c_j|^2; ties go to the smaller number.
 *
 * soar     one more list: the j that has the least score d_j + lambda ((x-c_1).(x-c_j))^2 / d_1 (without the
 *          second term when d_1 = 0). Its key is that score over d_1: a small one says that the second list
 *          is near and its residual at right angles to the first's (Sun et al., SOAR, NeurIPS 2023).
 * closure  lists from near to far while d_j / d_min <= (1+epsilon)^2, d_min that of the nearest centroid,
 *          at most `most` with the first; left out is a list nearer to one already taken, the first
 *          included, than to the row: |c_j - c_t|^2 < d_j (Chen et al., SPANN, NeurIPS 2021). Its key is
 *          d_j / d_min.
 *
 * The backend brings the numbers of the nearest centroids; nothing else of its arithmetic counts. */
#ifndef FGMM_IVF_SPILL_H
#define FGMM_IVF_SPILL_H

#include <stdbool.h>
#include "fgmm/ivf.h"

/* A centroid and its squared distance to the row. */
typedef struct {
    double distance;
    int32_t list;
} fgmm_near_list;

typedef struct {
    fgmm_assign_rule rule; /* FGMM_ASSIGN_SOAR or FGMM_ASSIGN_CLOSURE */
    double lambda;
    double ratio;        /* closure: (1+epsilon)^2 */
    int32_t most;        /* lists a row, from 1 to 64; soar: 2 */
    bool exhaustive;     /* closure: all centroids are looked at wherever the nearest do not settle it; else
                            the answer is what they tell, and `known` how far that holds */
    const double *means; /* [k][dim] */
    int32_t k, dim;
} fgmm_spill;

typedef struct {
    int32_t count;   /* lists of the row */
    bool looked_all; /* all centroids were needed */
    double known;    /* closure: keys below this are all there; infinite where nothing is missing */
} fgmm_spilled;

/* x: [dim]. nearest: [top] numbers of the nearest centroids, from near to far, all where top >= k. work: [k].
 * lists, keys: [most], lists[0] holds the row's first list; the others are filled in the order of their keys.
 * Local, safe from many threads. */
fgmm_spilled fgmm__spill(const fgmm_spill *spill, const double *x, const int32_t *nearest, int32_t top,
                         fgmm_near_list *work, int32_t *lists, double *keys);

#endif
