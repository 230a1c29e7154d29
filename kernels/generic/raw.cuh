/* Stored elements to float64 by moving their bits: a conversion instruction takes as long as four float64
 * ones, a shift and a mask less than one. What comes out is the element scaled and shifted by constants,
 * which the first subtraction takes along for nothing. */
#ifndef FGMM_GENERIC_RAW_CUH
#define FGMM_GENERIC_RAW_CUH

#include <string.h>
#include "kernels/generic/rows.cuh"

namespace fgmm
{

/* Four elements of a row as they are stored, in whole registers while they are on their way: as elements, the
 * compiler would take them apart, and so wait for them, where they are loaded. */
template <typename T> struct alignas(alignof(Quad<T>)) Stored {
    uint32_t word[sizeof(T)];
};

/* Elements d..d+3 of a row, as load_quad reads them. */
template <typename T>
__device__ __forceinline__ Stored<T> load_stored(const T *row /* [dim] */, int d, int dim, bool whole)
{
    const Quad<T> quad = load_quad(row, d, dim, whole);
    Stored<T> stored;
    memcpy(stored.word, &quad, sizeof stored);
    return stored;
}

/* raw(stored, e): element e, such that its value is raw * kScale - kShift, exactly. kUnit: values are
 * multiples of it, of at most 40 bits; 0: of no unit. */
template <typename T> struct Bits;

/* fp16's five bits of exponent as the low ones of float64's, which are less by 1008; denormals of one format
 * become denormals of the other. */
template <> struct Bits<__half> {
    static constexpr double kScale = 0x1p1008, kShift = 0, kUnit = 0x1p-24;
    static __device__ __forceinline__ double raw(const Stored<__half> &stored, int e)
    {
        const uint32_t word = e % 2 == 0 ? stored.word[e / 2] << 16 : stored.word[e / 2];
        return __hiloint2double((static_cast<int32_t>(word) >> 6) & 0x81fffc00, 0);
    }
};

template <> struct Bits<float> {
    static constexpr double kScale = 0x1p896, kShift = 0, kUnit = 0;
    static __device__ __forceinline__ double raw(const Stored<float> &stored, int e)
    {
        const uint32_t word = stored.word[e];
        return __hiloint2double((static_cast<int32_t>(word) >> 3) & 0x8fffffff, word << 29);
    }
};

/* A byte as the first bits behind the point of 256 * 1.b. */
__device__ __forceinline__ double byte_over_256(uint32_t word, int e)
{
    const uint32_t moved = e == 0 ? word << 12 : e == 1 ? word << 4 : e == 2 ? word >> 4 : word >> 12;
    return __hiloint2double((moved & 0xff000) | 0x40700000, 0);
}

template <> struct Bits<uint8_t> {
    static constexpr double kScale = 1, kShift = 256, kUnit = 1;
    static __device__ __forceinline__ double raw(const Stored<uint8_t> &stored, int e)
    {
        return byte_over_256(stored.word[0], e);
    }
};

template <> struct Bits<int8_t> {
    static constexpr double kScale = 1, kShift = 256 + 128, kUnit = 1;
    static __device__ __forceinline__ double raw(const Stored<int8_t> &stored, int e)
    {
        return byte_over_256(stored.word[0] ^ 0x80808080, e);
    }
};

template <> struct Bits<double> {
    static constexpr double kScale = 1, kShift = 0, kUnit = 0;
    static __device__ __forceinline__ double raw(const Stored<double> &stored, int e)
    {
        return __hiloint2double(stored.word[2 * e + 1], stored.word[2 * e]);
    }
};

/* The element less b, rounded once. */
template <typename T> __device__ __forceinline__ double minus_shifted(double raw, double b_and_shift)
{
    return Bits<T>::kScale == 1 ? raw - b_and_shift : fma(raw, Bits<T>::kScale, -b_and_shift);
}

/* The same where b + kShift might be rounded. */
template <typename T> __device__ __forceinline__ double minus(double raw, double b)
{
    return Bits<T>::kShift == 0 ? minus_shifted<T>(raw, b) : (raw - Bits<T>::kShift) - b;
}

} // namespace fgmm

#endif
