/* What a backend needs of a model to compute log-densities, prepared once an iteration:
 *     l_k(x) = offset_k - || F_k (x - mean_k) ||^2          (base 2)
 * with offset_k = log2 w_k - D/2 log2(2 pi) - 1/2 log2 |S_k| and F_k' F_k = 1/2 log2(e) S_k^-1 (design: a
 * Gaussian's log-density). hard: offset 0, F = 1, responsibility 1 for the nearest mean (ties to the smaller
 * number): k-means, and the starts of fits. */
#ifndef FGMM_MODEL_COMPONENTS_H
#define FGMM_MODEL_COMPONENTS_H

#include <stdbool.h>
#include "model/model.h"

typedef struct {
    fgmm_covariance shape; /* of `factors`; hard: FGMM_SPHERICAL */
    bool hard;
    int32_t k, dim;
    double *offsets; /* [k] */
    double *means;   /* [k][dim], relative to origin */
    double *origin;  /* [dim] */
    double *factors; /* spherical [k]; diag [k][dim]; tied [dim][dim], full [k][dim][dim]: UPPER triangular U,
                        row-major, with y_j = sum_{i<=j} (x-mean)_i U[i][j]  and  l = offset - sum_j y_j^2
                        (zeros below the diagonal) */
} fgmm_components;

/* From a model; k-means models and `hard` give hard components. A covariance that is not positive definite:
 * its number goes to bad[*n_bad] (room for k; may be NULL: then FGMM_ERR_INPUT names it) and its factor is
 * the identity. Local, threads. */
fgmm_status fgmm__components_create(const fgmm_model *model, bool hard, int32_t *bad, int32_t *n_bad,
                                    fgmm_components **out);
void fgmm__components_destroy(fgmm_components *components); /* accepts NULL */

#endif
