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

/* A product in float64, of 16 x 8 by 8 x 8 numbers: a0 and a1 are rows g and g + 8 of A in column t, a2 and
 * a3 in column t + 4; b0 and b1 are rows t and t + 4 of B in column g; sums as above. */
__device__ __forceinline__ void mma_f64(double (&c)[4], double a0, double a1, double a2, double a3, double b0,
                                        double b1)
{
#if __CUDA_ARCH__ >= 900
    asm("mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
        : "d"(a0), "d"(a1), "d"(a2), "d"(a3), "d"(b0), "d"(b1));
#else
    const auto quarter = [](double &c0, double &c1, double a, double b) {
        asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
            : "+d"(c0), "+d"(c1)
            : "d"(a), "d"(b));
    };
    quarter(c[0], c[1], a0, b0);
    quarter(c[0], c[1], a2, b1);
    quarter(c[2], c[3], a1, b0);
    quarter(c[2], c[3], a3, b1);
#endif
}

} // namespace fgmm::ptx

#endif
