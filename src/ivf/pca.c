#include "ivf/pca.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clones.h"
#include "base/philox.h"
#include "base/status.h"

enum { ITERATIONS = 40, FURTHER = 8 /* directions that go along: they let the last wanted ones settle */ };

/* ---- vectors ---- */

FGMM_CLONES static void add_scaled(double *to, double scale, const double *from, int32_t n)
{
#pragma omp simd
    for (int32_t i = 0; i < n; i++)
        to[i] += scale * from[i];
}

static double product(const double *a, const double *b, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* What is left of a vector beyond those before it, twice, since once leaves rounding of the size of what was
 * taken out. False when nothing is left. */
static bool leave_rest(double *basis, int32_t at, int32_t dim)
{
    double *v = basis + (size_t)at * (size_t)dim;
    for (int pass = 0; pass < 2; pass++) {
        double length = sqrt(product(v, v, dim));
        if (!(length > 0 && length < INFINITY))
            return false;
        for (int32_t d = 0; d < dim; d++)
            v[d] /= length;
        for (int32_t i = 0; i < at; i++) {
            const double *u = basis + (size_t)i * (size_t)dim;
            add_scaled(v, -product(u, v, dim), u, dim);
        }
        if (product(v, v, dim) < 0x1p-40)
            return false;
    }
    double length = sqrt(product(v, v, dim));
    for (int32_t d = 0; d < dim; d++)
        v[d] /= length;
    return true;
}

void fgmm__orthonormalise(double *basis, int32_t m, int32_t dim)
{
    int32_t unit = 0;
    for (int32_t i = 0; i < m; i++)
        while (!leave_rest(basis, i, dim)) {
            memset(basis + (size_t)i * (size_t)dim, 0, (size_t)dim * sizeof *basis);
            basis[(size_t)i * (size_t)dim + (size_t)(unit++ % dim)] = 1;
        }
}

/* ---- the sample ---- */

static void centre(float *sample, int64_t n, int32_t dim, double *mean)
{
    memset(mean, 0, (size_t)dim * sizeof *mean);
    for (int64_t i = 0; i < n; i++)
        for (int32_t d = 0; d < dim; d++)
            mean[d] += (double)sample[i * dim + d] / (double)n;
    for (int64_t i = 0; i < n; i++)
        for (int32_t d = 0; d < dim; d++)
            sample[i * dim + d] = (float)((double)sample[i * dim + d] - mean[d]);
}

FGMM_CLONES static void covariance_row(const float *sample, int64_t n, int32_t dim, int32_t row, double *out)
{
    for (int64_t i = 0; i < n; i++) {
        const float *x = sample + i * dim;
        double scale = (double)x[row] / (double)n;
#pragma omp simd
        for (int32_t d = 0; d < dim; d++)
            out[d] += scale * (double)x[d];
    }
}

fgmm_status fgmm__pca(fgmm_comm *comm, float *sample, int64_t n, int32_t dim, int32_t m, int threads,
                      double *mean, double *basis)
{
    fgmm_status status = FGMM_OK;
    enum { ROWS_BETWEEN_TICKS = 64 };
    int32_t p = m + FURTHER < dim ? m + FURTHER : dim;
    double *covariance = NULL, *from = NULL, *to = NULL;
    FGMM_ALLOC(covariance, (size_t)dim * (size_t)dim, "principal directions");
    FGMM_ALLOC(from, (size_t)p * (size_t)dim, "principal directions");
    FGMM_ALLOC(to, (size_t)p * (size_t)dim, "principal directions");
    centre(sample, n, dim, mean);
    for (int32_t begin = 0; begin < dim; begin += ROWS_BETWEEN_TICKS) {
        int32_t end = begin + ROWS_BETWEEN_TICKS < dim ? begin + ROWS_BETWEEN_TICKS : dim;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
        for (int32_t row = begin; row < end; row++)
            covariance_row(sample, n, dim, row, covariance + (size_t)row * (size_t)dim);
        FGMM_TRY(fgmm__comm_tick(comm));
    }
    for (int64_t i = 0; i < (int64_t)p * dim; i++)
        from[i] = fgmm__philox_uniform(0, FGMM_RNG_PCA, (uint64_t)i) - 0.5;
    fgmm__orthonormalise(from, p, dim);
    for (int step = 0; step < ITERATIONS; step++) {
        memset(to, 0, (size_t)p * (size_t)dim * sizeof *to);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
        for (int32_t i = 0; i < p; i++)
            for (int32_t d = 0; d < dim; d++)
                add_scaled(to + (size_t)i * (size_t)dim, from[(size_t)i * (size_t)dim + (size_t)d],
                           covariance + (size_t)d * (size_t)dim, dim);
        fgmm__orthonormalise(to, p, dim);
        double *swap = from;
        from = to;
        to = swap;
        FGMM_TRY(fgmm__comm_tick(comm));
    }
    memcpy(basis, from, (size_t)m * (size_t)dim * sizeof *basis);
cleanup:
    free(covariance);
    free(from);
    free(to);
    return status;
}
