/* Rows to fp16, as the product of wide.cu reads them: (value - origin) times a power of two a dimension, a
 * tile of 128 rows cut into slabs of 64 columns; for diagonal forms their squares in further columns; the
 * extra columns and the measures that the bounds need (columns.cuh, terms.cuh). What becomes of a row does
 * not depend on what else is converted. */
#ifndef FGMM_SM90_CONVERT_CUH
#define FGMM_SM90_CONVERT_CUH

#include <cuda_fp16.h>
#include <string.h>
#include "kernels/ptx/math.cuh"
#include "kernels/sm90/columns.cuh"
#include "kernels/sm90/packed.cuh"
#include "kernels/sm90/traits.cuh"
#include "kernels/sm90/walk.cuh"

namespace fgmm
{

/* The scales or shifts of an octet. */
struct Eight {
    float value[8];
    __device__ __forceinline__ explicit Eight(const float *from)
    {
        const float4 low = __ldg(reinterpret_cast<const float4 *>(from)),
                     high = __ldg(reinterpret_cast<const float4 *>(from) + 1);
        value[0] = low.x, value[1] = low.y, value[2] = low.z, value[3] = low.w;
        value[4] = high.x, value[5] = high.y, value[6] = high.z, value[7] = high.w;
    }
};

/* A row's place in a converted tile. */
struct RowPlace {
    unsigned char *tile;
    int row;
    __device__ __forceinline__ void put(int piece, uint4 value) const
    {
        __half *slabs = reinterpret_cast<__half *>(tile + WideShape::kRowExtra);
        *reinterpret_cast<uint4 *>(slabs + swizzled(row, piece * 8, WideShape::kRows)) = value;
    }
};

/* Of a row, or of a lane's part of it. */
struct Norms {
    float y, z; /* |y|^2, |z|^2 */
};

/* An octet's squares are summed first: 8 roundings, then one an octet. */
template <bool kSquares, typename T>
__device__ __forceinline__ void convert_octet(const Packed<T> &octet, const fgmm_sm90_wide &tables,
                                              int number, const RowPlace &place, Norms &norms)
{
    const Eight scale(tables.scale + number * 8), shift(tables.shift + number * 8);
    uint32_t values[4], squares[4];
    Norms sum = {0, 0};
#pragma unroll
    for (int e = 0; e < 8; e += 2) {
        /* scale * (value - origin), rounded once */
        const float2 stored = octet.pair(e / 2);
        const float y0 = fmaf(stored.x, scale.value[e], shift.value[e]);
        const float y1 = fmaf(stored.y, scale.value[e + 1], shift.value[e + 1]);
        const __half2 pair = __floats2half2_rn(y0, y1);
        memcpy(&values[e / 2], &pair, sizeof pair);
        sum.y = fmaf(y0, y0, fmaf(y1, y1, sum.y));
        if constexpr (kSquares) {
            constexpr float kDown = kSquareScale * (1 - 0x1p-21f); /* below the square of the exact value */
            const float z0 = y0 * y0 * kDown, z1 = y1 * y1 * kDown;
            const __half2 low = __halves2half2(__float2half_rd(z0), __float2half_rd(z1));
            memcpy(&squares[e / 2], &low, sizeof low);
            sum.z = fmaf(z0, z0, fmaf(z1, z1, sum.z));
        }
    }
    norms.y += sum.y;
    place.put(number, make_uint4(values[0], values[1], values[2], values[3]));
    if constexpr (kSquares) {
        norms.z += sum.z;
        place.put(tables.octets + number, make_uint4(squares[0], squares[1], squares[2], squares[3]));
    }
}

/* Rounded up: fp32 sums of squares are known to 2^-19, square roots to 2^-22. */
__device__ __forceinline__ float norm_of(float square)
{
    return ptx::sqrt_approx(square) * (1 + 0x1p-14f) + 0x1p-50f;
}

/* The first of a row's measures is |y|^2, or |z| where there are squares, the second |y|, both rounded up;
 * the first is infinite where the row is not to be screened. */
template <bool kSquares> __device__ __forceinline__ float2 measures_of(const Norms &norms, bool fits)
{
    const float first = kSquares ? norm_of(norms.z) : norms.y * (1 + 0x1p-14f);
    return fits ? make_float2(first, norm_of(norms.y)) : make_float2(INFINITY, 0.0f);
}

/* How the lanes of a warp share rows: as many lanes a row as it has octets, and several steps beyond 32. */
struct Sharing {
    int octets, lanes, rows, steps; /* lanes * rows is a warp */
    __device__ __forceinline__ explicit Sharing(int octets_) : octets(octets_)
    {
        lanes = octets <= 4 ? 4 : octets <= 8 ? 8 : octets <= 16 ? 16 : kWarp;
        rows = kWarp / lanes;
        steps = (octets + lanes - 1) / lanes;
    }
    __device__ __forceinline__ int lane() const { return threadIdx.x & (lanes - 1); /* a power of two */ }
};

/* The lanes of a row, after its last octet. Columns that are left are zeros, since a buffer has served other
 * shapes; a row that is not screened becomes zero, so that no sum is NaN. */
template <bool kSquares>
__device__ __forceinline__ void end_row(const Sharing &sharing, const fgmm_sm90_wide &tables,
                                        const RowPlace &place, Norms norms, float2 *measures)
{
    const int lane = sharing.lane(), pieces = tables.slabs * 8;
    for (int step = sharing.lanes / 2; step > 0; step /= 2) {
        norms.y += __shfl_xor_sync(kWholeWarp, norms.y, step);
        if constexpr (kSquares)
            norms.z += __shfl_xor_sync(kWholeWarp, norms.z, step);
    }
    const bool fits = norms.y < kMostSquare;
    if (lane < 2)
        reinterpret_cast<uint4 *>(place.tile)[lane * WideShape::kRows + place.row] =
            lane == 0 ? row_columns(norms.y, fits) : make_uint4(0, 0, 0, 0);
    if (lane == 0)
        measures[place.row] = measures_of<kSquares>(norms, fits);
    __syncwarp(); /* pieces of squares were written by other lanes */
    const int first = fits ? tables.octets * (kSquares ? 2 : 1) : 0;
    for (int piece = first + lane; piece < pieces; piece += sharing.lanes)
        place.put(piece, make_uint4(0, 0, 0, 0));
}

/* An octet of this lane: part of its row. A warp takes every kConverters-th group of rows of a tile. */
struct Item {
    int row, step; /* of the tile */
    /* Warp `warp`'s first. */
    __device__ __forceinline__ Item(const Sharing &sharing, int warp)
        : row(warp * sharing.rows + static_cast<int>(threadIdx.x % kWarp) / sharing.lanes), step(0)
    {
    }
    /* False when the tile has no more for this warp. */
    __device__ __forceinline__ bool next(const Sharing &sharing)
    {
        if (++step == sharing.steps) {
            step = 0;
            row += WideShape::kConverters * sharing.rows;
        }
        return row < WideShape::kRows;
    }
    __device__ __forceinline__ int octet(const Sharing &sharing) const
    {
        return step * sharing.lanes + sharing.lane();
    }
};

/* Reads a warp's items of one tile after the other. Rows past the end repeat the last one; nobody reads their
 * results. kWhole: as in load_octet. */
template <typename T, bool kWhole> struct ItemReader {
    const fgmm_row_view &rows;
    const Sharing &sharing;
    const int warp;
    Walk walk;
    Item item;
    __device__ ItemReader(const fgmm_row_view &rows_, const Sharing &sharing_, int warp_)
        : rows(rows_), sharing(sharing_), warp(warp_), walk(rows_.rows), item(sharing_, warp_)
    {
    }
    __device__ __forceinline__ Packed<T> next()
    {
        const int row = min(walk.first_row() + item.row, rows.rows - 1);
        const T *values = static_cast<const T *>(rows.data) + static_cast<int64_t>(row) * rows.dim;
        const int octet = min(item.octet(sharing), sharing.octets - 1); /* the last may not be the lane's */
        const Packed<T> packed = load_packed<kWhole>(values, octet * 8, rows.dim);
        if (!item.next(sharing)) {
            item = Item(sharing, warp);
            walk.next();
        }
        return packed;
    }
};

} // namespace fgmm

#endif
