/* Warpgroup matrix products (sm_90a): fp16 operands in shared memory, fp32 sums in registers. */
#ifndef FGMM_PTX_WGMMA_CUH
#define FGMM_PTX_WGMMA_CUH

#include <stdint.h>
#include "kernels/ptx/barrier.cuh"

namespace fgmm::ptx
{

/* An operand tile of rows of 128 bytes (64 halves, the product's inner dimension), in the 128-byte swizzle:
 * 16-byte piece p of row r lies at place p ^ (r % 8); groups of 8 rows follow each other 1,024 bytes apart.
 * `tile` is 1,024-byte aligned, plus 32 bytes a step of 16 along the row. */
__device__ __forceinline__ uint64_t operand(const void *tile)
{
    constexpr uint64_t kSwizzle128 = 1ull << 62, kGroupStride = (1024ull >> 4) << 32, kIgnored = 1ull << 16;
    return ((shared_address(tile) & 0x3ffff) >> 4) | kIgnored | kGroupStride | kSwizzle128;
}

/* An operand tile of 16 halves a row and no swizzle: [2][rows][8] halves, 16-byte aligned. 8 rows of one half
 * of the columns are 128 bytes in a row, so a read has no bank conflict. */
template <int kRows> __device__ __forceinline__ uint64_t plain_operand(const void *tile)
{
    constexpr uint64_t kColumnStride = (kRows * 16ull >> 4) << 16, kGroupStride = (128ull >> 4) << 32;
    return ((shared_address(tile) & 0x3ffff) >> 4) | kColumnStride | kGroupStride;
}

/* The operand `bytes` further (a multiple of 16): addresses have 18 bits, so nothing is carried over. */
__device__ __forceinline__ uint64_t advance(uint64_t operand, int bytes)
{
    return (operand & 0xffffffff00000000ull) | (static_cast<uint32_t>(operand) + (bytes >> 4));
}

/* 16 bytes of an operand, in one access (the compiler takes four where it cannot tell addresses apart). */
__device__ __forceinline__ void store_operand(void *shared, uint4 value)
{
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(shared)), "r"(value.x),
                 "r"(value.y), "r"(value.z), "r"(value.w)
                 : "memory");
}

__device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

/* All but the last group. */
__device__ __forceinline__ void wgmma_wait_but_one()
{
    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
}

/* Ties the sums to this place in the program: no use of them moves across. */
template <int n> __device__ __forceinline__ void pin(float (&sums)[n])
{
#pragma unroll
    for (int i = 0; i < n; i++)
        asm volatile("" : "+f"(sums[i])::"memory");
}

#define FGMM_8(s, i)                                                                                         \
    "+f"(s[i]), "+f"(s[i + 1]), "+f"(s[i + 2]), "+f"(s[i + 3]), "+f"(s[i + 4]), "+f"(s[i + 5]),              \
        "+f"(s[i + 6]), "+f"(s[i + 7])
#define FGMM_64(s)                                                                                           \
    FGMM_8(s, 0), FGMM_8(s, 8), FGMM_8(s, 16), FGMM_8(s, 24), FGMM_8(s, 32), FGMM_8(s, 40), FGMM_8(s, 48),   \
        FGMM_8(s, 56)

/* s[64 x 128] (+)= A[64 x 16] B[128 x 16]'. In the sums of a thread, s[4j + 2h + c] is row 16*(warp of the
 * warpgroup) + lane/4 + 8h, column 8j + 2*(lane%4) + c. add: 0 overwrites. */
__device__ __forceinline__ void wgmma_64x128x16(float (&s)[64], uint64_t a, uint64_t b, int add)
{
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
        "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
        "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, %64, %65, p, 1, 1, 0, 0;\n"
        "}"
        : FGMM_64(s)
        : "l"(a), "l"(b), "r"(add));
}

/* s[64 x 256] (+)= A[64 x 16] B[256 x 16]', as two sets of 128 columns: s[0] has the first. */
__device__ __forceinline__ void wgmma_64x256x16(float (&s)[2][64], uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
                 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
                 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"
                 "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"
                 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,"
                 "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, "
                 "%128, %129, p, 1, 1, 0, 0;\n"
                 "}"
                 : FGMM_64(s[0]), FGMM_64(s[1])
                 : "l"(a), "l"(b), "r"(add));
}

/* The same for 64 columns, in s[first..first + 31]. Products that add to the same sums must have one shape.
 */
template <int first, int n>
__device__ __forceinline__ void wgmma_64x64x16(float (&s)[n], uint64_t a, uint64_t b, int add)
{
    static_assert(first + 32 <= n, "32 sums");
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, 0, 0;\n"
        "}"
        : FGMM_8(s, first), FGMM_8(s, first + 8), FGMM_8(s, first + 16), FGMM_8(s, first + 24)
        : "l"(a), "l"(b), "r"(add));
}

/* The second operand read across its rows: a tile as `operand` describes it, of kRows rows for the inner
 * dimension by 64 columns a swizzled row; further columns follow kRows * 128 bytes on. `tile` is that of the
 * first of 16 rows. */
template <int kRows> __device__ __forceinline__ uint64_t transposed_operand(const void *tile)
{
    constexpr uint64_t kSwizzle128 = 1ull << 62, kGroupStride = (1024ull >> 4) << 32,
                       kColumnStride = (kRows * 128ull >> 4) << 16;
    return ((shared_address(tile) & 0x3ffff) >> 4) | kColumnStride | kGroupStride | kSwizzle128;
}

/* s[64 x 128] += A[64 x 16] B[16 x 128]. A is in registers: of a thread, a[2i + h] holds row 16*(warp of the
 * warpgroup) + lane/4 + 8h, columns 8i + 2*(lane%4) and the next. So sums of another product, rounded to
 * halves, are an operand as they lie. b: a transposed_operand. */
__device__ __forceinline__ void wgmma_registers_64x128x16(float (&s)[64], const uint32_t (&a)[4], uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
                 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, {%64,%65,%66,%67}, %68, "
                 "1, 1, 1, 1;\n"
                 : FGMM_64(s)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/* The same of 64 columns. */
__device__ __forceinline__ void wgmma_registers_64x64x16(float (&s)[32], const uint32_t (&a)[4], uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, "
                 "1, 1, 1, 1;\n"
                 : FGMM_8(s, 0), FGMM_8(s, 8), FGMM_8(s, 16), FGMM_8(s, 24)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#undef FGMM_64
#undef FGMM_8

} // namespace fgmm::ptx

#endif
