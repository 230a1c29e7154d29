/* Kinds of covariance: one table each (spherical.c, diag.c, tied.c, full.c). The M-step follows
 * scikit-learn's GaussianMixture: reg_covar is added to the diagonal, n_k is n plus ten machine epsilons. */
#ifndef FGMM_MODEL_COVARIANCE_H
#define FGMM_MODEL_COVARIANCE_H

#include "model/stats.h"

/* What an M-step of the covariances works from. Means are relative to the origin. */
typedef struct {
    const fgmm_stats *stats;
    const fgmm_grid *grid;
    const double *n;         /* [k] */
    const double *old_means; /* [k][dim] about which the second moments were taken */
    const double *new_means; /* [k][dim] */
    const double *scatter;   /* [dim][dim] sum of (x-origin)(x-origin)' over all rows; tied only */
    double reg_covar;
} fgmm_mstep;

typedef struct {
    const char *name;
    fgmm_moment moment;                                       /* which second moments the M-step needs */
    size_t (*count)(int32_t k, int32_t dim);                  /* number of parameters stored */
    double (*free_parameters)(int32_t k, int32_t dim);        /* of them, independent ones */
    void (*update)(const fgmm_mstep *m, double *covariances); /* the M-step */
    /* Fills factors as components.h says and log2_det[k] (log2 of |S_k|); good[k] = false where S_k is not
     * positive definite. */
    fgmm_status (*factor)(const double *covariances, int32_t k, int32_t dim, double *factors,
                          double *log2_det, bool *good);
    /* Gives component `c` the average covariance of the others (a tied one is everybody's and stays). */
    void (*reset)(double *covariances, const double *weights, const bool *good, int32_t k, int32_t dim,
                  int32_t c);
} fgmm_covariance_type;

const fgmm_covariance_type *fgmm__covariance_type(fgmm_covariance covariance);

extern const fgmm_covariance_type fgmm__spherical, fgmm__diag, fgmm__tied, fgmm__full;

/* 1/2 log2(e): turns a squared Mahalanobis distance into bits. */
#define FGMM_HALF_LOG2E 0.72134752044448170368

/* S = L L': L [dim][dim] lower, zeros above the diagonal; false if S is not positive definite. */
bool fgmm__cholesky(const double *matrix, int32_t dim, double *lower);

/* Factors one matrix: S [dim][dim] -> U [dim][dim] upper with |xU|^2 = 1/2 log2(e) x'S^-1 x; false if S is
 * not positive definite. */
bool fgmm__factor_matrix(const double *matrix, int32_t dim, double *factor, double *log2_det);

/* The weighted average of `size` numbers a component over the components that are good (but c), for `reset`.
 */
void fgmm__average_covariance(double *covariances, const double *weights, const bool *good, int32_t k,
                              size_t size, int32_t c);

#endif
