/* Runs of elements of one type made into another; binary16 by its bits, so that no instruction set is asked
 * for. */
#include <math.h>
#include <string.h>
#include "io/reader.h"

static inline float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Shifted into place the half's exponent is 112 too small; the product mends that, for subnormals too. */
static inline float float_of_half(uint16_t half)
{
    uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13;
    uint32_t finite = bits_of_float(float_of_bits(magnitude) * 0x1p112f);
    uint32_t bits = (half & 0x7c00) == 0x7c00 ? magnitude | 0x7f800000u : finite;
    return float_of_bits(bits | (uint32_t)(half & 0x8000) << 16);
}

/* To nearest, ties to even. */
static inline uint16_t half_of_float(float value)
{
    uint32_t bits = bits_of_float(value), sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (bits >> 13 & 0x3ff)); /* NaN stays NaN */
    if (bits >= 0x47800000)
        return (uint16_t)(sign | 0x7c00); /* 65536 and more */
    if (bits < 0x38800000) /* subnormal: beside 0.5 a float's last place is a half's smallest step */
        return (uint16_t)(sign | (bits_of_float(float_of_bits(bits) + 0.5f) - 0x3f000000));
    bits += (bits >> 13 & 1) + 0xfff; /* rounds; a carry goes into the exponent, as it should */
    return (uint16_t)(sign | ((bits - 0x38000000) >> 13));
}

void fgmm__to_f32(fgmm_dtype dtype, const void *in, size_t n, float *out)
{
    const uint16_t *halves = in;
    const uint8_t *bytes = in;
    const int8_t *signed_bytes = in;
    switch (dtype) {
    case FGMM_F32:
        memcpy(out, in, n * sizeof(float));
        break;
    case FGMM_F16:
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            out[i] = float_of_half(halves[i]);
        break;
    case FGMM_U8:
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            out[i] = bytes[i];
        break;
    case FGMM_I8:
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            out[i] = signed_bytes[i];
        break;
    }
}

void fgmm__to_f64(fgmm_dtype dtype, const void *in, size_t n, double *out)
{
    const float *floats = in;
    const uint16_t *halves = in;
    const uint8_t *bytes = in;
    const int8_t *signed_bytes = in;
    switch (dtype) {
    case FGMM_F32:
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            out[i] = floats[i];
        break;
    case FGMM_F16:
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            out[i] = float_of_half(halves[i]);
        break;
    case FGMM_U8:
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            out[i] = bytes[i];
        break;
    case FGMM_I8:
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            out[i] = signed_bytes[i];
        break;
    }
}

static inline float clamp_round(float value, float low, float high)
{
    if (isnan(value))
        return 0;
    return rintf(value < low ? low : value > high ? high : value);
}

void fgmm__from_f32(fgmm_dtype dtype, const float *in, size_t n, void *out)
{
    uint16_t *halves = out;
    uint8_t *bytes = out;
    int8_t *signed_bytes = out;
    switch (dtype) {
    case FGMM_F32:
        memcpy(out, in, n * sizeof(float));
        break;
    case FGMM_F16:
        for (size_t i = 0; i < n; i++)
            halves[i] = half_of_float(in[i]);
        break;
    case FGMM_U8:
        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)clamp_round(in[i], 0, 255);
        break;
    case FGMM_I8:
        for (size_t i = 0; i < n; i++)
            signed_bytes[i] = (int8_t)clamp_round(in[i], -128, 127);
        break;
    }
}

/* NaN and infinity have all bits of the exponent set. */
static bool row_is_finite_f32(const uint32_t *row, int32_t dim)
{
    uint32_t bad = 0;
#pragma omp simd reduction(| : bad)
    for (int32_t d = 0; d < dim; d++)
        bad |= (row[d] & 0x7f800000u) == 0x7f800000u;
    return !bad;
}

static bool row_is_finite_f16(const uint16_t *row, int32_t dim)
{
    uint16_t bad = 0;
#pragma omp simd reduction(| : bad)
    for (int32_t d = 0; d < dim; d++)
        bad |= (row[d] & 0x7c00) == 0x7c00;
    return !bad;
}

int64_t fgmm__find_nonfinite(fgmm_dtype dtype, const void *rows, int64_t n, int32_t dim, int32_t *column)
{
    if (dtype != FGMM_F32 && dtype != FGMM_F16)
        return -1;
    for (int64_t r = 0; r < n; r++) {
        const uint32_t *row32 = (const uint32_t *)rows + r * dim;
        const uint16_t *row16 = (const uint16_t *)rows + r * dim;
        bool half = dtype == FGMM_F16;
        if (half ? row_is_finite_f16(row16, dim) : row_is_finite_f32(row32, dim))
            continue;
        int32_t d = 0;
        while (half ? (row16[d] & 0x7c00) != 0x7c00 : (row32[d] & 0x7f800000u) != 0x7f800000u)
            d++;
        *column = d;
        return r;
    }
    return -1;
}

int64_t fgmm__count_clipped(fgmm_dtype dtype, const float *in, size_t n)
{
    int64_t clipped = 0;
    if (dtype != FGMM_U8 && dtype != FGMM_I8)
        return 0;
    float low = dtype == FGMM_U8 ? -0.5f : -128.5f, high = dtype == FGMM_U8 ? 255.5f : 127.5f;
#pragma omp simd reduction(+ : clipped)
    for (size_t i = 0; i < n; i++)
        clipped += in[i] < low || in[i] > high;
    return clipped;
}
