/* The CUDA E-step against the definition, against its CPU twin, and against itself under other cuts. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "data/partition.h"
#include "support/gpu.h"
#include "support/support.h"

/* Responsibilities under 2^-20 of a row are left out; everything else is float64. */
static const double tolerance = 3e-6;

typedef struct {
    double log, *n, *s, *q;
    int64_t rows, pairs;
} sums;

static double *zeros(size_t n)
{
    double *p = calloc(n + 1, sizeof *p);
    assert_non_null(p);
    return p;
}

static void sums_free(sums *a)
{
    free(a->n);
    free(a->s);
    free(a->q);
}

static void succeed(fgmm_status status, const char *what)
{
    if (status != FGMM_OK)
        print_error("%s: %s\n", what, fgmm_error_message());
    assert_int_equal(status, FGMM_OK);
}

/* tile_quanta 0: one tile. */
static fgmm_stats *run(fgmm_backend *backend, const fgmm_test_rows *rows, const fgmm_components *c,
                       const fgmm_grid *grid, fgmm_moment moment, bool want_sums, int64_t tile_quanta)
{
    fgmm_stats *stats = NULL;
    int64_t tile_rows = tile_quanta == 0 ? rows->n : tile_quanta * FGMM_QUANTUM;
    const void *placed = fgmm_test_place(backend, rows);
    succeed(fgmm__stats_create(c->k, c->dim, moment, &stats), "statistics");
    succeed(backend->ops->estep_begin(backend, c, grid, moment, want_sums), "begin");
    for (int64_t begin = 0; begin < rows->n; begin += tile_rows) {
        fgmm_tile tile = fgmm_test_tile(rows, placed, begin, tile_rows);
        succeed(backend->ops->estep_tile(backend, &tile), "tile");
    }
    succeed(backend->ops->estep_end(backend, stats), "end");
    fgmm_test_release(backend, placed);
    return stats;
}

static sums decode(const fgmm_stats *stats, const fgmm_grid *grid)
{
    size_t k = (size_t)stats->k, dim = (size_t)stats->dim;
    sums a = {fgmm__stats_log(stats, grid), zeros(k),     zeros(k * dim),
              zeros(k * stats->moments),    *stats->rows, *stats->pairs};
    for (size_t j = 0; j < k; j++) {
        a.n[j] = fgmm__stats_n(stats, grid, (int32_t)j);
        for (size_t d = 0; d < dim; d++)
            a.s[j * dim + d] = fgmm__stats_s(stats, grid, (int32_t)j, (int32_t)d);
        for (size_t m = 0; m < stats->moments; m++)
            a.q[j * stats->moments + m] = fgmm__stats_q(stats, grid, (int32_t)j, m);
    }
    return a;
}

static void check(const char *what, const char *which, const double *got, const double *expected, size_t n,
                  double most)
{
    double error = fgmm_test_relative(got, expected, n);
    if (!(error <= most)) {
        size_t worst = 0;
        for (size_t i = 0; i < n; i++)
            if (!(fabs(got[i] - expected[i]) <= fabs(got[worst] - expected[worst])))
                worst = i;
        print_error("%s: %s is off by %g (at most %g); worst at %zu of %zu: %.12g, expected %.12g\n", what,
                    which, error, most, worst, n, got[worst], expected[worst]);
    }
    assert_true(error <= most);
}

static void check_sums(const char *what, const sums *got, const sums *expected, const fgmm_stats *shape)
{
    size_t k = (size_t)shape->k;
    double log_error = fabs(got->log - expected->log) / (double)expected->rows; /* bits a row */
    double log_most = 3e-6 + 1e-10 * fabs(expected->log) / (double)expected->rows;
    if (!(log_error <= log_most))
        print_error("%s: log is off by %g bits a row: %.12g, expected %.12g\n", what, log_error, got->log,
                    expected->log);
    assert_true(log_error <= log_most);
    check(what, "n", got->n, expected->n, k, tolerance);
    check(what, "s", got->s, expected->s, k * (size_t)shape->dim, tolerance);
    check(what, "q", got->q, expected->q, k * shape->moments, tolerance);
    if (got->rows != expected->rows)
        print_error("%s: %ld rows, expected %ld\n", what, (long)got->rows, (long)expected->rows);
    assert_int_equal(got->rows, expected->rows);
    if (got->pairs < got->rows || got->pairs > got->rows * shape->k)
        print_error("%s: %ld pairs of %ld rows, the twin has %ld\n", what, (long)got->pairs, (long)got->rows,
                    (long)expected->pairs);
    assert_true(got->pairs >= got->rows && got->pairs <= got->rows * shape->k);
}

static void against_twin(const char *what, const fgmm_test_rows *rows, const fgmm_components *c,
                         fgmm_moment moment)
{
    fgmm_grid *grid = NULL;
    succeed(fgmm__grid_create(rows->n, rows->min, rows->max, c, &grid), "grid");
    fgmm_stats *cuda = run(fgmm_test_cuda(), rows, c, grid, moment, true, 0);
    fgmm_stats *cpu = run(fgmm_test_cpu(), rows, c, grid, moment, true, 0);
    sums got = decode(cuda, grid), expected = decode(cpu, grid);
    check_sums(what, &got, &expected, cuda);
    sums_free(&got);
    sums_free(&expected);
    fgmm__stats_destroy(cuda);
    fgmm__stats_destroy(cpu);
    fgmm__grid_destroy(grid);
}

static fgmm_moment moment_of(fgmm_covariance shape)
{
    return shape == FGMM_SPHERICAL ? FGMM_MOMENT_SPHERICAL
           : shape == FGMM_DIAG    ? FGMM_MOMENT_DIAG
           : shape == FGMM_FULL    ? FGMM_MOMENT_FULL
                                   : FGMM_MOMENT_NONE;
}

static void compare(fgmm_dtype dtype, int64_t n, int32_t k, int32_t dim, fgmm_covariance shape, bool hard,
                    fgmm_moment moment, double sigma)
{
    char what[160];
    snprintf(what, sizeof what, "%s n=%ld k=%d d=%d %s%s moment %d sigma %g", fgmm_dtype_name(dtype), (long)n,
             k, dim, fgmm_covariance_name(shape), hard ? " hard" : "", (int)moment, sigma);
    fgmm_test_rows *rows = fgmm_test_rows_create(dtype, n, k, dim, sigma);
    fgmm_components *c = fgmm_test_components(shape, hard, k, dim, dtype, sigma);
    against_twin(what, rows, c, moment);
    fgmm__components_destroy(c);
    fgmm_test_rows_destroy(rows);
}

static const int32_t dims[] = {1, 2, 3, 17, 64, 100, 128, 300};
static const int32_t sizes[] = {1, 2, 33, 128, 1100};
enum { N_DIMS = sizeof dims / sizeof *dims, N_SIZES = sizeof sizes / sizeof *sizes };

static void every_shape(fgmm_covariance shape, bool hard, int32_t most_dim, int32_t most_k)
{
    for (int i = 0; i < N_DIMS; i++)
        for (int j = 0; j < N_SIZES; j++)
            if (dims[i] <= most_dim && sizes[j] <= most_k)
                compare(FGMM_F32, sizes[j] > 1000 ? 300 : 2300, sizes[j], dims[i], shape, hard,
                        hard ? FGMM_MOMENT_SPHERICAL : moment_of(shape), 3);
}

static void hard_sums_equal_the_twins(void **state)
{
    (void)state;
    every_shape(FGMM_SPHERICAL, true, 300, 1100);
}

static void spherical_sums_equal_the_twins(void **state)
{
    (void)state;
    every_shape(FGMM_SPHERICAL, false, 300, 1100);
}

static void diagonal_sums_equal_the_twins(void **state)
{
    (void)state;
    every_shape(FGMM_DIAG, false, 300, 1100);
}

static void tied_sums_equal_the_twins(void **state)
{
    (void)state;
    every_shape(FGMM_TIED, false, 300, 128);
}

static void full_sums_equal_the_twins(void **state)
{
    (void)state;
    every_shape(FGMM_FULL, false, 100, 33);
    every_shape(FGMM_FULL, false, 3, 1100);
    compare(FGMM_F32, 1300, 3, 300, FGMM_FULL, false, FGMM_MOMENT_FULL, 3);
}

/* So few that tools that watch every access end within seconds. */
static void every_kernel_on_a_few_rows(void **state)
{
    (void)state;
    compare(FGMM_F32, 300, 9, 3, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, 3);
    compare(FGMM_F32, 200, 40, 20, FGMM_DIAG, false, FGMM_MOMENT_DIAG, 3);
    compare(FGMM_F32, 300, 300, 40, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, 3);
    compare(FGMM_U8, 300, 300, 128, FGMM_SPHERICAL, true, FGMM_MOMENT_NONE, 3);
    compare(FGMM_F16, 300, 300, 136, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, 3);
    compare(FGMM_F16, 200, 300, 64, FGMM_DIAG, false, FGMM_MOMENT_DIAG, 3);
    compare(FGMM_I8, 140, 300, 40, FGMM_TIED, false, FGMM_MOMENT_NONE, 3);
    compare(FGMM_F32, 200, 70, 24, FGMM_FULL, false, FGMM_MOMENT_FULL, 3);
    /* Dense rows */
    compare(FGMM_F32, 200, 300, 128, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, 200);
    compare(FGMM_F32, 200, 300, 40, FGMM_DIAG, false, FGMM_MOMENT_DIAG, 200);
}

static void every_element_type_is_read(void **state)
{
    (void)state;
    const fgmm_dtype types[] = {FGMM_F32, FGMM_F16, FGMM_U8, FGMM_I8};
    const int32_t widths[] = {17, 40}; /* element by element, and eight at a time */
    for (int i = 0; i < 4; i++)
        for (int w = 0; w < 2; w++) {
            compare(types[i], 1030, 33, widths[w], FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, 3);
            compare(types[i], 1030, 33, widths[w], FGMM_SPHERICAL, true, FGMM_MOMENT_SPHERICAL, 3);
            compare(types[i], 1030, 33, widths[w], FGMM_DIAG, false, FGMM_MOMENT_DIAG, 3);
            compare(types[i], 1030, 33, widths[w], FGMM_TIED, false, FGMM_MOMENT_NONE, 3);
            compare(types[i], 1030, 5, widths[w], FGMM_FULL, false, FGMM_MOMENT_FULL, 3);
            compare(types[i], 1030, 300, widths[w], FGMM_DIAG, false, FGMM_MOMENT_DIAG, 3);
            compare(types[i], 1030, 300, 120 + widths[w], FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, 3);
        }
}

static void any_moment_goes_with_nearest_means(void **state)
{
    (void)state;
    compare(FGMM_U8, 5000, 1, 130, FGMM_SPHERICAL, true, FGMM_MOMENT_FULL,
            3); /* the total scatter of a tied fit */
    compare(FGMM_F32, 1500, 33, 17, FGMM_SPHERICAL, true, FGMM_MOMENT_FULL, 3);
    compare(FGMM_F32, 1500, 33, 17, FGMM_SPHERICAL, true, FGMM_MOMENT_DIAG, 3);
    compare(FGMM_F32, 1500, 33, 17, FGMM_SPHERICAL, true, FGMM_MOMENT_NONE, 3);
}

/* Rows of components that are a hundred times wider in some directions than in others. */
static void stretched(fgmm_dtype dtype, int64_t n, int32_t k, int32_t dim, double condition, double sigma)
{
    char what[160];
    snprintf(what, sizeof what, "%s n=%ld k=%d d=%d full, condition %g, sigma %g", fgmm_dtype_name(dtype),
             (long)n, k, dim, condition, sigma);
    fgmm_components *c = fgmm_test_components(FGMM_FULL, false, k, dim, dtype, sigma);
    fgmm_test_stretch(c, condition, sigma);
    fgmm_test_rows *rows = fgmm_test_rows_of(c, dtype, n);
    against_twin(what, rows, c, FGMM_MOMENT_FULL);
    fgmm__components_destroy(c);
    fgmm_test_rows_destroy(rows);
}

static void stretched_components_agree_with_the_twin(void **state)
{
    (void)state;
    const int32_t widths[] = {1, 2, 5, 8, 16, 33, 64, 65, 100, 127, 128};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        stretched(FGMM_F32, 1300, 37, widths[i], 1e4, 1);
    const fgmm_dtype types[] = {FGMM_F32, FGMM_F16, FGMM_U8, FGMM_I8};
    for (int i = 0; i < 4; i++) {
        stretched(types[i], 1100, 19, 128, 1e4, 4);
        stretched(types[i], 1100, 19, 61, 1e2, 2);
    }
    const double conditions[] = {1, 1e2, 1e6, 1e8}, sigmas[] = {0.01, 1, 10, 40, 400};
    for (size_t i = 0; i < sizeof conditions / sizeof *conditions; i++)
        for (size_t j = 0; j < sizeof sigmas / sizeof *sigmas; j++)
            stretched(FGMM_F32, 600, 150, 24, conditions[i], sigmas[j]);
    stretched(FGMM_F32, 110000, 300, 8, 1e4, 1);
}

/* Broad: rows have more candidates than a list holds, and go the dense path. Narrow: one a row. */
static void broad_and_narrow_mixtures_agree(void **state)
{
    (void)state;
    const double sigmas[] = {0.001, 0.1, 1, 5, 10, 20, 100};
    for (size_t i = 0; i < sizeof sigmas / sizeof *sigmas; i++) {
        compare(FGMM_F32, 2100, 230, 17, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, sigmas[i]);
        compare(FGMM_F32, 2100, 230, 17, FGMM_DIAG, false, FGMM_MOMENT_DIAG, sigmas[i]);
        compare(FGMM_F32, 2100, 130, 17, FGMM_TIED, false, FGMM_MOMENT_NONE, sigmas[i]);
        compare(FGMM_F32, 1030, 130, 17, FGMM_FULL, false, FGMM_MOMENT_FULL, sigmas[i]);
        compare(FGMM_F32, 2100, 700, 2, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, sigmas[i]);
    }
}

static void more_components_than_the_slab_holds(void **state)
{
    (void)state;
    compare(FGMM_F32, 1100, 17000, 3, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, 30);
    compare(FGMM_F32, 1100, 17000, 3, FGMM_DIAG, false, FGMM_MOMENT_DIAG, 4);
}

static void several_chunks_a_tile(void **state)
{
    (void)state;
    compare(FGMM_F32, 300000, 100, 4, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, 6);
    compare(FGMM_U8, 300000, 7, 4, FGMM_SPHERICAL, true, FGMM_MOMENT_SPHERICAL, 6);
    compare(FGMM_F32, 50000, 10, 128, FGMM_TIED, false, FGMM_MOMENT_NONE, 20);
    compare(FGMM_F16, 120000, 260, 33, FGMM_DIAG, false, FGMM_MOMENT_DIAG, 6);
    compare(FGMM_F16, 36000, 260, 700, FGMM_SPHERICAL, true, FGMM_MOMENT_SPHERICAL, 6); /* several batches */
}

/* Shapes of Hopper's screens, which serve from 256 components on. */
static void many_components_of_every_width(void **state)
{
    (void)state;
    const int32_t widths[] = {20, 33, 64, 100, 128, 130, 200, 768, 1000, 4096};
    const double sigmas[] = {0.1, 3, 15};
    for (int i = 0; i < 10; i++)
        for (int s = 0; s < 3; s++) {
            int32_t dim = widths[i];
            if (dim > 200 && s != 1)
                continue;
            compare(FGMM_F32, 700, 300, dim, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, sigmas[s]);
            compare(FGMM_F32, 700, 300, dim, FGMM_SPHERICAL, true, FGMM_MOMENT_SPHERICAL, sigmas[s]);
            compare(FGMM_F32, 700, 300, dim, FGMM_DIAG, false, FGMM_MOMENT_DIAG, sigmas[s]);
            if (dim <= 200)
                compare(FGMM_F32, 700, 300, dim, FGMM_TIED, false, FGMM_MOMENT_NONE, sigmas[s]);
        }
}

/* Those that one kernel does all of: more pairs than its list holds, and one a row; ends of steps and tiles.
 */
static void small_models_sum_like_the_twins(void **state)
{
    (void)state;
    const int32_t widths[] = {1, 4, 5, 8, 9, 16}, components[] = {1, 3, 7, 16, 40, 64};
    const double sigmas[] = {0.01, 4, 60};
    for (int w = 0; w < 6; w++)
        for (int k = 0; k < 6; k++)
            for (int s = 0; s < 3; s++) {
                int32_t d = widths[w];
                fgmm_dtype type = (fgmm_dtype)((w + k) % 4);
                compare(type, 2309, components[k], d, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL,
                        sigmas[s]);
                compare(type, 2309, components[k], d, FGMM_SPHERICAL, true, FGMM_MOMENT_NONE, sigmas[s]);
                compare(type, 2309, components[k], d, FGMM_SPHERICAL, true, FGMM_MOMENT_DIAG, sigmas[s]);
                compare(type, 2309, components[k], d, FGMM_DIAG, false, FGMM_MOMENT_DIAG, sigmas[s]);
            }
    compare(FGMM_F32, 600000, 16, 4, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, 3);
}

static void wide_rows(void **state)
{
    (void)state;
    compare(FGMM_F32, 1100, 20, 4096, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, 3);
    compare(FGMM_F16, 1100, 20, 4095, FGMM_DIAG, false, FGMM_MOMENT_DIAG, 3);
}

static void a_single_row_is_enough(void **state)
{
    (void)state;
    compare(FGMM_F32, 1, 2, 3, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, 3);
    compare(FGMM_F32, 1, 1, 1, FGMM_FULL, false, FGMM_MOMENT_FULL, 3);
}

/* The definition, in plain loops. */
static sums definition(const fgmm_test_rows *rows, const fgmm_components *c)
{
    size_t k = (size_t)c->k, dim = (size_t)c->dim;
    sums a = {0, zeros(k), zeros(k * dim), zeros(k), rows->n, rows->n * c->k};
    double *l = zeros(k);
    for (int64_t i = 0; i < rows->n; i++) {
        const double *x = rows->values + (size_t)i * dim;
        double log_density = fgmm_test_logits(c, x, l);
        a.log += log_density;
        for (size_t j = 0; j < k; j++) {
            double r = exp2(l[j] - log_density);
            a.n[j] += r;
            for (size_t d = 0; d < dim; d++) {
                double t = x[d] - c->origin[d] - c->means[j * dim + d];
                a.s[j * dim + d] += r * (x[d] - c->origin[d]);
                a.q[j] += r * t * t;
            }
        }
    }
    free(l);
    return a;
}

static void sums_equal_the_definition(void **state)
{
    (void)state;
    const double sigmas[] = {0.5, 3, 8, 50};
    for (int i = 0; i < 4; i++) {
        char what[64];
        snprintf(what, sizeof what, "definition, sigma %g", sigmas[i]);
        fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_F32, 1200, 150, 11, sigmas[i]);
        fgmm_components *c = fgmm_test_components(FGMM_SPHERICAL, false, 150, 11, FGMM_F32, sigmas[i]);
        fgmm_grid *grid = NULL;
        succeed(fgmm__grid_create(rows->n, rows->min, rows->max, c, &grid), "grid");
        fgmm_stats *stats = run(fgmm_test_cuda(), rows, c, grid, FGMM_MOMENT_SPHERICAL, true, 0);
        sums got = decode(stats, grid), expected = definition(rows, c);
        check_sums(what, &got, &expected, stats);
        sums_free(&got);
        sums_free(&expected);
        fgmm__stats_destroy(stats);
        fgmm__grid_destroy(grid);
        fgmm__components_destroy(c);
        fgmm_test_rows_destroy(rows);
    }
}

/* Frobenius norm of a - b over that of the sums of absolute contributions. */
static double contract(const double *a, const double *b, const double *absolute, size_t n)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        size += absolute[i] * absolute[i];
    }
    return sqrt(difference / size);
}

/* Rows that nearly all components share, some of which tensor cores add: within the program's promise of
 * float64. */
static void keeps_the_promise(fgmm_dtype dtype, int64_t n, int32_t k, int32_t dim, double sigma, bool alike,
                              double far)
{
    const double base = sqrt(0.5 * 1.4426950408889634) / sigma;
    size_t values = (size_t)k * (size_t)dim;
    fgmm_test_rows *rows = fgmm_test_rows_create(dtype, n, k, dim, sigma);
    fgmm_components *c = fgmm_test_components(FGMM_SPHERICAL, false, k, dim, dtype, sigma);
    fgmm_grid *grid = NULL;
    double *absolute = zeros(values);
    for (int32_t j = 0; alike && j < k; j++)
        c->factors[j] = 0.9 * base + 0.1 * c->factors[j];
    for (int32_t d = 0; d < dim; d++) /* rows and means stay where they are */
        c->origin[d] += far;
    for (size_t i = 0; i < values; i++)
        c->means[i] -= far;
    succeed(fgmm__grid_create(rows->n, rows->min, rows->max, c, &grid), "grid");
    fgmm_stats *stats = run(fgmm_test_cuda(), rows, c, grid, FGMM_MOMENT_SPHERICAL, true, 0);
    sums got = decode(stats, grid), expected = definition(rows, c);
    for (int32_t j = 0; j < k; j++) /* about as large */
        for (int32_t d = 0; d < dim; d++)
            absolute[(size_t)j * (size_t)dim + (size_t)d] =
                expected.n[j] * (fabs(c->means[(size_t)j * (size_t)dim + (size_t)d]) + sigma);
    double log = fabs(got.log / expected.log - 1), of_n = contract(got.n, expected.n, expected.n, (size_t)k),
           of_s = contract(got.s, expected.s, absolute, values),
           of_q = contract(got.q, expected.q, expected.q, (size_t)k);
    bool kept = log <= 1e-6 && of_n <= 1e-5 && of_s <= 1e-5 && of_q <= 1e-5;
    if (!kept)
        print_error("%s n=%ld k=%d d=%d sigma %g%s far %g: log %.2g n %.2g s %.2g q %.2g\n",
                    fgmm_dtype_name(dtype), (long)n, k, dim, sigma, alike ? " alike" : "", far, log, of_n,
                    of_s, of_q);
    assert_true(kept);
    assert_true(got.pairs >= n && got.pairs <= n * k);
    free(absolute);
    sums_free(&got);
    sums_free(&expected);
    fgmm__stats_destroy(stats);
    fgmm__grid_destroy(grid);
    fgmm__components_destroy(c);
    fgmm_test_rows_destroy(rows);
}

static void broad_mixtures_keep_the_promise(void **state)
{
    (void)state;
    const fgmm_dtype types[] = {FGMM_F32, FGMM_F16, FGMM_U8, FGMM_I8};
    const int32_t widths[] = {33, 64, 100, 128};
    for (int t = 0; t < 4; t++)
        for (int w = 0; w < 4; w++) {
            keeps_the_promise(types[t], 1100, 257, widths[w], 15, true, 0);
            keeps_the_promise(types[t], 1100, 257, widths[w], 60, false, 0);
        }
    const double sigmas[] = {3, 5, 7, 9, 20, 60}; /* from sparse rows over both to dense ones */
    for (size_t i = 0; i < sizeof sigmas / sizeof *sigmas; i++) {
        keeps_the_promise(FGMM_F32, 1030, 600, 128, sigmas[i], i % 2 == 0, 0);
        keeps_the_promise(FGMM_F16, 1500, 256, 50, sigmas[i], i % 2 == 1, 0);
    }
    keeps_the_promise(FGMM_F32, 600, 2048, 40, 15, true, 0);
    keeps_the_promise(FGMM_F32, 600, 2049, 40, 15, true, 0);   /* more than a cluster holds */
    keeps_the_promise(FGMM_F32, 1100, 300, 64, 15, true, 300); /* terms too large for fp32 */
    keeps_the_promise(FGMM_F16, 1100, 300, 64, 15, true, 300);
    keeps_the_promise(FGMM_F32, 10000, 256, 33, 12, true, 0); /* some rows of each quantum */
}

/* Components at rows of the data, with a third of its spread: overlapping where the data are dense. */
static fgmm_components *components_of_rows(const fgmm_test_rows *rows, fgmm_covariance shape, int32_t k)
{
    fgmm_components *c = fgmm_test_components(shape, false, k, rows->dim, FGMM_F32, 1);
    size_t dim = (size_t)rows->dim, components = (size_t)k;
    double mean_spread = 0;
    double *spread = zeros(dim);
    for (size_t d = 0; d < dim; d++) {
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < rows->n; i++) {
            sum += rows->values[(size_t)i * dim + d];
            squares += rows->values[(size_t)i * dim + d] * rows->values[(size_t)i * dim + d];
        }
        c->origin[d] = sum / (double)rows->n; /* not a number of few bits */
        spread[d] = sqrt(fmax(squares / (double)rows->n - c->origin[d] * c->origin[d], 1e-12));
        mean_spread += spread[d] / (double)dim;
    }
    for (size_t j = 0; j < components; j++)
        for (size_t d = 0; d < dim; d++) {
            c->means[j * dim + d] = rows->values[j * ((size_t)rows->n / components) * dim + d] - c->origin[d];
            if (shape == FGMM_DIAG)
                c->factors[j * dim + d] = 0.85 * 2 / spread[d];
            else if (d == 0)
                c->factors[j] = 0.85 * 2 / mean_spread;
        }
    free(spread);
    return c;
}

static void real_rows_agree_with_the_twin(void **state)
{
    (void)state;
    fgmm_test_rows *rows = fgmm_test_rows_read("passages-10k.fbin");
    if (rows == NULL) {
        print_message("passages-10k.fbin is not in FGMM_TEST_DATA\n");
        skip();
    }
    for (int32_t k = 200; k <= 400; k += 200) {
        fgmm_components *spherical = components_of_rows(rows, FGMM_SPHERICAL, k);
        fgmm_components *diagonal = components_of_rows(rows, FGMM_DIAG, k);
        against_twin("passages, spherical", rows, spherical, FGMM_MOMENT_SPHERICAL);
        against_twin("passages, diag", rows, diagonal, FGMM_MOMENT_DIAG);
        fgmm__components_destroy(spherical);
        fgmm__components_destroy(diagonal);
    }
    fgmm_test_rows_destroy(rows);
}

static void same_bits_of(fgmm_dtype dtype, int64_t n, int32_t k, int32_t dim, fgmm_covariance shape,
                         bool hard, double sigma, double shift)
{
    fgmm_moment moment = hard ? FGMM_MOMENT_SPHERICAL : moment_of(shape);
    fgmm_test_rows *rows = fgmm_test_rows_create(dtype, n, k, dim, sigma);
    fgmm_components *c = fgmm_test_components(shape, hard, k, dim, dtype, sigma);
    fgmm_grid *grid = NULL;
    for (int32_t d = 0; d < dim; d++) { /* the same components about another origin */
        c->origin[d] += shift;
        for (int32_t j = 0; j < k; j++)
            c->means[(size_t)j * (size_t)dim + (size_t)d] -= shift;
    }
    succeed(fgmm__grid_create(n, rows->min, rows->max, c, &grid), "grid");
    fgmm_stats *first = run(fgmm_test_cuda(), rows, c, grid, moment, true, 0);
    const int64_t quanta[] = {1, 2, 3, 0, 0};
    for (size_t i = 0; i < sizeof quanta / sizeof *quanta; i++) {
        fgmm_stats *other = run(fgmm_test_cuda(), rows, c, grid, moment, true, quanta[i]);
        size_t differing = 0;
        for (size_t w = 0; w < first->n_words; w++)
            differing += first->words[w] != other->words[w];
        if (differing > 0)
            print_error("%s k=%d d=%d %s%s sigma %g shift %g, tiles of %ld quanta: %zu of %zu words differ\n",
                        fgmm_dtype_name(dtype), k, dim, fgmm_covariance_name(shape), hard ? " hard" : "",
                        sigma, shift, (long)quanta[i], differing, first->n_words);
        assert_int_equal(differing, 0);
        fgmm__stats_destroy(other);
    }
    fgmm_stats *alone = run(fgmm_test_cuda(), rows, c, grid, FGMM_MOMENT_NONE, false, 2);
    assert_memory_equal(first->log_high, alone->log_high, 4 * sizeof *first->log_high);
    fgmm__stats_destroy(alone);
    fgmm__stats_destroy(first);
    fgmm__grid_destroy(grid);
    fgmm__components_destroy(c);
    fgmm_test_rows_destroy(rows);
}

static void same_bits(int64_t n, int32_t k, int32_t dim, fgmm_covariance shape, bool hard, double sigma)
{
    same_bits_of(FGMM_F32, n, k, dim, shape, hard, sigma, 0);
}

/* Rows with one candidate are summed as they are stored where these are on the grid; together with others, or
 * next to another component, they are rounded. */
static void nor_do_they_for_narrow_types(void **state)
{
    (void)state;
    const fgmm_dtype types[] = {FGMM_F16, FGMM_U8, FGMM_I8};
    const double sigmas[] = {0.5, 3, 9}, shifts[] = {0, 1.0 / 3, 1e6};
    for (int t = 0; t < 3; t++)
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++) {
                same_bits_of(types[t], 7 * FGMM_QUANTUM + 300, 30, 20, FGMM_SPHERICAL, false, sigmas[i],
                             shifts[j]);
                same_bits_of(types[t], 3 * FGMM_QUANTUM + 300, 260, 132, FGMM_SPHERICAL, true, sigmas[i],
                             shifts[j]);
                same_bits_of(types[t], 3 * FGMM_QUANTUM + 300, 30, 33, FGMM_DIAG, false, sigmas[i],
                             shifts[j]);
            }
    same_bits_of(FGMM_F16, 60 * FGMM_QUANTUM, 5, 40, FGMM_SPHERICAL, false, 3, 1.0 / 3);
}

static void tiles_do_not_change_a_bit(void **state)
{
    (void)state;
    const double sigmas[] = {2, 9, 30};
    for (int i = 0; i < 3; i++) {
        same_bits(7 * FGMM_QUANTUM + 300, 200, 17, FGMM_SPHERICAL, false, sigmas[i]);
        same_bits(7 * FGMM_QUANTUM + 300, 200, 17, FGMM_SPHERICAL, true, sigmas[i]);
        same_bits(7 * FGMM_QUANTUM + 300, 170, 17, FGMM_DIAG, false, sigmas[i]);
        same_bits(7 * FGMM_QUANTUM + 300, 170, 17, FGMM_TIED, false, sigmas[i]);
        same_bits(7 * FGMM_QUANTUM + 300, 20, 4, FGMM_SPHERICAL, false, sigmas[i]);
        same_bits(7 * FGMM_QUANTUM + 300, 50, 7, FGMM_DIAG, false, sigmas[i]);
        same_bits(7 * FGMM_QUANTUM + 300, 64, 16, FGMM_SPHERICAL, true, sigmas[i]);
        same_bits(7 * FGMM_QUANTUM + 300, 40, 17, FGMM_FULL, false, sigmas[i]);
        same_bits(7 * FGMM_QUANTUM + 300, 300, 33, FGMM_DIAG, false, sigmas[i]);
        same_bits(7 * FGMM_QUANTUM + 300, 300, 140, FGMM_SPHERICAL, false, sigmas[i]);
        same_bits(7 * FGMM_QUANTUM + 300, 300, 40, FGMM_TIED, false, sigmas[i]);
        same_bits(3 * FGMM_QUANTUM + 300, 150, 33, FGMM_FULL, false, sigmas[i]);
        same_bits(7 * FGMM_QUANTUM + 300, 300, 70, FGMM_SPHERICAL, false, sigmas[i]);
    }
    same_bits(140 * FGMM_QUANTUM + 1, 90, 3, FGMM_SPHERICAL, false, 9);
}

/* Some means alike: exact ties, and more candidates than a list holds. */
static void the_first_of_equal_means_takes_all(int32_t dim, int32_t copies)
{
    enum { K = 300, N = 1030 };
    fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_F32, N, K, dim, 3);
    fgmm_components *c = fgmm_test_components(FGMM_SPHERICAL, true, K, dim, FGMM_F32, 3);
    fgmm_grid *grid = NULL;
    for (int k = 0; k < K; k++)
        memcpy(c->means + k * dim, c->means + k / copies * copies * dim, (size_t)dim * sizeof(double));
    succeed(fgmm__grid_create(N, rows->min, rows->max, c, &grid), "grid");
    fgmm_stats *stats = run(fgmm_test_cuda(), rows, c, grid, FGMM_MOMENT_SPHERICAL, true, 0);
    double firsts = 0;
    for (int k = 0; k < K; k += copies)
        firsts += fgmm__stats_n(stats, grid, k);
    if (firsts != N)
        print_error("%d dimensions, %d copies: the first ones have %g of %d rows\n", dim, copies, firsts, N);
    assert_true(firsts == N);
    fgmm__stats_destroy(stats);
    fgmm__grid_destroy(grid);
    fgmm__components_destroy(c);
    fgmm_test_rows_destroy(rows);
}

static void of_equal_means_the_first_takes_all(void **state)
{
    (void)state;
    const int32_t widths[] = {20, 64, 200}, copies[] = {2, 40, 300};
    for (int w = 0; w < 3; w++)
        for (int i = 0; i < 3; i++)
            the_first_of_equal_means_takes_all(widths[w], copies[i]);
}

static void a_component_without_weight_gets_nothing(void **state)
{
    (void)state;
    fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_F32, 1500, 9, 5, 20);
    fgmm_components *c = fgmm_test_components(FGMM_DIAG, false, 9, 5, FGMM_F32, 20);
    fgmm_grid *grid = NULL;
    c->offsets[0] = c->offsets[4] = -INFINITY;
    succeed(fgmm__grid_create(rows->n, rows->min, rows->max, c, &grid), "grid");
    fgmm_stats *stats = run(fgmm_test_cuda(), rows, c, grid, FGMM_MOMENT_DIAG, true, 0);
    double total = 0;
    for (int k = 0; k < 9; k++)
        total += fgmm__stats_n(stats, grid, k);
    assert_true(fabs(total - 1500) < 1e-2);
    assert_true(fgmm__stats_n(stats, grid, 0) == 0);
    assert_true(fgmm__stats_n(stats, grid, 4) == 0);
    fgmm__stats_destroy(stats);
    fgmm__grid_destroy(grid);
    fgmm__components_destroy(c);
    fgmm_test_rows_destroy(rows);
}

static int cases(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kernel_on_a_few_rows),
        cmocka_unit_test(hard_sums_equal_the_twins),
        cmocka_unit_test(spherical_sums_equal_the_twins),
        cmocka_unit_test(diagonal_sums_equal_the_twins),
        cmocka_unit_test(tied_sums_equal_the_twins),
        cmocka_unit_test(full_sums_equal_the_twins),
        cmocka_unit_test(sums_equal_the_definition),
        cmocka_unit_test(every_element_type_is_read),
        cmocka_unit_test(any_moment_goes_with_nearest_means),
        cmocka_unit_test(stretched_components_agree_with_the_twin),
        cmocka_unit_test(broad_mixtures_keep_the_promise),
        cmocka_unit_test(broad_and_narrow_mixtures_agree),
        cmocka_unit_test(more_components_than_the_slab_holds),
        cmocka_unit_test(several_chunks_a_tile),
        cmocka_unit_test(small_models_sum_like_the_twins),
        cmocka_unit_test(wide_rows),
        cmocka_unit_test(many_components_of_every_width),
        cmocka_unit_test(a_single_row_is_enough),
        cmocka_unit_test(real_rows_agree_with_the_twin),
        cmocka_unit_test(tiles_do_not_change_a_bit),
        cmocka_unit_test(nor_do_they_for_narrow_types),
        cmocka_unit_test(of_equal_means_the_first_takes_all),
        cmocka_unit_test(a_component_without_weight_gets_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
    return fgmm_test_gpu_main(argc, argv, cases);
}
