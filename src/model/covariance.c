#include "model/covariance.h"

#include <math.h>
#include <string.h>

/* LAPACK, from OpenBLAS. */
void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info);
void dtrtri_(const char *uplo, const char *diag, const int *n, double *a, const int *lda, int *info);

const fgmm_covariance_type *fgmm__covariance_type(fgmm_covariance covariance)
{
    static const fgmm_covariance_type *const types[] = {
        [FGMM_SPHERICAL] = &fgmm__spherical,
        [FGMM_DIAG] = &fgmm__diag,
        [FGMM_TIED] = &fgmm__tied,
        [FGMM_FULL] = &fgmm__full,
    };
    return types[covariance];
}

/* LAPACK reads our row-major lower triangle as its column-major upper one. */
bool fgmm__cholesky(const double *matrix, int32_t dim, double *lower)
{
    int n = dim, info = 0;
    size_t size = (size_t)dim;
    memcpy(lower, matrix, size * size * sizeof *lower);
    dpotrf_("U", &n, lower, &n, &info);
    if (info != 0)
        return false;
    for (size_t i = 0; i < size; i++) {
        if (!(lower[i * size + i] > 0) || !isfinite(lower[i * size + i]))
            return false;
        for (size_t j = i + 1; j < size; j++)
            lower[i * size + j] = 0;
    }
    return true;
}

/* U = L'^-1 scaled. */
bool fgmm__factor_matrix(const double *matrix, int32_t dim, double *factor, double *log2_det)
{
    int n = dim, info = 0;
    size_t size = (size_t)dim;
    if (!fgmm__cholesky(matrix, dim, factor))
        return false;
    *log2_det = 0;
    for (size_t i = 0; i < size; i++)
        *log2_det += 2 * log2(factor[i * size + i]);
    dtrtri_("U", "N", &n, factor, &n, &info);
    if (info != 0)
        return false;
    double scale = sqrt(FGMM_HALF_LOG2E);
    for (size_t i = 0; i < size; i++)
        for (size_t j = 0; j <= i; j++) {
            double v = factor[i * size + j] * scale;
            factor[i * size + j] = 0;
            factor[j * size + i] = v;
        }
    return true;
}

void fgmm__average_covariance(double *covariances, const double *weights, const bool *good, int32_t k,
                              size_t size, int32_t c)
{
    double *target = covariances + (size_t)c * size, total = 0;
    memset(target, 0, size * sizeof *target);
    for (int32_t j = 0; j < k; j++) {
        if (j == c || !good[j])
            continue;
        total += weights[j];
        for (size_t i = 0; i < size; i++)
            target[i] += weights[j] * covariances[(size_t)j * size + i];
    }
    for (size_t i = 0; i < size && total > 0; i++)
        target[i] /= total;
}
