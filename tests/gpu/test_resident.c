/* Iterations whose parameters stay on the device: against the host's M-step, and against themselves. */
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
#include "model/mstep.h"
#include "support/gpu.h"
#include "support/support.h"

static const double reg_covar = 1e-6;

static void succeed(fgmm_status status, const char *what)
{
    if (status != FGMM_OK)
        print_error("%s: %s\n", what, fgmm_error_message());
    assert_int_equal(status, FGMM_OK);
}

/* Means near the centres of the rows, so that none starves; weights that differ; variances around sigma^2. */
static fgmm_model *model_of_rows(const fgmm_test_rows *rows, fgmm_algorithm algorithm,
                                 fgmm_covariance covariance, int32_t k, double sigma)
{
    fgmm_model *model = NULL;
    fgmm_components *centres = fgmm_test_components(FGMM_SPHERICAL, true, k, rows->dim, rows->dtype, sigma);
    size_t dim = (size_t)rows->dim, each = covariance == FGMM_DIAG ? dim : 1;
    double sum = 0;
    succeed(fgmm__model_create(algorithm, covariance, k, rows->dim, &model), "model");
    for (size_t d = 0; d < dim; d++)
        model->origin[d] = (rows->min[d] + rows->max[d]) / 3;
    for (size_t j = 0; j < (size_t)k; j++) {
        for (size_t d = 0; d < dim; d++)
            model->means[j * dim + d] =
                centres->means[j * dim + d] + centres->origin[d] + 0.7 * (double)((j + 3 * d) % 4) - 1;
        model->weights[j] = 1 + 0.1 * (double)(j % 7);
        sum += model->weights[j];
        for (size_t i = 0; i < each; i++)
            model->covariances[j * each + i] = sigma * sigma * (1 + 0.05 * (double)((j + i) % 5));
    }
    for (int32_t j = 0; j < k; j++)
        model->weights[j] /= sum;
    fgmm__components_destroy(centres);
    return model;
}

static void load(const fgmm_test_rows *rows, const fgmm_model *model)
{
    fgmm_em_terms terms = {rows->n, rows->min, rows->max, reg_covar};
    succeed(fgmm_test_cuda()->ops->resident->load(fgmm_test_cuda(), model, &terms), "load");
}

/* tile_quanta 0: one tile. lasting: dense rows may wait for the end of the pass. */
static fgmm_em_step iterate(const fgmm_test_rows *rows, const void *placed, int64_t tile_quanta, bool lasting)
{
    fgmm_backend *backend = fgmm_test_cuda();
    int64_t tile_rows = tile_quanta == 0 ? rows->n : tile_quanta * FGMM_QUANTUM;
    fgmm_em_step step;
    succeed(backend->ops->resident->begin(backend), "begin");
    for (int64_t begin = 0; begin < rows->n; begin += tile_rows) {
        fgmm_tile tile = fgmm_test_tile(rows, placed, begin, tile_rows);
        tile.lasting = lasting;
        succeed(backend->ops->estep_tile(backend, &tile), "tile");
    }
    succeed(backend->ops->resident->end(backend, &step), "end");
    return step;
}

/* The model as it is on the device; the caller destroys it. */
static fgmm_model *fetch(const fgmm_model *shape)
{
    fgmm_model *model = NULL;
    succeed(fgmm__model_copy(shape, &model), "model");
    succeed(fgmm_test_cuda()->ops->resident->fetch(fgmm_test_cuda(), model), "fetch");
    return model;
}

static size_t covariance_count(const fgmm_model *model)
{
    return model->algorithm == FGMM_KMEANS ? 0
                                           : fgmm__covariance_count(model->covariance, model->k, model->dim);
}

static void check(const char *what, const char *which, const double *got, const double *expected, size_t n,
                  double most)
{
    double error = fgmm_test_relative(got, expected, n);
    if (!(error <= most))
        print_error("%s: %s is off by %g (at most %g)\n", what, which, error, most);
    assert_true(error <= most);
}

static bool same_parameters(const fgmm_model *a, const fgmm_model *b)
{
    size_t k = (size_t)a->k, dim = (size_t)a->dim;
    return memcmp(a->weights, b->weights, k * sizeof(double)) == 0 &&
           memcmp(a->means, b->means, k * dim * sizeof(double)) == 0 &&
           memcmp(a->covariances, b->covariances, covariance_count(a) * sizeof(double)) == 0;
}

/* The device's M-step beside the host's, from the same sums; and its grid beside the host's. */
static void against_host(const char *what, const fgmm_test_rows *rows, const fgmm_model *before,
                         const fgmm_em_step *step)
{
    fgmm_model *got = fetch(before), *expected = NULL;
    fgmm_components *components = NULL;
    fgmm_grid *grid = NULL, *own = NULL;
    fgmm_stats *stats = NULL;
    bool *starved = calloc((size_t)before->k, sizeof *starved);
    assert_non_null(starved);
    succeed(fgmm_test_cuda()->ops->resident->sums(fgmm_test_cuda(), &grid, &stats), "sums");
    succeed(fgmm__components_create(before, false, NULL, NULL, &components), "components");
    succeed(fgmm__grid_create(rows->n, rows->min, rows->max, components, &own), "grid");
    succeed(fgmm__model_copy(before, &expected), "model");
    succeed(fgmm__mstep(expected, components, stats, grid, *stats->rows, NULL, reg_covar, starved), "M-step");
    assert_int_equal(step->rows, rows->n);
    assert_int_equal(*stats->rows, rows->n);
    assert_true(step->log == fgmm__stats_log(stats, grid));
    assert_int_equal(grid->bits, own->bits);
    assert_true(grid->spherical_bound == own->spherical_bound);
    assert_true(grid->log_bound == own->log_bound);
    assert_memory_equal(grid->bound, own->bound, (size_t)rows->dim * sizeof(double));
    check(what, "weights", got->weights, expected->weights, (size_t)got->k, 1e-14);
    check(what, "means", got->means, expected->means, (size_t)got->k * (size_t)got->dim, 1e-13);
    check(what, "covariances", got->covariances, expected->covariances, covariance_count(got), 1e-9);
    free(starved);
    fgmm_model_destroy(got);
    fgmm_model_destroy(expected);
    fgmm__components_destroy(components);
    fgmm__grid_destroy(grid);
    fgmm__grid_destroy(own);
    fgmm__stats_destroy(stats);
}

/* Three iterations, each from the parameters that the one before left on the device. */
static void follow(fgmm_dtype dtype, int64_t n, int32_t k, int32_t dim, fgmm_algorithm algorithm,
                   fgmm_covariance covariance, double sigma)
{
    char what[120];
    snprintf(what, sizeof what, "%s n=%ld k=%d d=%d %s %s sigma %g", fgmm_dtype_name(dtype), (long)n, k, dim,
             algorithm == FGMM_KMEANS ? "k-means" : "gmm", fgmm_covariance_name(covariance), sigma);
    fgmm_test_rows *rows = fgmm_test_rows_create(dtype, n, k, dim, 3);
    fgmm_model *model = model_of_rows(rows, algorithm, covariance, k, sigma);
    const void *placed = fgmm_test_place(fgmm_test_cuda(), rows);
    double log = -INFINITY;
    load(rows, model);
    for (int i = 0; i < 3; i++) {
        fgmm_em_step step = iterate(rows, placed, 0, true);
        if (step.flagged)
            print_error("%s: iteration %d: flagged\n", what, i);
        assert_false(step.flagged);
        if (!(step.log >= log - 1e-6 * fabs(log)))
            print_error("%s: iteration %d: the log-likelihood falls from %.12g to %.12g\n", what, i, log,
                        step.log);
        assert_true(step.log >= log - 1e-6 * fabs(log));
        log = step.log;
        against_host(what, rows, model, &step);
        fgmm_model *next = fetch(model);
        fgmm_model_destroy(model);
        model = next;
    }
    fgmm_test_release(fgmm_test_cuda(), placed);
    fgmm_model_destroy(model);
    fgmm_test_rows_destroy(rows);
}

static void parameters_are_those_of_the_hosts_mstep(void **state)
{
    (void)state;
    const double sigmas[] = {3, 20}; /* a few candidates a row; dense rows */
    for (int i = 0; i < 2; i++) {
        follow(FGMM_F32, 5000, 40, 17, FGMM_GMM, FGMM_SPHERICAL, sigmas[i]);
        follow(FGMM_F32, 5000, 40, 17, FGMM_GMM, FGMM_DIAG, sigmas[i]);
        follow(FGMM_U8, 9000, 300, 100, FGMM_GMM, FGMM_SPHERICAL, sigmas[i]);
        follow(FGMM_F16, 3000, 200, 3, FGMM_GMM, FGMM_SPHERICAL, sigmas[i]);
    }
    follow(FGMM_F32, 9000, 300, 128, FGMM_KMEANS, FGMM_SPHERICAL, 1);
    follow(FGMM_I8, 2000, 9, 5, FGMM_KMEANS, FGMM_SPHERICAL, 1);
    follow(FGMM_F32, 2000, 1, 1, FGMM_GMM, FGMM_DIAG, 3);
    follow(FGMM_F32, 40000, 9000, 2, FGMM_GMM, FGMM_SPHERICAL, 3); /* several components a warp */
}

/* Parameters that went to the host and came back, as after a restart; and other cuts into tiles. */
static void resume(fgmm_algorithm algorithm, fgmm_covariance covariance, double sigma)
{
    fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_F32, 300000, 300, 40, 3);
    fgmm_model *start = model_of_rows(rows, algorithm, covariance, 300, sigma);
    const void *placed = fgmm_test_place(fgmm_test_cuda(), rows);
    load(rows, start);
    iterate(rows, placed, 0, true);
    fgmm_model *middle = fetch(start);
    fgmm_em_step step = iterate(rows, placed, 0, true);
    fgmm_model *undisturbed = fetch(start);
    assert_false(step.flagged);
    const int64_t quanta[] = {0, 0, 7, 100};
    assert_false(same_parameters(start, middle));
    for (int i = 0; i < 4; i++) {
        load(rows, middle);
        fgmm_em_step again = iterate(rows, placed, quanta[i], i % 2 == 1);
        fgmm_model *resumed = fetch(start);
        assert_true(again.log == step.log && again.pairs == step.pairs);
        assert_true(same_parameters(resumed, undisturbed));
        fgmm_model_destroy(resumed);
    }
    fgmm_test_release(fgmm_test_cuda(), placed);
    fgmm_model_destroy(start);
    fgmm_model_destroy(middle);
    fgmm_model_destroy(undisturbed);
    fgmm_test_rows_destroy(rows);
}

static void going_over_the_host_changes_no_bit(void **state)
{
    (void)state;
    resume(FGMM_GMM, FGMM_SPHERICAL, 3);
    resume(FGMM_GMM, FGMM_SPHERICAL, 12);
    resume(FGMM_GMM, FGMM_DIAG, 3);
    resume(FGMM_KMEANS, FGMM_SPHERICAL, 1);
}

static void a_component_without_rows_is_left_to_the_host(void **state)
{
    (void)state;
    const fgmm_covariance shapes[] = {FGMM_SPHERICAL, FGMM_DIAG, FGMM_SPHERICAL};
    for (int i = 0; i < 3; i++) {
        fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_F32, 2000, 12, 9, 1);
        fgmm_model *model = model_of_rows(rows, i == 2 ? FGMM_KMEANS : FGMM_GMM, shapes[i], 12, 1);
        const void *placed = fgmm_test_place(fgmm_test_cuda(), rows);
        for (int d = 0; d < 9; d++)
            model->means[5 * 9 + d] = 1e6;
        load(rows, model);
        fgmm_em_step step = iterate(rows, placed, 0, true);
        fgmm_model *after = fetch(model);
        fgmm_grid *grid = NULL;
        fgmm_stats *stats = NULL;
        succeed(fgmm_test_cuda()->ops->resident->sums(fgmm_test_cuda(), &grid, &stats), "sums");
        assert_true(step.flagged);
        assert_true(same_parameters(after, model));
        assert_true(fgmm__stats_n(stats, grid, 5) < FGMM_STARVED_ROWS);
        fgmm__grid_destroy(grid);
        fgmm__stats_destroy(stats);
        fgmm_test_release(fgmm_test_cuda(), placed);
        fgmm_model_destroy(after);
        fgmm_model_destroy(model);
        fgmm_test_rows_destroy(rows);
    }
}

static void a_range_that_overflows_is_refused(void **state)
{
    (void)state;
    fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_F32, 2000, 3, 4, 1);
    fgmm_model *model = model_of_rows(rows, FGMM_GMM, FGMM_SPHERICAL, 3, 1);
    fgmm_em_terms terms = {rows->n, rows->min, rows->max, reg_covar};
    model->means[2] = 1e200;
    assert_int_equal(fgmm_test_cuda()->ops->resident->load(fgmm_test_cuda(), model, &terms), FGMM_ERR_INPUT);
    assert_non_null(strstr(fgmm_error_message(), "too wide"));
    fgmm_error_clear();
    fgmm_model_destroy(model);
    fgmm_test_rows_destroy(rows);
}

static int cases(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_are_those_of_the_hosts_mstep),
        cmocka_unit_test(going_over_the_host_changes_no_bit),
        cmocka_unit_test(a_component_without_rows_is_left_to_the_host),
        cmocka_unit_test(a_range_that_overflows_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
    return fgmm_test_gpu_main(argc, argv, cases);
}
