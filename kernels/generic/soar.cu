/* The second lists of soar (src/ivf/spill.h): of all centroids but that of the first list the one with the
 * least |x-c|^2 + lambda ((x-c1).(x-c))^2 / |x-c1|^2. Every number is that of the CPU, bit by bit: sums go in
 * the order of dimensions and nothing is contracted. */
#include <cuda_runtime.h>
#include "kernels/generic/dense_tile.cuh"
#include "kernels/soar.h"

namespace fgmm
{
namespace
{

struct SoarSums {
    double distance, product;
};

/* The best of some centroids: the least score, ties to the smaller number. */
struct Second {
    double score;
    int32_t list; /* -1: none */

    __device__ __forceinline__ void offer(double other_score, int32_t other)
    {
        if (other >= 0 && (list < 0 || other_score < score || (other_score == score && other < list))) {
            score = other_score;
            list = other;
        }
    }
};

struct SoarShared {
    DenseStage row, residual, mean; /* residual: of the first list */
    double first_distance[DenseTile::kSide];
    int32_t first[DenseTile::kSide];
};

/* Rows [r0, r0 + 64) and their residuals in dimensions [d0, d0 + 16), transposed; zeros outside. */
template <typename T>
__device__ __forceinline__ void load_residuals(SoarShared &shared, const fgmm_soar_view &view, int r0, int d0)
{
    const int d = threadIdx.x % DenseTile::kDepth;
#pragma unroll
    for (int step = 0; step < DenseTile::kMicro; step++) {
        const int r = threadIdx.x / DenseTile::kDepth + step * DenseTile::kLanes;
        double x = 0, residual = 0;
        if (r0 + r < view.rows && d0 + d < view.dim) {
            x = to_double(
                static_cast<const T *>(view.data)[static_cast<int64_t>(r0 + r) * view.dim + d0 + d]);
            residual = __dsub_rn(x, view.means[static_cast<int64_t>(shared.first[r]) * view.dim + d0 + d]);
        }
        shared.row.value[d][r] = x;
        shared.residual.value[d][r] = residual;
    }
}

/* |x - c1|^2 of the block's rows. */
template <typename T> __device__ void measure_first(SoarShared &shared, const fgmm_soar_view &view, int r0)
{
    double square = 0;
    for (int d0 = 0; d0 < view.dim; d0 += DenseTile::kDepth) {
        load_residuals<T>(shared, view, r0, d0);
        __syncthreads();
        if (threadIdx.x < DenseTile::kSide)
            for (int d = 0; d < DenseTile::kDepth; d++) {
                const double residual = shared.residual.value[d][threadIdx.x];
                square = __dadd_rn(square, __dmul_rn(residual, residual));
            }
        __syncthreads();
    }
    if (threadIdx.x < DenseTile::kSide)
        shared.first_distance[threadIdx.x] = square;
}

/* Distances and products of the block's rows with centroids [k0, k0 + 64). */
template <typename T>
__device__ __forceinline__ void sum_tile(SoarShared &shared, const fgmm_soar_view &view, int r0, int k0,
                                         const DenseThread &thread,
                                         SoarSums (&sums)[DenseTile::kMicro][DenseTile::kMicro])
{
    for (int d0 = 0; d0 < view.dim; d0 += DenseTile::kDepth) {
        __syncthreads();
        load_residuals<T>(shared, view, r0, d0);
        load_matrix(shared.mean, view.means, view.k, view.dim, k0, d0);
        __syncthreads();
#pragma unroll 2
        for (int depth = 0; depth < DenseTile::kDepth; depth++) {
            double x[DenseTile::kMicro], residual[DenseTile::kMicro], mean[DenseTile::kMicro];
#pragma unroll
            for (int step = 0; step < DenseTile::kMicro; step++) {
                x[step] = shared.row.value[depth][thread.i(step)];
                residual[step] = shared.residual.value[depth][thread.i(step)];
                mean[step] = shared.mean.value[depth][thread.j(step)];
            }
#pragma unroll
            for (int i = 0; i < DenseTile::kMicro; i++)
#pragma unroll
                for (int j = 0; j < DenseTile::kMicro; j++) {
                    const double t = __dsub_rn(x[i], mean[j]);
                    sums[i][j].distance = __dadd_rn(sums[i][j].distance, __dmul_rn(t, t));
                    sums[i][j].product = __dadd_rn(sums[i][j].product, __dmul_rn(t, residual[i]));
                }
        }
    }
}

/* A block takes 64 rows (across) and passes all centroids by, 64 (down) at a time. */
template <typename T> __global__ void __launch_bounds__(DenseTile::kThreads) soar(fgmm_soar_view view)
{
    __shared__ SoarShared shared;
    __shared__ Second best[DenseTile::kLanes][DenseTile::kSide];
    const DenseThread thread;
    const int r0 = blockIdx.x * DenseTile::kSide;
    Second mine[DenseTile::kMicro];
    if (threadIdx.x < DenseTile::kSide)
        shared.first[threadIdx.x] = r0 + threadIdx.x < view.rows ? view.first[r0 + threadIdx.x] : 0;
    __syncthreads();
    measure_first<T>(shared, view, r0);
#pragma unroll
    for (int i = 0; i < DenseTile::kMicro; i++)
        mine[i] = {INFINITY, -1};
    for (int k0 = 0; k0 < view.k; k0 += DenseTile::kSide) {
        SoarSums sums[DenseTile::kMicro][DenseTile::kMicro] = {};
        sum_tile<T>(shared, view, r0, k0, thread, sums);
#pragma unroll
        for (int i = 0; i < DenseTile::kMicro; i++)
#pragma unroll
            for (int j = 0; j < DenseTile::kMicro; j++) {
                const int k = k0 + thread.j(j), r = thread.i(i);
                const double first = shared.first_distance[r], product = sums[i][j].product;
                double score = sums[i][j].distance;
                if (first > 0)
                    score = __dadd_rn(score,
                                      __ddiv_rn(__dmul_rn(view.lambda, __dmul_rn(product, product)), first));
                if (k < view.k && k != shared.first[r])
                    mine[i].offer(score, k);
            }
    }
#pragma unroll
    for (int i = 0; i < DenseTile::kMicro; i++)
        best[thread.down][thread.i(i)] = mine[i];
    __syncthreads();
    if (threadIdx.x >= DenseTile::kSide || r0 + threadIdx.x >= view.rows)
        return;
    Second second = best[0][threadIdx.x];
    for (int down = 1; down < DenseTile::kThreads / DenseTile::kLanes; down++)
        second.offer(best[down][threadIdx.x].score, best[down][threadIdx.x].list);
    const double first = shared.first_distance[threadIdx.x];
    view.second[r0 + threadIdx.x] = second.list;
    view.keys[r0 + threadIdx.x] = first > 0 ? __ddiv_rn(second.score, first) : INFINITY;
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_soar(const fgmm_soar_view *view, fgmm_stream stream)
{
    const int blocks = (view->rows + DenseTile::kSide - 1) / DenseTile::kSide;
    return dispatch_rows(view->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (sizeof(T) == sizeof(double))
            return cudaErrorInvalidValue; /* rows are stored as they came */
        else
            soar<T><<<blocks, DenseTile::kThreads, 0, stream>>>(*view);
        return cudaGetLastError();
    });
}
