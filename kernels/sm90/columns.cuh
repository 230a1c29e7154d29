/* What the half-precision screen multiplies: units, extra columns, and where a swizzled tile keeps a value.
 */
#ifndef FGMM_SM90_COLUMNS_CUH
#define FGMM_SM90_COLUMNS_CUH

#include <cuda_fp16.h>
#include "kernels/ptx/math.cuh"

namespace fgmm
{

/* Units. Rows are scaled by s = 2^9 / spread: y = s x, kept where |y|^2 < 2^30, so no value of
 * a row overflows. Sums are l_k scaled by g = 2^16 / (factor spread^2), less if an offset needs it; with dim
 * <= 128 then |2 F m g / s| <= 2^8 in any dimension,  g F |m|^2 <= 2^23,  g |offset| <= 2^26,  F g / (s^2
 * kSquareUnit) <= 2^14, and all of it fits fp16, 2^20 times smaller factors included, with subnormals (which
 * wgmma computes with). */
constexpr float kMostSquare = 0x1p30f;
constexpr float kSquareUnit = 0x1p-16f; /* |y|^2 in this unit is below 2^14 */

/* Extra columns of a row and of a component:
 *   row:        kOnes[0] kOnes[1] kOnes[2]  q1   q1   q2   |y|  0 ...
 *   component:  a1       a2       a3       -f1  -f2  -f1   e    0 ...
 * q1 + q2 <= kSquareUnit |y|^2, f1 + f2 <= F: rounded down, in two parts. |y| and e are rounded up. */
__device__ constexpr float kOnes[3] = {0x1p12f, 0x1p2f, 0x1p-8f};

/* The extra columns of a row with |y|^2 = square; the row is screened if `fits`. */
__device__ __forceinline__ uint4 row_columns(float square, bool fits)
{
    const float units = fits ? square * kSquareUnit : 0.0f;
    const float norm = fits ? ptx::sqrt_approx(square) * (1 + 0x1p-14f) : 0.0f;
    const __half q1 = __float2half_rd(units), q2 = __float2half_rd(units - __half2float(q1));
    alignas(16) const __half column[8] = {
        __float2half(kOnes[0]), __float2half(kOnes[1]), __float2half(kOnes[2]), q1, q1, q2,
        __float2half_ru(norm),  __float2half(0.0f)};
    return *reinterpret_cast<const uint4 *>(column);
}

/* Diagonal forms have columns for squares too, z = kSquareScale y^2 in any dimension: at most 2^15. */
constexpr float kSquareScale = 0x1p-15f;
/* Full components: the first three extra columns hold a_j.m, up to 2^20, in three parts. */
__device__ constexpr float kFullOnes[3] = {0x1p6f, 0x1p-4f, 0x1p-14f};

/* Where half `column` of row `row` lies in a swizzled tile of `rows` rows, in halves. */
__host__ __device__ inline int swizzled(unsigned row, unsigned column, unsigned rows)
{
    const unsigned half = column / 64, piece = column % 64 / 8;
    return static_cast<int>(half * rows * 64 + row * 64 + ((piece ^ (row % 8)) * 8) + column % 8);
}

} // namespace fgmm

#endif
