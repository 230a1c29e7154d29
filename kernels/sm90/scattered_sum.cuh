/* Sums over lanes of several values at a time. */
#ifndef FGMM_SM90_SCATTERED_SUM_CUH
#define FGMM_SM90_SCATTERED_SUM_CUH

#include "kernels/generic/traits.cuh"

namespace fgmm
{

/* Sums over kLanes lanes of kBatch values each: lane i ends with value i / (kLanes / kBatch). Each step sends
 * what the other half of the lanes goes on with, so that 16 lanes need 8 shuffles for 8 values. */
template <int kLanes, int kBatch>
__device__ __forceinline__ float scattered_sum(float (&value)[kBatch], int lane)
{
    static_assert(kLanes >= kBatch, "a lane for every value");
    int left = kBatch;
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) {
        left /= 2;
#pragma unroll
        for (int i = 0; i < left; i++) {
            const bool upper = lane & step;
            const float given = upper ? value[i] : value[i + left];
            const float kept = upper ? value[i + left] : value[i];
            value[i] = kept + __shfl_xor_sync(kWholeWarp, given, step);
        }
        if (left == 0)
            value[0] += __shfl_xor_sync(kWholeWarp, value[0], step);
    }
    return value[0];
}

} // namespace fgmm

#endif
