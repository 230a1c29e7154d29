/* Adding to the statistics in fixed point (model/stats.h). Integer addition is associative: atomics may come
 * in any order. */
#ifndef FGMM_GENERIC_FIXED_CUH
#define FGMM_GENERIC_FIXED_CUH

#include <stdint.h>
#include "kernels/generic/traits.cuh"

namespace fgmm
{

__device__ __forceinline__ void add_words(int64_t *to, int64_t value)
{
    atomicAdd(reinterpret_cast<unsigned long long *>(to), static_cast<unsigned long long>(value));
}

/* scaled: the value over its bound, times 2^bits. */
__device__ __forceinline__ void add_fixed(int64_t *to, double scaled)
{
    int64_t value = __double2ll_rn(scaled);
    if (value != 0)
        add_words(to, value);
}

/* The origin that sums are relative to, in one dimension. Where stored elements have a unit (raw.cuh), that
 * is the nearest place on the grid: so differences are on it, too, if the grid is fine enough. scale: 2^bits
 * over the bound. */
__device__ __forceinline__ double sum_origin(double origin, double scale, bool have_unit)
{
    const double unit = __hiloint2double(0x7fe00000 - __double2hiint(scale), 0); /* 1 / scale */
    return have_unit && scale > 0 ? rint(origin * scale) * unit : origin;
}

struct Limbs {
    int64_t high, low;
};

/* `one` is 2^bits; the low limb holds the next `bits` bits of what the high limb rounds away. */
__device__ __forceinline__ Limbs split(double scaled, double one)
{
    double high = rint(scaled);
    return {__double2ll_rn(high), __double2ll_rn((scaled - high) * one)};
}

__device__ __forceinline__ void add_fixed2(int64_t *high, int64_t *low, double scaled, double one)
{
    Limbs limbs = split(scaled, one);
    if (limbs.high != 0)
        add_words(high, limbs.high);
    if (limbs.low != 0)
        add_words(low, limbs.low);
}

__device__ __forceinline__ void add_limbs(Limbs &sum, const Limbs &limbs)
{
    sum.high += limbs.high;
    sum.low += limbs.low;
}

/* A block's sums of what has one word for all rows, in shared memory. */
struct Totals {
    unsigned long long log_high, log_low, pairs;

    __device__ __forceinline__ void add(const Limbs &log, int64_t more_pairs)
    {
        atomicAdd(&log_high, static_cast<unsigned long long>(log.high));
        atomicAdd(&log_low, static_cast<unsigned long long>(log.low));
        atomicAdd(&pairs, static_cast<unsigned long long>(more_pairs));
    }
    __device__ __forceinline__ void flush(const fgmm_stats_view &stats) const
    {
        if (log_high != 0)
            add_words(stats.log_high, static_cast<int64_t>(log_high));
        if (log_low != 0)
            add_words(stats.log_low, static_cast<int64_t>(log_low));
        if (pairs != 0)
            add_words(stats.pairs, static_cast<int64_t>(pairs));
    }
};

} // namespace fgmm

#endif
