/* Eight elements of a row on their way from memory. */
#ifndef FGMM_SM90_PACKED_CUH
#define FGMM_SM90_PACKED_CUH

#include <string.h>
#include "kernels/generic/rows.cuh"

namespace fgmm
{

/* Eight elements of a row as they are stored, in whole registers while they wait. */
template <typename T> struct alignas(alignof(Octet<T>)) Packed {
    static constexpr int kWords = sizeof(T) * 2;
    uint32_t word[kWords];
    __device__ __forceinline__ explicit Packed(const Octet<T> &octet)
    {
        memcpy(word, &octet, sizeof word);
#pragma unroll
        for (int i = 0; i < kWords; i++)
            asm("" : "+r"(word[i])); /* or the compiler takes a register an element */
    }
    /* Elements 2i and 2i + 1, taken out of words: as elements, they would have a register each from the
     * start. */
    __device__ __forceinline__ float2 pair(int i) const
    {
        if constexpr (sizeof(T) == 4) {
            return make_float2(__uint_as_float(word[2 * i]), __uint_as_float(word[2 * i + 1]));
        } else if constexpr (sizeof(T) == 2) {
            __half2 halves;
            memcpy(&halves, &word[i], sizeof halves);
            return __half22float2(halves);
        } else {
            const uint32_t shifted = word[i / 2] >> (i % 2 * 16);
            return make_float2(static_cast<float>(static_cast<T>(shifted)),
                               static_cast<float>(static_cast<T>(shifted >> 8)));
        }
    }
    Packed() = default;
};

/* Elements d..d+7 of a row, which has any of them; those past `dim` are zero. kWhole: as in load_octet. */
template <bool kWhole, typename T>
__device__ __forceinline__ Packed<T> load_packed(const T *row /* [dim] */, int d, int dim)
{
    if constexpr (kWhole)
        return *reinterpret_cast<const Packed<T> *>(row + d);
    else
        return Packed<T>(load_octet(row, d, dim, false));
}

} // namespace fgmm

#endif
