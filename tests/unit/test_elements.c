#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "io/reader.h"

/* The value of a half by its definition, sign, exponent and fraction taken apart. */
static double value_of_half(uint16_t half)
{
    int exponent = half >> 10 & 31, fraction = half & 1023;
    double magnitude = exponent == 0    ? ldexp(fraction, -24)
                       : exponent == 31 ? (fraction ? NAN : INFINITY)
                                        : ldexp(1024 + fraction, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

static void every_half_has_its_value(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t half = (uint16_t)h, back;
        float single;
        double twice, expected = value_of_half(half);
        fgmm__to_f32(FGMM_F16, &half, 1, &single);
        fgmm__to_f64(FGMM_F16, &half, 1, &twice);
        if (isnan(expected)) {
            assert_true(isnan(single) && isnan(twice));
        } else {
            assert_true(single == expected && twice == expected);
            assert_true((signbit(single) != 0) == (half >> 15));
        }
        fgmm__from_f32(FGMM_F16, &single, 1, &back);
        if (isnan(expected))
            assert_true((back & 0x7c00) == 0x7c00 && (back & 1023) != 0);
        else
            assert_int_equal(back, half);
    }
}

/* Between two neighbouring halves: under the middle goes down, over it up, the middle itself to the even one.
 */
static void floats_round_to_the_nearest_half(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        double low = value_of_half((uint16_t)h),
               high = h == 0x7bff ? 65536 : value_of_half((uint16_t)(h + 1));
        float middle = (float)((low + high) / 2);
        float in[3] = {nextafterf(middle, 0), middle, nextafterf(middle, INFINITY)};
        uint16_t out[3];
        fgmm__from_f32(FGMM_F16, in, 3, out);
        assert_int_equal(out[0], h);
        assert_int_equal(out[1], h % 2 ? h + 1 : h);
        assert_int_equal(out[2], h + 1);
    }
}

static void bytes_round_and_saturate(void **state)
{
    (void)state;
    const float in[] = {-1000,  -128.6f, -3.5f,  -0.5f, 0.4f, 1.5f,     2.5f,     126.7f,
                        128.2f, 254.6f,  255.4f, 1e9f,  NAN,  INFINITY, -INFINITY};
    const uint8_t unsigned_expected[] = {0, 0, 0, 0, 0, 2, 2, 127, 128, 255, 255, 255, 0, 255, 0};
    const int8_t signed_expected[] = {-128, -128, -4, 0, 0, 2, 2, 127, 127, 127, 127, 127, 0, 127, -128};
    enum { N = sizeof in / sizeof *in };
    uint8_t u8[N];
    int8_t i8[N];
    fgmm__from_f32(FGMM_U8, in, N, u8);
    fgmm__from_f32(FGMM_I8, in, N, i8);
    assert_memory_equal(u8, unsigned_expected, N);
    assert_memory_equal(i8, signed_expected, N);
}

static void every_byte_has_its_value(void **state)
{
    (void)state;
    for (int i = 0; i < 256; i++) {
        uint8_t u8 = (uint8_t)i;
        int8_t i8 = (int8_t)(i - 128);
        float a, b;
        double c, d;
        fgmm__to_f32(FGMM_U8, &u8, 1, &a);
        fgmm__to_f32(FGMM_I8, &i8, 1, &b);
        fgmm__to_f64(FGMM_U8, &u8, 1, &c);
        fgmm__to_f64(FGMM_I8, &i8, 1, &d);
        assert_true(a == i && c == i && b == i - 128 && d == i - 128);
    }
}

static void the_first_nan_or_infinity_is_found(void **state)
{
    (void)state;
    enum { N = 50, D = 19 };
    for (int place = 0; place < N * D; place += 13) {
        float f32[N * D] = {0};
        uint16_t f16[N * D] = {0};
        int32_t column = -1;
        f32[0] = 3e38f;
        f16[0] = 0xfbff;
        assert_int_equal(fgmm__find_nonfinite(FGMM_F32, f32, N, D, &column), -1);
        assert_int_equal(fgmm__find_nonfinite(FGMM_F16, f16, N, D, &column), -1);
        f32[place] = place % 2 ? NAN : -INFINITY;
        f16[place] = place % 2 ? 0x7e00 : 0xfc00;
        f32[N * D - 1] = NAN;
        assert_int_equal(fgmm__find_nonfinite(FGMM_F32, f32, N, D, &column), place / D);
        assert_int_equal(column, place % D);
        column = -1;
        assert_int_equal(fgmm__find_nonfinite(FGMM_F16, f16, N, D, &column), place / D);
        assert_int_equal(column, place % D);
    }
}

static void bytes_are_always_finite(void **state)
{
    (void)state;
    uint8_t row[4] = {255, 255, 255, 255};
    int32_t column;
    assert_int_equal(fgmm__find_nonfinite(FGMM_U8, row, 1, 4, &column), -1);
    assert_int_equal(fgmm__find_nonfinite(FGMM_I8, row, 2, 2, &column), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_has_its_value),
        cmocka_unit_test(floats_round_to_the_nearest_half),
        cmocka_unit_test(bytes_round_and_saturate),
        cmocka_unit_test(every_byte_has_its_value),
        cmocka_unit_test(the_first_nan_or_infinity_is_found),
        cmocka_unit_test(bytes_are_always_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
