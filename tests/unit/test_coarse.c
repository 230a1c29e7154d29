/* The coarse order of lists is that of sorting all distances, to the bit, whatever the centroids are like;
 * and it reads the fewer of them the better the sketches tell them apart. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include "base/philox.h"
#include "base/status.h"
#include "ivf/coarse.h"

enum { QUERIES = 12 };

static fgmm_comm *comm;

static double uniform(uint64_t *state)
{
    return fgmm__philox_uniform(11, FGMM_RNG_BENCH, (*state)++) - 0.5;
}

typedef struct {
    double distance;
    int32_t list;
} place;

static int by_distance(const void *a, const void *b)
{
    const place *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->list > y->list) - (x->list < y->list);
}

static double distance(const float *a, const float *b, int32_t dim)
{
    double sum = 0;
    for (int32_t d = 0; d < dim; d++)
        sum += ((double)a[d] - (double)b[d]) * ((double)a[d] - (double)b[d]);
    return sum;
}

/* Every query's whole order, beside sorting; returns the numbers read for the first list, a query. */
static double check_order(const fgmm_index *index, const float *queries, int32_t m, int threads)
{
    fgmm_coarse *coarse = NULL;
    fgmm_near_lists *near = NULL;
    double first = 0, exact;
    int32_t k = index->k, dim = index->dim;
    place *sorted = malloc((size_t)k * sizeof *sorted);
    assert_int_equal(fgmm__coarse_create(comm, index, m, threads, &coarse), FGMM_OK);
    assert_int_equal(fgmm__near_lists_create(coarse, queries, QUERIES, threads, &near), FGMM_OK);
    for (int q = 0; q < QUERIES; q++) {
        int64_t before = 0;
        for (int32_t j = 0; j < k; j++)
            sorted[j] = (place){distance(queries + q * dim, index->centroids + j * dim, dim), j};
        qsort(sorted, (size_t)k, sizeof *sorted, by_distance);
        for (int32_t p = 0; p < k; p++) {
            int32_t list = fgmm__near_lists_next(near, q, &exact);
            int64_t numbers = fgmm__near_lists_numbers(near, q);
            assert_int_equal(list, sorted[p].list);
            assert_memory_equal(&exact, &sorted[p].distance, sizeof exact);
            assert_true(numbers >= before);
            before = numbers;
            first += p == 0 ? (double)numbers / QUERIES : 0;
        }
        /* All distances at last, each once, all sketches at most once, and the query's own. */
        int64_t sketches = (int64_t)k * (m + 12);
        assert_true(before >= (int64_t)(k + m) * dim && before <= (int64_t)(k + m) * dim + sketches);
    }
    fgmm__near_lists_destroy(near);
    fgmm__coarse_destroy(coarse);
    free(sorted);
    return first;
}

static void the_order_is_that_of_all_distances(void **state)
{
    (void)state;
    static const struct {
        int32_t k, dim;
        double scale, offset, grid; /* grid: values are its multiples, so that there are ties; 0: none */
    } cases[] = {{1, 3, 1, 0, 0},       {15, 1, 1, 0, 0},       {16, 5, 1, 0, 0.25},
                 {17, 40, 1e-20, 0, 0}, {300, 9, 1, 1e6, 0.25}, {200, 33, 255, 100, 0.5},
                 {90, 7, 1e18, 0, 0},   {64, 24, 0, 3, 0},      {250, 4, 1, 0, 0.5},
                 {500, 16, 1, 0, 0},    {40, 6, 1e-30, 1, 0},   {33, 8, 1e38, 0, 0}};
    uint64_t at = 0;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int32_t k = cases[c].k, dim = cases[c].dim;
        float *centroids = malloc((size_t)(k * dim) * sizeof *centroids);
        float *queries = malloc((size_t)(QUERIES * dim) * sizeof *queries);
        fgmm_index index = {
            .path = "an index", .metric = FGMM_L2, .k = k, .dim = dim, .centroids = centroids};
        for (int32_t i = 0; i < (k + QUERIES) * dim; i++) {
            double v = 2 * uniform(&at), grid = cases[c].grid;
            float value = (float)((grid > 0 ? rint(v / grid) * grid : v) * cases[c].scale + cases[c].offset);
            *(i < k * dim ? &centroids[i] : &queries[i - k * dim]) = value;
        }
        if (k > 20) { /* twins, and a query that is a centroid */
            memcpy(centroids + 19 * dim, centroids + 3 * dim, (size_t)dim * sizeof *centroids);
            memcpy(queries, centroids + 3 * dim, (size_t)dim * sizeof *centroids);
        }
        for (int32_t m = 1; m <= dim; m += m < 10 ? 1 : 7)
            check_order(&index, queries, m, 1 + m % 3);
        check_order(&index, queries, dim, 2);
        free(centroids);
        free(queries);
    }
}

/* Centroids in eight of 60 dimensions: eight coordinates tell all, so that hardly a distance is computed in
 * vain; two tell little. */
static void few_distances_are_computed_where_sketches_tell_centroids_apart(void **state)
{
    (void)state;
    enum { K = 800, DIM = 60, INNER = 8 };
    float *centroids = calloc(K * DIM, sizeof *centroids), *queries = calloc(QUERIES * DIM, sizeof *queries);
    double turn[INNER][DIM];
    uint64_t at = 5000000;
    for (int i = 0; i < INNER; i++)
        for (int d = 0; d < DIM; d++)
            turn[i][d] = uniform(&at);
    for (int j = 0; j < K + QUERIES; j++)
        for (int i = 0; i < INNER; i++) {
            double v = uniform(&at);
            for (int d = 0; d < DIM; d++)
                *(j < K ? &centroids[j * DIM + d] : &queries[(j - K) * DIM + d]) += (float)(v * turn[i][d]);
        }
    fgmm_index index = {.path = "an index", .metric = FGMM_L2, .k = K, .dim = DIM, .centroids = centroids};
    double eight = check_order(&index, queries, INNER, 1), two = check_order(&index, queries, 2, 1);
    /* its sketch, four coordinates and the rest of all, five more of at most half of them, two distances */
    assert_true(eight <= INNER * DIM + K * 5 + K / 2 * 5 + 2 * DIM);
    assert_true(eight >= INNER * DIM + K * 5 + 5 + DIM);
    assert_true(two > 1.2 * eight && two < K * DIM);
    free(centroids);
    free(queries);
}

/* Centroids in all directions, of lengths that differ: what the first coordinates leave out tells them apart
 * by its length. */
static void lengths_of_what_is_left_out_tell_centroids_apart(void **state)
{
    (void)state;
    enum { K = 640, DIM = 32 };
    float *centroids = malloc(K * DIM * sizeof *centroids),
          *queries = malloc(QUERIES * DIM * sizeof *queries);
    uint64_t at = 9000000;
    for (int j = 0; j < K; j++) {
        double length = 1 + j;
        for (int d = 0; d < DIM; d++)
            centroids[j * DIM + d] = (float)(length * uniform(&at));
    }
    for (int i = 0; i < QUERIES * DIM; i++)
        queries[i] = (float)(150 * uniform(&at));
    fgmm_index index = {.path = "an index", .metric = FGMM_L2, .k = K, .dim = DIM, .centroids = centroids};
    double numbers = check_order(&index, queries, DIM, 1);
    assert_true(numbers >= DIM * DIM + K * 5 + DIM);
    assert_true(numbers <= 9900); /* 10,825 by the coordinates alone */
    free(centroids);
    free(queries);
}

static void sketches_that_cannot_be_made_are_refused(void **state)
{
    (void)state;
    float centroids[6] = {0};
    fgmm_index index = {.path = "an.h5", .metric = FGMM_L2, .k = 2, .dim = 3, .centroids = centroids};
    fgmm_coarse *coarse = NULL;
    for (int32_t m = -1; m <= 4; m += 5) {
        fgmm_error_clear();
        assert_int_equal(fgmm__coarse_create(comm, &index, m, 1, &coarse), FGMM_ERR_INPUT);
        assert_non_null(strstr(fgmm_error_message(), "--centroid-sketch"));
    }
    index.metric = FGMM_IP;
    fgmm_error_clear();
    assert_int_equal(fgmm__coarse_create(comm, &index, 2, 1, &coarse), FGMM_ERR_INPUT);
    assert_non_null(strstr(fgmm_error_message(), "an.h5: built with --metric ip"));
    fgmm_error_clear();
    assert_null(coarse);
}

int main(int argc, char **argv)
{
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    if (fgmm_comm_create(MPI_COMM_WORLD, 60, &comm) != FGMM_OK)
        return 1;
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(the_order_is_that_of_all_distances),
        cmocka_unit_test(few_distances_are_computed_where_sketches_tell_centroids_apart),
        cmocka_unit_test(lengths_of_what_is_left_out_tell_centroids_apart),
        cmocka_unit_test(sketches_that_cannot_be_made_are_refused),
    };
    int failed = cmocka_run_group_tests(cases, NULL, NULL);
    fgmm_comm_destroy(comm);
    MPI_Finalize();
    return failed;
}
