/* Models, components, the fixed-point statistics and the M-step, against plain formulas. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/covariance.h"
#include "model/mstep.h"

enum { K = 3, D = 4, N = 500 };

static double noise(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) * 0x1p-53 - 0.5;
}

/* A model with covariances that are not special: random, symmetric, diagonally dominant. */
static fgmm_model *make_model(fgmm_covariance covariance)
{
    fgmm_model *model = NULL;
    uint64_t state = 7;
    assert_int_equal(fgmm__model_create(FGMM_GMM, covariance, K, D, &model), FGMM_OK);
    for (int k = 0; k < K; k++)
        model->weights[k] = (k + 1.0) / 6;
    for (int i = 0; i < K * D; i++)
        model->means[i] = 3 * noise(&state);
    for (int d = 0; d < D; d++)
        model->origin[d] = 0.25 * d;
    size_t count = fgmm__covariance_count(covariance, K, D);
    if (covariance == FGMM_SPHERICAL || covariance == FGMM_DIAG) {
        for (size_t i = 0; i < count; i++)
            model->covariances[i] = 0.3 + fabs(noise(&state));
        return model;
    }
    for (size_t m = 0; m < count / (D * D); m++)
        for (int i = 0; i < D; i++)
            for (int j = 0; j <= i; j++) {
                double v = i == j ? 1.5 + noise(&state) : 0.4 * noise(&state);
                model->covariances[m * D * D + (size_t)(i * D + j)] = v;
                model->covariances[m * D * D + (size_t)(j * D + i)] = v;
            }
    return model;
}

/* The covariance of component k as a matrix. */
static void matrix_of(const fgmm_model *model, int k, double s[D][D])
{
    for (int i = 0; i < D; i++)
        for (int j = 0; j < D; j++)
            switch (model->covariance) {
            case FGMM_SPHERICAL:
                s[i][j] = i == j ? model->covariances[k] : 0;
                break;
            case FGMM_DIAG:
                s[i][j] = i == j ? model->covariances[k * D + i] : 0;
                break;
            case FGMM_TIED:
                s[i][j] = model->covariances[i * D + j];
                break;
            case FGMM_FULL:
                s[i][j] = model->covariances[(k * D + i) * D + j];
                break;
            }
}

/* log2 of w N(x; mean, S) by Gaussian elimination. */
static double plain_density(const fgmm_model *model, int k, const double *x)
{
    double s[D][D], y[D], det = 1, distance = 0;
    matrix_of(model, k, s);
    for (int i = 0; i < D; i++)
        y[i] = x[i] - model->means[k * D + i];
    double z[D];
    memcpy(z, y, sizeof z);
    for (int c = 0; c < D; c++) {
        det *= s[c][c];
        for (int r = c + 1; r < D; r++) {
            double f = s[r][c] / s[c][c];
            for (int j = c; j < D; j++)
                s[r][j] -= f * s[c][j];
            z[r] -= f * z[c];
        }
    }
    for (int r = D - 1; r >= 0; r--) {
        for (int j = r + 1; j < D; j++)
            z[r] -= s[r][j] * z[j];
        z[r] /= s[r][r];
        distance += y[r] * z[r];
    }
    return log2(model->weights[k]) - 0.5 * (D * log2(2 * M_PI) + log2(det) + distance / M_LN2);
}

static double component_density(const fgmm_components *c, int k, const double *x)
{
    double y[D], sum = 0;
    for (int i = 0; i < D; i++)
        y[i] = x[i] - c->origin[i] - c->means[k * D + i];
    for (int j = 0; j < D; j++) {
        double v = 0;
        switch (c->shape) {
        case FGMM_SPHERICAL:
            v = y[j] * c->factors[k];
            break;
        case FGMM_DIAG:
            v = y[j] * c->factors[k * D + j];
            break;
        case FGMM_TIED:
        case FGMM_FULL:
            for (int i = 0; i < D; i++)
                v += y[i] * c->factors[(c->shape == FGMM_FULL ? k * D * D : 0) + i * D + j];
            break;
        }
        sum += v * v;
    }
    return c->offsets[k] - sum;
}

static void components_give_the_density_of_every_covariance_type(void **unused)
{
    (void)unused;
    double x[D] = {0.3, -1.2, 0.9, 0.05};
    for (int type = FGMM_SPHERICAL; type <= FGMM_FULL; type++) {
        fgmm_model *model = make_model((fgmm_covariance)type);
        fgmm_components *c = NULL;
        assert_int_equal(fgmm__components_create(model, false, NULL, NULL, &c), FGMM_OK);
        for (int k = 0; k < K; k++)
            assert_true(fabs(component_density(c, k, x) - plain_density(model, k, x)) < 1e-11);
        fgmm__components_destroy(c);
        fgmm_model_destroy(model);
    }
}

static void an_indefinite_covariance_is_named(void **unused)
{
    (void)unused;
    for (int type = FGMM_SPHERICAL; type <= FGMM_FULL; type++) {
        fgmm_model *model = make_model((fgmm_covariance)type);
        fgmm_components *c = NULL;
        int32_t bad[K], n_bad = -1;
        size_t each = fgmm__covariance_count(model->covariance, K, D) / (type == FGMM_TIED ? 1 : K);
        model->covariances[type == FGMM_TIED ? 0 : each] = -1; /* component 1, or everybody's */
        assert_int_equal(fgmm__components_create(model, false, bad, &n_bad, &c), FGMM_OK);
        assert_int_equal(n_bad, type == FGMM_TIED ? K : 1);
        assert_int_equal(bad[0], type == FGMM_TIED ? 0 : 1);
        fgmm__components_destroy(c);
        c = NULL;
        assert_int_equal(fgmm__components_create(model, false, NULL, NULL, &c), FGMM_ERR_INPUT);
        assert_non_null(strstr(fgmm_error_message(), type == FGMM_TIED ? "component 0" : "component 1"));
        fgmm_error_clear();
        fgmm_model_destroy(model);
    }
}

/* ---- statistics ---- */

typedef struct {
    double x[N][D], min[D], max[D];
    double r[N][K]; /* weights of rows, as responsibilities would be */
} rows_of;

static rows_of *make_rows(void)
{
    rows_of *rows = calloc(1, sizeof *rows);
    uint64_t state = 99;
    for (int i = 0; i < N; i++) {
        double total = 0;
        for (int d = 0; d < D; d++) {
            rows->x[i][d] = 4 * noise(&state) + d;
            rows->min[d] = i == 0 ? rows->x[i][d] : fmin(rows->min[d], rows->x[i][d]);
            rows->max[d] = i == 0 ? rows->x[i][d] : fmax(rows->max[d], rows->x[i][d]);
        }
        for (int k = 0; k < K; k++)
            total += rows->r[i][k] = 0.01 + fabs(noise(&state));
        for (int k = 0; k < K; k++)
            rows->r[i][k] /= total;
    }
    return rows;
}

static void add_one(int64_t *word, double v, double bound, const fgmm_grid *grid)
{
    *word += llrint(ldexp(v / bound, grid->bits));
}

static void add_two(int64_t *high, int64_t *low, double v, double bound, const fgmm_grid *grid)
{
    double t = ldexp(v / bound, grid->bits), h = rint(t);
    *high += (int64_t)h;
    *low += llrint(ldexp(t - h, grid->bits));
}

/* The statistics of `rows` as a backend would gather them. */
static fgmm_stats *gather(const rows_of *rows, const fgmm_components *c, const fgmm_grid *grid,
                          fgmm_moment moment)
{
    fgmm_stats *s = NULL;
    assert_int_equal(fgmm__stats_create(K, D, moment, &s), FGMM_OK);
    for (int i = 0; i < N; i++)
        for (int k = 0; k < K; k++) {
            double r = rows->r[i][k], y[D], square = 0;
            size_t at = (size_t)k * s->moments;
            add_one(&s->n[k], r, 1, grid);
            for (int d = 0; d < D; d++) {
                double centred = rows->x[i][d] - c->origin[d];
                y[d] = centred - c->means[k * D + d];
                square += y[d] * y[d];
                add_one(&s->s[k * D + d], r * centred, grid->bound[d], grid);
            }
            if (moment == FGMM_MOMENT_SPHERICAL)
                add_two(&s->q_high[at], &s->q_low[at], r * square, grid->spherical_bound, grid);
            for (int d = 0; d < D && moment == FGMM_MOMENT_DIAG; d++)
                add_two(&s->q_high[at + d], &s->q_low[at + d], r * y[d] * y[d],
                        grid->bound[d] * grid->bound[d], grid);
            for (int p = 0; p < D && moment == FGMM_MOMENT_FULL; p++)
                for (int q = 0; q <= p; q++, at++)
                    add_two(&s->q_high[at], &s->q_low[at], r * y[p] * y[q], grid->bound[p] * grid->bound[q],
                            grid);
        }
    *s->rows = N;
    return s;
}

/* The M-step by the book, in doubles: n, mean, and the covariance matrix of component k about its new mean.
 */
static void plain_mstep(const rows_of *rows, int k, double *n, double mean[D], double s[D][D])
{
    *n = 10 * DBL_EPSILON;
    memset(mean, 0, D * sizeof *mean);
    memset(s, 0, D * D * sizeof(double));
    for (int i = 0; i < N; i++) {
        *n += rows->r[i][k];
        for (int d = 0; d < D; d++)
            mean[d] += rows->r[i][k] * rows->x[i][d];
    }
    for (int d = 0; d < D; d++)
        mean[d] /= *n;
    for (int i = 0; i < N; i++)
        for (int p = 0; p < D; p++)
            for (int q = 0; q < D; q++)
                s[p][q] += rows->r[i][k] * (rows->x[i][p] - mean[p]) * (rows->x[i][q] - mean[q]) / *n;
}

static double expected_covariance(const rows_of *rows, fgmm_covariance type, int k, int p, int q)
{
    double n, mean[D], s[D][D], sum = 0;
    if (type == FGMM_TIED) {
        for (int c = 0; c < K; c++) {
            plain_mstep(rows, c, &n, mean, s);
            sum += n * s[p][q] / N;
        }
        return sum;
    }
    plain_mstep(rows, k, &n, mean, s);
    if (type != FGMM_SPHERICAL)
        return s[p][q];
    for (int d = 0; d < D; d++)
        sum += s[d][d] / D;
    return sum;
}

static void the_mstep_of_every_type_is_that_of_the_book(void **unused)
{
    (void)unused;
    const double reg = 1e-3;
    rows_of *rows = make_rows();
    for (int type = FGMM_SPHERICAL; type <= FGMM_FULL; type++) {
        fgmm_model *model = make_model((fgmm_covariance)type);
        fgmm_components *c = NULL;
        fgmm_grid *grid = NULL;
        double scatter[D][D] = {{0}};
        bool starved[K];
        assert_int_equal(fgmm__components_create(model, false, NULL, NULL, &c), FGMM_OK);
        assert_int_equal(fgmm__grid_create(N, rows->min, rows->max, c, &grid), FGMM_OK);
        for (int i = 0; i < N; i++)
            for (int p = 0; p < D; p++)
                for (int q = 0; q < D; q++)
                    scatter[p][q] += (rows->x[i][p] - c->origin[p]) * (rows->x[i][q] - c->origin[q]);
        fgmm_stats *stats = gather(rows, c, grid, fgmm__covariance_type(model->covariance)->moment);
        assert_int_equal(fgmm__mstep(model, c, stats, grid, N, &scatter[0][0], reg, starved), FGMM_OK);
        for (int k = 0; k < K; k++) {
            double n, mean[D], s[D][D], got[D][D];
            plain_mstep(rows, k, &n, mean, s);
            matrix_of(model, k, got);
            assert_false(starved[k]);
            assert_true(fabs(model->weights[k] - n / N) < 1e-12);
            for (int p = 0; p < D; p++) {
                assert_true(fabs(model->means[k * D + p] - mean[p]) < 1e-11);
                for (int q = 0; q < D; q++) {
                    bool stored = p == q || type == FGMM_TIED || type == FGMM_FULL;
                    double want = stored ? expected_covariance(rows, model->covariance, k, p, q) : 0;
                    assert_true(fabs(got[p][q] - want - (p == q ? reg : 0)) < 1e-10);
                }
            }
        }
        fgmm__stats_destroy(stats);
        fgmm__grid_destroy(grid);
        fgmm__components_destroy(c);
        fgmm_model_destroy(model);
    }
    free(rows);
}

static void a_component_without_rows_is_flagged_and_keeps_its_parameters(void **unused)
{
    (void)unused;
    rows_of *rows = make_rows();
    fgmm_model *model = make_model(FGMM_DIAG), *before = NULL;
    fgmm_components *c = NULL;
    fgmm_grid *grid = NULL;
    bool starved[K];
    for (int i = 0; i < N; i++)
        rows->r[i][1] = 0;
    assert_int_equal(fgmm__model_copy(model, &before), FGMM_OK);
    assert_int_equal(fgmm__components_create(model, false, NULL, NULL, &c), FGMM_OK);
    assert_int_equal(fgmm__grid_create(N, rows->min, rows->max, c, &grid), FGMM_OK);
    fgmm_stats *stats = gather(rows, c, grid, FGMM_MOMENT_DIAG);
    assert_int_equal(fgmm__mstep(model, c, stats, grid, N, NULL, 1e-6, starved), FGMM_OK);
    assert_true(!starved[0] && starved[1] && !starved[2]);
    assert_true(model->weights[1] == 0);
    for (int d = 0; d < D; d++) {
        assert_true(fabs(model->means[D + d] - before->means[D + d]) < 1e-15);
        assert_true(model->covariances[D + d] == before->covariances[D + d]);
        assert_true(model->covariances[d] != before->covariances[d]);
    }
    fgmm__stats_destroy(stats);
    fgmm__grid_destroy(grid);
    fgmm__components_destroy(c);
    fgmm_model_destroy(model);
    fgmm_model_destroy(before);
    free(rows);
}

static void the_grid_holds_ten_billion_rows_at_the_bound(void **unused)
{
    (void)unused;
    const int64_t n = 10000000000;
    double min[D] = {-1, 0, 5, -300}, max[D] = {1, 0, 7, 300};
    fgmm_model *model = make_model(FGMM_SPHERICAL);
    fgmm_components *c = NULL;
    fgmm_grid *grid = NULL;
    assert_int_equal(fgmm__components_create(model, false, NULL, NULL, &c), FGMM_OK);
    assert_int_equal(fgmm__grid_create(n, min, max, c, &grid), FGMM_OK);
    assert_true(ldexp(1, grid->bits) * (double)n <= 0x1p62);
    assert_true(grid->bits >= 28);
    for (int d = 0; d < D; d++) {
        int exponent;
        assert_true(frexp(grid->bound[d], &exponent) == 0.5);
        assert_true(grid->bound[d] >= max[d] - min[d]);
        for (int k = 0; k < K; k++)
            assert_true(grid->bound[d] >= fabs(c->means[k * D + d]));
    }
    fgmm__grid_destroy(grid);
    fgmm__components_destroy(c);
    fgmm_model_destroy(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(components_give_the_density_of_every_covariance_type),
        cmocka_unit_test(an_indefinite_covariance_is_named),
        cmocka_unit_test(the_mstep_of_every_type_is_that_of_the_book),
        cmocka_unit_test(a_component_without_rows_is_flagged_and_keeps_its_parameters),
        cmocka_unit_test(the_grid_holds_ten_billion_rows_at_the_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
