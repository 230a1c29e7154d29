/* One row of the mixture that `synth:` makes, in integers from beginning to end, so that C and CUDA make the
 * same bytes.
 *
 * Values are fixed point, in units of 2^-20 of the half-width of the cube that means are drawn from. A normal
 * variate is the centred sum of four 16-bit uniforms: variance (2^32 - 1) / 3, standard deviation 37837.227.
 * The scales of the table are divided by it beforehand (times 2^16), so that  value = mean + (scale * sum >>
 * 16). */
#ifndef FGMM_IO_SYNTH_ROW_H
#define FGMM_IO_SYNTH_ROW_H

#include <math.h>
#include "base/philox.h"

#define FGMM_SYNTH_ONE (1 << 20) /* 1.0 in fixed point */
#define FGMM_SYNTH_SCALE_ONE                                                                                 \
    1816186.9079 /* 2^20 * 2^16 / 37837.227: the table's entry for a standard deviation of 1 */
#define FGMM_SYNTH_MAX_SPREAD 100 /* keeps values inside 31 bits */

/* The mixture. The tables are host or device memory, as the caller needs. */
typedef struct {
    uint64_t seed;
    int32_t k, dim;
    const int32_t *means;  /* [k][dim] */
    const int32_t *scales; /* [k][dim]; NULL: `scale` everywhere */
    int32_t scale;
    const uint64_t *thresholds; /* [k] ascending: component i where the row's 64 bits are under thresholds[i]
                                   first; NULL: equal weights */
    uint64_t noise;             /* a row is noise where another 64 bits are under this */
} fgmm_synth_mixture;

/* The least and the largest scale of a table: standard deviations lie evenly between spread /
 * sqrt(anisotropy) and spread * sqrt(anisotropy). */
static inline void fgmm__synth_scale_range(double spread, double anisotropy, int64_t range[2])
{
    range[0] = llrint(spread / sqrt(anisotropy) * FGMM_SYNTH_SCALE_ONE);
    range[1] = llrint(spread * sqrt(anisotropy) * FGMM_SYNTH_SCALE_ONE);
}

/* The scale of component * dim + dimension. */
static inline int32_t fgmm__synth_scale(uint64_t seed, uint64_t place, const int64_t range[2])
{
    uint32_t share = fgmm__philox(seed, FGMM_RNG_SYNTH_SCALE, place, 0).word[0];
    return (int32_t)(range[0] + ((range[1] - range[0]) * (int64_t)share >> 32));
}

/* The component of a row, -1 for noise. */
static inline FGMM_HOST_DEVICE int32_t fgmm__synth_choose(const fgmm_synth_mixture *mixture, uint64_t row)
{
    fgmm_philox p = fgmm__philox(mixture->seed, FGMM_RNG_SYNTH_CHOICE, row, 0);
    if (((uint64_t)p.word[3] << 32 | p.word[2]) < mixture->noise)
        return -1;
    uint32_t k = (uint32_t)mixture->k;
    if (!mixture->thresholds)
        return (int32_t)(((uint64_t)p.word[1] * k + ((uint64_t)p.word[0] * k >> 32)) >> 32);
    uint64_t bits = (uint64_t)p.word[1] << 32 | p.word[0];
    int32_t low = 0, high = mixture->k - 1; /* the last threshold counts as infinite */
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (bits < mixture->thresholds[middle])
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Centred sum of the four 16-bit halves of two words. */
static inline FGMM_HOST_DEVICE int32_t fgmm__synth_normal(uint32_t a, uint32_t b)
{
    return (int32_t)((a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16)) - 131070;
}

static inline FGMM_HOST_DEVICE int32_t fgmm__synth_uniform(uint32_t word)
{
    return (int32_t)(word >> 11) - FGMM_SYNTH_ONE;
}

/* A component's value in fixed point. */
static inline FGMM_HOST_DEVICE int32_t fgmm__synth_value(int32_t mean, int64_t scale, int32_t normal)
{
    return mean + (int32_t)(scale * normal >> 16);
}

/* Stored values: f32 (f16 is this rounded to nearest even), u8 around 128, i8 around 0. */
static inline FGMM_HOST_DEVICE float fgmm__synth_f32(int32_t value)
{
    return (float)value * (1.0f / FGMM_SYNTH_ONE);
}

static inline FGMM_HOST_DEVICE int8_t fgmm__synth_i8(int32_t value)
{
    const int32_t most = 2 * FGMM_SYNTH_ONE; /* beyond it the result is the last value anyway */
    int32_t scaled = ((value < -most ? -most : value > most ? most : value) * 96 + FGMM_SYNTH_ONE / 2) >> 20;
    return (int8_t)(scaled < -128 ? -128 : scaled > 127 ? 127 : scaled);
}

static inline FGMM_HOST_DEVICE uint8_t fgmm__synth_u8(int32_t value)
{
    return (uint8_t)(fgmm__synth_i8(value) + 128);
}

#endif
