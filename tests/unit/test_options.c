#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/options.h"

/* ---- numbers ---- */

static void assert_count(const char *text, int64_t expected)
{
    int64_t value = -1;
    assert_true(fgmm__parse_count(text, &value));
    assert_int_equal(value, expected);
}

static void counts_take_decimal_suffixes_and_exponents(void **state)
{
    (void)state;
    assert_count("0", 0);
    assert_count("12", 12);
    assert_count("1k", 1000);
    assert_count("1.5k", 1500);
    assert_count("20M", 20000000);
    assert_count("3G", 3000000000);
    assert_count("1e9", 1000000000);
    assert_count("2.5e3", 2500);
}

static void counts_are_exact_up_to_the_largest_64_bit_number(void **state)
{
    (void)state;
    assert_count("9007199254740993", 9007199254740993); /* 2^53 + 1: no double */
    assert_count("9223372036854775807", INT64_MAX);
}

static void counts_refuse_what_is_not_a_whole_number(void **state)
{
    static const char *const bad[] = {"",
                                      " 1",
                                      "1 ",
                                      "-1",
                                      "+1",
                                      "1.5",
                                      "1K",
                                      "1kk",
                                      "k",
                                      "1KiB",
                                      "0x10",
                                      "inf",
                                      "nan",
                                      "1e19",
                                      "9223372036854775808",
                                      "10000000000G",
                                      "twelve",
                                      ".",
                                      "1e-1"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int64_t value;
        if (fgmm__parse_count(bad[i], &value))
            fail_msg("`%s` was read as %lld", bad[i], (long long)value);
    }
}

static void bytes_take_binary_suffixes_alone(void **state)
{
    int64_t value;
    (void)state;
    assert_true(fgmm__parse_bytes("4096", &value) && value == 4096);
    assert_true(fgmm__parse_bytes("1KiB", &value) && value == 1024);
    assert_true(fgmm__parse_bytes("512MiB", &value) && value == 512LL << 20);
    assert_true(fgmm__parse_bytes("1.5GiB", &value) && value == 3LL << 29);
    assert_true(fgmm__parse_bytes("2TiB", &value) && value == 2LL << 40);
    assert_false(fgmm__parse_bytes("1GB", &value));
    assert_false(fgmm__parse_bytes("1k", &value));
    assert_false(fgmm__parse_bytes("9000000TiB", &value));
}

static void reals_are_finite_decimal_numbers(void **state)
{
    double value;
    (void)state;
    assert_true(fgmm__parse_real("1e-3", &value) && value == 1e-3);
    assert_true(fgmm__parse_real("-0.5", &value) && value == -0.5);
    assert_true(fgmm__parse_real(".25", &value) && value == 0.25);
    static const char *const bad[] = {"", "-", "inf", "nan", "1e999", "0.5x", "0x1p3", "1k", " 1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (fgmm__parse_real(bad[i], &value))
            fail_msg("`%s` was read as %g", bad[i], value);
}

/* ---- a table ---- */

static struct {
    bool resume;
    const char *output;
    int64_t k, memory;
    double tol;
    int covariance;
} values;
static const fgmm_option table[] = {
    {"--resume", FGMM_OPT_FLAG, &values.resume, NULL, "go on from the checkpoint"},
    {"-o,--output", FGMM_OPT_TEXT, &values.output, "FILE", "where the model goes"},
    {"-k,--components", FGMM_OPT_COUNT, &values.k, "K", "components"},
    {"--host-memory", FGMM_OPT_BYTES, &values.memory, "BYTES", "cap a rank"},
    {"--tol", FGMM_OPT_REAL, &values.tol, "T", "stop under T"},
    {"--covariance", FGMM_OPT_CHOICE, &values.covariance, "spherical|diag|tied|full", "shape"},
    {NULL, FGMM_OPT_FLAG, NULL, NULL, NULL},
};
static bool quiet;
static const fgmm_option global[] = {
    {"-q,--quiet", FGMM_OPT_FLAG, &quiet, NULL, "less"},
    {NULL, FGMM_OPT_FLAG, NULL, NULL, NULL},
};
static const char *positionals[16];
static int n_positionals;

static fgmm_status parse(const char *line)
{
    static char copy[512];
    char *argv[16], *rest = NULL;
    int argc = 0;
    memset(&values, 0, sizeof values);
    quiet = false;
    fgmm_error_clear();
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok_r(copy, " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest))
        argv[argc++] = word;
    return fgmm__options_parse(argc, argv, table, global, positionals, &n_positionals);
}

static void assert_refused(const char *line, const char *message)
{
    assert_int_equal(parse(line), FGMM_ERR_INPUT);
    assert_string_equal(fgmm_error_message(), message);
}

static void options_and_positionals_mix_in_any_order(void **state)
{
    (void)state;
    assert_int_equal(
        parse("a.fbin -k 10 b.fbin --covariance tied -q --tol=1e-4 --host-memory 2GiB -o m.h5 - --resume"),
        FGMM_OK);
    assert_int_equal(n_positionals, 3);
    assert_string_equal(positionals[0], "a.fbin");
    assert_string_equal(positionals[1], "b.fbin");
    assert_string_equal(positionals[2], "-");
    assert_int_equal(values.k, 10);
    assert_int_equal(values.covariance, 2);
    assert_int_equal(values.memory, 2LL << 30);
    assert_true(values.tol == 1e-4);
    assert_string_equal(values.output, "m.h5");
    assert_true(values.resume && quiet);
}

static void two_dashes_end_the_options(void **state)
{
    (void)state;
    assert_int_equal(parse("--components 3 -- --resume -k"), FGMM_OK);
    assert_int_equal(n_positionals, 2);
    assert_string_equal(positionals[0], "--resume");
    assert_false(values.resume);
}

static void a_value_may_begin_with_a_dash_if_it_is_no_option(void **state)
{
    (void)state;
    assert_int_equal(parse("--tol -1"), FGMM_OK);
    assert_true(values.tol == -1);
}

static void an_unknown_option_names_the_nearest_one(void **state)
{
    (void)state;
    assert_refused("--covarience full", "unknown option --covarience; did you mean --covariance?");
    assert_refused("--quite", "unknown option --quite; did you mean --quiet?");
    assert_refused("--hots-memory=1GiB", "unknown option --hots-memory; did you mean --host-memory?");
    assert_refused("--speed 3", "unknown option --speed; --help lists the options");
}

static void a_bad_value_is_shown_with_what_would_do(void **state)
{
    (void)state;
    assert_refused("-k many", "-k: `many` is not a whole number (such as 12, 10k, 2M or 1e9)");
    assert_refused("--host-memory 2GB",
                   "--host-memory: `2GB` is not a number of bytes (such as 4096, 512MiB or 4GiB)");
    assert_refused("--tol=", "--tol: `` is not a number (such as 0.5 or 1e-3)");
    assert_refused("--covariance fulll", "--covariance: `fulll` is not one of spherical|diag|tied|full");
    assert_refused("--resume=yes", "--resume takes no value");
}

static void a_missing_value_is_told_also_when_an_option_follows(void **state)
{
    (void)state;
    assert_refused("-k", "-k needs a value: -k K");
    assert_refused("-o --resume", "-o needs a value: -o FILE");
}

static void edit_distance_counts_a_swap_once(void **state)
{
    (void)state;
    assert_int_equal(fgmm__edit_distance("fit", "fit"), 0);
    assert_int_equal(fgmm__edit_distance("fti", "fit"), 1);
    assert_int_equal(fgmm__edit_distance("biuld", "build"), 1);
    assert_int_equal(fgmm__edit_distance("", "abc"), 3);
    assert_int_equal(fgmm__edit_distance("serch", "search"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_take_decimal_suffixes_and_exponents),
        cmocka_unit_test(counts_are_exact_up_to_the_largest_64_bit_number),
        cmocka_unit_test(counts_refuse_what_is_not_a_whole_number),
        cmocka_unit_test(bytes_take_binary_suffixes_alone),
        cmocka_unit_test(reals_are_finite_decimal_numbers),
        cmocka_unit_test(options_and_positionals_mix_in_any_order),
        cmocka_unit_test(two_dashes_end_the_options),
        cmocka_unit_test(a_value_may_begin_with_a_dash_if_it_is_no_option),
        cmocka_unit_test(an_unknown_option_names_the_nearest_one),
        cmocka_unit_test(a_bad_value_is_shown_with_what_would_do),
        cmocka_unit_test(a_missing_value_is_told_also_when_an_option_follows),
        cmocka_unit_test(edit_distance_counts_a_swap_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
