/* Sufficient statistics in 64-bit fixed point: addition is associative, so ranks, tiles and threads may add
 * in any order and get the same bits. A value v bounded by a power of two B is stored as round(v / B * 2^L),
 * L chosen so that the sum over all rows stays under 2^62; second moments and the log-likelihood have a
 * second limb with the next L bits (carry-save: limbs are summed apart and joined at the end). */
#ifndef FGMM_MODEL_STATS_H
#define FGMM_MODEL_STATS_H

#include "model/components.h"

/* Which second moments are gathered, always about the components' current means: q_k = sum r_k
 * (x-mean_k)(x-mean_k)'. */
typedef enum {
    FGMM_MOMENT_NONE,      /* tied: the total scatter is known from one pass */
    FGMM_MOMENT_SPHERICAL, /* [k]: trace */
    FGMM_MOMENT_DIAG,      /* [k][dim] */
    FGMM_MOMENT_FULL       /* [k][dim*(dim+1)/2]: lower triangle, row by row: (i,j), j <= i, at i*(i+1)/2+j */
} fgmm_moment;

/* The fixed-point grid of one E-step: a function of the data's range, the number of rows and the components
 * alone. */
typedef struct {
    int32_t dim;
    int bits;      /* L = min(50, 62 - ceil(log2(rows+1))) */
    double *bound; /* [dim] powers of two >= the spread of rows, means and origin in that dimension */
    double spherical_bound; /* power of two >= sum of bound^2 */
    double unit; /* what sums are multiplied by: 1, or what weights of rows at most 1 leave to their mean */
    double log_bound; /* power of two >= any |log2-density| of a row (hard: squared distance) */
} fgmm_grid;

typedef struct {
    int32_t k, dim;
    fgmm_moment moment;
    size_t moments; /* values a component: 0, 1, dim, dim*(dim+1)/2 */
    int64_t *words; /* everything below, one buffer, to be reduced at once */
    size_t n_words;
    int64_t *n;        /* [k]            units 2^-bits */
    int64_t *s;        /* [k][dim]       sum r (x - origin), units bound[d] * 2^-bits */
    int64_t *q_high;   /* [k][moments]   units B * 2^-bits with B = spherical_bound, bound[d]^2 or
                          bound[i]*bound[j] */
    int64_t *q_low;    /* [k][moments]   units B * 2^-2bits */
    int64_t *log_high; /* [1]            sum of log2-densities of rows (hard: minus squared distance), units
                          log_bound * 2^-bits */
    int64_t *log_low;  /* [1] */
    int64_t *rows;     /* [1] rows seen */
    int64_t *pairs;    /* [1] responsibilities that were kept (the measure of how broad the mixture is) */
} fgmm_stats;

size_t fgmm__moment_count(fgmm_moment moment, int32_t dim);
/* Byte layout: words = n | s | q_high | q_low | log_high | log_low | rows | pairs; a device copy uses the
 * same offsets. */
fgmm_status fgmm__stats_create(int32_t k, int32_t dim, fgmm_moment moment, fgmm_stats **out);
void fgmm__stats_destroy(fgmm_stats *stats);
void fgmm__stats_zero(fgmm_stats *stats);

/* min, max: [dim] range of all rows (of the whole dataset). */
fgmm_status fgmm__grid_create(int64_t rows, const double *min, const double *max,
                              const fgmm_components *components, fgmm_grid **out);
void fgmm__grid_destroy(fgmm_grid *grid);
double fgmm__power_of_two(double v); /* the smallest that is >= v; 1 for 0, infinity for what overflowed */
int fgmm__grid_bits(int64_t rows);   /* L for so many rows */
fgmm_status fgmm__grid_check(const fgmm_grid *grid); /* FGMM_ERR_INPUT when distances overflow */

/* Decoding. */
double fgmm__stats_join(int64_t high, int64_t low, double bound, int bits); /* two limbs */
double fgmm__stats_n(const fgmm_stats *stats, const fgmm_grid *grid, int32_t k);
double fgmm__stats_s(const fgmm_stats *stats, const fgmm_grid *grid, int32_t k, int32_t d);
double fgmm__stats_q(const fgmm_stats *stats, const fgmm_grid *grid, int32_t k, size_t moment);
double
fgmm__stats_log(const fgmm_stats *stats,
                const fgmm_grid *grid); /* sum over rows, base 2 (hard: minus sum of squared distances) */

#endif
