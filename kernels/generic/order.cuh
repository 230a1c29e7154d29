/* The n-th least of many keys, by bits: no sorting, no room. */
#ifndef FGMM_GENERIC_ORDER_CUH
#define FGMM_GENERIC_ORDER_CUH

#include <stdint.h>
#include "kernels/generic/warp.cuh"

namespace fgmm
{

/* The largest key with fewer than `needed` of n below it: the needed-th least, all ones where there are
 * fewer. kLanes threads look at it together; sum(x) is x over all of them. value(i) is read once where n is
 * at most kHeld * kLanes, else for every bit. */
template <int kHeld, int kLanes, typename Value, typename Sum>
__device__ __forceinline__ uint32_t least_key(int n, int needed, int lane, Value value, Sum sum)
{
    uint32_t key = 0;
    if (n <= kHeld * kLanes) {
        uint32_t held[kHeld];
#pragma unroll
        for (int i = 0; i < kHeld; i++)
            held[i] = i * kLanes + lane < n ? value(i * kLanes + lane) : 0xffffffffu;
        for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
            int below = 0;
#pragma unroll
            for (int i = 0; i < kHeld; i++)
                below += held[i] < (key | bit);
            if (sum(below) < needed)
                key |= bit;
        }
        return key;
    }
    for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
        int below = 0;
        for (int i = lane; i < n; i += kLanes)
            below += value(i) < (key | bit);
        if (sum(below) < needed)
            key |= bit;
    }
    return key;
}

} // namespace fgmm

#endif
