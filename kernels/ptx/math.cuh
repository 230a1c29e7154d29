/* Single instructions of the special-function unit. */
#ifndef FGMM_PTX_MATH_CUH
#define FGMM_PTX_MATH_CUH

namespace fgmm::ptx
{

/* Square root with a relative error of about 2^-23; values below 2^-126 count as zero. */
__device__ __forceinline__ float sqrt_approx(float x)
{
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

} // namespace fgmm::ptx

#endif
