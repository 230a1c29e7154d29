/* The k nearest, gathered in any order, equal a sort of everything pushed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include "ivf/top.h"

enum { MANY = 500 };

static int by_distance(const void *a, const void *b)
{
    const fgmm_neighbor *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Many equal distances, ids in a scrambled order. */
static fgmm_neighbor item(int i)
{
    int64_t id = i * 211 % MANY; /* 211 and MANY have no common divisor */
    return (fgmm_neighbor){(double)(id * id % 17), id};
}

static void the_k_nearest_are_those_of_a_sort_with_ties_to_the_smaller_id(void **state)
{
    (void)state;
    static const int32_t sizes[] = {1, 2, 10, 97, MANY, MANY + 20};
    fgmm_neighbor all[MANY];
    for (int i = 0; i < MANY; i++)
        all[i] = item(i);
    qsort(all, MANY, sizeof *all, by_distance);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int32_t k = sizes[s];
        fgmm_top *top = NULL;
        assert_int_equal(fgmm__top_create(2, k, false, &top), FGMM_OK);
        for (int i = 0; i < MANY; i++)
            fgmm__top_push(top, 1, item(i).distance, item(i).id);
        int64_t *ids = calloc((size_t)(2 * k), sizeof *ids);
        float *distances = calloc((size_t)(2 * k), sizeof *distances);
        if (k <= MANY)
            assert_true(fgmm__top_bound(top, 1) == all[k - 1].distance);
        else
            assert_true(isinf(fgmm__top_bound(top, 1)));
        assert_true(isinf(fgmm__top_bound(top, 0)));
        fgmm__top_sort(top);
        fgmm__top_read(top, ids, distances);
        for (int32_t i = 0; i < k; i++) {
            assert_int_equal(ids[i], -1);
            assert_true(isinf(distances[i]));
            assert_int_equal(ids[k + i], i < MANY ? all[i].id : -1);
            assert_true(i < MANY ? distances[k + i] == (float)all[i].distance : isinf(distances[k + i]));
        }
        free(ids);
        free(distances);
        fgmm__top_destroy(top);
    }
}

static void a_row_pushed_twice_counts_once(void **state)
{
    (void)state;
    enum { K = 40 };
    fgmm_top *top = NULL;
    int64_t ids[K];
    fgmm_neighbor all[MANY];
    for (int i = 0; i < MANY; i++)
        all[i] = item(i);
    qsort(all, MANY, sizeof *all, by_distance);
    assert_int_equal(fgmm__top_create(1, K, true, &top), FGMM_OK);
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < MANY; i++)
            fgmm__top_push(top, 0, item((i + 100 * round) % MANY).distance,
                           item((i + 100 * round) % MANY).id);
    fgmm__top_sort(top);
    fgmm__top_read(top, ids, NULL);
    for (int i = 0; i < K; i++)
        assert_int_equal(ids[i], all[i].id);
    fgmm__top_destroy(top);
}

static void more_neighbours_than_memory_can_count_are_refused(void **state)
{
    (void)state;
    fgmm_top *top = NULL;
    assert_int_equal(fgmm__top_create(INT64_MAX / 2, 1000, false, &top), FGMM_ERR_RUNTIME);
    assert_null(top);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(the_k_nearest_are_those_of_a_sort_with_ties_to_the_smaller_id),
        cmocka_unit_test(a_row_pushed_twice_counts_once),
        cmocka_unit_test(more_neighbours_than_memory_can_count_are_refused),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
