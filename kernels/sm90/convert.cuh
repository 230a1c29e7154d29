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
#include "kernels/sm90/scattered_sum.cuh"
#include "kernels/sm90/traits.cuh"
#include "kernels/sm90/walk.cuh"

namespace fgmm
{

/* The scales or shifts of an octet. */
struct Eight {
    float value[8] = {};
    Eight() = default;
    __device__ __forceinline__ explicit Eight(const float *from)
    {
        const float4 low = __ldg(reinterpret_cast<const float4 *>(from)),
                     high = __ldg(reinterpret_cast<const float4 *>(from) + 1);
        value[0] = low.x, value[1] = low.y, value[2] = low.z, value[3] = low.w;
        value[4] = high.x, value[5] = high.y, value[6] = high.z, value[7] = high.w;
    }
};

/* A row's place in a converted tile. */
template <class Shape> struct RowPlace {
    unsigned char *tile;
    int row;
    __device__ __forceinline__ void put(int piece, uint4 value) const
    {
        __half *slabs = reinterpret_cast<__half *>(tile + Shape::kRowExtra);
        *reinterpret_cast<uint4 *>(slabs + swizzled(row, piece * 8, Shape::kRows)) = value;
    }
    /* Eight of the extra columns. */
    __device__ __forceinline__ void put_extra(int piece, uint4 value) const
    {
        reinterpret_cast<uint4 *>(tile)[piece * Shape::kRows + row] = value;
    }
};

/* Of a row, or of a lane's part of it. */
struct Norms {
    float y, z; /* |y|^2, |z|^2 */
};

/* An octet as the product reads it: the values, their squares, and what they add to the norms. */
struct Converted {
    uint4 values, squares;
    Norms norms;
};

/* An octet's squares are summed first: 8 roundings, then one an octet. */
template <bool kSquares, typename T>
__device__ __forceinline__ Converted convert_octet(const Packed<T> &octet, const Eight &scale,
                                                   const Eight &shift)
{
    uint32_t values[4], squares[4] = {};
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
            squares[e / 2] = ptx::halves_towards_zero(z0, z1);
            sum.z = fmaf(z0, z0, fmaf(z1, z1, sum.z));
        }
    }
    return {make_uint4(values[0], values[1], values[2], values[3]),
            make_uint4(squares[0], squares[1], squares[2], squares[3]), sum};
}

/* The same for octet `number` of a row, to its place. */
template <class Shape, bool kSquares, typename T>
__device__ __forceinline__ void convert_item(const Packed<T> &octet, const fgmm_sm90_wide &tables, int number,
                                             const RowPlace<Shape> &place, Norms &norms)
{
    const Converted octets =
        convert_octet<kSquares>(octet, Eight(tables.scale + number * 8), Eight(tables.shift + number * 8));
    norms.y += octets.norms.y;
    place.put(number, octets.values);
    if constexpr (kSquares) {
        norms.z += octets.norms.z;
        place.put(tables.octets + number, octets.squares);
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
template <class Shape, bool kSquares>
__device__ __forceinline__ void end_row(const Sharing &sharing, const fgmm_sm90_wide &tables,
                                        const RowPlace<Shape> &place, Norms norms, float2 *measures)
{
    const int lane = sharing.lane();
    for (int step = sharing.lanes / 2; step > 0; step /= 2) {
        norms.y += __shfl_xor_sync(kWholeWarp, norms.y, step);
        if constexpr (kSquares)
            norms.z += __shfl_xor_sync(kWholeWarp, norms.z, step);
    }
    const bool fits = norms.y < kMostSquare;
    if (lane < 2)
        place.put_extra(lane, lane == 0 ? row_columns(norms.y, fits) : make_uint4(0, 0, 0, 0));
    if (lane == 0)
        measures[place.row] = measures_of<kSquares>(norms, fits);
    __syncwarp(); /* pieces of squares were written by other lanes */
    const int first = fits ? tables.octets * (kSquares ? 2 : 1) : 0;
    for (int piece = first + lane; piece < tables.slabs * 8; piece += sharing.lanes)
        place.put(piece, make_uint4(0, 0, 0, 0));
}

/* An octet of this lane: part of its row. A warp takes every kConverters-th group of rows of a tile. */
template <class Shape> struct Item {
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
            row += Shape::kConverters * sharing.rows;
        }
        return row < Shape::kRows;
    }
    __device__ __forceinline__ int octet(const Sharing &sharing) const
    {
        return step * sharing.lanes + sharing.lane();
    }
};

/* Reads a warp's items of one tile after the other. Rows past the end repeat the last one; nobody reads their
 * results. kWhole: as in load_octet. */
template <class Shape, typename T, bool kWhole> struct ItemReader {
    const fgmm_row_view &rows;
    const Sharing &sharing;
    const int warp;
    Walk<Shape> walk;
    Item<Shape> item;
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
            item = Item<Shape>(sharing, warp);
            walk.next();
        }
        return packed;
    }
};

/* A converter warp where rows are short: of at most kLanes octets. Lanes keep to an octet, so that its scales
 * and shifts stay in registers; a batch is kBatch rows of each group of kLanes lanes, and what is summed over
 * lanes is summed for all of them at a time. Warps take batches in turn, also from one tile to the next. */
template <class Shape, typename T, bool kSquares, int kLanes, bool kWhole> struct ShortRows {
    static constexpr int kBatch = 4;
    static constexpr int kStep = kWarp / kLanes; /* rows side by side */
    static constexpr int kBatchRows = kStep * kBatch, kBatches = Shape::kRows / kBatchRows; /* of a tile */
    static constexpr int kOwners = kLanes / kBatch; /* lanes that end with the same row's sums */
    static_assert(kBatches >= Shape::kConverters, "a warp's next batch is in this tile or the next");

    const fgmm_row_view &rows;
    const fgmm_sm90_wide &tables;
    const int lane, group; /* of the row; which of the rows side by side */
    const bool active;     /* the row has this octet */
    Eight scale, shift;
    Packed<T> waiting[kBatch];

    __device__ __forceinline__ ShortRows(const fgmm_row_view &rows_, const fgmm_sm90_wide &tables_)
        : rows(rows_), tables(tables_), lane(threadIdx.x % kLanes), group(threadIdx.x % kWarp / kLanes),
          active(lane < tables.octets), scale(tables.scale + octet() * 8), shift(tables.shift + octet() * 8)
    {
        if (!active)
            scale = shift = Eight();
    }
    __device__ __forceinline__ int octet() const { return min(lane, tables.octets - 1); }
    __device__ __forceinline__ int row_of_batch(int b) const { return b * kStep + group; }

    /* Row b of a batch whose rows begin at `first`; the last row again past the end, where nobody reads
     * results. */
    __device__ __forceinline__ void fetch(int first, int b)
    {
        const int row = min(first + row_of_batch(b), rows.rows - 1);
        waiting[b] = load_packed<kWhole>(row_of<T>(rows, row), octet() * 8, rows.dim);
    }

    /* A batch from row `base` of a tile on; what is converted is read anew at once, from row `next` of the
     * view on. */
    __device__ __forceinline__ void convert(unsigned char *tile, float2 *measures, int base, int next)
    {
        float y[kBatch], z[kBatch];
#pragma unroll
        for (int b = 0; b < kBatch; b++) {
            const Converted octets = convert_octet<kSquares>(waiting[b], scale, shift);
            fetch(next, b);
            y[b] = octets.norms.y;
            z[b] = octets.norms.z;
            const RowPlace<Shape> place = {tile, base + row_of_batch(b)};
            if (active) {
                place.put(lane, octets.values);
                if constexpr (kSquares)
                    place.put(tables.octets + lane, octets.squares);
            }
        }
        const Norms norms = {scattered_sum<kLanes>(y, lane),
                             kSquares ? scattered_sum<kLanes>(z, lane) : 0.0f};
        const RowPlace<Shape> place = {tile, base + row_of_batch(lane / kOwners)};
        const bool fits = norms.y < kMostSquare;
        if (lane % kOwners == 0) {
            place.put_extra(0, row_columns(norms.y, fits));
            measures[place.row] = measures_of<kSquares>(norms, fits);
        } else if (lane % kOwners == 1) {
            place.put_extra(1, make_uint4(0, 0, 0, 0));
        }
        const int used = tables.octets * (kSquares ? 2 : 1), pieces = tables.slabs * 8;
        if (used < pieces || __any_sync(kWholeWarp, !fits))
            clear(place, fits ? used : 0, pieces);
    }

  private:
    /* The row's columns that are left, as in end_row. */
    static __device__ __forceinline__ void clear(const RowPlace<Shape> &place, int first, int pieces)
    {
        __syncwarp();
#pragma unroll 1
        for (int piece = first + threadIdx.x % kOwners; piece < pieces; piece += kOwners)
            place.put(piece, make_uint4(0, 0, 0, 0));
    }
};

} // namespace fgmm

#endif
