/* What an evaluation compares: which indexes, and at which settings. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include "eval/plan.h"
#include "model/model.h"

static fgmm_model *model_of(fgmm_algorithm algorithm)
{
    fgmm_model *model = NULL;
    assert_int_equal(fgmm__model_create(algorithm, FGMM_SPHERICAL, 3, 2, &model), FGMM_OK);
    return model;
}

static void check(const fgmm_eval_plan *plan, int32_t at, int32_t model, fgmm_assign_rule rule,
                  double replication)
{
    assert_true(at < plan->n);
    assert_int_equal(plan->variants[at].model, model);
    assert_int_equal(plan->variants[at].rule, rule);
    assert_true(plan->variants[at].replication == replication);
}

static void hard_lists_of_kmeans_come_first_and_copies_of_hard_lists_are_left_out(void **state)
{
    (void)state;
    fgmm_model *models[] = {model_of(FGMM_GMM), model_of(FGMM_KMEANS)};
    const fgmm_eval_rule *rules[] = {fgmm__eval_rule("soar"), fgmm__eval_rule("tau"),
                                     fgmm__eval_rule("hard")};
    static const double replications[] = {1, 1.5, 3};
    fgmm_eval_plan plan;
    assert_int_equal(
        fgmm__plan_create((const fgmm_model *const *)models, 2, rules, 3, replications, 3, 8, &plan),
        FGMM_OK);
    assert_int_equal(plan.reference_model, 1);
    check(&plan, 0, 1, FGMM_ASSIGN_HARD, 1);
    check(&plan, 1, 0, FGMM_ASSIGN_SOAR, 1.5); /* soar adds one list: 3 is beyond it */
    check(&plan, 2, 0, FGMM_ASSIGN_TAU, 1.5);
    check(&plan, 3, 0, FGMM_ASSIGN_TAU, 3);
    check(&plan, 4, 0, FGMM_ASSIGN_HARD, 1);
    check(&plan, 5, 1, FGMM_ASSIGN_SOAR, 1.5); /* no tau: k-means has no responsibilities */
    assert_int_equal(plan.n, 6);
    free(plan.variants);
    /* Without k-means the first model is the reference, and --max-lists bounds the rules. */
    assert_int_equal(
        fgmm__plan_create((const fgmm_model *const *)models, 1, rules, 2, replications, 3, 2, &plan),
        FGMM_OK);
    assert_int_equal(plan.reference_model, 0);
    check(&plan, 0, 0, FGMM_ASSIGN_HARD, 1);
    check(&plan, 1, 0, FGMM_ASSIGN_SOAR, 1.5);
    check(&plan, 2, 0, FGMM_ASSIGN_TAU, 1.5);
    assert_int_equal(plan.n, 3);
    free(plan.variants);
    fgmm_model_destroy(models[0]);
    fgmm_model_destroy(models[1]);
}

static void every_rule_of_building_is_known_by_its_name(void **state)
{
    (void)state;
    static const char *const names[] = {"hard", "tau", "soar", "closure", "need"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_non_null(fgmm__eval_rule(names[i]));
    assert_null(fgmm__eval_rule("soft"));
}

static void numbers_of_lists_ascend_from_one_to_the_last_over_all_powers_of_two(void **state)
{
    (void)state;
    static const int32_t most[] = {1, 2, 3, 16, 17, 100, 256, 1024, 65536, 1000000};
    for (size_t m = 0; m < sizeof most / sizeof *most; m++) {
        int32_t nprobe[FGMM_EVAL_MOST_SETTINGS], n = fgmm__plan_nprobe(most[m], nprobe), power = 1;
        assert_in_range(n, 1, FGMM_EVAL_MOST_SETTINGS);
        assert_int_equal(nprobe[0], 1);
        assert_int_equal(nprobe[n - 1], most[m]);
        for (int32_t i = 0; i < n; i++) {
            if (i > 0)
                assert_true(nprobe[i] > nprobe[i - 1]);
            if (nprobe[i] == power)
                power *= 2;
        }
        if (most[m] <= 65536)
            assert_true(power > most[m]);
    }
}

static void thresholds_descend_and_hold_those_of_the_rule(void **state)
{
    (void)state;
    fgmm_stop_rule rule = {.k = 10, .thresholds = {7, 1.25, 0.625, 0.25, 0.001}};
    double thresholds[FGMM_EVAL_MOST_SETTINGS];
    int32_t n = fgmm__plan_thresholds(&rule, thresholds);
    assert_in_range(n, 10, FGMM_EVAL_MOST_SETTINGS);
    for (int32_t i = 1; i < n; i++)
        assert_true(thresholds[i] <= thresholds[i - 1]);
    for (int t = 0; t < FGMM_STOP_TARGETS; t++) {
        bool there = false;
        for (int32_t i = 0; i < n; i++)
            there = there || thresholds[i] == rule.thresholds[t];
        assert_true(there);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hard_lists_of_kmeans_come_first_and_copies_of_hard_lists_are_left_out),
        cmocka_unit_test(every_rule_of_building_is_known_by_its_name),
        cmocka_unit_test(numbers_of_lists_ascend_from_one_to_the_last_over_all_powers_of_two),
        cmocka_unit_test(thresholds_descend_and_hold_those_of_the_rule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
