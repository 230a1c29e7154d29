/* What the half-precision screen multiplies: units, extra columns, and where a swizzled tile keeps a value.
 */
#ifndef FGMM_SM90_COLUMNS_CUH
#define FGMM_SM90_COLUMNS_CUH

namespace fgmm
{

/* Units. Rows are scaled by s = 2^9 / spread: y = s x, kept where |y|^2 < 2^30, so no value of
 * a row overflows. Sums are l_k scaled by g = 2^16 / (factor spread^2), less if an offset needs it; with dim
 * <= 128 then |2 F m g / s| <= 2^8 in any dimension,  g F |m|^2 <= 2^23,  g |offset| <= 2^26,  F g / (s^2
 * kSquareUnit) <= 2^14, and all of it fits fp16, 2^20 times smaller factors included, with subnormals (which
 * wgmma computes with). */
constexpr float kSquareUnit = 0x1p-16f; /* |y|^2 in this unit is below 2^14 */

/* Extra columns of a row and of a component:
 *   row:        kOnes[0] kOnes[1] kOnes[2]  q1   q1   q2   |y|  0 ...
 *   component:  a1       a2       a3       -f1  -f2  -f1   e    0 ...
 * q1 + q2 <= kSquareUnit |y|^2, f1 + f2 <= F: rounded down, in two parts. |y| and e are rounded up. */
__device__ constexpr float kOnes[3] = {0x1p12f, 0x1p2f, 0x1p-8f};

/* Where half `column` of row `row` lies in a swizzled tile of `rows` rows, in halves. */
__host__ __device__ inline int swizzled(int row, int column, int rows)
{
    const int half = column / 64, piece = column % 64 / 8;
    return half * rows * 64 + row * 64 + ((piece ^ (row % 8)) * 8) + column % 8;
}

} // namespace fgmm

#endif
