/* Matrix products of a warp (sm_80): operands and sums in registers. Lane = 4 * g + t. A is 16 rows of 32
 * bytes (32 whole numbers or 16 halves): a[0], a[2] belong to row g, a[1], a[3] to row g + 8; B is 8 columns
 * of 32 bytes: b[0], b[1] belong to column g; both hold bytes 4t..4t+3 and 16+4t..16+4t+3. Sums: c[0], c[1]
 * are row g, columns 2t and 2t+1; c[2], c[3] row g + 8. */
#ifndef FGMM_PTX_MMA_CUH
#define FGMM_PTX_MMA_CUH

#include <stdint.h>

namespace fgmm::ptx
{

#define FGMM_MMA(shape, constraint)                                                                          \
    asm("mma.sync.aligned." shape " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                   \
        : constraint(c[0]), constraint(c[1]), constraint(c[2]), constraint(c[3])                             \
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))

__device__ __forceinline__ void mma_u8(int32_t (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                       uint32_t b0, uint32_t b1)
{
    FGMM_MMA("m16n8k32.row.col.s32.u8.u8.s32", "+r");
}
__device__ __forceinline__ void mma_s8(int32_t (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                       uint32_t b0, uint32_t b1)
{
    FGMM_MMA("m16n8k32.row.col.s32.s8.s8.s32", "+r");
}
__device__ __forceinline__ void mma_f16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                        uint32_t b0, uint32_t b1)
{
    FGMM_MMA("m16n8k16.row.col.f32.f16.f16.f32", "+f");
}
#undef FGMM_MMA

} // namespace fgmm::ptx

#endif
