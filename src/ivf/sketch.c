#include "ivf/sketch.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clones.h"
#include "base/philox.h"
#include "data/sample.h"
#include "io/reader.h"
#include "ivf/pca.h"

#define UNIT 0x1p-53 /* rounding of float64 */

void fgmm__sketch_destroy(fgmm_sketch *sketch)
{
    if (sketch == NULL)
        return;
    free(sketch->mean);
    free(sketch->basis);
    free(sketch->turned);
    free(sketch);
}

static fgmm_status make_room(int32_t m, int32_t dim, fgmm_sketch **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_sketch *sketch = NULL;
    FGMM_ALLOC(sketch, 1, "a sketch");
    sketch->m = m;
    sketch->dim = dim;
    FGMM_ALLOC(sketch->mean, dim, "a sketch");
    FGMM_ALLOC(sketch->basis, (size_t)m * (size_t)dim, "a sketch");
    FGMM_ALLOC(sketch->turned, (size_t)m * (size_t)dim, "a sketch");
    *out = sketch;
    sketch = NULL;
cleanup:
    fgmm__sketch_destroy(sketch);
    return status;
}

/* |BB' - 1| by its elements, which is at least its norm, and the rounding of computing them. */
static double measure_delta(const fgmm_sketch *sketch)
{
    double sum = 0;
    int32_t m = sketch->m, dim = sketch->dim;
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j <= i; j++) {
            const double *a = sketch->basis + (size_t)i * (size_t)dim;
            const double *b = sketch->basis + (size_t)j * (size_t)dim;
            double product = i == j ? -1 : 0;
            for (int32_t d = 0; d < dim; d++)
                product += a[d] * b[d];
            sum += (i == j ? 1 : 2) * product * product;
        }
    return sqrt(sum) * (1 + 0x1p-20) + m * (dim + 4) * 2 * UNIT;
}

/* Fills in what follows from mean and basis. The factor 2 covers products of small quantities. */
static double measure_share(fgmm_sketch *sketch)
{
    int32_t m = sketch->m, dim = sketch->dim;
    double delta = measure_delta(sketch), eta = delta + sqrt(m) * (dim + 4) * UNIT;
    double kappa = 3 * eta + (dim + 2.0 * m + 16) * UNIT;
    sketch->share = 2 * (eta + sqrt(kappa) + 0x1p-24);
    for (int32_t i = 0; i < m; i++)
        for (int32_t d = 0; d < dim; d++)
            sketch->turned[(size_t)d * (size_t)m + (size_t)i] =
                sketch->basis[(size_t)i * (size_t)dim + (size_t)d];
    return delta;
}

fgmm_status fgmm__sketch_create(fgmm_comm *comm, const fgmm_dataset *dataset, int32_t m, int threads,
                                fgmm_sketch **out)
{
    enum { SAMPLE_ROWS = 8192, SAMPLE_BYTES = 64 << 20 };
    fgmm_status status = FGMM_OK;
    fgmm_sketch *sketch = NULL;
    float *sample = NULL;
    int32_t dim = fgmm_dataset_dim(dataset);
    int64_t n = SAMPLE_BYTES / ((int64_t)dim * (int64_t)sizeof *sample);
    n = n < SAMPLE_ROWS ? n : SAMPLE_ROWS;
    n = n < fgmm_dataset_rows(dataset) ? n : fgmm_dataset_rows(dataset);
    FGMM_TRY(fgmm__comm_agree(comm, make_room(m, dim, &sketch)));
    FGMM_TRY(fgmm__sample_rows(dataset, comm, 0, FGMM_RNG_SKETCH, n, NULL, &sample));
    if (fgmm_comm_rank(comm) == 0)
        status = fgmm__pca(comm, sample, n, dim, m, threads, sketch->mean, sketch->basis);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_bcast(comm, sketch->mean, (size_t)dim * sizeof *sketch->mean, 0));
    FGMM_TRY(fgmm__comm_bcast(comm, sketch->basis, (size_t)m * (size_t)dim * sizeof *sketch->basis, 0));
    measure_share(sketch);
    *out = sketch;
    sketch = NULL;
cleanup:
    free(sample);
    fgmm__sketch_destroy(sketch);
    return status;
}

fgmm_status fgmm__sketch_fit(fgmm_comm *comm, float *sample, int64_t n, int32_t dim, int32_t m, int threads,
                             fgmm_sketch **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_sketch *sketch = NULL;
    FGMM_TRY(make_room(m, dim, &sketch));
    FGMM_TRY(fgmm__pca(comm, sample, n, dim, m, threads, sketch->mean, sketch->basis));
    measure_share(sketch);
    *out = sketch;
    sketch = NULL;
cleanup:
    fgmm__sketch_destroy(sketch);
    return status;
}

fgmm_status fgmm__sketch_of(const double *mean, const double *basis, int32_t m, int32_t dim, const char *file,
                            fgmm_sketch **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_sketch *sketch = NULL;
    FGMM_TRY(make_room(m, dim, &sketch));
    memcpy(sketch->mean, mean, (size_t)dim * sizeof *mean);
    memcpy(sketch->basis, basis, (size_t)m * (size_t)dim * sizeof *basis);
    for (int32_t d = 0; d < dim; d++)
        if (!isfinite(mean[d]))
            FGMM_FAIL(FGMM_ERR_INPUT, "%s: damaged: the mean of its sketch is not finite", file);
    if (!(measure_share(sketch) < 0x1p-20))
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: damaged: the basis of its sketch is not orthonormal", file);
    *out = sketch;
    sketch = NULL;
cleanup:
    fgmm__sketch_destroy(sketch);
    return status;
}

/* ---- sketching ---- */

FGMM_CLONES static void sketch_one(const fgmm_sketch *sketch, const float *x, double *out)
{
    int32_t m = sketch->m;
    double norm = 0, inside = 0;
    memset(out, 0, (size_t)m * sizeof *out);
    for (int32_t d = 0; d < sketch->dim; d++) {
        double v = (double)x[d] - sketch->mean[d];
        const double *column = sketch->turned + (size_t)d * (size_t)m;
        norm += v * v;
#pragma omp simd
        for (int32_t i = 0; i < m; i++)
            out[i] += v * column[i];
    }
    for (int32_t i = 0; i < m; i++)
        inside += out[i] * out[i];
    out[m] = norm > inside ? sqrt(norm - inside) : 0;
}

fgmm_status fgmm__sketch_rows(const fgmm_sketch *sketch, const void *rows, fgmm_dtype dtype, int64_t n,
                              int threads, float *out)
{
    int32_t m = sketch->m, dim = sketch->dim;
    size_t row_bytes = (size_t)dim * fgmm_dtype_bytes(dtype);
    bool failed = false;
#pragma omp parallel num_threads(threads) reduction(|| : failed)
    {
        float *x = malloc((size_t)dim * sizeof *x);
        double *values = malloc((size_t)(m + 1) * sizeof *values);
        failed = x == NULL || values == NULL;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++) {
            if (failed)
                continue;
            fgmm__to_f32(dtype, (const char *)rows + (size_t)i * row_bytes, (size_t)dim, x);
            sketch_one(sketch, x, values);
            for (int32_t c = 0; c <= m; c++)
                out[i * (m + 1) + c] = (float)values[c];
        }
        free(x);
        free(values);
    }
    return failed ? fgmm__fail(FGMM_ERR_RUNTIME, "out of memory for sketches of rows") : FGMM_OK;
}

void fgmm__sketch_query(const fgmm_sketch *sketch, const float *query, double *out)
{
    sketch_one(sketch, query, out);
}

/* ---- bounds ---- */

/* |v| is the sketch's length up to its slack; floats below the least normal one are off by 2^-150 each. */
double fgmm__sketch_slack(const fgmm_sketch *sketch, double length)
{
    return sketch->share * length + 0x1p-130;
}

/* Of sums of squares and of what is computed from them. */
static double growth_of(const fgmm_sketch *sketch)
{
    return (sketch->dim + sketch->m + 64) * 4 * UNIT;
}

double fgmm__sketch_limit(const fgmm_sketch *sketch, double bound, double slack)
{
    double growth = growth_of(sketch);
    double reach = sqrt(bound) * (1 + growth) + slack;
    return reach * reach * (1 + growth) + DBL_MIN;
}

/* The limit of what is returned here is less than `apart`: each factor 1 - 2 growth makes up for one of the
 * limit's 1 + growth, and for rounding. Nothing is told where DBL_MIN would count. */
FGMM_CLONES static void leasts(double shrink, const double *apart, int32_t n, double slack, double *out)
{
#pragma omp simd
    for (int32_t i = 0; i < n; i++) {
        double reach = sqrt(apart[i]) * shrink - slack, least = reach * reach * shrink * shrink;
        out[i] = reach > 0 && apart[i] > 0x1p-900 ? least : 0;
    }
}

void fgmm__sketch_leasts(const fgmm_sketch *sketch, const double *apart, int32_t n, double slack, double *out)
{
    leasts(1 - 2 * growth_of(sketch), apart, n, slack, out);
}

double fgmm__sketch_least(const fgmm_sketch *sketch, double apart, double slack)
{
    double least;
    fgmm__sketch_leasts(sketch, &apart, 1, slack, &least);
    return least;
}
