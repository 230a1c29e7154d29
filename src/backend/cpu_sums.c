#include "backend/cpu_sums.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_COMPONENTS = 64 }; /* of a bucket */

struct fgmm__cpu_sums_work {
    double *dense;    /* [block_rows][width] responsibilities */
    double *squares;  /* [block_rows][dim] */
    double *sums;     /* [width][dim] */
    double *second;   /* [width][dim] */
    double *gathered; /* [FGMM_QUANTUM][dim] sqrt(r) (x - mean) of one component */
    double *scatter;  /* [dim][dim] */
    size_t *order;    /* [FGMM_QUANTUM * width] pairs of a quantum by component */
};

/* ---- rounding to the grid ---- */

/* To the nearest integer, ties to even, |t| < 2^51: adding 1.5 * 2^52 leaves it in the mantissa. */
static const double SHIFTER = 0x1.8p52;
typedef union {
    double real;
    int64_t bits;
} shifted;

static inline int64_t to_integer(double shifted_value)
{
    shifted v = {shifted_value}, zero = {SHIFTER};
    return v.bits - zero.bits;
}

/* s += round(r x / bound * 2^bits) */
FGMM_CLONES static void add_scaled(int64_t *restrict s, const double *restrict x,
                                   const double *restrict inverse, double r, int32_t dim)
{
#pragma omp simd
    for (int32_t d = 0; d < dim; d++)
        s[d] += to_integer(r * x[d] * inverse[d] + SHIFTER);
}

/* The two limbs of r (x - mean)^2. */
FGMM_CLONES static void add_squares(int64_t *restrict high, int64_t *restrict low, const double *restrict x,
                                    const double *restrict mean, const double *restrict inverse, double r,
                                    double step, int32_t dim)
{
#pragma omp simd
    for (int32_t d = 0; d < dim; d++) {
        double difference = x[d] - mean[d], t = r * (difference * difference) * inverse[d];
        double shifted_high = t + SHIFTER, rest = (t - (shifted_high - SHIFTER)) * step;
        high[d] += to_integer(shifted_high);
        low[d] += to_integer(rest + SHIFTER);
    }
}

/* Sums of many rows may exceed 2^51. */
static inline void add_limbs(int64_t *high, int64_t *low, double t, double step)
{
    double rounded = nearbyint(t);
    *high += (int64_t)rounded;
    *low += (int64_t)nearbyint((t - rounded) * step);
}

/* ---- life ---- */

static void work_destroy(fgmm__cpu_sums_work *w)
{
    if (w == NULL)
        return;
    free(w->dense);
    free(w->squares);
    free(w->sums);
    free(w->second);
    free(w->gathered);
    free(w->scatter);
    free(w->order);
    free(w);
}

static fgmm_status work_create(const fgmm__cpu_sums *sums, fgmm__cpu_sums_work **out)
{
    fgmm_status status = FGMM_OK;
    fgmm__cpu_sums_work *w = NULL;
    size_t rows = (size_t)sums->model->block_rows, dim = (size_t)sums->model->dim,
           width = (size_t)sums->width;
    FGMM_ALLOC(w, 1, "sums");
    FGMM_ALLOC(w->dense, rows * width, "sums");
    FGMM_ALLOC(w->sums, width * dim, "sums");
    if (sums->stats->moment == FGMM_MOMENT_DIAG) {
        FGMM_ALLOC(w->squares, rows * dim, "sums");
        FGMM_ALLOC(w->second, width * dim, "sums");
    }
    if (sums->stats->moment == FGMM_MOMENT_FULL) {
        FGMM_ALLOC(w->gathered, FGMM_QUANTUM * dim, "sums");
        FGMM_ALLOC(w->scatter, dim * dim, "sums");
        FGMM_ALLOC(w->order, FGMM_QUANTUM * width, "sums");
    }
    *out = w;
    w = NULL;
cleanup:
    work_destroy(w);
    return status;
}

fgmm_status fgmm__cpu_sums_create(const fgmm__cpu_model *model, const fgmm_grid *grid, fgmm_moment moment,
                                  int threads, fgmm__cpu_sums **out)
{
    fgmm_status status = FGMM_OK;
    fgmm__cpu_sums *sums = NULL;
    FGMM_ALLOC(sums, 1, "sums");
    sums->model = model;
    sums->threads = threads;
    /* At least some 16 buckets where k allows, for the threads; at most 64 components in one, for the cache.
     */
    sums->shift = 2;
    while (sums->shift < 6 && model->k >> (sums->shift + 1) >= 16)
        sums->shift++;
    sums->width = 1 << sums->shift;
    sums->n_buckets = (model->k + sums->width - 1) / sums->width;
    sums->step = ldexp(1, grid->bits);
    sums->q_spherical_inverse = sums->step / grid->spherical_bound;
    FGMM_TRY(fgmm__stats_create(model->k, model->dim, moment, &sums->stats));
    FGMM_ALLOC(sums->s_inverse, model->dim, "sums");
    FGMM_ALLOC(sums->q_inverse, model->dim, "sums");
    FGMM_ALLOC(sums->bounds, model->dim, "sums");
    for (int32_t d = 0; d < model->dim; d++) {
        sums->bounds[d] = grid->bound[d];
        sums->s_inverse[d] = sums->step / grid->bound[d];
        sums->q_inverse[d] = sums->step / (grid->bound[d] * grid->bound[d]);
    }
    FGMM_ALLOC(sums->work, threads, "sums");
    for (int t = 0; t < threads; t++)
        FGMM_TRY(work_create(sums, &sums->work[t]));
    *out = sums;
    sums = NULL;
cleanup:
    fgmm__cpu_sums_destroy(sums);
    return status;
}

void fgmm__cpu_sums_destroy(fgmm__cpu_sums *sums)
{
    if (sums == NULL)
        return;
    for (int t = 0; sums->work != NULL && t < sums->threads; t++)
        work_destroy(sums->work[t]);
    fgmm__stats_destroy(sums->stats);
    free(sums->work);
    free(sums->s_inverse);
    free(sums->q_inverse);
    free(sums->bounds);
    free(sums);
}

/* ---- few pairs: one by one ---- */

static void add_pairs(const fgmm__cpu_sums *sums, const fgmm__cpu_block *block, size_t begin, size_t end)
{
    fgmm_stats *stats = sums->stats;
    size_t dim = (size_t)stats->dim;
    for (size_t i = begin; i < end; i++) {
        size_t k = (size_t)block->pairs[i].k;
        double r = block->pairs[i].value;
        const double *x = block->x + (size_t)block->pairs[i].row * dim, *mean = sums->model->means + k * dim;
        stats->n[k] += to_integer(r * sums->step + SHIFTER);
        add_scaled(stats->s + k * dim, x, sums->s_inverse, r, stats->dim);
        if (stats->moment == FGMM_MOMENT_SPHERICAL)
            add_limbs(stats->q_high + k, stats->q_low + k,
                      r * fgmm__cpu_distance(x, mean, stats->dim) * sums->q_spherical_inverse, sums->step);
        else if (stats->moment == FGMM_MOMENT_DIAG)
            add_squares(stats->q_high + k * dim, stats->q_low + k * dim, x, mean, sums->q_inverse, r,
                        sums->step, stats->dim);
    }
}

/* ---- many pairs: products of the block's responsibilities and rows ---- */

/* Second moments about the means from those about the origin: harmless where rows are far enough from one
 * another to share many components. */
static void add_dense_moments(const fgmm__cpu_sums *sums, fgmm__cpu_sums_work *w, size_t k, int32_t j,
                              double n, double x2)
{
    fgmm_stats *stats = sums->stats;
    size_t dim = (size_t)stats->dim;
    const double *s = w->sums + (size_t)j * dim, *mean = sums->model->means + k * dim;
    if (stats->moment == FGMM_MOMENT_SPHERICAL) {
        double cross = 0, mean2 = 0;
        for (size_t d = 0; d < dim; d++) {
            cross += mean[d] * s[d];
            mean2 += mean[d] * mean[d];
        }
        add_limbs(stats->q_high + k, stats->q_low + k,
                  fmax(0, x2 - 2 * cross + n * mean2) * sums->q_spherical_inverse, sums->step);
    } else if (stats->moment == FGMM_MOMENT_DIAG) {
        const double *second = w->second + (size_t)j * dim;
        for (size_t d = 0; d < dim; d++) {
            double q = fmax(0, second[d] - 2 * mean[d] * s[d] + n * mean[d] * mean[d]);
            add_limbs(stats->q_high + k * dim + d, stats->q_low + k * dim + d, q * sums->q_inverse[d],
                      sums->step);
        }
    }
}

static void add_dense(const fgmm__cpu_sums *sums, fgmm__cpu_sums_work *w, const fgmm__cpu_block *block,
                      int32_t bucket)
{
    fgmm_stats *stats = sums->stats;
    int32_t rows = sums->model->block_rows, dim = stats->dim, first = bucket * sums->width;
    int32_t width = stats->k - first < sums->width ? stats->k - first : sums->width;
    double n[MOST_COMPONENTS] = {0}, x2[MOST_COMPONENTS] = {0};
    memset(w->dense, 0, sizeof(double) * (size_t)rows * width);
    double norm = 0;
    for (size_t i = block->starts[bucket], last_row = (size_t)-1; i < block->starts[bucket + 1]; i++) {
        size_t row = (size_t)block->pairs[i].row;
        int32_t j = block->pairs[i].k - first;
        double r = block->pairs[i].value;
        if (row != last_row)
            norm = fgmm__cpu_norm2(block->x + row * dim, dim);
        last_row = row;
        w->dense[row * width + j] = r;
        n[j] += r;
        x2[j] += r * norm;
    }
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, width, dim, rows, 1, w->dense, width, block->x, dim,
                0, w->sums, dim);
    if (stats->moment == FGMM_MOMENT_DIAG) {
        for (size_t i = 0; i < (size_t)rows * dim; i++)
            w->squares[i] = block->x[i] * block->x[i];
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, width, dim, rows, 1, w->dense, width, w->squares,
                    dim, 0, w->second, dim);
    }
    for (int32_t j = 0; j < width; j++) {
        size_t k = (size_t)(first + j);
        stats->n[k] += llrint(n[j] * sums->step);
        for (int32_t d = 0; d < dim; d++)
            stats->s[k * dim + d] += llrint(w->sums[(size_t)j * dim + d] * sums->s_inverse[d]);
        add_dense_moments(sums, w, k, j, n[j], x2[j]);
    }
}

/* ---- full second moments: a quantum's rows of one component at once ---- */

static void add_scatter(const fgmm__cpu_sums *sums, fgmm__cpu_sums_work *w, size_t k, int32_t n)
{
    fgmm_stats *stats = sums->stats;
    int32_t dim = stats->dim;
    int64_t *high = stats->q_high + k * stats->moments, *low = stats->q_low + k * stats->moments;
    cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, dim, n, 1, w->gathered, dim, 0, w->scatter, dim);
    for (int32_t i = 0; i < dim; i++) {
        double inverse = sums->s_inverse[i];
        for (int32_t j = 0; j <= i; j++)
            add_limbs(high++, low++, w->scatter[(size_t)i * dim + j] * (inverse / sums->bounds[j]),
                      sums->step);
    }
}

static void add_full_moments(const fgmm__cpu_sums *sums, fgmm__cpu_sums_work *w,
                             const fgmm__cpu_block *blocks, int32_t n_blocks, int32_t bucket)
{
    int32_t dim = sums->stats->dim, first = bucket * sums->width;
    size_t ends[MOST_COMPONENTS] = {0}, pairs = 0;
    for (int32_t b = 0; b < n_blocks; b++)
        for (size_t i = blocks[b].starts[bucket]; i < blocks[b].starts[bucket + 1]; i++)
            ends[blocks[b].pairs[i].k - first]++;
    for (int32_t j = 0; j < sums->width; j++) {
        size_t n = ends[j];
        ends[j] = pairs;
        pairs += n;
    }
    /* order: block and pair packed, by component */
    for (int32_t b = 0; b < n_blocks; b++)
        for (size_t i = blocks[b].starts[bucket]; i < blocks[b].starts[bucket + 1]; i++)
            w->order[ends[blocks[b].pairs[i].k - first]++] = i * FGMM_QUANTUM + (size_t)b;
    for (size_t begin = 0; begin < pairs;) {
        const fgmm__cpu_pair *p =
            blocks[w->order[begin] % FGMM_QUANTUM].pairs + w->order[begin] / FGMM_QUANTUM;
        size_t k = (size_t)p->k, end = ends[p->k - first];
        const double *mean = sums->model->means + k * dim;
        for (size_t i = begin; i < end; i++) {
            const fgmm__cpu_block *block = blocks + w->order[i] % FGMM_QUANTUM;
            p = block->pairs + w->order[i] / FGMM_QUANTUM;
            const double *x = block->x + (size_t)p->row * dim;
            double root = sqrt(p->value), *to = w->gathered + (i - begin) * dim;
            for (int32_t d = 0; d < dim; d++)
                to[d] = root * (x[d] - mean[d]);
        }
        add_scatter(sums, w, k, (int32_t)(end - begin));
        begin = end;
    }
}

/* ---- */

static void add_bucket(const fgmm__cpu_sums *sums, fgmm__cpu_sums_work *w, const fgmm__cpu_block *blocks,
                       int32_t n_blocks, int32_t bucket)
{
    int32_t first = bucket * sums->width;
    int32_t width = sums->stats->k - first < sums->width ? sums->stats->k - first : sums->width;
    for (int32_t b = 0; b < n_blocks; b++) {
        size_t begin = blocks[b].starts[bucket], end = blocks[b].starts[bucket + 1];
        /* A property of the block alone: a product costs as much as adding an eighth of all pairs. */
        if (8 * (end - begin) > (size_t)blocks[b].n_rows * width)
            add_dense(sums, w, &blocks[b], bucket);
        else
            add_pairs(sums, &blocks[b], begin, end);
    }
    if (sums->stats->moment == FGMM_MOMENT_FULL)
        add_full_moments(sums, w, blocks, n_blocks, bucket);
}

void fgmm__cpu_sums_add(fgmm__cpu_sums *sums, const fgmm__cpu_block *blocks, int32_t n_blocks,
                        int32_t quantum)
{
#pragma omp parallel num_threads(sums->threads)
    {
        fgmm__cpu_sums_work *w = sums->work[omp_get_thread_num()];
#pragma omp for schedule(dynamic, 1)
        for (int32_t bucket = 0; bucket < sums->n_buckets; bucket++)
            for (int32_t b = 0; b < n_blocks; b += quantum)
                add_bucket(sums, w, blocks + b, n_blocks - b < quantum ? n_blocks - b : quantum, bucket);
    }
}
