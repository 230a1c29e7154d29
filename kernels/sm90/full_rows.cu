/* Rows as the screens for full components read them: once for all components, so that the screens spend no
 * instruction on it. */
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <string.h>
#include "kernels/generic/rows.cuh"
#include "kernels/sm90/columns.cuh"
#include "kernels/sm90/full_screen.h"
#include "kernels/sm90/traits.cuh"

namespace fgmm
{
namespace
{

/* Rows minus origin, scaled, to fp16 in the operand's layout; kLanes lanes share a row, 8 dimensions each.
 * open: the rows to be taken, n_open of them; NULL: all. Rows up to the next whole group are zero. */
template <typename T, int kHalves>
__global__ void __launch_bounds__(FullShape<kHalves>::kConvertThreads)
    convert_rows(fgmm_row_view rows, float scale, fgmm_full_rows to, const int32_t *open,
                 const int32_t *n_open, bool whole)
{
    typedef FullShape<kHalves> Shape;
    constexpr int kLanes = kHalves * 8;
    const int lane = threadIdx.x % kLanes, d0 = lane * 8;
    const int place = blockIdx.x * (Shape::kConvertThreads / kLanes) + threadIdx.x / kLanes;
    const int count = open != nullptr ? *n_open : rows.rows;
    if (place >= (count + Shape::kRows - 1) / Shape::kRows * Shape::kRows)
        return; /* whole warps */
    Octet<T> octet = {};
    const bool real = place < count;
    if (real)
        octet = load_octet(row_of<T>(rows, open != nullptr ? open[place] : place), d0, rows.dim, whole);
    alignas(16) __half halves[8];
    float square = 0;
#pragma unroll
    for (int e = 0; e < 8; e++) {
        float y = 0; /* scale * (value - origin), rounded once */
        if (real && d0 + e < rows.dim)
            y = fmaf(to_float(octet.value[e]), scale, -scale * rows.origin32[d0 + e]);
        square = fmaf(y, y, square);
        halves[e] = __float2half_rn(y);
    }
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2)
        square += __shfl_xor_sync(kWholeWarp, square, step);
    const bool fits = square < Shape::kMostSquare;
    uint4 piece = make_uint4(0, 0, 0, 0);
    if (fits)
        memcpy(&piece, halves, sizeof piece);
    __half *group = static_cast<__half *>(to.halves) +
                    static_cast<int64_t>(place / Shape::kGroupRows) * (Shape::kGroupBytes / 2);
    *reinterpret_cast<uint4 *>(group + swizzled(place % Shape::kGroupRows, d0, Shape::kGroupRows)) = piece;
    if (lane == 0)
        to.square[place] = fits ? square : INFINITY;
}

template <typename T, int kHalves>
int launch(const fgmm_row_view *rows, const fgmm_full_tables *tables, const int32_t *open,
           const int32_t *n_open, const fgmm_full_rows *to, fgmm_stream stream)
{
    typedef FullShape<kHalves> Shape;
    constexpr int kConverted = Shape::kConvertThreads / (kHalves * 8); /* rows a block */
    static_assert(Shape::kRows % kConverted == 0, "a row tile is whole blocks");
    const int row_tiles = (rows->rows + Shape::kRows - 1) / Shape::kRows;
    convert_rows<T, kHalves><<<row_tiles *(Shape::kRows / kConverted), Shape::kConvertThreads, 0, stream>>>(
        *rows, tables->scale, *to, open, n_open, octets_are_whole<T>(rows->data, rows->dim));
    return cudaGetLastError();
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int64_t fgmm__full_row_bytes(int32_t dim, int32_t rows)
{
    return static_cast<int64_t>(rows) * ((dim + 63) / 64) * 128;
}

int fgmm__launch_full_rows(const fgmm_row_view *rows, const fgmm_full_tables *tables, const int32_t *open,
                           const int32_t *n_open, const fgmm_full_rows *to, fgmm_stream stream)
{
    return dispatch_rows(rows->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (sizeof(T) == sizeof(double))
            return cudaErrorInvalidValue; /* stored rows are never float64 */
        else if (tables->halves == 1)
            return launch<T, 1>(rows, tables, open, n_open, to, stream);
        else
            return launch<T, 2>(rows, tables, open, n_open, to, stream);
    });
}
