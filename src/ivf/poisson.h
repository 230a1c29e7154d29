/* Regression of counts: their logarithm's expectation is linear in the features. Local, one thread, float64.
 */
#ifndef FGMM_IVF_POISSON_H
#define FGMM_IVF_POISSON_H

#include <stdint.h>
#include "base/status.h"

enum { FGMM_POISSON_FEATURES = 16 /* at most */ };

/* Expected count = exp(intercept + sum_j weights[j] * (x[j] - mean[j]) / scale[j]). */
typedef struct {
    int32_t n_features;
    double mean[FGMM_POISSON_FEATURES], scale[FGMM_POISSON_FEATURES]; /* of the rows fitted to */
    double weights[FGMM_POISSON_FEATURES], intercept;
} fgmm_poisson;

/* Maximum likelihood by Newton's method with step halving; ridge (on the weights of the standardised
 * features) keeps features that depend on one another apart. x: [n][n_features]; counts: [n], rows with a
 * negative count are left out. FGMM_ERR_INPUT when no row is left. */
fgmm_status fgmm__poisson_fit(const float *x, const int32_t *counts, int64_t n, int32_t n_features,
                              double ridge, fgmm_poisson *out);
double fgmm__poisson_expect(const fgmm_poisson *poisson, const float *x);

#endif
