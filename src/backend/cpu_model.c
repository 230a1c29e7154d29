/* Components prepared for products, rows prepared for them, and the distances between the two. */
#include "backend/cpu_backend.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "io/reader.h"

enum { CHUNK = 1024 }; /* components a product: 256 x 1,024 logits are 2 MiB */

/* ---- distances ---- */

static inline double lane_sum(const fgmm__lanes *lanes)
{
    double a[FGMM_LANES];
    memcpy(a, lanes, sizeof a);
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

FGMM_CLONES double fgmm__cpu_distance(const double *a, const double *b, int32_t dim)
{
    fgmm__lanes sum = {0};
    int32_t d = 0;
    for (; d + FGMM_LANES <= dim; d += FGMM_LANES) {
        fgmm__lanes t = *(const fgmm__lanes *)(a + d) - *(const fgmm__lanes *)(b + d);
        sum += t * t;
    }
    double rest = 0;
    for (; d < dim; d++)
        rest += (a[d] - b[d]) * (a[d] - b[d]);
    return lane_sum(&sum) + rest;
}

/* sum of ((a-b) f)^2 */
FGMM_CLONES static double scaled_distance(const double *a, const double *b, const double *f, int32_t dim)
{
    fgmm__lanes sum = {0};
    int32_t d = 0;
    for (; d + FGMM_LANES <= dim; d += FGMM_LANES) {
        fgmm__lanes t =
            (*(const fgmm__lanes *)(a + d) - *(const fgmm__lanes *)(b + d)) * *(const fgmm__lanes *)(f + d);
        sum += t * t;
    }
    double rest = 0;
    for (; d < dim; d++)
        rest += (a[d] - b[d]) * f[d] * ((a[d] - b[d]) * f[d]);
    return lane_sum(&sum) + rest;
}

double fgmm__cpu_norm2(const double *a, int32_t dim)
{
    static const double zeros[FGMM_BLOCK];
    double sum = 0;
    for (int32_t d = 0; d < dim; d += FGMM_BLOCK)
        sum += fgmm__cpu_distance(a + d, zeros, dim - d < FGMM_BLOCK ? dim - d : FGMM_BLOCK);
    return sum;
}

/* ---- components ---- */

int32_t fgmm__cpu_block_rows(int32_t k)
{
    return k <= 65536    ? FGMM_BLOCK
           : k <= 131072 ? FGMM_BLOCK / 2
           : k <= 262144 ? FGMM_BLOCK / 4
                         : FGMM_BLOCK / 8;
}

int32_t fgmm__cpu_chunk(int32_t k)
{
    return k < CHUNK ? k : CHUNK;
}

/* Bits below a row's largest responsibility that are kept. Distances in units of a component's own variance
 * have no limit but reg_covar: a component of few rows is flat in most directions, and the variance there is
 * what far rows of tiny responsibilities bring. Types that have a variance a direction hear of them; a single
 * variance is never that small. */
static double mass_bits(fgmm_covariance shape)
{
    int more = shape == FGMM_FULL ? 52 : shape == FGMM_DIAG ? 25 : 10;
    return more + FGMM_MASS_BITS;
}

static size_t factor_count(fgmm_covariance shape, int32_t k, int32_t dim)
{
    size_t d = (size_t)dim;
    switch (shape) {
    case FGMM_SPHERICAL:
        return (size_t)k;
    case FGMM_DIAG:
        return (size_t)k * d;
    case FGMM_TIED:
        return d * d;
    case FGMM_FULL:
        break;
    }
    return (size_t)k * d * d;
}

int64_t fgmm__cpu_model_bytes(fgmm_covariance shape, int32_t k, int32_t dim)
{
    int64_t vectors = 2 + (shape == FGMM_TIED) + (shape == FGMM_DIAG);
    return 8 * (vectors * k * dim + 3 * (int64_t)k + (int64_t)factor_count(shape, k, dim));
}

/* l = offset - f^2 |x|^2 + x . (2 f^2 m) - f^2 |m|^2, with f = 1 for hard and tied (in whitened space). */
static void prepare_spheres(fgmm__cpu_model *m, const double *factors, double growth)
{
    double largest_scale = 0, largest_mean = 0;
    for (int32_t k = 0; k < m->k; k++) {
        double scale = factors == NULL ? 1 : factors[k] * factors[k];
        const double *centre = m->centres + (size_t)k * m->dim;
        double mean2 = scale * fgmm__cpu_norm2(centre, m->dim);
        m->scales[k] = scale;
        m->constants[k] = m->offsets[k] - mean2;
        for (int32_t d = 0; d < m->dim; d++)
            m->linear[(size_t)k * m->dim + d] = 2 * scale * centre[d];
        largest_scale = fmax(largest_scale, scale);
        largest_mean = fmax(largest_mean, mean2);
    }
    m->slack_row = growth * largest_scale;
    m->slack_constant = growth * largest_mean;
}

/* l = offset - (x o x) . F^2 + x . (2 m o F^2) - sum m^2 F^2 */
static void prepare_diagonal(fgmm__cpu_model *m, double growth)
{
    double largest_scale = 0, largest_mean = 0;
    for (int32_t k = 0; k < m->k; k++) {
        double mean2 = 0;
        for (int32_t d = 0; d < m->dim; d++) {
            size_t at = (size_t)k * m->dim + d;
            double scale = m->factors[at] * m->factors[at], mean = m->means[at];
            m->quadratic[at] = scale;
            m->linear[at] = 2 * mean * scale;
            mean2 += mean * mean * scale;
            largest_scale = fmax(largest_scale, scale);
        }
        m->constants[k] = m->offsets[k] - mean2;
        largest_mean = fmax(largest_mean, mean2);
    }
    m->slack_row = growth * largest_scale;
    m->slack_constant = growth * largest_mean;
}

fgmm_status fgmm__cpu_model_create(const fgmm_components *components, fgmm__cpu_model **out)
{
    fgmm_status status = FGMM_OK;
    fgmm__cpu_model *m = NULL;
    int32_t k = components->k, dim = components->dim;
    size_t vectors = (size_t)k * dim;
    FGMM_ALLOC(m, 1, "components");
    m->shape = components->shape;
    m->hard = components->hard;
    m->k = k;
    m->dim = dim;
    m->block_rows = fgmm__cpu_block_rows(k);
    m->chunk = fgmm__cpu_chunk(k);
    m->margin = m->hard ? 0 : mass_bits(m->shape) + log2(k);
    FGMM_ALLOC(m->origin, dim, "components");
    FGMM_ALLOC(m->means, vectors, "components");
    FGMM_ALLOC(m->offsets, k, "components");
    memcpy(m->origin, components->origin, sizeof(double) * dim);
    memcpy(m->means, components->means, sizeof(double) * vectors);
    if (!m->hard) {
        size_t n_factors = factor_count(m->shape, k, dim);
        memcpy(m->offsets, components->offsets, sizeof(double) * k);
        FGMM_ALLOC(m->factors, n_factors, "components");
        memcpy(m->factors, components->factors, sizeof(double) * n_factors);
    }
    m->centres = m->means;
    if (m->shape == FGMM_TIED) {
        FGMM_ALLOC(m->centres, vectors, "components");
        memcpy(m->centres, m->means, sizeof(double) * vectors);
        cblas_dtrmm(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit, k, dim, 1, m->factors,
                    dim, m->centres, dim);
    }
    if (m->shape != FGMM_FULL) {
        /* Twice the classical bound of a sum of dim products, for both terms of a comparison. */
        double growth = 4 * (dim + 8) * 0x1p-52;
        FGMM_ALLOC(m->linear, vectors, "components");
        FGMM_ALLOC(m->constants, k, "components");
        if (m->shape == FGMM_DIAG) {
            FGMM_ALLOC(m->quadratic, vectors, "components");
            prepare_diagonal(m, growth);
        } else {
            FGMM_ALLOC(m->scales, k, "components");
            prepare_spheres(m, m->hard || m->shape == FGMM_TIED ? NULL : m->factors, growth);
        }
    }
    *out = m;
    m = NULL;
cleanup:
    fgmm__cpu_model_destroy(m);
    return status;
}

void fgmm__cpu_model_destroy(fgmm__cpu_model *m)
{
    if (m == NULL)
        return;
    if (m->centres != m->means)
        free(m->centres);
    free(m->origin);
    free(m->means);
    free(m->offsets);
    free(m->factors);
    free(m->linear);
    free(m->quadratic);
    free(m->constants);
    free(m->scales);
    free(m);
}

double fgmm__cpu_exact_logit(const fgmm__cpu_model *m, const double *y, int32_t k)
{
    size_t at = (size_t)k * m->dim;
    if (m->shape == FGMM_DIAG)
        return m->offsets[k] - scaled_distance(y, m->means + at, m->factors + at, m->dim);
    return m->offsets[k] - m->scales[k] * fgmm__cpu_distance(y, m->centres + at, m->dim);
}

/* ---- rows ---- */

int32_t fgmm__cpu_load(const fgmm__cpu_model *model, const fgmm_tile *tile, int64_t first, double *x)
{
    int32_t dim = model->dim;
    int64_t left = tile->rows - first;
    int32_t rows = left < model->block_rows ? (int32_t)left : model->block_rows;
    const char *from = (const char *)tile->data + (size_t)first * dim * fgmm_dtype_bytes(tile->dtype);
    fgmm__to_f64(tile->dtype, from, (size_t)rows * dim, x);
    for (int32_t i = 0; i < rows; i++)
        for (int32_t d = 0; d < dim; d++)
            x[(size_t)i * dim + d] -= model->origin[d];
    memset(x + (size_t)rows * dim, 0, sizeof(double) * (size_t)(model->block_rows - rows) * dim);
    return rows;
}
