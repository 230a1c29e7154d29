/* One variance a component and dimension. */
#include "model/covariance.h"

#include <math.h>

static size_t count(int32_t k, int32_t dim)
{
    return (size_t)k * dim;
}

static double free_parameters(int32_t k, int32_t dim)
{
    return (double)k * dim;
}

static void update(const fgmm_mstep *m, double *variances)
{
    int32_t dim = m->stats->dim;
    for (int32_t k = 0; k < m->stats->k; k++)
        for (int32_t d = 0; d < dim; d++) {
            size_t i = (size_t)k * dim + d;
            double delta = m->new_means[i] - m->old_means[i];
            double variance = fgmm__stats_q(m->stats, m->grid, k, (size_t)d) / m->n[k] - delta * delta;
            variances[i] = fmax(variance, 0) + m->reg_covar;
        }
}

static fgmm_status factor(const double *variances, int32_t k, int32_t dim, double *factors, double *log2_det,
                          bool *good)
{
    for (int32_t c = 0; c < k; c++) {
        good[c] = true;
        log2_det[c] = 0;
        for (int32_t d = 0; d < dim; d++) {
            double v = variances[(size_t)c * dim + d];
            bool fine = v > 0 && isfinite(v);
            good[c] = good[c] && fine;
            factors[(size_t)c * dim + d] = fine ? sqrt(FGMM_HALF_LOG2E / v) : 1;
            log2_det[c] += fine ? log2(v) : 0;
        }
    }
    return FGMM_OK;
}

static void reset(double *covariances, const double *weights, const bool *good, int32_t k, int32_t dim,
                  int32_t c)
{
    fgmm__average_covariance(covariances, weights, good, k, (size_t)dim, c);
}

const fgmm_covariance_type fgmm__diag = {"diag", FGMM_MOMENT_DIAG, count, free_parameters,
                                         update, factor,           reset};
