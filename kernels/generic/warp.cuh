/* Reductions over a warp. Butterflies: every lane ends with the same bits, in an order that depends on lane
 * numbers alone. */
#ifndef FGMM_GENERIC_WARP_CUH
#define FGMM_GENERIC_WARP_CUH

#include "kernels/generic/traits.cuh"

namespace fgmm
{

template <typename T> __device__ __forceinline__ T warp_sum(T value)
{
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2)
        value += __shfl_xor_sync(kWholeWarp, value, step);
    return value;
}

__device__ __forceinline__ double warp_max(double value)
{
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2)
        value = fmax(value, __shfl_xor_sync(kWholeWarp, value, step));
    return value;
}

__device__ __forceinline__ int warp_min(int value)
{
    return __reduce_min_sync(kWholeWarp, value);
}

} // namespace fgmm

#endif
