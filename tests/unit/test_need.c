/* Copies by need, on a case worked by hand. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "ivf/need.h"

enum { K = 9, KEPT = 4, MOST = 5 };

/* The first element of each is scratch. */
static const int32_t three[3][1 + KEPT] = {{-7, 1, 2, 3, 4}, {-7, 2, 3, 5, 0}, {-7, 6, 3, 2, 1}};

static int32_t choose(int64_t n, int32_t first, int32_t most, int32_t *lists, int64_t *gains)
{
    int32_t needers[3][1 + KEPT];
    int64_t work[K] = {0};
    memcpy(needers, three, sizeof needers);
    memset(lists, -1, MOST * sizeof *lists);
    lists[0] = first;
    int32_t count = fgmm__need_choose(&needers[0][0], n, KEPT, most, work, lists, gains);
    for (int j = 0; j < K; j++)
        assert_int_equal(work[j], 0);
    return count;
}

static void lists_come_by_what_they_gain_beyond_those_before(void **state)
{
    (void)state;
    int32_t lists[MOST];
    int64_t gains[MOST];
    /* List 0 serves the second with 29. Then 2 gains 31 + 3 + 30, 3 gains 30 + 2 + 31, 1 gains 32 + 29,
     * 6 gains 32: list 2, by one. After it they are served 31, 32, 30. */
    assert_int_equal(choose(3, 0, MOST, lists, gains), 4);
    assert_int_equal(lists[1], 2);
    assert_int_equal(gains[1], 64);
    /* 6 gains 2, 3 gains 1, 1 gains 1: list 6; then 1 gains 1, and 3 nothing. */
    assert_int_equal(lists[2], 6);
    assert_int_equal(gains[2], 2);
    assert_int_equal(lists[3], 1);
    assert_int_equal(gains[3], 1);
}

static void equal_gains_go_to_the_smaller_list_and_most_is_kept_to(void **state)
{
    (void)state;
    int32_t lists[MOST];
    int64_t gains[MOST];
    /* From a list that serves nobody: 3 gains 30 + 31 + 31 = 92, 2 gains 31 + 32 + 30 = 93. */
    assert_int_equal(choose(3, 8, 2, lists, gains), 2);
    assert_int_equal(lists[1], 2);
    assert_int_equal(gains[1], 93);
    /* The first two alone: 2 gains 31 + 32, then 1 gains 1. From list 3, 2 and 1 gain 1 + 1 and 2. */
    assert_int_equal(choose(2, 3, MOST, lists, gains), 3);
    assert_int_equal(lists[1], 1);
    assert_int_equal(gains[1], 2);
    assert_int_equal(lists[2], 2);
    assert_int_equal(gains[2], 1);
}

static void a_row_that_nobody_needs_stays_alone(void **state)
{
    (void)state;
    int32_t lists[MOST];
    int64_t gains[MOST];
    assert_int_equal(choose(0, 5, MOST, lists, gains), 1);
    assert_int_equal(lists[0], 5);
}

static void keys_are_in_the_order_of_gains_and_spread_among_equal_ones(void **state)
{
    (void)state;
    for (int64_t row = 0; row < 1000; row++) {
        assert_true(fgmm__need_key(row, 7) < fgmm__need_key(row + 1, 6));
        assert_true(fgmm__need_key(row, 1) > 0.5 && fgmm__need_key(row, 1) <= 1);
        assert_true(fgmm__need_key(row, 7) != fgmm__need_key(row + 1, 7));
    }
    int below = 0;
    for (int64_t row = 0; row < 1000; row++)
        below += fgmm__need_key(row, 3) < 1 / 3.5;
    assert_in_range(below, 495, 505);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(lists_come_by_what_they_gain_beyond_those_before),
        cmocka_unit_test(equal_gains_go_to_the_smaller_list_and_most_is_kept_to),
        cmocka_unit_test(a_row_that_nobody_needs_stays_alone),
        cmocka_unit_test(keys_are_in_the_order_of_gains_and_spread_among_equal_ones),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
