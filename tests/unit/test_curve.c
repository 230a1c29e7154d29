/* The arithmetic of judging: means, the cost at a recall, paired resampling and its intervals, beside sums
 * made by hand. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "base/philox.h"
#include "eval/curve.h"
#include "eval/holdout.h"

enum { QUERIES = 40, SETTINGS = 12 };

/* Query q finds a true neighbour with every setting from its own pace on, and pays more with each. */
static void make_table(fgmm_eval_table *table)
{
    static const int32_t wanted[FGMM_EVAL_KS] = {1, 10, 0};
    assert_int_equal(fgmm__table_create(QUERIES, SETTINGS, 10, wanted, table), FGMM_OK);
    for (int q = 0; q < QUERIES; q++)
        for (int s = 0; s < SETTINGS; s++) {
            int hits = s + q % 5 + 1;
            table->cells[q * SETTINGS + s] = (fgmm_eval_cell){.hits = {hits > 3, hits < 10 ? hits : 10, 0},
                                                              .lists = s + 1,
                                                              .scanned = (s + 1) * (100 + q),
                                                              .distinct = (s + 1) * (90 + q % 7),
                                                              .work = (s + 1) * (400 + q % 7),
                                                              .centroids = 5000 + s * (q % 3)};
        }
}

static void means_are_sums_over_queries_and_unknown_recall_is_nan(void **state)
{
    (void)state;
    fgmm_eval_table table;
    fgmm_eval_point points[SETTINGS];
    make_table(&table);
    fgmm__table_means(&table, points);
    for (int s = 0; s < SETTINGS; s++) {
        double ones = 0, tens = 0, scanned = 0, distinct = 0, work = 0, centroids = 0;
        for (int q = 0; q < QUERIES; q++) {
            ones += s + q % 5 + 1 > 3;
            tens += fmin(10, s + q % 5 + 1);
            scanned += (s + 1) * (100 + q);
            distinct += (s + 1) * (90 + q % 7);
            work += (s + 1) * (400 + q % 7);
            centroids += 5000 + s * (q % 3);
        }
        assert_true(fabs(points[s].recall[0] - ones / QUERIES) < 1e-12);
        assert_true(fabs(points[s].recall[1] - tens / (10.0 * QUERIES)) < 1e-12);
        assert_true(isnan(points[s].recall[2]));
        assert_true(fabs(points[s].scanned - scanned / QUERIES) < 1e-9);
        assert_true(fabs(points[s].distinct - distinct / QUERIES) < 1e-9);
        assert_true(fabs(points[s].computed - work / 10 / QUERIES) < 1e-9); /* rows of ten numbers */
        assert_true(fabs(points[s].centroids - centroids / 10 / QUERIES) < 1e-9);
        assert_true(points[s].lists == s + 1);
    }
    fgmm__table_free(&table);
}

static void the_cost_at_a_recall_is_linear_between_settings(void **state)
{
    (void)state;
    static const double recall[] = {0.5, 0.7, 0.7, 0.9, 1}, cost[] = {10, 20, 30, 50, 100};
    static const struct {
        double target, cost;
    } cases[] = {{0.3, 10}, {0.5, 10}, {0.6, 15}, {0.7, 20}, {0.8, 40}, {0.9, 50}, {0.95, 75}, {1, 100}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double got = fgmm__curve_cost(cost, fgmm__curve_find(recall, 5, cases[i].target));
        assert_true(fabs(got - cases[i].cost) < 1e-9);
    }
    assert_true(isnan(fgmm__curve_cost(cost, fgmm__curve_find(recall, 4, 0.95))));
}

static void a_drawing_takes_as_many_queries_as_there_are_each_as_often_as_the_others(void **state)
{
    (void)state;
    enum { N = 50, DRAWINGS = 4000 };
    int32_t counts[N], again[N];
    double sum[N] = {0}, squares = 0;
    for (int32_t d = 0; d < DRAWINGS; d++) {
        int total = 0;
        fgmm__draw(7, d, N, counts);
        for (int i = 0; i < N; i++) {
            assert_true(counts[i] >= 0);
            total += counts[i];
            sum[i] += counts[i];
            squares += (double)counts[i] * counts[i];
        }
        assert_int_equal(total, N);
    }
    /* Multinomial: a count has mean 1 and variance 1 - 1/N. */
    for (int i = 0; i < N; i++)
        assert_true(fabs(sum[i] / DRAWINGS - 1) < 0.08);
    assert_true(fabs(squares / (DRAWINGS * (double)N) - (2 - 1.0 / N)) < 0.03);
    fgmm__draw(7, DRAWINGS - 1, N, again);
    assert_memory_equal(counts, again, sizeof counts);
    fgmm__draw(8, DRAWINGS - 1, N, again);
    assert_memory_not_equal(counts, again, sizeof counts);
}

/* A resample by the definition: the drawn queries are written out and averaged. */
static double cost_of_drawing(const fgmm_eval_table *table, uint64_t seed, int32_t drawing, double target)
{
    int32_t counts[QUERIES];
    double recall[SETTINGS], cost[SETTINGS];
    fgmm__draw(seed, drawing, QUERIES, counts);
    for (int s = 0; s < SETTINGS; s++) {
        recall[s] = cost[s] = 0;
        for (int q = 0; q < QUERIES; q++)
            for (int i = 0; i < counts[q]; i++) {
                recall[s] += table->cells[q * SETTINGS + s].hits[1] / (10.0 * QUERIES);
                cost[s] +=
                    (double)(table->cells[q * SETTINGS + s].work + table->cells[q * SETTINGS + s].centroids) /
                    10 / QUERIES;
            }
    }
    return fgmm__curve_cost(cost, fgmm__curve_find(recall, SETTINGS, target));
}

static void resamples_are_those_of_the_definition_whatever_the_threads(void **state)
{
    (void)state;
    enum { RESAMPLES = 60 };
    static double one[RESAMPLES][FGMM_EVAL_TARGETS], three[RESAMPLES][FGMM_EVAL_TARGETS];
    fgmm_eval_table table;
    make_table(&table);
    assert_int_equal(fgmm__table_resample(&table, 3, RESAMPLES, 1, one[0]), FGMM_OK);
    assert_int_equal(fgmm__table_resample(&table, 3, RESAMPLES, 3, three[0]), FGMM_OK);
    assert_memory_equal(one, three, sizeof one);
    for (int r = 0; r < RESAMPLES; r++)
        for (int t = 0; t < FGMM_EVAL_TARGETS; t++)
            assert_true(fabs(one[r][t] - cost_of_drawing(&table, 3, r, fgmm__eval_targets[t])) < 1e-6);
    /* A recall that some drawing does not reach has no cost there. */
    for (int q = 0; q < QUERIES; q++)
        for (int s = 0; s < SETTINGS; s++)
            table.cells[q * SETTINGS + s].hits[1] = 9;
    assert_int_equal(fgmm__table_resample(&table, 3, RESAMPLES, 2, one[0]), FGMM_OK);
    assert_true(one[0][1] > 0 && isnan(one[0][2]));
    fgmm__table_free(&table);
}

static void an_interval_holds_the_middle_of_the_values(void **state)
{
    (void)state;
    enum { N = 201 };
    double values[N], low, high;
    for (int i = 0; i < N; i++)
        values[i] = (i * 77) % N; /* 0 to 200 in a scrambled order */
    fgmm__interval(values, N, &low, &high);
    assert_true(fabs(low - 5) < 1e-9 && fabs(high - 195) < 1e-9);
    double single = 4;
    fgmm__interval(&single, 1, &low, &high);
    assert_true(low == 4 && high == 4);
    values[17] = NAN;
    fgmm__interval(values, N, &low, &high);
    assert_true(isnan(low) && isnan(high));
    fgmm__interval(values, 0, &low, &high);
    assert_true(isnan(low) && isnan(high));
}

/* The mean of uniform numbers has a known deviation, and the interval must have its width. */
static void the_interval_of_a_mean_is_as_wide_as_theory_says(void **state)
{
    (void)state;
    enum { N = 500, RESAMPLES = 1000 };
    static const int32_t wanted[FGMM_EVAL_KS] = {1, 10, 0};
    static double drawn[RESAMPLES][FGMM_EVAL_TARGETS];
    static double costs[RESAMPLES];
    fgmm_eval_table table;
    double mean = 0, variance = 0, low, high;
    assert_int_equal(fgmm__table_create(N, 1, 1, wanted, &table), FGMM_OK);
    for (int q = 0; q < N; q++) {
        int64_t cost = (int64_t)(1000 * fgmm__philox_uniform(1, FGMM_RNG_BENCH, (uint64_t)q));
        table.cells[q] =
            (fgmm_eval_cell){.hits = {1, 10, 0}, .lists = 1, .scanned = cost, .distinct = cost, .work = cost};
        mean += (double)cost / N;
    }
    for (int q = 0; q < N; q++)
        variance += ((double)table.cells[q].distinct - mean) * ((double)table.cells[q].distinct - mean) / N;
    assert_int_equal(fgmm__table_resample(&table, 11, RESAMPLES, 2, drawn[0]), FGMM_OK);
    for (int r = 0; r < RESAMPLES; r++)
        costs[r] = drawn[r][0];
    fgmm__interval(costs, RESAMPLES, &low, &high);
    double half = 1.96 * sqrt(variance / N);
    assert_true(low < mean && mean < high);
    assert_true(fabs((high - low) / (2 * half) - 1) < 0.15);
    fgmm__table_free(&table);
}

static void held_out_queries_are_a_subset_and_move_with_their_rows(void **state)
{
    (void)state;
    enum { N = 101, TRAIN = 40 };
    int64_t order[N], other[N], *rows = malloc(N * sizeof *rows);
    bool seen[N] = {false};
    assert_non_null(rows);
    assert_int_equal(fgmm__hold_out(5, N, TRAIN, order), FGMM_OK);
    for (int i = 0; i < N; i++) {
        rows[i] = 1000 + i;
        assert_in_range(order[i], 0, N - 1);
        assert_false(seen[order[i]]);
        seen[order[i]] = true;
        if (i != 0 && i != N - TRAIN)
            assert_true(order[i] > order[i - 1]);
    }
    assert_int_equal(fgmm__hold_out(6, N, TRAIN, other), FGMM_OK);
    assert_memory_not_equal(order, other, sizeof order);
    void *moved = rows;
    assert_int_equal(fgmm__reorder(&moved, order, N, sizeof *rows), FGMM_OK);
    for (int i = 0; i < N; i++)
        assert_int_equal(((int64_t *)moved)[i], 1000 + order[i]);
    free(moved);
}

static void queries_of_another_table_are_counted_with_the_first(void **state)
{
    (void)state;
    fgmm_eval_table a, b;
    fgmm_eval_point one[SETTINGS], two[SETTINGS];
    make_table(&a);
    make_table(&b);
    for (int i = 0; i < QUERIES * SETTINGS; i++) {
        b.cells[i].work *= 3;
        b.cells[i].hits[1] = 10;
    }
    fgmm__table_means(&a, one);
    assert_int_equal(fgmm__table_append(&a, &b), FGMM_OK);
    assert_int_equal(a.queries, 2 * QUERIES);
    fgmm__table_means(&a, two);
    for (int s = 0; s < SETTINGS; s++) {
        assert_true(fabs(two[s].computed - 2 * one[s].computed) < 1e-9);
        assert_true(fabs(two[s].recall[1] - (one[s].recall[1] + 1) / 2) < 1e-12);
        assert_true(fabs(two[s].recall[0] - one[s].recall[0]) < 1e-12);
    }
    fgmm__table_free(&a);
    fgmm__table_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(means_are_sums_over_queries_and_unknown_recall_is_nan),
        cmocka_unit_test(queries_of_another_table_are_counted_with_the_first),
        cmocka_unit_test(the_cost_at_a_recall_is_linear_between_settings),
        cmocka_unit_test(a_drawing_takes_as_many_queries_as_there_are_each_as_often_as_the_others),
        cmocka_unit_test(resamples_are_those_of_the_definition_whatever_the_threads),
        cmocka_unit_test(an_interval_holds_the_middle_of_the_values),
        cmocka_unit_test(the_interval_of_a_mean_is_as_wide_as_theory_says),
        cmocka_unit_test(held_out_queries_are_a_subset_and_move_with_their_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
