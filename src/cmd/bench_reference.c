#include "cmd/bench_reference.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

typedef struct {
    const fgmm_components *c;
    fgmm_moment moment;
    size_t moments;
    double log, *n, *s, *q; /* sums */
    double *l;              /* [k], of one row */
    double *difference;     /* [dim] for a thread */
    double *y;              /* [dim] for a thread */
} reference;

/* A thread's part of an array of [threads][dim]. */
static double *of_thread(const reference *a, double *array)
{
    return array + (size_t)omp_get_thread_num() * (size_t)a->c->dim;
}

/* || F_k difference ||^2; y: [dim], scratch */
static double quadratic(const fgmm_components *c, int32_t k, const double *difference, double *y)
{
    size_t dim = (size_t)c->dim;
    double sum = 0;
    for (size_t j = 0; j < dim; j++)
        y[j] = c->shape == FGMM_SPHERICAL ? c->factors[k] * difference[j]
               : c->shape == FGMM_DIAG    ? c->factors[(size_t)k * dim + j] * difference[j]
                                          : 0;
    const double *u = c->factors + (c->shape == FGMM_FULL ? (size_t)k * dim * dim : 0);
    for (size_t i = 0; i < dim && (c->shape == FGMM_FULL || c->shape == FGMM_TIED); i++)
        for (size_t j = i; j < dim; j++) /* along rows, which is along memory */
            y[j] += difference[i] * u[i * dim + j];
    for (size_t j = 0; j < dim; j++)
        sum += y[j] * y[j];
    return sum;
}

static void subtract(const fgmm_components *c, int32_t k, const double *x, double *difference)
{
    for (int32_t d = 0; d < c->dim; d++)
        difference[d] = x[d] - c->origin[d] - c->means[(size_t)k * c->dim + d];
}

static void add_moments(double *q, fgmm_moment moment, const double *difference, double r, int32_t dim)
{
    for (int32_t i = 0; i < dim; i++) {
        double v = r * difference[i];
        if (moment == FGMM_MOMENT_SPHERICAL)
            q[0] += v * difference[i];
        else if (moment == FGMM_MOMENT_DIAG)
            q[i] += v * difference[i];
        for (int32_t j = 0; moment == FGMM_MOMENT_FULL && j <= i; j++)
            *q++ += v * difference[j];
    }
}

static void add_row(reference *a, const double *x)
{
    const fgmm_components *c = a->c;
    double best = -INFINITY, sum = 0;
    int32_t first_best = 0;
#pragma omp parallel for schedule(static)
    for (int32_t k = 0; k < c->k; k++) {
        double *difference = of_thread(a, a->difference);
        subtract(c, k, x, difference);
        a->l[k] = c->offsets[k] - quadratic(c, k, difference, of_thread(a, a->y));
    }
    for (int32_t k = 0; k < c->k; k++) {
        if (a->l[k] > best)
            first_best = k;
        best = fmax(best, a->l[k]);
    }
    for (int32_t k = 0; k < c->k; k++)
        sum += exp2(a->l[k] - best);
    a->log += c->hard ? best : best + log2(sum);
    for (int32_t k = 0; k < c->k; k++) {
        double r = c->hard ? (double)(k == first_best) : exp2(a->l[k] - best) / sum;
        if (r < 1e-15)
            continue;
        subtract(c, k, x, a->difference);
        a->n[k] += r;
        for (int32_t d = 0; d < c->dim; d++)
            a->s[(size_t)k * c->dim + d] += r * (x[d] - c->origin[d]);
        add_moments(a->q + (size_t)k * a->moments, a->moment, a->difference, r, c->dim);
    }
}

static double relative(double difference2, double size2)
{
    return size2 > 0 ? sqrt(difference2 / size2) : sqrt(difference2);
}

static inline void gather_error(double got, double expected, double *difference2, double *size2)
{
    *difference2 += (got - expected) * (got - expected);
    *size2 += expected * expected;
}

/* Unlike fmax it lets a NaN through. */
static inline double larger(double a, double b)
{
    return a <= b ? b : a;
}

static double largest_error(const reference *a, const fgmm_stats *stats, const fgmm_grid *grid)
{
    double n[2] = {0}, s[2] = {0}, q[2] = {0};
    for (int32_t k = 0; k < stats->k; k++) {
        gather_error(fgmm__stats_n(stats, grid, k), a->n[k], &n[0], &n[1]);
        for (int32_t d = 0; d < stats->dim; d++)
            gather_error(fgmm__stats_s(stats, grid, k, d), a->s[(size_t)k * stats->dim + d], &s[0], &s[1]);
        for (size_t m = 0; m < stats->moments; m++)
            gather_error(fgmm__stats_q(stats, grid, k, m), a->q[(size_t)k * stats->moments + m], &q[0],
                         &q[1]);
    }
    return larger(relative(n[0], n[1]), larger(relative(s[0], s[1]), relative(q[0], q[1])));
}

fgmm_status fgmm__reference_compare(const fgmm_components *components, const fgmm_grid *grid,
                                    const double *rows, int64_t n, const fgmm_stats *stats,
                                    fgmm_reference_error *out)
{
    fgmm_status status = FGMM_OK;
    size_t k = (size_t)components->k, dim = (size_t)components->dim, threads = (size_t)omp_get_max_threads();
    reference a = {.c = components, .moment = stats->moment, .moments = stats->moments};
    FGMM_ALLOC(a.n, k, "the reference");
    FGMM_ALLOC(a.s, k * dim, "the reference");
    FGMM_ALLOC(a.q, k * a.moments, "the reference");
    FGMM_ALLOC(a.l, k, "the reference");
    FGMM_ALLOC(a.difference, dim * threads, "the reference");
    FGMM_ALLOC(a.y, dim * threads, "the reference");
    for (int64_t i = 0; i < n; i++)
        add_row(&a, rows + (size_t)i * dim);
    out->log = fabs(fgmm__stats_log(stats, grid) - a.log) / fmax(fabs(a.log), 1e-300);
    out->sums = largest_error(&a, stats, grid);
cleanup:
    free(a.n);
    free(a.s);
    free(a.q);
    free(a.l);
    free(a.difference);
    free(a.y);
    return status;
}
