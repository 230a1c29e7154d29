#include "model/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t fgmm__moment_count(fgmm_moment moment, int32_t dim)
{
    switch (moment) {
    case FGMM_MOMENT_NONE:
        return 0;
    case FGMM_MOMENT_SPHERICAL:
        return 1;
    case FGMM_MOMENT_DIAG:
        return (size_t)dim;
    case FGMM_MOMENT_FULL:
        break;
    }
    return (size_t)dim * (dim + 1) / 2;
}

fgmm_status fgmm__stats_create(int32_t k, int32_t dim, fgmm_moment moment, fgmm_stats **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_stats *stats = NULL;
    size_t components = (size_t)k;
    FGMM_ALLOC(stats, 1, "statistics");
    stats->k = k;
    stats->dim = dim;
    stats->moment = moment;
    stats->moments = fgmm__moment_count(moment, dim);
    stats->n_words = components * (1 + (size_t)dim + 2 * stats->moments) + 4;
    FGMM_ALLOC(stats->words, stats->n_words, "statistics");
    stats->n = stats->words;
    stats->s = stats->n + components;
    stats->q_high = stats->s + components * dim;
    stats->q_low = stats->q_high + components * stats->moments;
    stats->log_high = stats->q_low + components * stats->moments;
    stats->log_low = stats->log_high + 1;
    stats->rows = stats->log_high + 2;
    stats->pairs = stats->log_high + 3;
    *out = stats;
    stats = NULL;
cleanup:
    fgmm__stats_destroy(stats);
    return status;
}

void fgmm__stats_destroy(fgmm_stats *stats)
{
    if (stats == NULL)
        return;
    free(stats->words);
    free(stats);
}

void fgmm__stats_zero(fgmm_stats *stats)
{
    memset(stats->words, 0, stats->n_words * sizeof *stats->words);
}

/* The smallest power of two that is >= v; 1 for 0, infinity for what overflowed. */
double fgmm__power_of_two(double v)
{
    if (!(v > 0))
        return 1;
    if (isinf(v))
        return v;
    int exponent;
    double mantissa = frexp(v, &exponent);
    return ldexp(1, mantissa == 0.5 ? exponent - 1 : exponent);
}

/* A bound of ||F_k (x - mean_k)||^2 over all rows. */
static double largest_distance(const fgmm_components *c, const fgmm_grid *grid, int32_t k)
{
    size_t dim = (size_t)c->dim;
    double f = 0;
    switch (c->shape) {
    case FGMM_SPHERICAL:
        return c->factors[k] * c->factors[k] * grid->spherical_bound;
    case FGMM_DIAG:
        for (size_t d = 0; d < dim; d++) {
            double g = c->factors[(size_t)k * dim + d] * grid->bound[d];
            f += g * g;
        }
        return f;
    case FGMM_TIED:
    case FGMM_FULL:
        break;
    }
    const double *u = c->factors + (c->shape == FGMM_FULL ? (size_t)k * dim * dim : 0);
    for (size_t i = 0; i < dim * dim; i++)
        f += u[i] * u[i];
    return f * grid->spherical_bound;
}

/* A row's log-density is at least that of any one component, and at most the largest offset plus log2 K. */
static double bound_of_logs(const fgmm_components *c, const fgmm_grid *grid)
{
    if (c->hard)
        return grid->spherical_bound;
    double least = INFINITY, most = 0;
    for (int32_t k = 0; k < c->k; k++) {
        if (!isfinite(c->offsets[k]))
            continue;
        least = fmin(least, fabs(c->offsets[k]) + largest_distance(c, grid, k));
        most = fmax(most, fabs(c->offsets[k]) + log2(c->k) + 1);
    }
    return fgmm__power_of_two(fmax(most, isfinite(least) ? least : 1));
}

int fgmm__grid_bits(int64_t rows)
{
    int row_bits = 0;
    while (row_bits < 62 && ((int64_t)1 << row_bits) < rows + 1)
        row_bits++;
    return 62 - row_bits < 50 ? 62 - row_bits : 50;
}

fgmm_status fgmm__grid_check(const fgmm_grid *grid)
{
    if (isfinite(grid->spherical_bound) && isfinite(grid->log_bound))
        return FGMM_OK;
    return fgmm__fail(FGMM_ERR_INPUT,
                      "the range of the data is too wide: squared distances overflow; scale the rows down");
}

fgmm_status fgmm__grid_create(int64_t rows, const double *min, const double *max, const fgmm_components *c,
                              fgmm_grid **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_grid *grid = NULL;
    double squares = 0;
    FGMM_ALLOC(grid, 1, "a grid");
    FGMM_ALLOC(grid->bound, c->dim, "a grid");
    grid->dim = c->dim;
    grid->unit = 1;
    grid->bits = fgmm__grid_bits(rows);
    for (int32_t d = 0; d < c->dim; d++) {
        double low = fmin(min[d] - c->origin[d], 0), high = fmax(max[d] - c->origin[d], 0);
        for (int32_t k = 0; k < c->k; k++) {
            low = fmin(low, c->means[(size_t)k * c->dim + d]);
            high = fmax(high, c->means[(size_t)k * c->dim + d]);
        }
        grid->bound[d] = fgmm__power_of_two(high - low);
        squares += grid->bound[d] * grid->bound[d];
    }
    grid->spherical_bound = fgmm__power_of_two(squares);
    grid->log_bound = bound_of_logs(c, grid);
    FGMM_TRY(fgmm__grid_check(grid));
    *out = grid;
    grid = NULL;
cleanup:
    fgmm__grid_destroy(grid);
    return status;
}

void fgmm__grid_destroy(fgmm_grid *grid)
{
    if (grid == NULL)
        return;
    free(grid->bound);
    free(grid);
}

double fgmm__stats_join(int64_t high, int64_t low, double bound, int bits)
{
    return (ldexp((double)high, -bits) + ldexp((double)low, -2 * bits)) * bound;
}

double fgmm__stats_n(const fgmm_stats *stats, const fgmm_grid *grid, int32_t k)
{
    return ldexp((double)stats->n[k], -grid->bits) * grid->unit;
}

double fgmm__stats_s(const fgmm_stats *stats, const fgmm_grid *grid, int32_t k, int32_t d)
{
    return ldexp((double)stats->s[(size_t)k * stats->dim + d], -grid->bits) * grid->bound[d] * grid->unit;
}

/* The dimensions (i, j), j <= i, of entry `moment` of a lower triangle stored row by row. */
static void triangle_place(size_t moment, size_t *i, size_t *j)
{
    size_t row = (size_t)((sqrt(8.0 * (double)moment + 1) - 1) / 2);
    while (row * (row + 1) / 2 > moment)
        row--;
    while ((row + 1) * (row + 2) / 2 <= moment)
        row++;
    *i = row;
    *j = moment - row * (row + 1) / 2;
}

double fgmm__stats_q(const fgmm_stats *stats, const fgmm_grid *grid, int32_t k, size_t moment)
{
    size_t place = (size_t)k * stats->moments + moment, i = moment, j = moment;
    double bound = grid->spherical_bound;
    if (stats->moment == FGMM_MOMENT_FULL)
        triangle_place(moment, &i, &j);
    if (stats->moment != FGMM_MOMENT_SPHERICAL)
        bound = grid->bound[i] * grid->bound[j];
    return fgmm__stats_join(stats->q_high[place], stats->q_low[place], bound, grid->bits) * grid->unit;
}

double fgmm__stats_log(const fgmm_stats *stats, const fgmm_grid *grid)
{
    return fgmm__stats_join(*stats->log_high, *stats->log_low, grid->log_bound, grid->bits) * grid->unit;
}
