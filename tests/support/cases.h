/* Rows and components made up for tests of backends. Deterministic; everything is freed with free() or
 * fgmm__components_destroy(). */
#ifndef FGMM_TESTS_CASES_H
#define FGMM_TESTS_CASES_H

#include "model/stats.h"

typedef struct {
    int64_t n;
    int32_t dim;
    fgmm_dtype dtype;
    void *stored;      /* [n][dim] of dtype */
    double *values;    /* [n][dim] the same, exactly */
    double *min, *max; /* [dim] */
} fgmm_test_rows;

/* Rows scattered (by about `noise` a dimension) around k centres, those of fgmm_test_components with the same
 * k and dim. */
fgmm_test_rows *fgmm_test_rows_create(fgmm_dtype dtype, int64_t n, int32_t k, int32_t dim, double noise);
void fgmm_test_rows_destroy(fgmm_test_rows *rows);

/* Components around the same centres with standard deviations of about `sigma`; factors of every shape are
 * far from the identity. */
fgmm_components *fgmm_test_components(fgmm_covariance shape, bool hard, int32_t k, int32_t dim,
                                      fgmm_dtype dtype, double sigma);

/* Makes the covariances of full components of fgmm_test_components narrow in some directions and wide in
 * others, standard deviations lying evenly between sigma / s and sigma s with s^4 the condition number, along
 * axes that are not those of the space; offsets as densities have them. */
void fgmm_test_stretch(fgmm_components *c, double condition, double sigma);
/* Rows drawn from full components. */
fgmm_test_rows *fgmm_test_rows_of(const fgmm_components *c, fgmm_dtype dtype, int64_t n);

/* l_k(x) by the definition, in float64; hard: minus the squared distance. */
double fgmm_test_logit(const fgmm_components *c, int32_t k, const double *x);

/* All l_k of a row, and log2 of the sum of their powers of two (hard: the largest). l: [k] */
double fgmm_test_logits(const fgmm_components *c, const double *x, double *l);

#endif
