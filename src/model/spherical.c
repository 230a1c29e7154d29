/* One variance a component: the average over dimensions. */
#include "model/covariance.h"

#include <math.h>

static size_t count(int32_t k, int32_t dim)
{
    (void)dim;
    return (size_t)k;
}

static double free_parameters(int32_t k, int32_t dim)
{
    (void)dim;
    return k;
}

static void update(const fgmm_mstep *m, double *variances)
{
    int32_t dim = m->stats->dim;
    for (int32_t k = 0; k < m->stats->k; k++) {
        double moved = 0;
        for (int32_t d = 0; d < dim; d++) {
            double delta = m->new_means[(size_t)k * dim + d] - m->old_means[(size_t)k * dim + d];
            moved += delta * delta;
        }
        double total = fgmm__stats_q(m->stats, m->grid, k, 0) / m->n[k] - moved;
        variances[k] = fmax(total, 0) / dim + m->reg_covar;
    }
}

static fgmm_status factor(const double *variances, int32_t k, int32_t dim, double *factors, double *log2_det,
                          bool *good)
{
    for (int32_t c = 0; c < k; c++) {
        good[c] = variances[c] > 0 && isfinite(variances[c]);
        factors[c] = good[c] ? sqrt(FGMM_HALF_LOG2E / variances[c]) : 1;
        log2_det[c] = good[c] ? dim * log2(variances[c]) : 0;
    }
    return FGMM_OK;
}

static void reset(double *covariances, const double *weights, const bool *good, int32_t k, int32_t dim,
                  int32_t c)
{
    (void)dim;
    fgmm__average_covariance(covariances, weights, good, k, 1, c);
}

const fgmm_covariance_type fgmm__spherical = {
    "spherical", FGMM_MOMENT_SPHERICAL, count, free_parameters, update, factor, reset};
