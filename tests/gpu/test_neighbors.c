/* The CUDA backend's neighbours against those of its CPU twin, bit by bit. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "support/gpu.h"

enum { QUERIES = 300 };

static int by_place(const void *a, const void *b)
{
    const fgmm_hit *x = a, *y = b;
    return x->query != y->query ? (x->query > y->query) - (x->query < y->query)
                                : (x->row > y->row) - (x->row < y->row);
}

static double distance(const float *query, const double *row, int32_t dim)
{
    double sum = 0;
    for (int32_t d = 0; d < dim; d++)
        sum += (row[d] - (double)query[d]) * (row[d] - (double)query[d]);
    return sum;
}

static int64_t find(fgmm_backend *backend, const fgmm_test_rows *rows, const float *queries,
                    const int32_t *subset, int32_t n_subset, const double *bounds, fgmm_hit *hits,
                    int64_t capacity)
{
    int64_t n_hits = -1;
    assert_int_equal(backend->ops->queries_begin(backend, queries, QUERIES, rows->dim), FGMM_OK);
    fgmm_status status = backend->ops->neighbors(backend, subset, n_subset, bounds, rows->stored, rows->dtype,
                                                 (int32_t)rows->n, hits, capacity, &n_hits);
    if (status != FGMM_OK)
        print_error("%s\n", fgmm_error_message());
    assert_int_equal(status, FGMM_OK);
    return n_hits;
}

/* Every other query is a row; bounds lie exactly on a distance, so that equality counts; some have none. */
static void compare(const fgmm_test_rows *rows, const int32_t *subset, int32_t n_subset)
{
    int32_t dim = rows->dim, count = subset == NULL ? QUERIES : n_subset;
    size_t room = (size_t)rows->n * QUERIES;
    float *queries = calloc((size_t)QUERIES * (size_t)dim, sizeof *queries);
    fgmm_hit *got = calloc(room + 1, sizeof *got), *expected = calloc(room + 1, sizeof *expected);
    double bounds[QUERIES];
    assert_true(queries != NULL && got != NULL && expected != NULL);
    for (int64_t i = 0; i < QUERIES; i++)
        for (int32_t d = 0; d < dim; d++)
            queries[i * dim + d] =
                (float)(rows->values[(i * 3 % rows->n) * dim + d] + (double)(i % 2) * 0.25);
    for (int32_t i = 0; i < count; i++)
        bounds[i] = i % 50 == 0   ? INFINITY
                    : i % 50 == 1 ? -1
                                  : distance(queries + (subset == NULL ? i : subset[i]) * dim,
                                             rows->values + (i * 7 % rows->n) * dim, dim);
    int64_t n_expected =
        find(fgmm_test_cpu(), rows, queries, subset, n_subset, bounds, expected, (int64_t)room);
    int64_t n_got = find(fgmm_test_cuda(), rows, queries, subset, n_subset, bounds, got, (int64_t)room);
    if (n_got != n_expected)
        print_error("%s n=%ld d=%d: %ld hits, expected %ld\n", fgmm_dtype_name(rows->dtype), (long)rows->n,
                    dim, (long)n_got, (long)n_expected);
    assert_int_equal(n_got, n_expected);
    qsort(got, (size_t)n_got, sizeof *got, by_place);
    qsort(expected, (size_t)n_expected, sizeof *expected, by_place);
    assert_memory_equal(got, expected, (size_t)n_got * sizeof *got);

    /* Too little room: the number is right, what is there is valid, nothing beyond is touched. */
    memset(got, 0xff, room * sizeof *got);
    int64_t capacity = n_expected / 2;
    assert_int_equal(find(fgmm_test_cuda(), rows, queries, subset, n_subset, bounds, got, capacity),
                     n_expected);
    for (int64_t i = 0; i < capacity; i++) {
        const fgmm_hit *found = bsearch(&got[i], expected, (size_t)n_expected, sizeof *expected, by_place);
        assert_non_null(found);
        assert_true(found->distance == got[i].distance);
    }
    assert_int_equal(got[capacity].query, -1);
    free(queries);
    free(got);
    free(expected);
}

static void all_pairs_within_the_bound_are_found(void **state)
{
    (void)state;
    const fgmm_dtype types[] = {FGMM_F32, FGMM_F16, FGMM_U8, FGMM_I8};
    const int32_t dims[] = {1, 3, 17, 128, 1000};
    for (int t = 0; t < 4; t++)
        for (int d = 0; d < 5; d++) {
            fgmm_test_rows *rows = fgmm_test_rows_create(types[t], 700, 20, dims[d], 4);
            compare(rows, NULL, QUERIES);
            fgmm_test_rows_destroy(rows);
        }
}

static void a_subset_of_the_queries_is_numbered_by_itself(void **state)
{
    (void)state;
    const int32_t subset[] = {299, 0, 17, 17, 42};
    fgmm_test_rows *many = fgmm_test_rows_create(FGMM_F32, 700, 20, 30, 4);
    fgmm_test_rows *few = fgmm_test_rows_create(FGMM_U8, 3, 20, 30, 4);
    compare(many, subset, 5);
    compare(few, subset, 1);
    fgmm_test_rows_destroy(many);
    fgmm_test_rows_destroy(few);
}

static void rows_far_from_the_origin_lose_no_neighbour(void **state)
{
    (void)state;
    fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_F32, 200, 20, 50, 4);
    for (int64_t i = 0; i < rows->n * rows->dim; i++)
        rows->values[i] = ((float *)rows->stored)[i] = 1e7f + (float)(i % 97);
    compare(rows, NULL, QUERIES);
    fgmm_test_rows_destroy(rows);
}

static void real_rows_agree_with_the_twin(void **state)
{
    (void)state;
    fgmm_test_rows *rows = fgmm_test_rows_read("passages-10k.fbin");
    if (rows == NULL) {
        print_message("passages-10k.fbin is not in FGMM_TEST_DATA\n");
        skip();
    }
    compare(rows, NULL, QUERIES);
    fgmm_test_rows_destroy(rows);
}

static int cases(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_pairs_within_the_bound_are_found),
        cmocka_unit_test(a_subset_of_the_queries_is_numbered_by_itself),
        cmocka_unit_test(rows_far_from_the_origin_lose_no_neighbour),
        cmocka_unit_test(real_rows_agree_with_the_twin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
    return fgmm_test_gpu_main(argc, argv, cases);
}
