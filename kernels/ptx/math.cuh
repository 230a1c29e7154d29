/* Single instructions of arithmetic that CUDA has no name for. */
#ifndef FGMM_PTX_MATH_CUH
#define FGMM_PTX_MATH_CUH

#include <stdint.h>

namespace fgmm::ptx
{

/* Square root with a relative error of about 2^-23; values below 2^-126 count as zero. */
__device__ __forceinline__ float sqrt_approx(float x)
{
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Two halves, each rounded towards zero; `low` has the lower bits. */
__device__ __forceinline__ uint32_t halves_towards_zero(float low, float high)
{
    uint32_t halves;
    asm("cvt.rz.f16x2.f32 %0, %1, %2;" : "=r"(halves) : "f"(high), "f"(low));
    return halves;
}

/* 2^x with a relative error of about 2^-22; results below 2^-126 are zero. */
__device__ __forceinline__ float exp2_approx(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* log2 of a number from 1 to 2, to 2^-22. */
__device__ __forceinline__ float log2_approx(float x)
{
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

} // namespace fgmm::ptx

#endif
