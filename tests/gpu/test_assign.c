/* The CUDA backend's assignment against sorting all log-densities, and against itself under other cuts. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "backend/poor.h"
#include "data/partition.h"
#include "support/gpu.h"

typedef struct {
    int32_t *labels;
    float *responsibilities;
    double *log_density;
} answer;

/* Filled with what no answer has, so that a row that nobody wrote shows. */
static void *take(size_t n, size_t bytes)
{
    void *p = malloc((n + 1) * bytes);
    assert_non_null(p);
    memset(p, 0xee, (n + 1) * bytes);
    return p;
}

static void answer_free(answer *a)
{
    free(a->labels);
    free(a->responsibilities);
    free(a->log_density);
}

static answer run(const fgmm_test_rows *rows, const fgmm_components *c, int32_t top, int64_t tile_rows)
{
    fgmm_backend *backend = fgmm_test_cuda();
    size_t n = (size_t)rows->n;
    answer a = {take(n * (size_t)top, sizeof(int32_t)), take(n * (size_t)top, sizeof(float)),
                take(n, sizeof(double))};
    const void *placed = fgmm_test_place(backend, rows);
    assert_int_equal(backend->ops->assign_begin(backend, c, top), FGMM_OK);
    for (int64_t begin = 0; begin < rows->n; begin += tile_rows) {
        fgmm_tile tile = fgmm_test_tile(rows, placed, begin, tile_rows);
        fgmm_status status = backend->ops->assign_tile(
            backend, &tile, a.labels + begin * top, a.responsibilities + begin * top, a.log_density + begin);
        if (status != FGMM_OK)
            print_error("%s\n", fgmm_error_message());
        assert_int_equal(status, FGMM_OK);
    }
    fgmm_test_release(backend, placed);
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

/* Rounding may swap what is nearly equal. */
static bool right_place(const double *l, int32_t k, int32_t label, int32_t place)
{
    if (rank_of(l, k, label) == place)
        return true;
    for (int32_t m = 0; m < k; m++)
        if (rank_of(l, k, m) == place)
            return fabs(l[m] - l[label]) <= 1e-9 * (1 + fabs(l[m]));
    return false;
}

static void compare(fgmm_dtype dtype, int64_t n, int32_t k, int32_t dim, fgmm_covariance shape, bool hard,
                    int32_t top, double sigma)
{
    fgmm_test_rows *rows = fgmm_test_rows_create(dtype, n, k, dim, sigma);
    fgmm_components *c = fgmm_test_components(shape, hard, k, dim, dtype, sigma);
    answer a = run(rows, c, top, n);
    double *l = take((size_t)k, sizeof *l);
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++) {
        double log_density = fgmm_test_logits(c, rows->values + i * dim, l);
        bool good = fabs(a.log_density[i] - log_density) <= 3e-6 + 1e-9 * fabs(log_density);
        for (int32_t j = 0; j < top; j++) {
            int32_t label = a.labels[i * top + j];
            double r = a.responsibilities[i * top + j];
            if (j >= k) {
                good = good && label == -1 && r == 0;
                continue;
            }
            if (label < 0 || label >= k) {
                good = false;
                continue;
            }
            good = good && fabs(r - (hard ? (double)(j == 0) : exp2(l[label] - log_density))) < 3e-6;
            good = good && right_place(l, k, label, j);
        }
        if (!good && wrong++ == 0)
            print_error("%s n=%ld k=%d d=%d %s%s top %d sigma %g: row %ld is wrong: label %d, responsibility "
                        "%g, log-density "
                        "%.12g, expected %.12g\n",
                        fgmm_dtype_name(dtype), (long)n, k, dim, fgmm_covariance_name(shape),
                        hard ? " hard" : "", top, sigma, (long)i, a.labels[i * top],
                        a.responsibilities[i * top], a.log_density[i], log_density);
    }
    assert_int_equal(wrong, 0);
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
            compare(FGMM_F32, 515, 600, 17, FGMM_SPHERICAL, false, tops[t], sigmas[s]);
            compare(FGMM_F16, 515, 600, 24, FGMM_SPHERICAL, true, tops[t], sigmas[s]);
            compare(FGMM_U8, 515, 90, 17, FGMM_DIAG, false, tops[t], sigmas[s]);
            compare(FGMM_I8, 515, 90, 17, FGMM_TIED, false, tops[t], sigmas[s]);
            compare(FGMM_F32, 515, 90, 17, FGMM_FULL, false, tops[t], sigmas[s]);
            compare(FGMM_F16, 515, 300, 136, FGMM_SPHERICAL, false, tops[t], sigmas[s]);
            compare(FGMM_F32, 515, 300, 33, FGMM_DIAG, false, tops[t], sigmas[s]);
            compare(FGMM_U8, 515, 300, 34, FGMM_TIED, false, tops[t], sigmas[s]);
        }
}

static void more_components_than_the_slab_holds(void **state)
{
    (void)state;
    compare(FGMM_F32, 40, 17000, 3, FGMM_SPHERICAL, false, 5, 30);
    compare(FGMM_F32, 40, 17000, 3, FGMM_SPHERICAL, true, 64, 3);
}

static void missing_places_hold_minus_one(void **state)
{
    (void)state;
    compare(FGMM_F32, 300, 1, 3, FGMM_SPHERICAL, false, 4, 3);
    compare(FGMM_F32, 300, 2, 1, FGMM_SPHERICAL, true, 4, 3);
    compare(FGMM_F32, 300, 3, 128, FGMM_FULL, false, 4, 3);
}

/* The second half of the components repeats the first, in reverse. */
static void twins_follow_each_other(fgmm_covariance shape, bool hard, int32_t dim)
{
    enum { K = 1400, N = 300, TOP = 2 };
    fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_F32, N, K, dim, 3);
    fgmm_components *c = fgmm_test_components(shape, hard, K, dim, FGMM_F32, 3);
    size_t dims = (size_t)dim, factors = shape == FGMM_DIAG ? dims : 1;
    for (size_t k = K / 2; k < K; k++) {
        size_t twin = K - 1 - k;
        memcpy(c->means + k * dims, c->means + twin * dims, dims * sizeof(double));
        memcpy(c->factors + k * factors, c->factors + twin * factors, factors * sizeof(double));
        c->offsets[k] = c->offsets[twin];
    }
    answer a = run(rows, c, TOP, N);
    for (int i = 0; i < N; i++) {
        assert_true(a.labels[TOP * i] < K / 2);
        assert_int_equal(a.labels[TOP * i + 1], K - 1 - a.labels[TOP * i]);
    }
    answer_free(&a);
    fgmm__components_destroy(c);
    fgmm_test_rows_destroy(rows);
}

static void ties_go_to_the_smaller_number(void **state)
{
    (void)state;
    for (int hard = 0; hard < 2; hard++) {
        twins_follow_each_other(FGMM_SPHERICAL, hard, 100);
        twins_follow_each_other(FGMM_SPHERICAL, hard, 200);
    }
    twins_follow_each_other(FGMM_DIAG, false, 40);
}

static void same_bits(int64_t n, int32_t top, double sigma)
{
    fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_U8, n, 150, 33, sigma);
    fgmm_components *c = fgmm_test_components(FGMM_DIAG, false, 150, 33, FGMM_U8, sigma);
    answer first = run(rows, c, top, n);
    const int64_t quanta[] = {1, 2, 5};
    for (int i = 0; i < 3; i++) {
        answer other = run(rows, c, top, quanta[i] * FGMM_QUANTUM);
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

static void tiles_do_not_change_a_bit(void **state)
{
    (void)state;
    same_bits(37 * FGMM_QUANTUM + 77, 1, 5);
    same_bits(3 * FGMM_QUANTUM + 77, 3, 15);
    same_bits(37 * FGMM_QUANTUM + 77, 64, 5); /* several chunks a tile */
}

/* The worst rows that the backend finds by itself are those among all log-densities. */
static void same_poor_rows(int64_t n, int32_t capacity, int64_t tile_rows)
{
    fgmm_backend *backend = fgmm_test_cuda();
    const int32_t k = 40, dim = 3; /* rows of few whole numbers: ties, across chunks and tiles */
    fgmm_components *c = fgmm_test_components(FGMM_SPHERICAL, false, k, dim, FGMM_U8, 9);
    fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_U8, n, k, dim, 9);
    answer all = run(rows, c, 1, n);
    const void *placed = fgmm_test_place(backend, rows);
    fgmm_poor *expected = NULL, *found = NULL;
    assert_int_equal(fgmm__poor_create(capacity, &expected), FGMM_OK);
    assert_int_equal(fgmm__poor_create(capacity, &found), FGMM_OK);
    for (int64_t i = n - 1; i >= 0; i--)
        fgmm__poor_offer(expected, (fgmm_poor_row){all.log_density[i], i});
    assert_int_equal(backend->ops->assign_begin(backend, c, 1), FGMM_OK);
    for (int64_t begin = 0; begin < n; begin += tile_rows) {
        fgmm_tile tile = fgmm_test_tile(rows, placed, begin, tile_rows);
        assert_int_equal(backend->ops->poor_tile(backend, &tile, found), FGMM_OK);
    }
    assert_int_equal(found->size, expected->size);
    qsort(found->heap, (size_t)found->size, sizeof *found->heap, fgmm__poor_compare);
    qsort(expected->heap, (size_t)expected->size, sizeof *expected->heap, fgmm__poor_compare);
    assert_memory_equal(found->heap, expected->heap, (size_t)found->size * sizeof *found->heap);
    fgmm__poor_destroy(expected);
    fgmm__poor_destroy(found);
    fgmm_test_release(backend, placed);
    answer_free(&all);
    fgmm_test_rows_destroy(rows);
    fgmm__components_destroy(c);
}

static void poor_rows_are_found_on_the_device(void **state)
{
    (void)state;
    same_poor_rows(900000, 3, 900000);
    same_poor_rows(900000, 700, 16 * 1024);
    same_poor_rows(900000, 20000, 900000); /* more than a list holds */
    same_poor_rows(1000, 2000, 1024);
}

static void what_is_not_asked_for_is_not_written(void **state)
{
    (void)state;
    fgmm_backend *backend = fgmm_test_cuda();
    fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_F32, 1000, 20, 8, 3);
    fgmm_components *c = fgmm_test_components(FGMM_SPHERICAL, true, 20, 8, FGMM_F32, 3);
    answer a = run(rows, c, 1, rows->n);
    int32_t *labels = take(1000, sizeof *labels);
    const void *placed = fgmm_test_place(backend, rows);
    fgmm_tile tile = fgmm_test_tile(rows, placed, 0, rows->n);
    assert_int_equal(backend->ops->assign_begin(backend, c, 1), FGMM_OK);
    assert_int_equal(backend->ops->assign_tile(backend, &tile, labels, NULL, NULL), FGMM_OK);
    assert_memory_equal(labels, a.labels, 1000 * sizeof *labels);
    assert_int_equal(backend->ops->assign_begin(backend, c, FGMM_MAX_TOP + 1), FGMM_ERR_INPUT);
    fgmm_error_clear();
    fgmm_test_release(backend, placed);
    free(labels);
    answer_free(&a);
    fgmm__components_destroy(c);
    fgmm_test_rows_destroy(rows);
}

static int cases(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_are_those_of_the_largest_densities),
        cmocka_unit_test(more_components_than_the_slab_holds),
        cmocka_unit_test(missing_places_hold_minus_one),
        cmocka_unit_test(ties_go_to_the_smaller_number),
        cmocka_unit_test(tiles_do_not_change_a_bit),
        cmocka_unit_test(poor_rows_are_found_on_the_device),
        cmocka_unit_test(what_is_not_asked_for_is_not_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
    return fgmm_test_gpu_main(argc, argv, cases);
}
