/* Reading stored rows: value minus origin, in fp32 for screening and in fp64 for everything that is kept. */
#ifndef FGMM_GENERIC_ROWS_CUH
#define FGMM_GENERIC_ROWS_CUH

#include <cuda_fp16.h>
#include <stdint.h>
#include "kernels/generic/traits.cuh"

namespace fgmm
{

__device__ __forceinline__ float to_float(float v)
{
    return v;
}
__device__ __forceinline__ float to_float(__half v)
{
    return __half2float(v);
}
__device__ __forceinline__ float to_float(uint8_t v)
{
    return static_cast<float>(v);
}
__device__ __forceinline__ float to_float(int8_t v)
{
    return static_cast<float>(v);
}

template <typename T> __device__ __forceinline__ double to_double(T v)
{
    return static_cast<double>(to_float(v));
}
template <> __device__ __forceinline__ double to_double<double>(double v)
{
    return v;
}

/* One element of a row, relative to the origin. */
template <typename T> __device__ __forceinline__ double centred(const fgmm_row_view &rows, int row, int d)
{
    const T *data = static_cast<const T *>(rows.data);
    return to_double(data[static_cast<int64_t>(row) * rows.dim + d]) - rows.origin[d];
}

/* Eight consecutive elements as they are stored: at most two 16-byte reads. */
template <typename T> struct alignas(sizeof(T) * 8 < 16 ? sizeof(T) * 8 : 16) Octet {
    T value[8];
};

/* Elements d..d+7 of a row; those past `dim` are zero. whole: dim is a multiple of 8 and rows are aligned. */
template <typename T>
__device__ __forceinline__ Octet<T> load_octet(const T *row /* [dim] */, int d, int dim, bool whole)
{
    Octet<T> octet;
    if (whole && d < dim)
        return *reinterpret_cast<const Octet<T> *>(row + d);
#pragma unroll
    for (int e = 0; e < 8; e++)
        octet.value[e] = d + e < dim ? row[d + e] : T(0);
    return octet;
}

/* Whether load_octet may read whole octets. */
template <typename T> inline bool octets_are_whole(const void *data, int dim)
{
    return dim % 8 == 0 && reinterpret_cast<uintptr_t>(data) % alignof(Octet<T>) == 0;
}

/* Four consecutive elements: what a lane has of a row where a warp shares its dimensions. Lane i has 4i..4i+3
 * of each 128, for every type and alignment, so that sums over a row have one order. */
template <typename T> struct alignas(sizeof(T) * 4 < 16 ? sizeof(T) * 4 : 16) Quad {
    T value[4];
};

/* Elements d..d+3 of a row; those past `dim` are zero. whole: dim is a multiple of 4 and rows are aligned. */
template <typename T>
__device__ __forceinline__ Quad<T> load_quad(const T *row /* [dim] */, int d, int dim, bool whole)
{
    Quad<T> quad;
    if (whole && d < dim)
        return *reinterpret_cast<const Quad<T> *>(row + d);
#pragma unroll
    for (int e = 0; e < 4; e++)
        quad.value[e] = d + e < dim ? row[d + e] : T(0);
    return quad;
}

/* Whether load_quad may read whole quads of these rows; of a model's matrices it may when dim % 4 is 0. */
template <typename T> __host__ __device__ __forceinline__ bool quads_are_whole(const fgmm_row_view &rows)
{
    return rows.dim % 4 == 0 && reinterpret_cast<uintptr_t>(rows.data) % alignof(Quad<T>) == 0;
}

template <typename T> __device__ __forceinline__ const T *row_of(const fgmm_row_view &rows, int row)
{
    return static_cast<const T *>(rows.data) + static_cast<int64_t>(row) * rows.dim;
}

/* Calls f with a value of the element type: `dispatch_rows(type, [&](auto zero) { using T = decltype(zero);
 * ... })`. */
template <typename F> inline int dispatch_rows(fgmm_row_type type, F f)
{
    switch (type) {
    case FGMM_ROWS_F32:
        return f(float(0));
    case FGMM_ROWS_F16:
        return f(__half(0));
    case FGMM_ROWS_U8:
        return f(uint8_t(0));
    case FGMM_ROWS_I8:
        return f(int8_t(0));
    case FGMM_ROWS_F64:
        return f(double(0));
    }
    return cudaErrorInvalidValue;
}

} // namespace fgmm

#endif
