/* The rows of sorted pairs on their way to the warp that sums them: copied to a ring in shared memory some
 * batches ahead, without registers, 128 dimensions at a time. */
#ifndef FGMM_GENERIC_SUM_ROWS_CUH
#define FGMM_GENERIC_SUM_ROWS_CUH

#include <type_traits>
#include "kernels/generic/raw.cuh"
#include "kernels/ptx/async_copy.cuh"

namespace fgmm
{

/* M: element type of the rows that distances are taken of; T: of the original rows. */
template <typename M, typename T> struct Ring {
    static constexpr bool kSame = std::is_same<M, T>::value; /* one set of rows serves both ends */
    static constexpr int kFit = SumWarps::kBatchBytes / (SumWarps::kDims * sizeof(M));
    static constexpr int kRows = kFit < 8 ? kFit : 8;
    static_assert(SumWarps::kHalf % kRows == 0, "parts are joined after whole batches");
    struct None {
    };
    Stored<M> metric[SumWarps::kStages][kRows][kWarp];
    std::conditional_t<kSame, None, Stored<T>[SumWarps::kStages][kRows][kWarp]> other;

    __device__ __forceinline__ const Stored<T> &original(int stage, int j) const
    {
        if constexpr (kSame)
            return metric[stage][j][threadIdx.x % kWarp];
        else
            return other[stage][j][threadIdx.x % kWarp];
    }
};

/* Starts copying some rows, 128 dimensions of each from d0 on: those that lanes next.. of `row` name. kWhole:
 * in pieces of 16 bytes. */
template <bool kWhole, typename E, int kRows>
__device__ __forceinline__ void fetch(Stored<E> (&to)[kRows][kWarp], const fgmm_row_view &rows, int row,
                                      int next, int d0)
{
    constexpr int kPieces = SumWarps::kDims * sizeof(E) / 16; /* of a row */
    constexpr int kEach = (kRows * kPieces + kWarp - 1) / kWarp;
    const int lane = threadIdx.x % kWarp;
    if constexpr (kWhole) {
        const char *data = static_cast<const char *>(rows.data) + d0 * sizeof(E);
        const uint32_t row_bytes = rows.dim * sizeof(E), left = row_bytes - d0 * sizeof(E);
#pragma unroll
        for (int i = 0; i < kEach; i++) {
            const int place = i * kWarp + lane, j = place / kPieces, at = place % kPieces * 16;
            const uint32_t its_row = __shfl_sync(kWholeWarp, row, (next + j) % kWarp);
            const bool there = at < static_cast<int>(left);
            if (kRows * kPieces % kWarp == 0 || j < kRows)
                ptx::copy_async_16(reinterpret_cast<char *>(to) + place * 16,
                                   data + static_cast<uint64_t>(its_row) * row_bytes + (there ? at : 0),
                                   there ? 16 : 0);
        }
    } else {
#pragma unroll
        for (int j = 0; j < kRows; j++) {
            const int its_row = __shfl_sync(kWholeWarp, row, next + j);
            to[j][lane] = load_stored(row_of<E>(rows, its_row), d0 + lane * 4, rows.dim, false);
        }
    }
}

/* Whether fetch may copy whole pieces of these rows. */
template <typename E> inline bool pieces_are_whole(const fgmm_row_view &rows)
{
    return rows.dim * sizeof(E) % 16 == 0 && reinterpret_cast<uintptr_t>(rows.data) % 16 == 0;
}

} // namespace fgmm

#endif
