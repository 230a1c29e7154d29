/* The CPU's neighbours against all distances, bit by bit. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "backend/backend.h"
#include "support/cases.h"

enum { QUERIES = 300 };

static double ordered(const float *q, const double *x, int32_t dim)
{
    double sum = 0;
    for (int32_t d = 0; d < dim; d++)
        sum += (x[d] - (double)q[d]) * (x[d] - (double)q[d]);
    return sum;
}

static double value_of(bool inner, const float *q, const double *x, int32_t dim)
{
    double product = 0;
    for (int32_t d = 0; d < dim; d++)
        product += x[d] * (double)q[d];
    return inner ? -product : ordered(q, x, dim);
}

static float *some_queries(const fgmm_test_rows *rows)
{
    float *queries = calloc((size_t)QUERIES * (size_t)rows->dim, sizeof *queries);
    assert_non_null(queries);
    for (int64_t i = 0; i < QUERIES; i++)
        for (int32_t d = 0; d < rows->dim; d++) /* every other query is a row itself */
            queries[i * rows->dim + d] =
                (float)(rows->values[(i * 3 % rows->n) * rows->dim + d] + (double)(i % 2) * 0.25);
    return queries;
}

static int by_place(const void *a, const void *b)
{
    const fgmm_hit *x = a, *y = b;
    return x->query != y->query ? (x->query > y->query) - (x->query < y->query)
                                : (x->row > y->row) - (x->row < y->row);
}

/* Bounds lie exactly on a distance, so that equality counts. */
static void compare(fgmm_dtype dtype, int32_t dim, int64_t n, const int32_t *subset, int32_t n_subset,
                    bool inner)
{
    fgmm_backend *backend = NULL;
    fgmm_test_rows *rows = fgmm_test_rows_create(dtype, n, 20, dim, 4);
    float *queries = some_queries(rows);
    double bounds[QUERIES];
    size_t room = (size_t)(n * QUERIES);
    fgmm_hit *hits = calloc(room, sizeof *hits), *expected = calloc(room, sizeof *expected);
    assert_non_null(hits);
    assert_non_null(expected);
    int64_t n_hits = 0, n_expected = 0;
    int32_t count = subset == NULL ? QUERIES : n_subset;
    for (int32_t i = 0; i < count; i++) {
        const float *query = queries + (subset == NULL ? i : subset[i]) * dim;
        bounds[i] = i % 50 == 0 ? INFINITY : value_of(inner, query, rows->values + (i * 7 % n) * dim, dim);
        for (int64_t j = 0; j < n; j++) {
            double distance = value_of(inner, query, rows->values + j * dim, dim);
            if (distance <= bounds[i])
                expected[n_expected++] = (fgmm_hit){i, (int32_t)j, distance};
        }
    }
    assert_int_equal(fgmm__backend_create(NULL, NULL, 3, &backend), FGMM_OK);
    assert_int_equal(
        (inner ? backend->ops->products_begin : backend->ops->queries_begin)(backend, queries, QUERIES, dim),
        FGMM_OK);
    assert_int_equal(backend->ops->neighbors(backend, subset, n_subset, bounds, rows->stored, dtype,
                                             (int32_t)n, hits, (int64_t)room, &n_hits),
                     FGMM_OK);
    assert_int_equal(n_hits, n_expected);
    qsort(hits, (size_t)n_hits, sizeof *hits, by_place);
    assert_memory_equal(hits, expected, (size_t)n_hits * sizeof *hits);

    /* Too little room: the number is right, what is there is valid, nothing beyond is touched. */
    memset(hits, 0xff, room * sizeof *hits);
    int64_t again = 0, capacity = n_expected / 2;
    assert_int_equal(backend->ops->neighbors(backend, subset, n_subset, bounds, rows->stored, dtype,
                                             (int32_t)n, hits, capacity, &again),
                     FGMM_OK);
    assert_int_equal(again, n_expected);
    for (int64_t i = 0; i < capacity; i++) {
        const fgmm_hit *found = bsearch(&hits[i], expected, (size_t)n_expected, sizeof *expected, by_place);
        assert_non_null(found);
        assert_true(found->distance == hits[i].distance);
    }
    assert_int_equal(hits[capacity].query, -1);
    fgmm__backend_destroy(backend);
    free(hits);
    free(expected);
    free(queries);
    fgmm_test_rows_destroy(rows);
}

static void all_pairs_within_the_bound_are_found(void **state)
{
    (void)state;
    const fgmm_dtype types[] = {FGMM_F32, FGMM_F16, FGMM_U8, FGMM_I8};
    const int32_t dims[] = {1, 3, 17, 128};
    for (int t = 0; t < 4; t++)
        for (int d = 0; d < 4; d++)
            compare(types[t], dims[d], 700, NULL, QUERIES, false);
}

static void all_pairs_of_a_large_product_are_found(void **state)
{
    (void)state;
    const fgmm_dtype types[] = {FGMM_F32, FGMM_F16, FGMM_U8, FGMM_I8};
    const int32_t dims[] = {1, 17, 128};
    const int32_t subset[] = {299, 0, 17, 17, 42};
    for (int t = 0; t < 4; t++)
        for (int d = 0; d < 3; d++)
            compare(types[t], dims[d], 700, NULL, QUERIES, true);
    compare(FGMM_F32, 30, 700, subset, 5, true);
}

static void a_subset_of_the_queries_is_numbered_by_itself(void **state)
{
    (void)state;
    const int32_t subset[] = {299, 0, 17, 17, 42};
    compare(FGMM_F32, 30, 700, subset, 5, false);
    compare(FGMM_U8, 30, 3, subset, 1, false);
}

static void rows_far_from_the_origin_lose_no_neighbour(void **state)
{
    (void)state;
    enum { N = 64, DIM = 50 };
    static float rows[N * DIM];
    double bounds[N];
    fgmm_hit hits[N * N];
    int64_t n_hits = 0, expected = 0;
    fgmm_backend *backend = NULL;
    for (int i = 0; i < N * DIM; i++)
        rows[i] = 1e7f + (float)(i % 97); /* the expanded form has no digits left */
    for (int i = 0; i < N; i++) {
        double row[DIM];
        for (int d = 0; d < DIM; d++)
            row[d] = rows[(i + 1) % N * DIM + d];
        bounds[i] = ordered(rows + i * DIM, row, DIM);
    }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double row[DIM];
            for (int d = 0; d < DIM; d++)
                row[d] = rows[j * DIM + d];
            expected += ordered(rows + i * DIM, row, DIM) <= bounds[i];
        }
    assert_int_equal(fgmm__backend_create(NULL, NULL, 1, &backend), FGMM_OK);
    assert_int_equal(backend->ops->queries_begin(backend, rows, N, DIM), FGMM_OK);
    assert_int_equal(
        backend->ops->neighbors(backend, NULL, N, bounds, rows, FGMM_F32, N, hits, N * N, &n_hits), FGMM_OK);
    assert_int_equal(n_hits, expected);
    fgmm__backend_destroy(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_pairs_within_the_bound_are_found),
        cmocka_unit_test(all_pairs_of_a_large_product_are_found),
        cmocka_unit_test(a_subset_of_the_queries_is_numbered_by_itself),
        cmocka_unit_test(rows_far_from_the_origin_lose_no_neighbour),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
