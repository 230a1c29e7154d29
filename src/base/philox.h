/* Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC'11). A number is a function of
 * (seed, purpose, index) alone, so any rank, thread or device makes the same one. Shared by C and CUDA. */
#ifndef FGMM_BASE_PHILOX_H
#define FGMM_BASE_PHILOX_H

#include <stdint.h>

#ifdef __CUDACC__
#define FGMM_HOST_DEVICE __host__ __device__
#else
#define FGMM_HOST_DEVICE
#endif

/* What a number is for: streams of different purposes are independent. */
enum {
    FGMM_RNG_SAMPLE = 1,   /* index: stratum */
    FGMM_RNG_START_ROWS,   /* index: component */
    FGMM_RNG_KMEANSPP,     /* index: step */
    FGMM_RNG_SYNTH_MEAN,   /* index: component * dim + dimension */
    FGMM_RNG_SYNTH_SCALE,  /* index: component * dim + dimension */
    FGMM_RNG_SYNTH_CHOICE, /* index: row */
    FGMM_RNG_SYNTH_NOISE,  /* index: row, sub: pair of dimensions */
    FGMM_RNG_BENCH,
    FGMM_RNG_BOOTSTRAP,   /* index: drawing << 40 | place in it */
    FGMM_RNG_HOLDOUT,     /* index: query */
    FGMM_RNG_DRAW_CHOICE, /* index: row */
    FGMM_RNG_DRAW_NOISE,  /* index: row, sub: pair of dimensions */
    FGMM_RNG_SKETCH,      /* index: stratum */
    FGMM_RNG_PCA,         /* index: element of the first directions */
    FGMM_RNG_CANDIDATES   /* index: row, sub: round */
};

typedef struct {
    uint32_t word[4];
} fgmm_philox;

/* Four independent 32-bit words of (seed, purpose, index, sub). sub < 2^24. */
static inline FGMM_HOST_DEVICE fgmm_philox fgmm__philox(uint64_t seed, uint32_t purpose, uint64_t index,
                                                        uint32_t sub)
{
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32), c2 = sub, c3 = purpose;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    fgmm_philox out = {{c0, c1, c2, c3}};
    return out;
}

/* A uniform integer below `bound` (bound > 0) of 64 random bits, by multiplication; bias under 2^-64 * bound.
 */
static inline uint64_t fgmm__philox_below(uint64_t seed, uint32_t purpose, uint64_t index, uint64_t bound)
{
    fgmm_philox p = fgmm__philox(seed, purpose, index, 0);
    uint64_t bits = (uint64_t)p.word[1] << 32 | p.word[0];
    return (uint64_t)(((unsigned __int128)bits * bound) >> 64);
}

/* A uniform double in [0, 1) with 53 bits. */
static inline double fgmm__philox_uniform(uint64_t seed, uint32_t purpose, uint64_t index)
{
    fgmm_philox p = fgmm__philox(seed, purpose, index, 0);
    uint64_t bits = (uint64_t)p.word[1] << 32 | p.word[0];
    return (double)(bits >> 11) * 0x1p-53;
}

#endif
