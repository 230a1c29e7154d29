#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "io/reader.h"

static fgmm_reader *open_spec(const char *spec)
{
    fgmm_reader *reader = NULL;
    fgmm_error_clear();
    if (fgmm__reader_open(spec, &reader) != FGMM_OK)
        fail_msg("%s", fgmm_error_message());
    return reader;
}

static void assert_refused(const char *spec, const char *word)
{
    fgmm_reader *reader = NULL;
    fgmm_error_clear();
    assert_int_equal(fgmm__reader_open(spec, &reader), FGMM_ERR_INPUT);
    assert_null(reader);
    if (!strstr(fgmm_error_message(), word))
        fail_msg("'%s' does not speak of '%s'", fgmm_error_message(), word);
}

static void a_row_is_the_same_alone_and_in_a_range(void **state)
{
    (void)state;
    static const char *const specs[] = {"synth:n=1000,d=7,k=5,seed=3,dtype=f32",
                                        "synth:n=1000,d=7,k=5,seed=3,dtype=f16,anisotropy=4",
                                        "synth:n=1000,d=7,k=5,seed=3,dtype=u8,weights=zipf",
                                        "synth:n=1000,d=7,k=5,seed=3,dtype=i8,noise=0.2"};
    for (size_t s = 0; s < 4; s++) {
        fgmm_reader *reader = open_spec(specs[s]), *again = open_spec(specs[s]);
        size_t row = 7 * fgmm_dtype_bytes(reader->dtype);
        char *all = calloc(1000, row), one[64];
        assert_int_equal(fgmm__reader_read(reader, 0, 1000, all), FGMM_OK);
        for (int64_t r = 999; r >= 0; r -= 37) {
            assert_int_equal(fgmm__reader_read(again, r, r + 1, one), FGMM_OK);
            assert_memory_equal(one, all + (size_t)r * row, row);
        }
        free(all);
        fgmm__reader_close(reader);
        fgmm__reader_close(again);
    }
}

static void element_types_round_the_same_values(void **state)
{
    (void)state;
    float f32[60], f16[60], u8[60], i8[60];
    struct {
        const char *spec;
        float *out;
    } kinds[] = {{"synth:n=10,d=6,k=3,seed=9,dtype=f32", f32},
                 {"synth:n=10,d=6,k=3,seed=9,dtype=f16", f16},
                 {"synth:n=10,d=6,k=3,seed=9,dtype=u8", u8},
                 {"synth:n=10,d=6,k=3,seed=9,dtype=i8", i8}};
    for (int i = 0; i < 4; i++) {
        fgmm_reader *reader = open_spec(kinds[i].spec);
        char raw[240];
        assert_int_equal(fgmm__reader_read(reader, 0, 10, raw), FGMM_OK);
        fgmm__to_f32(reader->dtype, raw, 60, kinds[i].out);
        fgmm__reader_close(reader);
    }
    for (int i = 0; i < 60; i++) {
        assert_true(fabsf(f16[i] - f32[i]) <= 0x1p-11f * fabsf(f32[i]) + 0x1p-25f);
        assert_true(fabsf(u8[i] - 128 - 96 * f32[i]) <= 0.5f + 1e-4f || u8[i] == 0 || u8[i] == 255);
        assert_true(u8[i] == i8[i] + 128);
    }
}

/* Means of rows of one component, and the spread around them, come out as the spec says. */
static void rows_follow_their_components(void **state)
{
    (void)state;
    enum { N = 40000, D = 5, K = 4 };
    fgmm_reader *reader = open_spec("synth:n=40k,d=5,k=4,seed=1,spread=0.25");
    float *rows = calloc(N * D, sizeof *rows);
    double sum[K][D] = {{0}}, square[K][D] = {{0}}, count[K] = {0};
    assert_int_equal(fgmm__reader_read(reader, 0, N, rows), FGMM_OK);
    for (int64_t r = 0; r < N; r++) {
        int32_t c = -2;
        assert_int_equal(fgmm__synth_component(reader, r, &c), FGMM_OK);
        assert_in_range(c, 0, K - 1);
        count[c]++;
        for (int d = 0; d < D; d++) {
            sum[c][d] += rows[r * D + d];
            square[c][d] += (double)rows[r * D + d] * rows[r * D + d];
        }
    }
    for (int c = 0; c < K; c++) {
        assert_true(fabs(count[c] - N / K) < 5 * sqrt(N / K));
        for (int d = 0; d < D; d++) {
            double mean = sum[c][d] / count[c], deviation = sqrt(square[c][d] / count[c] - mean * mean);
            assert_true(fabs(mean) < 1.02);
            assert_true(fabs(deviation - 0.25) < 0.01);
        }
    }
    free(rows);
    fgmm__reader_close(reader);
}

static void zipf_weights_and_noise_have_their_shares(void **state)
{
    (void)state;
    enum { N = 60000 };
    fgmm_reader *reader = open_spec("synth:n=60k,d=1,k=3,weights=zipf,noise=0.1");
    double count[4] = {0};
    for (int64_t r = 0; r < N; r++) {
        int32_t c;
        assert_int_equal(fgmm__synth_component(reader, r, &c), FGMM_OK);
        assert_in_range(c + 1, 0, 3);
        count[c + 1]++;
    }
    static const double shares[4] = {0.1, 0.9 * 6 / 11, 0.9 * 3 / 11, 0.9 * 2 / 11};
    for (int i = 0; i < 4; i++)
        assert_true(fabs(count[i] / N - shares[i]) < 0.01);
    fgmm__reader_close(reader);
}

static void anisotropy_bounds_the_scales(void **state)
{
    (void)state;
    enum { N = 20000, D = 32 };
    fgmm_reader *reader = open_spec("synth:n=20k,d=32,k=1,spread=0.1,anisotropy=9");
    float *rows = calloc(N * D, sizeof *rows);
    double least = 1e9, most = 0;
    assert_int_equal(fgmm__reader_read(reader, 0, N, rows), FGMM_OK);
    for (int d = 0; d < D; d++) {
        double sum = 0, square = 0;
        for (int r = 0; r < N; r++) {
            sum += rows[r * D + d];
            square += (double)rows[r * D + d] * rows[r * D + d];
        }
        double deviation = sqrt(square / N - sum / N * (sum / N));
        least = fmin(least, deviation);
        most = fmax(most, deviation);
    }
    assert_true(least > 0.1 / 3 * 0.97 && least < 0.08);
    assert_true(most < 0.1 * 3 * 1.03 && most > 0.2);
    free(rows);
    fgmm__reader_close(reader);
}

/* Worked out apart from this code, from the formula in synth_row.h: a change of it is a change of everyone's
 * data. */
static void the_bytes_of_a_spec_are_fixed(void **state)
{
    (void)state;
    static const uint8_t expected[2][8] = {{167, 179, 57, 93, 135, 82, 51, 65},
                                           {204, 77, 62, 194, 165, 46, 84, 95}};
    uint8_t rows[2][8];
    fgmm_reader *reader = open_spec("synth:n=1e12,d=8,k=16,seed=1,dtype=u8");
    assert_int_equal(fgmm__reader_read(reader, 0, 1, rows[0]), FGMM_OK);
    assert_int_equal(fgmm__reader_read(reader, 999999999999, 1000000000000, rows[1]), FGMM_OK);
    assert_memory_equal(rows, expected, sizeof rows);
    fgmm__reader_close(reader);
}

static void equal_specs_have_equal_fingerprints(void **state)
{
    (void)state;
    fgmm_reader *a = open_spec("synth:n=1e3,d=8,k=2"),
                *b = open_spec("synth:k=2,n=1000,seed=0,d=8,dtype=f32"),
                *c = open_spec("synth:k=2,n=1000,seed=1,d=8,dtype=f32");
    assert_true(a->fingerprint == b->fingerprint);
    assert_true(a->fingerprint != c->fingerprint);
    fgmm__reader_close(a);
    fgmm__reader_close(b);
    fgmm__reader_close(c);
}

static void bad_specs_are_refused_by_key(void **state)
{
    (void)state;
    assert_refused("synth:", "key=value");
    assert_refused("synth:d=3,k=2", "n (rows)");
    assert_refused("synth:n=10,k=2", "d (dimension)");
    assert_refused("synth:n=10,d=2", "k (components)");
    assert_refused("synth:n=10,d=2,k=2,dtype=f64", "dtype=f64");
    assert_refused("synth:n=10,d=2,k=2,colour=1", "no key colour");
    assert_refused("synth:n=10,d=2,k=2,noise=2", "noise");
    assert_refused("synth:n=10,d=2,k=2,spread=1e30", "spread");
    assert_refused("synth:n=10,d=2,k=2,spread=nan", "spread");
    assert_refused("synth:n=ten,d=2,k=2", "n=ten");
    assert_refused("synth:n=10,d=2,k=2,weights=some", "weights=some");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_is_the_same_alone_and_in_a_range),
        cmocka_unit_test(element_types_round_the_same_values),
        cmocka_unit_test(rows_follow_their_components),
        cmocka_unit_test(zipf_weights_and_noise_have_their_shares),
        cmocka_unit_test(anisotropy_bounds_the_scales),
        cmocka_unit_test(the_bytes_of_a_spec_are_fixed),
        cmocka_unit_test(equal_specs_have_equal_fingerprints),
        cmocka_unit_test(bad_specs_are_refused_by_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
