/* One matrix for all components: the total scatter, known from one pass, less that between the components'
 * means. */
#include "model/covariance.h"

#include <stdlib.h>

static size_t count(int32_t k, int32_t dim)
{
    (void)k;
    return (size_t)dim * dim;
}

static double free_parameters(int32_t k, int32_t dim)
{
    (void)k;
    return (double)dim * (dim + 1) / 2;
}

static void update(const fgmm_mstep *m, double *covariance)
{
    int32_t dim = m->stats->dim;
    double total = 0;
    for (int32_t k = 0; k < m->stats->k; k++)
        total += m->n[k];
#pragma omp parallel for schedule(static)
    for (int32_t i = 0; i < dim; i++)
        for (int32_t j = 0; j <= i; j++) {
            double between = 0;
            for (int32_t k = 0; k < m->stats->k; k++)
                between += m->n[k] * m->new_means[(size_t)k * dim + i] * m->new_means[(size_t)k * dim + j];
            double v = (m->scatter[(size_t)i * dim + j] - between) / total;
            covariance[(size_t)i * dim + j] = covariance[(size_t)j * dim + i] = i == j ? v + m->reg_covar : v;
        }
}

static fgmm_status factor(const double *covariance, int32_t k, int32_t dim, double *factors, double *log2_det,
                          bool *good)
{
    double det = 0;
    bool fine = fgmm__factor_matrix(covariance, dim, factors, &det);
    for (int32_t c = 0; c < k; c++) {
        log2_det[c] = det;
        good[c] = fine;
    }
    return FGMM_OK;
}

static void reset(double *covariances, const double *weights, const bool *good, int32_t k, int32_t dim,
                  int32_t c)
{
    (void)covariances, (void)weights, (void)good, (void)k, (void)dim, (void)c;
}

const fgmm_covariance_type fgmm__tied = {"tied", FGMM_MOMENT_NONE, count, free_parameters,
                                         update, factor,           reset};
