/* Eight elements of a row on their way from memory. */
#ifndef FGMM_SM90_PACKED_CUH
#define FGMM_SM90_PACKED_CUH

#include <string.h>
#include "kernels/generic/rows.cuh"

namespace fgmm
{

/* Eight elements of a row as they are stored, in whole registers while they wait. */
template <typename T> struct Packed {
    static constexpr int kWords = sizeof(T) * 2;
    uint32_t word[kWords];
    __device__ __forceinline__ explicit Packed(const Octet<T> &octet)
    {
        memcpy(word, &octet, sizeof word);
#pragma unroll
        for (int i = 0; i < kWords; i++)
            asm("" : "+r"(word[i])); /* or the compiler takes a register an element */
    }
    __device__ __forceinline__ Octet<T> octet() const
    {
        Octet<T> octet;
        memcpy(&octet, word, sizeof word);
        return octet;
    }
    Packed() = default;
};

/* Elements d..d+7 of a row; those past `dim` are zero. kWhole: as in load_octet. */
template <bool kWhole, typename T>
__device__ __forceinline__ Packed<T> load_packed(const T *values /* [dim] */, int d, int dim)
{
    if constexpr (kWhole) {
        Octet<T> octet = {};
        if (d < dim)
            octet = *reinterpret_cast<const Octet<T> *>(values + d);
        return Packed<T>(octet);
    } else {
        return Packed<T>(load_octet(values, d, dim, false));
    }
}

} // namespace fgmm

#endif
