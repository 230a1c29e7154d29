/* The regression of counts finds the coefficients that made them up. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include "ivf/poisson.h"

enum { ROWS = 20000, FEATURES = 3 };

static float x[ROWS * FEATURES];
static int32_t counts[ROWS];
static const double truth[FEATURES] = {0.8, -0.03, 0.0}, constant = -0.4;

static double uniform(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return ((double)(*state >> 11) + 0.5) * 0x1p-53;
}

/* Knuth's way: multiply until the product falls under exp(-mean). */
static int32_t poisson_draw(uint64_t *state, double mean)
{
    int32_t n = 0;
    for (double product = uniform(state); product > exp(-mean); n++)
        product *= uniform(state);
    return n;
}

/* Features of different scales and places; every seventh row is marked as left out and would mislead. */
static void make_up(void)
{
    uint64_t state = 5;
    for (int i = 0; i < ROWS; i++) {
        x[i * FEATURES] = (float)(2 * uniform(&state) - 1);
        x[i * FEATURES + 1] = (float)(100 * uniform(&state));
        x[i * FEATURES + 2] = (float)(7 + 0.01 * uniform(&state));
        double e = constant;
        for (int j = 0; j < FEATURES; j++)
            e += truth[j] * (double)x[i * FEATURES + j];
        counts[i] = poisson_draw(&state, exp(e));
        if (i % 7 == 0) {
            counts[i] = -1;
            x[i * FEATURES] = 1000;
        }
    }
}

static void known_coefficients_are_found_again(void **state)
{
    (void)state;
    fgmm_poisson fitted;
    assert_int_equal(fgmm__poisson_fit(x, counts, ROWS, FEATURES, 1e-6, &fitted), FGMM_OK);
    /* Four standard errors: the information of a coefficient is about rows * mean count * variance. */
    assert_true(fabs(fitted.weights[0] / fitted.scale[0] - truth[0]) < 0.1);
    assert_true(fabs(fitted.weights[1] / fitted.scale[1] - truth[1]) < 0.003);
    assert_true(fabs(fitted.weights[2]) < 0.1);
    const float rows[2][FEATURES] = {{0.5f, 10, 7.005f}, {-0.9f, 90, 7.001f}};
    for (int i = 0; i < 2; i++) {
        double expected = constant;
        for (int j = 0; j < FEATURES; j++)
            expected += truth[j] * (double)rows[i][j];
        assert_true(fabs(log(fgmm__poisson_expect(&fitted, rows[i])) - expected) < 0.15);
    }
}

static void at_the_maximum_the_expected_counts_add_up_to_those_seen(void **state)
{
    (void)state;
    fgmm_poisson fitted;
    double expected[FEATURES + 1] = {0}, seen[FEATURES + 1] = {0};
    assert_int_equal(fgmm__poisson_fit(x, counts, ROWS, FEATURES, 0, &fitted), FGMM_OK);
    for (int i = 0; i < ROWS; i++) {
        double mean = counts[i] < 0 ? 0 : fgmm__poisson_expect(&fitted, x + i * FEATURES);
        double count = counts[i] < 0 ? 0 : counts[i];
        for (int j = 0; j <= FEATURES; j++) {
            double factor = j == FEATURES ? 1 : (double)x[i * FEATURES + j];
            expected[j] += mean * factor;
            seen[j] += count * factor;
        }
    }
    for (int j = 0; j <= FEATURES; j++)
        assert_true(fabs(expected[j] - seen[j]) < 1e-4 * (1 + fabs(seen[j])));
}

static void features_that_depend_on_one_another_and_constant_ones_do_no_harm(void **state)
{
    (void)state;
    static float twice[ROWS * 3];
    fgmm_poisson one, three;
    for (int i = 0; i < ROWS; i++) {
        twice[i * 3] = x[i * FEATURES];
        twice[i * 3 + 1] = -2 * x[i * FEATURES];
        twice[i * 3 + 2] = 4;
    }
    static float alone[ROWS];
    for (int i = 0; i < ROWS; i++)
        alone[i] = x[i * FEATURES];
    assert_int_equal(fgmm__poisson_fit(alone, counts, ROWS, 1, 1e-3, &one), FGMM_OK);
    assert_int_equal(fgmm__poisson_fit(twice, counts, ROWS, 3, 1e-3, &three), FGMM_OK);
    for (int i = 1; i < 100; i++) {
        double a = fgmm__poisson_expect(&one, alone + i), b = fgmm__poisson_expect(&three, twice + i * 3);
        assert_true(counts[i] < 0 || fabs(a - b) < 1e-4 * a);
    }
}

static void counts_of_zero_alone_are_expected_to_stay_so(void **state)
{
    (void)state;
    static int32_t none[ROWS];
    fgmm_poisson fitted;
    assert_int_equal(fgmm__poisson_fit(x, none, ROWS, FEATURES, 1, &fitted), FGMM_OK);
    assert_true(fgmm__poisson_expect(&fitted, x + FEATURES) < 1e-3);
    for (int i = 0; i < ROWS; i++)
        none[i] = -1;
    assert_int_equal(fgmm__poisson_fit(x, none, ROWS, FEATURES, 1, &fitted), FGMM_ERR_INPUT);
}

int main(void)
{
    make_up();
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(known_coefficients_are_found_again),
        cmocka_unit_test(at_the_maximum_the_expected_counts_add_up_to_those_seen),
        cmocka_unit_test(features_that_depend_on_one_another_and_constant_ones_do_no_harm),
        cmocka_unit_test(counts_of_zero_alone_are_expected_to_stay_so),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
