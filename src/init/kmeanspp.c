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
    float *nearest;     /* [n] squared distance from the nearest mean so far */
    double *block_sums; /* [blocks] of nearest */
} sample;

static float squared_distance(const float *a, const float *b, int32_t dim)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int32_t d = 0; d < dim; d++)
        sum += (a[d] - b[d]) * (a[d] - b[d]);
    return sum;
}

/* Takes row `chosen` as a mean; returns the new total. */
static double take(sample *s, int64_t chosen)
{
    const float *mean = s->rows + chosen * s->dim;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < s->blocks; b++) {
        int64_t end = (b + 1) * BLOCK_ROWS < s->n ? (b + 1) * BLOCK_ROWS : s->n;
        double sum = 0;
        for (int64_t i = b * BLOCK_ROWS; i < end; i++) {
            s->nearest[i] = fminf(s->nearest[i], squared_distance(s->rows + i * s->dim, mean, s->dim));
            sum += s->nearest[i];
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
            if (s->nearest[i] > 0)
                last = i;
            if ((target -= s->nearest[i]) < 0 && s->nearest[i] > 0)
                return i;
        }
    }
    return last; /* rounding carried the target past the end */
}

static fgmm_status choose(sample *s, fgmm_comm *comm, uint64_t seed, int32_t k, double *means)
{
    fgmm_status status = FGMM_OK;
    int64_t chosen = (int64_t)fgmm__philox_below(seed, FGMM_RNG_KMEANSPP, 0, (uint64_t)s->n);
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

fgmm_status fgmm__init_kmeanspp(const fgmm_dataset *dataset, fgmm_comm *comm, uint64_t seed, int32_t k,
                                double *means)
{
    fgmm_status status = FGMM_OK;
    float *rows = NULL;
    sample s = {.dim = fgmm_dataset_dim(dataset)};
    int64_t all = fgmm_dataset_rows(dataset), wanted = (int64_t)FGMM_KMEANSPP_ROWS * k;
    s.n = all < wanted ? all : wanted;
    s.blocks = (s.n + BLOCK_ROWS - 1) / BLOCK_ROWS;
    fgmm__progress_begin("k-means++ start", "means", k);
    FGMM_TRY(fgmm__sample_rows(dataset, comm, seed, FGMM_RNG_SAMPLE, s.n, NULL, &rows));
    s.rows = rows;
    if (fgmm_comm_rank(comm) == 0) {
        status = fgmm__alloc((size_t)s.n, sizeof *s.nearest, "distances of a sample", (void **)&s.nearest);
        if (status == FGMM_OK)
            status = fgmm__alloc((size_t)s.blocks, sizeof *s.block_sums, "distances of a sample",
                                 (void **)&s.block_sums);
        if (status == FGMM_OK)
            status = choose(&s, comm, seed, k, means);
    }
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_bcast(comm, means, (size_t)k * (size_t)s.dim * sizeof *means, 0));
cleanup:
    fgmm__progress_end();
    free(rows);
    free(s.nearest);
    free(s.block_sums);
    return status;
}
