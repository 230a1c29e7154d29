/* How broad a spherical mixture is: how many components a row has within so many bits of its best, roughly,
 * from pairs of components. A function of the parameters alone. C and CUDA; their bits may differ. */
#ifndef FGMM_KERNELS_BREADTH_H
#define FGMM_KERNELS_BREADTH_H

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define FGMM_BREADTH_INLINE static inline __host__ __device__
#else
#define FGMM_BREADTH_INLINE static inline
#endif

enum { FGMM_BREADTH_PARTNERS = 8 };

/* Which other component is number `i` of the partners of `component`: from all of the k. */
FGMM_BREADTH_INLINE int32_t fgmm__breadth_partner(int32_t component, int32_t i, int32_t k)
{
    return (component + 1 + (17 * component + 131 * i) % (k - 1)) % k;
}

/* How likely a row of the first of two components has the second within keep_bits of the first: l_1 - l_2
 * is about normal there. factor, offset: of both; square: of the means' distance. */
FGMM_BREADTH_INLINE double fgmm__breadth_share(const double factor[2], const double offset[2], double square,
                                               int32_t dim, double keep_bits)
{
    const double half_log2e = 0.72134752044448170368, variance = half_log2e / factor[0];
    const double mean = offset[0] - offset[1] - dim * half_log2e + factor[1] * (square + dim * variance);
    const double deviation = 2 * factor[1] * sqrt(square * variance) + 1e-300;
    const double share = 0.5 * erfc((mean - keep_bits) / deviation * 0.70710678118654752440);
    return share >= 0 ? share : 0; /* nothing of components without weight */
}

#endif
