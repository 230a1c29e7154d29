/* The CPU's assignment against sorting all log-densities. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "backend/backend.h"
#include "data/partition.h"
#include "support/cases.h"

typedef struct {
    int32_t *labels;
    float *responsibilities;
    double *log_density;
} answer;

static void *take(size_t n, size_t bytes)
{
    void *p = calloc(n + 1, bytes);
    assert_non_null(p);
    return p;
}

static void answer_free(answer *a)
{
    free(a->labels);
    free(a->responsibilities);
    free(a->log_density);
}

static answer run(const fgmm_test_rows *rows, const fgmm_components *c, int32_t top, int threads,
                  int64_t tile_rows)
{
    fgmm_backend *backend = NULL;
    size_t n = (size_t)rows->n;
    answer a = {take(n * (size_t)top, sizeof(int32_t)), take(n * (size_t)top, sizeof(float)),
                take(n, sizeof(double))};
    assert_int_equal(fgmm__backend_create(NULL, NULL, threads, &backend), FGMM_OK);
    assert_int_equal(backend->ops->assign_begin(backend, c, top), FGMM_OK);
    for (int64_t begin = 0; begin < rows->n; begin += tile_rows) {
        fgmm_tile tile = {.begin = begin,
                          .rows = rows->n - begin < tile_rows ? rows->n - begin : tile_rows,
                          .dim = rows->dim,
                          .dtype = rows->dtype,
                          .data = (const char *)rows->stored +
                                  (size_t)begin * rows->dim * fgmm_dtype_bytes(rows->dtype)};
        assert_int_equal(backend->ops->assign_tile(backend, &tile, a.labels + begin * top,
                                                   a.responsibilities + begin * top, a.log_density + begin),
                         FGMM_OK);
    }
    fgmm__backend_destroy(backend);
    return a;
}

/* The number of components that come before k by the definition. */
static int32_t rank_of(const double *l, int32_t n, int32_t k)
{
    int32_t rank = 0;
    for (int32_t j = 0; j < n; j++)
        rank += l[j] > l[k] || (l[j] == l[k] && j < k);
    return rank;
}

static void compare(int32_t k, int32_t dim, fgmm_covariance shape, bool hard, int32_t top, double sigma)
{
    const int64_t n = 515;
    fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_F32, n, k, dim, sigma);
    fgmm_components *c = fgmm_test_components(shape, hard, k, dim, FGMM_F32, sigma);
    answer a = run(rows, c, top, 2, n);
    double *l = take((size_t)k, sizeof *l);
    for (int64_t i = 0; i < n; i++) {
        double log_density = fgmm_test_logits(c, rows->values + i * dim, l);
        assert_true(fabs(a.log_density[i] - log_density) <= 1e-8 * (1 + fabs(log_density)));
        for (int32_t j = 0; j < top; j++) {
            int32_t label = a.labels[i * top + j];
            if (j >= k) {
                assert_int_equal(label, -1);
                assert_true(a.responsibilities[i * top + j] == 0);
                continue;
            }
            assert_true(label >= 0 && label < k);
            double expected = hard ? (double)(j == 0) : exp2(l[label] - log_density);
            assert_true(fabs(a.responsibilities[i * top + j] - expected) < 1e-7);
            if (rank_of(l, k, label) != j) /* rounding may swap what is equal */
                for (int32_t m = 0; m < k; m++)
                    if (rank_of(l, k, m) == j)
                        assert_true(fabs(l[m] - l[label]) <= 1e-9 * (1 + fabs(l[m])));
        }
    }
    free(l);
    answer_free(&a);
    fgmm__components_destroy(c);
    fgmm_test_rows_destroy(rows);
}

static void labels_are_those_of_the_largest_densities(void **state)
{
    (void)state;
    const int32_t tops[] = {1, 3, 64};
    const double sigmas[] = {0.2, 4, 50};
    for (int t = 0; t < 3; t++)
        for (int s = 0; s < 3; s++) {
            compare(1100, 17, FGMM_SPHERICAL, false, tops[t], sigmas[s]);
            compare(1100, 17, FGMM_SPHERICAL, true, tops[t], sigmas[s]);
            compare(90, 17, FGMM_DIAG, false, tops[t], sigmas[s]);
            compare(90, 17, FGMM_TIED, false, tops[t], sigmas[s]);
            compare(90, 17, FGMM_FULL, false, tops[t], sigmas[s]);
        }
}

static void missing_places_hold_minus_one(void **state)
{
    (void)state;
    compare(1, 3, FGMM_SPHERICAL, false, 4, 3);
    compare(2, 1, FGMM_SPHERICAL, true, 4, 3);
    compare(3, 128, FGMM_FULL, false, 4, 3);
}

static void ties_go_to_the_smaller_number(void **state)
{
    (void)state;
    enum { K = 1400, DIM = 100, N = 300, TOP = 2 };
    for (int hard = 0; hard < 2; hard++) {
        fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_F32, N, K, DIM, 3);
        fgmm_components *c = fgmm_test_components(FGMM_SPHERICAL, hard, K, DIM, FGMM_F32, 3);
        for (int k = K / 2; k < K; k++) {
            int twin = K - 1 - k;
            memcpy(c->means + k * DIM, c->means + twin * DIM, DIM * sizeof(double));
            c->offsets[k] = c->offsets[twin];
            c->factors[k] = c->factors[twin];
        }
        answer a = run(rows, c, TOP, 2, N);
        for (int i = 0; i < N; i++) {
            assert_true(a.labels[TOP * i] < K / 2);
            assert_int_equal(a.labels[TOP * i + 1], K - 1 - a.labels[TOP * i]);
        }
        answer_free(&a);
        fgmm__components_destroy(c);
        fgmm_test_rows_destroy(rows);
    }
}

static void tiles_and_threads_do_not_change_a_bit(void **state)
{
    (void)state;
    const int64_t n = 3 * FGMM_QUANTUM + 77;
    const int32_t top = 3;
    fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_U8, n, 50, 33, 5);
    fgmm_components *c = fgmm_test_components(FGMM_DIAG, false, 50, 33, FGMM_U8, 5);
    answer first = run(rows, c, top, 1, n);
    const struct {
        int threads;
        int64_t tile_rows;
    } others[] = {{2, FGMM_QUANTUM}, {5, 2 * FGMM_QUANTUM}, {3, n}};
    for (int i = 0; i < 3; i++) {
        answer other = run(rows, c, top, others[i].threads, others[i].tile_rows);
        assert_memory_equal(first.labels, other.labels, (size_t)(n * top) * sizeof(int32_t));
        assert_memory_equal(first.responsibilities, other.responsibilities,
                            (size_t)(n * top) * sizeof(float));
        assert_memory_equal(first.log_density, other.log_density, (size_t)n * sizeof(double));
        answer_free(&other);
    }
    answer_free(&first);
    fgmm__components_destroy(c);
    fgmm_test_rows_destroy(rows);
}

static void too_many_labels_are_refused(void **state)
{
    (void)state;
    fgmm_backend *backend = NULL;
    fgmm_components *c = fgmm_test_components(FGMM_SPHERICAL, true, 3, 2, FGMM_F32, 1);
    assert_int_equal(fgmm__backend_create(NULL, NULL, 1, &backend), FGMM_OK);
    assert_int_equal(backend->ops->assign_begin(backend, c, FGMM_MAX_TOP + 1), FGMM_ERR_INPUT);
    fgmm_error_clear();
    fgmm__backend_destroy(backend);
    fgmm__components_destroy(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_are_those_of_the_largest_densities),
        cmocka_unit_test(missing_places_hold_minus_one),
        cmocka_unit_test(ties_go_to_the_smaller_number),
        cmocka_unit_test(tiles_and_threads_do_not_change_a_bit),
        cmocka_unit_test(too_many_labels_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
