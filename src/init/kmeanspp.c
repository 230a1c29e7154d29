/* k-means++ on a sample, by rank 0 with its threads; the others receive the means. Each step draws a row with
 * probability proportional to its squared distance from the means so far. Sums are taken over fixed blocks of
 * rows, so that the choice does not depend on the number of threads. */
#include "init/init.h"

#include "base/log.h"
#include "base/philox.h"
#include "data/sample.h"

#include <math.h>
#include <stdlib.h>

enum { BLOCK_ROWS = 1024 };

typedef struct {
    const float *rows; /* [n][dim] */
    int64_t n, blocks;
    int32_t dim;
    float *nearest;        /* [n] squared distance from the nearest mean so far */
    const double *weights; /* [n], NULL: 1 each */
    double *block_sums;    /* [blocks] of shares */
} sample;

static float squared_distance(const float *a, const float *b, int32_t dim)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int32_t d = 0; d < dim; d++)
        sum += (a[d] - b[d]) * (a[d] - b[d]);
    return sum;
}

/* What a row's chance to be drawn is proportional to. */
static double share(const sample *s, int64_t i)
{
    return s->weights != NULL ? s->weights[i] * (double)s->nearest[i] : (double)s->nearest[i];
}

/* Takes row `chosen` as a mean (-1: none); returns the new total. */
static double take(sample *s, int64_t chosen)
{
    const float *mean = chosen < 0 ? NULL : s->rows + chosen * s->dim;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < s->blocks; b++) {
        int64_t end = (b + 1) * BLOCK_ROWS < s->n ? (b + 1) * BLOCK_ROWS : s->n;
        double sum = 0;
        for (int64_t i = b * BLOCK_ROWS; i < end; i++) {
            if (mean != NULL)
                s->nearest[i] = fminf(s->nearest[i], squared_distance(s->rows + i * s->dim, mean, s->dim));
            sum += share(s, i);
        }
        s->block_sums[b] = sum;
    }
    double total = 0;
    for (int64_t b = 0; b < s->blocks; b++)
        total += s->block_sums[b];
    return total;
}

/* The row at which the running sum of squared distances passes `target`. */
static int64_t pick(const sample *s, double target)
{
    int64_t last = -1;
    for (int64_t b = 0; b < s->blocks; b++) {
        if (target >= s->block_sums[b] && b + 1 < s->blocks) {
            target -= s->block_sums[b];
            continue;
        }
        int64_t end = (b + 1) * BLOCK_ROWS < s->n ? (b + 1) * BLOCK_ROWS : s->n;
        for (int64_t i = b * BLOCK_ROWS; i < end; i++) {
            if (share(s, i) > 0)
                last = i;
            if ((target -= share(s, i)) < 0 && share(s, i) > 0)
                return i;
        }
    }
    return last; /* rounding carried the target past the end */
}

/* Any row, as likely as it is heavy. */
static int64_t draw_first(sample *s, uint64_t seed)
{
    if (s->weights == NULL)
        return (int64_t)fgmm__philox_below(seed, FGMM_RNG_KMEANSPP, 0, (uint64_t)s->n);
    for (int64_t i = 0; i < s->n; i++)
        s->nearest[i] = 1;
    int64_t row = pick(s, fgmm__philox_uniform(seed, FGMM_RNG_KMEANSPP, 0) * take(s, -1));
    return row < 0 ? 0 : row; /* none of the sample has a weight */
}

static fgmm_status choose(sample *s, fgmm_comm *comm, uint64_t seed, int32_t k, double *means)
{
    fgmm_status status = FGMM_OK;
    int64_t chosen = draw_first(s, seed);
    for (int64_t i = 0; i < s->n; i++)
        s->nearest[i] = INFINITY;
    for (int32_t c = 0; c < k; c++) {
        for (int32_t d = 0; d < s->dim; d++)
            means[(size_t)c * s->dim + d] = s->rows[chosen * s->dim + d];
        double total = take(s, chosen);
        int64_t next =
            total > 0 ? pick(s, fgmm__philox_uniform(seed, FGMM_RNG_KMEANSPP, (uint64_t)c + 1) * total) : -1;
        /* fewer different rows than components: repeat rows, the fit re-seeds what starves */
        chosen = next >= 0
                     ? next
                     : (int64_t)fgmm__philox_below(seed, FGMM_RNG_KMEANSPP, (uint64_t)c + 1, (uint64_t)s->n);
        fgmm__progress_add(1);
        FGMM_TRY(fgmm__comm_tick(comm));
    }
cleanup:
    return status;
}

fgmm_status fgmm__kmeanspp_among(const float *rows, const double *weights, int64_t n, int32_t dim,
                                 fgmm_comm *comm, uint64_t seed, int32_t k, double *means)
{
    fgmm_status status = FGMM_OK;
    sample s = {
        .rows = rows, .weights = weights, .n = n, .dim = dim, .blocks = (n + BLOCK_ROWS - 1) / BLOCK_ROWS};
    FGMM_ALLOC(s.nearest, s.n, "distances of a sample");
    FGMM_ALLOC(s.block_sums, s.blocks, "distances of a sample");
    FGMM_TRY(choose(&s, comm, seed, k, means));
cleanup:
    free(s.nearest);
    free(s.block_sums);
    return status;
}

/* Of named rows; *out stays NULL where there are no weights. */
static fgmm_status read_weights(const fgmm_weights *weights, const int64_t *rows, int64_t n, double **out)
{
    fgmm_status status = FGMM_OK;
    if (weights == NULL)
        return FGMM_OK;
    FGMM_ALLOC(*out, n, "weights of a sample");
    for (int64_t i = 0; i < n; i++)
        FGMM_TRY(fgmm__weights_get(weights, rows[i], &(*out)[i]));
cleanup:
    return status;
}

fgmm_status fgmm__init_kmeanspp(const fgmm_dataset *dataset, const fgmm_weights *weights, fgmm_comm *comm,
                                uint64_t seed, int32_t k, double *means)
{
    fgmm_status status = FGMM_OK;
    float *rows = NULL;
    int64_t *numbers = NULL;
    double *of_rows = NULL;
    int32_t dim = fgmm_dataset_dim(dataset);
    int64_t all = fgmm_dataset_rows(dataset), wanted = (int64_t)FGMM_KMEANSPP_ROWS * k;
    int64_t n = all < wanted ? all : wanted;
    fgmm__progress_begin("k-means++ start", "means", k);
    FGMM_TRY(fgmm__sample_rows(dataset, comm, seed, FGMM_RNG_SAMPLE, n, &numbers, &rows));
    if (fgmm_comm_rank(comm) == 0) {
        status = read_weights(weights, numbers, n, &of_rows);
        if (status == FGMM_OK)
            status = fgmm__kmeanspp_among(rows, of_rows, n, dim, comm, seed, k, means);
    }
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_bcast(comm, means, (size_t)k * (size_t)dim * sizeof *means, 0));
cleanup:
    fgmm__progress_end();
    free(rows);
    free(numbers);
    free(of_rows);
    return status;
}
