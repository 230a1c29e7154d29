/* Further lists of single rows, at the edges that rows of real data seldom reach. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "ivf/spill.h"

enum { DIM = 2, MOST = 4 };

static int32_t lists[MOST];
static double keys[MOST];

static fgmm_spilled run(fgmm_assign_rule rule, const double *means, int32_t k, const double *x, int32_t first,
                        const int32_t *nearest, int32_t top)
{
    static fgmm_near_list work[16];
    fgmm_spill spill = {.rule = rule,
                        .lambda = 1,
                        .ratio = 9,
                        .most = rule == FGMM_ASSIGN_SOAR ? 2 : MOST,
                        .exhaustive = true,
                        .means = means,
                        .k = k,
                        .dim = DIM};
    lists[0] = first;
    return fgmm__spill(&spill, x, nearest, top, work, lists, keys);
}

static void a_model_of_one_component_has_no_second_list(void **state)
{
    (void)state;
    const double mean[] = {0, 0}, x[] = {1, 0};
    const int32_t nearest[] = {0};
    assert_int_equal(run(FGMM_ASSIGN_SOAR, mean, 1, x, 0, nearest, 1).count, 1);
    assert_int_equal(run(FGMM_ASSIGN_CLOSURE, mean, 1, x, 0, nearest, 1).count, 1);
}

static void soar_prefers_a_residual_at_right_angles(void **state)
{
    (void)state;
    /* List 1 is nearer, but on the line through the row and its first centroid. */
    const double means[] = {0, 0, 3, 0, 1, 2.5}, x[] = {1, 0};
    const int32_t nearest[] = {0, 1, 2};
    fgmm_spilled out = run(FGMM_ASSIGN_SOAR, means, 3, x, 0, nearest, 3);
    assert_int_equal(out.count, 2);
    assert_int_equal(lists[1], 2);
    assert_true(keys[1] == 6.25);
}

static void ties_go_to_the_smaller_number(void **state)
{
    (void)state;
    const double means[] = {0, 0, 0, 2, 0, -2}, x[] = {1, 0};
    const int32_t nearest[] = {0, 2, 1};
    run(FGMM_ASSIGN_SOAR, means, 3, x, 0, nearest, 3);
    assert_int_equal(lists[1], 1);
    const double spread[] = {-10, 0, 0, 2, 0, -2, 2, 0, -2, 0}, origin[] = {0, 0};
    const int32_t any_order[] = {4, 3, 2, 1, 0};
    fgmm_spilled out = run(FGMM_ASSIGN_CLOSURE, spread, 5, origin, 3, any_order, 5);
    assert_int_equal(out.count, 4);
    assert_int_equal(lists[1], 1);
    assert_int_equal(lists[2], 2);
    assert_int_equal(lists[3], 4);
}

static void a_row_where_its_centroid_is_has_finite_choices(void **state)
{
    (void)state;
    const double means[] = {0, 0, 3, 0, 0, 1}, x[] = {0, 0};
    const int32_t nearest[] = {0, 2, 1};
    fgmm_spilled out = run(FGMM_ASSIGN_SOAR, means, 3, x, 0, nearest, 3);
    assert_int_equal(out.count, 2);
    assert_int_equal(lists[1], 2);
    assert_true(keys[1] == INFINITY); /* the last row that needs a second list */
    assert_int_equal(run(FGMM_ASSIGN_CLOSURE, means, 3, x, 0, nearest, 3).count, 1);
}

static void closure_leaves_out_what_is_nearer_to_a_list_taken(void **state)
{
    (void)state;
    const double means[] = {0, 0, -0.5, 0, 2, 0.5, 3, 1}, x[] = {1, 0};
    const int32_t nearest[] = {0, 2, 1, 3};
    fgmm_spilled out = run(FGMM_ASSIGN_CLOSURE, means, 4, x, 0, nearest, 4);
    assert_int_equal(out.count, 2);
    assert_int_equal(lists[1], 2);
    assert_true(keys[1] == 1.25);
}

static void all_centroids_are_looked_at_only_where_the_nearest_leave_it_open(void **state)
{
    (void)state;
    const double means[] = {0, 0, 0, 3, 4, 0, -4, 3, 9, 9}, x[] = {1, 0};
    const int32_t nearest[] = {0, 2, 1, 3, 4};
    for (int32_t top = 1; top <= 5; top++) {
        fgmm_spilled out = run(FGMM_ASSIGN_SOAR, means, 5, x, 0, nearest, top);
        assert_int_equal(out.looked_all, top < 4);
        assert_int_equal(lists[1], 1);
    }
    for (int32_t top = 1; top <= 5; top++) {
        fgmm_spilled out = run(FGMM_ASSIGN_CLOSURE, means, 5, x, 0, nearest, top);
        assert_int_equal(out.looked_all, top < 3);
        assert_int_equal(out.count, 2);
        assert_int_equal(lists[1], 2);
    }
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(a_model_of_one_component_has_no_second_list),
        cmocka_unit_test(soar_prefers_a_residual_at_right_angles),
        cmocka_unit_test(ties_go_to_the_smaller_number),
        cmocka_unit_test(a_row_where_its_centroid_is_has_finite_choices),
        cmocka_unit_test(closure_leaves_out_what_is_nearer_to_a_list_taken),
        cmocka_unit_test(all_centroids_are_looked_at_only_where_the_nearest_leave_it_open),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
