/* One matrix a component. */
#include "model/covariance.h"

static size_t count(int32_t k, int32_t dim)
{
    return (size_t)k * dim * dim;
}

static double free_parameters(int32_t k, int32_t dim)
{
    return (double)k * dim * (dim + 1) / 2;
}

static void update(const fgmm_mstep *m, double *covariances)
{
    int32_t dim = m->stats->dim;
#pragma omp parallel for schedule(static)
    for (int32_t k = 0; k < m->stats->k; k++) {
        const double *from = m->old_means + (size_t)k * dim, *to = m->new_means + (size_t)k * dim;
        double *matrix = covariances + (size_t)k * dim * dim;
        size_t moment = 0;
        for (int32_t i = 0; i < dim; i++)
            for (int32_t j = 0; j <= i; j++, moment++) {
                double v = fgmm__stats_q(m->stats, m->grid, k, moment) / m->n[k] -
                           (to[i] - from[i]) * (to[j] - from[j]);
                matrix[(size_t)i * dim + j] = matrix[(size_t)j * dim + i] = i == j ? v + m->reg_covar : v;
            }
    }
}

static fgmm_status factor(const double *covariances, int32_t k, int32_t dim, double *factors,
                          double *log2_det, bool *good)
{
    size_t size = (size_t)dim * dim;
#pragma omp parallel for schedule(dynamic)
    for (int32_t c = 0; c < k; c++) {
        log2_det[c] = 0;
        good[c] = fgmm__factor_matrix(covariances + (size_t)c * size, dim, factors + (size_t)c * size,
                                      &log2_det[c]);
    }
    return FGMM_OK;
}

static void reset(double *covariances, const double *weights, const bool *good, int32_t k, int32_t dim,
                  int32_t c)
{
    fgmm__average_covariance(covariances, weights, good, k, (size_t)dim * dim, c);
}

const fgmm_covariance_type fgmm__full = {"full", FGMM_MOMENT_FULL, count, free_parameters,
                                         update, factor,           reset};
