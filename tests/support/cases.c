#include "support/cases.h"

#include <math.h>
#include <stdlib.h>
#include "base/philox.h"

static void *take(size_t count, size_t bytes)
{
    void *memory = calloc(count + 1, bytes);
    if (memory == NULL)
        abort();
    return memory;
}

static double uniform(uint32_t stream, uint64_t index)
{
    return fgmm__philox_uniform(stream, FGMM_RNG_BENCH, index);
}

/* What rows of a dtype are centred on. */
static double middle(fgmm_dtype dtype)
{
    return dtype == FGMM_U8 ? 100 : dtype == FGMM_I8 ? -3 : 1.5;
}

static double centre(int32_t k, int32_t dim, int32_t d)
{
    return 40 * (uniform(1, (uint64_t)k * (uint64_t)dim + (uint64_t)d) - 0.5);
}

static double store(const fgmm_test_rows *rows, size_t at, double v)
{
    switch (rows->dtype) {
    case FGMM_F32:
        return ((float *)rows->stored)[at] = (float)v;
    case FGMM_F16:
        return ((_Float16 *)rows->stored)[at] = (_Float16)v;
    case FGMM_U8:
        return ((uint8_t *)rows->stored)[at] = (uint8_t)fmin(255, fmax(0, nearbyint(v)));
    case FGMM_I8:
        break;
    }
    return ((int8_t *)rows->stored)[at] = (int8_t)fmin(127, fmax(-128, nearbyint(v)));
}

static fgmm_test_rows *rows_take(fgmm_dtype dtype, int64_t n, int32_t dim)
{
    fgmm_test_rows *rows = take(1, sizeof *rows);
    size_t values = (size_t)n * (size_t)dim;
    *rows = (fgmm_test_rows){.n = n, .dim = dim, .dtype = dtype};
    rows->stored = take(values, fgmm_dtype_bytes(dtype));
    rows->values = take(values, sizeof(double));
    rows->min = take((size_t)dim, sizeof(double));
    rows->max = take((size_t)dim, sizeof(double));
    for (int32_t d = 0; d < dim; d++) {
        rows->min[d] = INFINITY;
        rows->max[d] = -INFINITY;
    }
    return rows;
}

static void rows_set(fgmm_test_rows *rows, int64_t i, int32_t d, double value)
{
    size_t at = (size_t)i * (size_t)rows->dim + (size_t)d;
    double v = store(rows, at, value);
    rows->values[at] = v;
    rows->min[d] = fmin(rows->min[d], v);
    rows->max[d] = fmax(rows->max[d], v);
}

fgmm_test_rows *fgmm_test_rows_create(fgmm_dtype dtype, int64_t n, int32_t k, int32_t dim, double noise)
{
    fgmm_test_rows *rows = rows_take(dtype, n, dim);
    for (int64_t i = 0; i < n; i++) {
        int32_t c = (int32_t)(uniform(2, (uint64_t)i) * k);
        for (int32_t d = 0; d < dim; d++)
            rows_set(rows, i, d,
                     middle(dtype) + centre(c, dim, d) +
                         noise * 4 * (uniform(3, (uint64_t)i * (uint64_t)dim + (uint64_t)d) - 0.5));
    }
    return rows;
}

void fgmm_test_rows_destroy(fgmm_test_rows *rows)
{
    if (rows == NULL)
        return;
    free(rows->stored);
    free(rows->values);
    free(rows->min);
    free(rows->max);
    free(rows);
}

static void fill_upper(double *u, int32_t dim, double scale, uint32_t stream)
{
    for (int32_t i = 0; i < dim; i++)
        for (int32_t j = i; j < dim; j++)
            u[(size_t)i * (size_t)dim + (size_t)j] =
                scale * (i == j ? 1
                                : 0.5 * (uniform(stream, (uint64_t)i * (uint64_t)dim + (uint64_t)j) - 0.5) /
                                      sqrt(dim));
}

fgmm_components *fgmm_test_components(fgmm_covariance shape, bool hard, int32_t k, int32_t dim,
                                      fgmm_dtype dtype, double sigma)
{
    fgmm_components *c = take(1, sizeof *c);
    size_t components = (size_t)k, dims = (size_t)dim;
    size_t counts[] = {[FGMM_SPHERICAL] = components,
                       [FGMM_DIAG] = components * dims,
                       [FGMM_TIED] = dims * dims,
                       [FGMM_FULL] = components * dims * dims};
    double f = sqrt(0.5 * 1.4426950408889634) / sigma;
    *c = (fgmm_components){.shape = shape, .hard = hard, .k = k, .dim = dim};
    c->offsets = take(components, sizeof(double));
    c->means = take(components * dims, sizeof(double));
    c->origin = take(dims, sizeof(double));
    c->factors = take(counts[shape], sizeof(double));
    for (int32_t d = 0; d < dim; d++)
        c->origin[d] = nearbyint(middle(dtype)) + d % 3;
    for (size_t i = 0; i < components; i++) {
        c->offsets[i] = hard ? 0 : 3 * uniform(4, i) - dim;
        for (int32_t d = 0; d < dim; d++)
            c->means[i * dims + (size_t)d] = middle(dtype) + centre((int32_t)i, dim, d) - c->origin[d] +
                                             uniform(5, i * dims + (size_t)d) - 0.5;
    }
    if (shape == FGMM_TIED || shape == FGMM_FULL)
        for (size_t i = 0; i < counts[shape] / (dims * dims); i++)
            fill_upper(c->factors + i * dims * dims, dim, f, 6 + (uint32_t)i);
    else
        for (size_t i = 0; i < counts[shape]; i++)
            c->factors[i] = hard ? 1 : f * (0.6 + uniform(6, i));
    return c;
}

void fgmm_test_stretch(fgmm_components *c, double condition, double sigma)
{
    size_t dim = (size_t)c->dim;
    double root = sqrt(sqrt(condition));
    for (size_t k = 0; k < (size_t)c->k; k++) {
        double *u = c->factors + k * dim * dim, log2_det = 0;
        for (size_t j = 0; j < dim; j++) {
            double deviation = sigma * (1 / root + (root - 1 / root) * uniform(7, k * dim + j));
            double scale = sqrt(0.5 * 1.4426950408889634) / deviation;
            log2_det += log2(deviation);
            for (size_t i = 0; i <= j; i++)
                u[i * dim + j] =
                    scale *
                    (i == j ? 1 : 2 * (uniform(8 + (uint32_t)k, i * dim + j) - 0.5) / sqrt((double)dim));
        }
        c->offsets[k] = -log2_det - 1.3257 * (double)dim + 3 * uniform(4, k);
    }
}

/* Of four uniform numbers; variance 1. */
static double normal(uint32_t stream, uint64_t index)
{
    double sum = -2;
    for (uint64_t i = 0; i < 4; i++)
        sum += uniform(stream, 4 * index + i);
    return sum * sqrt(3);
}

/* x - mean = t where U' t is normal with the variance that U has for a unit. */
fgmm_test_rows *fgmm_test_rows_of(const fgmm_components *c, fgmm_dtype dtype, int64_t n)
{
    fgmm_test_rows *rows = rows_take(dtype, n, c->dim);
    size_t dim = (size_t)c->dim;
    double *t = take(dim, sizeof *t);
    for (int64_t i = 0; i < n; i++) {
        size_t k = (size_t)(uniform(2, (uint64_t)i) * c->k);
        const double *u = c->factors + k * dim * dim;
        for (size_t j = 0; j < dim; j++) {
            double y = sqrt(0.5 * 1.4426950408889634) * normal(3, (uint64_t)i * dim + j);
            for (size_t m = 0; m < j; m++)
                y -= t[m] * u[m * dim + j];
            t[j] = y / u[j * dim + j];
            rows_set(rows, i, (int32_t)j, c->origin[j] + c->means[k * dim + j] + t[j]);
        }
    }
    free(t);
    return rows;
}

double fgmm_test_logit(const fgmm_components *c, int32_t k, const double *x)
{
    int32_t dim = c->dim;
    size_t dims = (size_t)dim;
    const double *mean = c->means + (size_t)k * dims;
    bool triangular = c->shape == FGMM_TIED || c->shape == FGMM_FULL;
    const double *u = c->factors + (c->shape == FGMM_FULL ? (size_t)k * dims * dims : 0);
    double sum = 0;
    for (int32_t j = 0; j < dim; j++) {
        double y = 0;
        if (triangular)
            for (int32_t i = 0; i <= j; i++)
                y += (x[i] - c->origin[i] - mean[i]) * u[(size_t)i * dims + (size_t)j];
        else
            y = (x[j] - c->origin[j] - mean[j]) *
                (c->hard ? 1 : c->factors[c->shape == FGMM_DIAG ? (size_t)k * dims + (size_t)j : (size_t)k]);
        sum += y * y;
    }
    return (c->hard ? 0 : c->offsets[k]) - sum;
}

double fgmm_test_logits(const fgmm_components *c, const double *x, double *l)
{
    double best = -INFINITY, sum = 0;
    for (int32_t k = 0; k < c->k; k++) {
        l[k] = fgmm_test_logit(c, k, x);
        best = fmax(best, l[k]);
    }
    if (c->hard)
        return best;
    for (int32_t k = 0; k < c->k; k++)
        sum += exp2(l[k] - best);
    return best + log2(sum);
}
