/* All pairs (query, row) within a bound. The pair tile gives fp32 squared distances; a pair that passes the
 * bound, widened by what fp32 may be off, is computed again in float64, term by term without contraction, as
 * the CPU does: the same bits. */
#include <cuda_runtime.h>
#include <float.h>
#include "kernels/generic/exact.cuh"
#include "kernels/generic/pair_tile.cuh"

namespace fgmm
{
namespace
{

struct Hit { /* fgmm_hit of backend/backend.h */
    int32_t query, row;
    double distance;
};

struct NeighborShared {
    PairStage queries[PairTile::kStages];
    PairStage rows[PairTile::kStages];
};

/* The stored values are exact in fp32; t is rounded once, squared and summed: (dim + 2) rounding errors of
 * 2^-24. The absolute term stands for sums of squares under the smallest fp32 number. */
__device__ __forceinline__ float widened(double bound, int dim)
{
    return __double2float_ru(bound * (1.0 + (dim + 8) * 0x1p-23) + 0x1p-126);
}

template <typename T>
__device__ void test_pair(const fgmm_neighbor_view &view, const float *query, double bound, int q, int r)
{
    const double distance = exact_distance(
        query, static_cast<const T *>(view.rows) + static_cast<int64_t>(r) * view.dim, view.dim);
    if (!(distance <= bound))
        return;
    const unsigned long long at = atomicAdd(view.n_hits, 1ull);
    if (at < static_cast<unsigned long long>(view.capacity))
        static_cast<Hit *>(view.hits)[at] = {q, r, distance};
}

/* Rows of the tile are queries, columns are rows of the data. Grid: (row tiles, query tiles). */
template <typename T>
__global__ void __launch_bounds__(PairTile::kThreads, 2)
    neighbors(fgmm_neighbor_view view, bool queries_whole, bool rows_whole)
{
    __shared__ NeighborShared shared;
    __shared__ int32_t numbers[PairTile::kSide]; /* of the tile's queries */
    const PairThread thread;
    const int q0 = blockIdx.y * PairTile::kSide, r0 = blockIdx.x * PairTile::kSide;
    if (threadIdx.x < PairTile::kSide) {
        const int q = min(q0 + static_cast<int>(threadIdx.x), view.n_queries - 1);
        numbers[threadIdx.x] = view.subset != nullptr ? view.subset[q] : q;
    }
    __syncthreads();
    RowLoader<float> queries(numbers[RowLoader<float>::place()]);
    RowLoader<T> rows(min(r0 + RowLoader<T>::place(), view.n_rows - 1));
    PairSums sums;
    clear(sums);
    int slot = 0;
    for (int d0 = 0; d0 < view.dim; d0 += PairTile::kDims, slot ^= 1) {
        queries.fetch(view.queries, d0, view.dim, queries_whole);
        rows.fetch(static_cast<const T *>(view.rows), d0, view.dim, rows_whole);
        queries.store(shared.queries[slot], nullptr, d0);
        rows.store(shared.rows[slot], nullptr, d0);
        __syncthreads(); /* the next stores go to the other slot, whose readers have all come to this barrier
                          */
        accumulate<false>(sums, thread, shared.queries[slot], shared.rows[slot], nullptr);
    }
#pragma unroll
    for (int i = 0; i < PairTile::kMicro; i++) {
        const int q = q0 + thread.row(i);
        if (q >= view.n_queries)
            continue;
        const double bound = view.bounds[q];
        const float limit = widened(bound, view.dim);
        const float *query = view.queries + static_cast<int64_t>(numbers[thread.row(i)]) * view.dim;
#pragma unroll
        for (int j = 0; j < PairTile::kMicro; j++) {
            const int r = r0 + thread.column(j);
            const bool near = sums[i][j] <= limit || sums[i][j] > FLT_MAX; /* an overflow proves nothing */
            if (near && r < view.n_rows)
                test_pair<T>(view, query, bound, q, r);
        }
    }
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_neighbors(const fgmm_neighbor_view *view, fgmm_stream stream)
{
    const dim3 grid((view->n_rows + PairTile::kSide - 1) / PairTile::kSide,
                    (view->n_queries + PairTile::kSide - 1) / PairTile::kSide);
    return dispatch_rows(view->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (sizeof(T) == sizeof(double))
            return cudaErrorInvalidValue; /* rows of data are never float64 */
        else
            neighbors<T><<<grid, PairTile::kThreads, 0, stream>>>(
                *view, octets_are_whole<float>(view->queries, view->dim),
                octets_are_whole<T>(view->rows, view->dim));
        return cudaGetLastError();
    });
}
