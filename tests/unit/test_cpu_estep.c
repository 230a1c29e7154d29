/* The CPU's E-step against plain loops over the definition, and against itself under other cuts and threads.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "backend/backend.h"
#include "data/partition.h"
#include "support/cases.h"
#include "support/support.h"

typedef struct {
    double log, *n, *s, *q;
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

static void add_moment(double *q, fgmm_moment moment, const double *difference, double r, int32_t dim)
{
    for (int32_t i = 0; i < dim; i++) {
        double v = r * difference[i];
        if (moment == FGMM_MOMENT_SPHERICAL)
            q[0] += v * difference[i];
        else if (moment == FGMM_MOMENT_DIAG)
            q[i] += v * difference[i];
        else if (moment == FGMM_MOMENT_FULL)
            for (int32_t j = 0; j <= i; j++)
                q[i * (i + 1) / 2 + j] += v * difference[j];
    }
}

static sums reference(const fgmm_test_rows *rows, const fgmm_components *c, fgmm_moment moment)
{
    size_t k = (size_t)c->k, dim = (size_t)c->dim, moments = fgmm__moment_count(moment, c->dim);
    sums a = {0, zeros(k), zeros(k * dim), zeros(k * moments)};
    double *l = zeros(k), *difference = zeros(dim);
    for (int64_t i = 0; i < rows->n; i++) {
        const double *x = rows->values + (size_t)i * dim;
        double log_density = fgmm_test_logits(c, x, l);
        bool taken = false;
        a.log += log_density;
        for (size_t j = 0; j < k; j++) {
            double r = c->hard ? (double)(l[j] == log_density && !taken) : exp2(l[j] - log_density);
            taken = taken || r > 0;
            a.n[j] += r;
            if (r < 1e-12)
                continue;
            for (size_t d = 0; d < dim; d++) {
                a.s[j * dim + d] += r * (x[d] - c->origin[d]);
                difference[d] = x[d] - c->origin[d] - c->means[j * dim + d];
            }
            add_moment(a.q + j * moments, moment, difference, r, c->dim);
        }
    }
    free(l);
    free(difference);
    return a;
}

/* tile_quanta 0: one tile. */
static fgmm_stats *run(const fgmm_test_rows *rows, const fgmm_components *c, const fgmm_grid *grid,
                       fgmm_moment moment, bool want_sums, int threads, int64_t tile_quanta)
{
    fgmm_backend *backend = NULL;
    fgmm_stats *stats = NULL;
    int64_t tile_rows = tile_quanta == 0 ? rows->n : tile_quanta * FGMM_QUANTUM;
    assert_int_equal(fgmm__backend_create(NULL, NULL, threads, &backend), FGMM_OK);
    assert_int_equal(fgmm__stats_create(c->k, c->dim, moment, &stats), FGMM_OK);
    assert_int_equal(backend->ops->estep_begin(backend, c, grid, moment, want_sums), FGMM_OK);
    for (int64_t begin = 0; begin < rows->n; begin += tile_rows) {
        fgmm_tile tile = {.begin = begin,
                          .rows = rows->n - begin < tile_rows ? rows->n - begin : tile_rows,
                          .dim = rows->dim,
                          .dtype = rows->dtype,
                          .data = (const char *)rows->stored +
                                  (size_t)begin * rows->dim * fgmm_dtype_bytes(rows->dtype)};
        assert_int_equal(backend->ops->estep_tile(backend, &tile), FGMM_OK);
    }
    assert_int_equal(backend->ops->estep_end(backend, stats), FGMM_OK);
    fgmm__backend_destroy(backend);
    return stats;
}

static sums decode(const fgmm_stats *stats, const fgmm_grid *grid)
{
    size_t k = (size_t)stats->k, dim = (size_t)stats->dim;
    sums a = {fgmm__stats_log(stats, grid), zeros(k), zeros(k * dim), zeros(k * stats->moments)};
    for (size_t j = 0; j < k; j++) {
        a.n[j] = fgmm__stats_n(stats, grid, (int32_t)j);
        for (size_t d = 0; d < dim; d++)
            a.s[j * dim + d] = fgmm__stats_s(stats, grid, (int32_t)j, (int32_t)d);
        for (size_t m = 0; m < stats->moments; m++)
            a.q[j * stats->moments + m] = fgmm__stats_q(stats, grid, (int32_t)j, m);
    }
    return a;
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
    fgmm_test_rows *rows = fgmm_test_rows_create(dtype, n, k, dim, sigma);
    fgmm_components *c = fgmm_test_components(shape, hard, k, dim, dtype, sigma);
    fgmm_grid *grid = NULL;
    assert_int_equal(fgmm__grid_create(n, rows->min, rows->max, c, &grid), FGMM_OK);
    fgmm_stats *stats = run(rows, c, grid, moment, true, 2, 0);
    sums expected = reference(rows, c, moment), got = decode(stats, grid);
    double error = fgmm_test_relative(&got.log, &expected.log, 1);
    error = fmax(error, fgmm_test_relative(got.n, expected.n, (size_t)k));
    error = fmax(error, fgmm_test_relative(got.s, expected.s, (size_t)k * (size_t)dim));
    error = fmax(error, fgmm_test_relative(got.q, expected.q, (size_t)k * stats->moments));
    if (!(error < 1e-8))
        print_error("%s n=%ld k=%d d=%d %s%s moment %d: error %g\n", fgmm_dtype_name(dtype), (long)n, k, dim,
                    fgmm_covariance_name(shape), hard ? " hard" : "", (int)moment, error);
    assert_true(error < 1e-8);
    assert_int_equal(*stats->rows, n);
    assert_true(*stats->pairs >= n && *stats->pairs <= n * k);
    sums_free(&expected);
    sums_free(&got);
    fgmm__stats_destroy(stats);
    fgmm__grid_destroy(grid);
    fgmm__components_destroy(c);
    fgmm_test_rows_destroy(rows);
}

static const int32_t dims[] = {1, 2, 3, 17, 100, 128, 300};
static const int32_t sizes[] = {1, 2, 33, 1100};
enum { N_DIMS = sizeof dims / sizeof *dims, N_SIZES = sizeof sizes / sizeof *sizes };

static void every_shape(fgmm_covariance shape, bool hard, int32_t most_dim, int32_t most_k)
{
    for (int i = 0; i < N_DIMS; i++)
        for (int j = 0; j < N_SIZES; j++)
            if (dims[i] <= most_dim && sizes[j] <= most_k)
                compare(FGMM_F32, sizes[j] > 1000 ? 300 : 1300, sizes[j], dims[i], shape, hard,
                        hard ? FGMM_MOMENT_SPHERICAL : moment_of(shape), 3);
}

static void spherical_sums_equal_the_definition(void **state)
{
    (void)state;
    every_shape(FGMM_SPHERICAL, false, 300, 1100);
}

static void diagonal_sums_equal_the_definition(void **state)
{
    (void)state;
    every_shape(FGMM_DIAG, false, 300, 1100);
}

static void tied_sums_equal_the_definition(void **state)
{
    (void)state;
    every_shape(FGMM_TIED, false, 128, 33);
}

static void full_sums_equal_the_definition(void **state)
{
    (void)state;
    every_shape(FGMM_FULL, false, 100, 33);
    every_shape(FGMM_FULL, false, 3, 1100);
}

static void hard_sums_equal_the_definition(void **state)
{
    (void)state;
    every_shape(FGMM_SPHERICAL, true, 300, 1100);
}

static void every_element_type_is_read(void **state)
{
    (void)state;
    const fgmm_dtype types[] = {FGMM_F32, FGMM_F16, FGMM_U8, FGMM_I8};
    for (int i = 0; i < 4; i++) {
        compare(types[i], 1030, 33, 17, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, 3);
        compare(types[i], 1030, 33, 17, FGMM_DIAG, false, FGMM_MOMENT_DIAG, 3);
        compare(types[i], 1030, 33, 17, FGMM_SPHERICAL, true, FGMM_MOMENT_SPHERICAL, 3);
    }
}

static void any_moment_goes_with_nearest_means(void **state)
{
    (void)state;
    compare(FGMM_U8, 1500, 1, 40, FGMM_SPHERICAL, true, FGMM_MOMENT_FULL,
            3); /* the total scatter of a tied fit */
    compare(FGMM_F32, 1500, 33, 17, FGMM_SPHERICAL, true, FGMM_MOMENT_FULL, 3);
    compare(FGMM_F32, 1500, 33, 17, FGMM_SPHERICAL, true, FGMM_MOMENT_DIAG, 3);
    compare(FGMM_F32, 1500, 33, 17, FGMM_SPHERICAL, true, FGMM_MOMENT_NONE, 3);
}

/* Broad: most responsibilities matter, sums are products. Narrow: one a row. */
static void broad_and_narrow_mixtures_agree(void **state)
{
    (void)state;
    const double sigmas[] = {0.1, 1, 10, 100};
    for (int i = 0; i < 4; i++) {
        compare(FGMM_F32, 1030, 130, 17, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, sigmas[i]);
        compare(FGMM_F32, 1030, 130, 17, FGMM_DIAG, false, FGMM_MOMENT_DIAG, sigmas[i]);
        compare(FGMM_F32, 1030, 130, 17, FGMM_TIED, false, FGMM_MOMENT_NONE, sigmas[i]);
        compare(FGMM_F32, 1030, 130, 17, FGMM_FULL, false, FGMM_MOMENT_FULL, sigmas[i]);
    }
}

/* Blocks have fewer rows then. */
static void very_many_components_are_summed(void **state)
{
    (void)state;
    compare(FGMM_F32, 300, 70000, 8, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, 0.5);
    compare(FGMM_F32, 300, 140000, 8, FGMM_SPHERICAL, true, FGMM_MOMENT_SPHERICAL, 0.5);
}

static void a_single_row_is_enough(void **state)
{
    (void)state;
    compare(FGMM_F32, 1, 2, 3, FGMM_SPHERICAL, false, FGMM_MOMENT_SPHERICAL, 3);
    compare(FGMM_F32, 1, 1, 1, FGMM_FULL, false, FGMM_MOMENT_FULL, 3);
}

static void same_bits(int32_t k, int32_t dim, fgmm_covariance shape, bool hard, double sigma)
{
    const int64_t n = 7 * FGMM_QUANTUM + 300;
    fgmm_moment moment = hard ? FGMM_MOMENT_SPHERICAL : moment_of(shape);
    fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_F32, n, k, dim, sigma);
    fgmm_components *c = fgmm_test_components(shape, hard, k, dim, FGMM_F32, sigma);
    fgmm_grid *grid = NULL;
    assert_int_equal(fgmm__grid_create(n, rows->min, rows->max, c, &grid), FGMM_OK);
    fgmm_stats *first = run(rows, c, grid, moment, true, 1, 0);
    const struct {
        int threads, quanta;
    } others[] = {{2, 1}, {5, 2}, {2, 0}, {1, 3}, {5, 0}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        fgmm_stats *other = run(rows, c, grid, moment, true, others[i].threads, others[i].quanta);
        assert_memory_equal(first->words, other->words, first->n_words * sizeof *first->words);
        fgmm__stats_destroy(other);
    }
    fgmm_stats *alone = run(rows, c, grid, FGMM_MOMENT_NONE, false, 2, 2);
    assert_memory_equal(first->log_high, alone->log_high, 4 * sizeof *first->log_high);
    fgmm__stats_destroy(alone);
    fgmm__stats_destroy(first);
    fgmm__grid_destroy(grid);
    fgmm__components_destroy(c);
    fgmm_test_rows_destroy(rows);
}

static void tiles_and_threads_do_not_change_a_bit(void **state)
{
    (void)state;
    const double sigmas[] = {2, 30};
    for (int i = 0; i < 2; i++) {
        same_bits(200, 17, FGMM_SPHERICAL, false, sigmas[i]);
        same_bits(200, 17, FGMM_SPHERICAL, true, sigmas[i]);
        same_bits(70, 17, FGMM_DIAG, false, sigmas[i]);
        same_bits(70, 17, FGMM_TIED, false, sigmas[i]);
        same_bits(40, 17, FGMM_FULL, false, sigmas[i]);
    }
}

static void of_equal_means_the_first_takes_all(void **state)
{
    (void)state;
    enum { K = 1500, DIM = 100, N = 1030 };
    fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_F32, N, K, DIM, 3);
    fgmm_components *c = fgmm_test_components(FGMM_SPHERICAL, true, K, DIM, FGMM_F32, 3);
    fgmm_grid *grid = NULL;
    for (int k = K / 2; k < K; k++) /* copies in other chunks and places */
        memcpy(c->means + k * DIM, c->means + (K - 1 - k) * DIM, DIM * sizeof(double));
    assert_int_equal(fgmm__grid_create(N, rows->min, rows->max, c, &grid), FGMM_OK);
    fgmm_stats *stats = run(rows, c, grid, FGMM_MOMENT_SPHERICAL, true, 2, 0);
    double in_first_half = 0;
    for (int k = 0; k < K / 2; k++)
        in_first_half += fgmm__stats_n(stats, grid, k);
    assert_true(in_first_half == N);
    fgmm__stats_destroy(stats);
    fgmm__grid_destroy(grid);
    fgmm__components_destroy(c);
    fgmm_test_rows_destroy(rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spherical_sums_equal_the_definition),
        cmocka_unit_test(diagonal_sums_equal_the_definition),
        cmocka_unit_test(tied_sums_equal_the_definition),
        cmocka_unit_test(full_sums_equal_the_definition),
        cmocka_unit_test(hard_sums_equal_the_definition),
        cmocka_unit_test(every_element_type_is_read),
        cmocka_unit_test(any_moment_goes_with_nearest_means),
        cmocka_unit_test(broad_and_narrow_mixtures_agree),
        cmocka_unit_test(very_many_components_are_summed),
        cmocka_unit_test(a_single_row_is_enough),
        cmocka_unit_test(tiles_and_threads_do_not_change_a_bit),
        cmocka_unit_test(of_equal_means_the_first_takes_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
