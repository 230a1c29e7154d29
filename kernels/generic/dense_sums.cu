/* Sums of the dense path: a quantum's responsibilities (in the slab) times its rows, in row order, rounded to
 * the grid once a quantum and added with integer atomics. */
#include <cuda_runtime.h>
#include "kernels/generic/dense_tile.cuh"
#include "kernels/generic/fixed.cuh"

namespace fgmm
{
namespace
{

/* ---- first moments, and second moments a dimension ---- */

/* s and, with kDiag, q of 64 dimensions (across) by 64 components (down). Grid: (dimension tiles, component
 * tiles, quanta). */
template <typename T, bool kDiag>
__global__ void __launch_bounds__(DenseTile::kThreads)
    sums(fgmm_row_view original, fgmm_model_view model, fgmm_dense_group group, fgmm_stats_view stats)
{
    __shared__ DenseStage x, weight; /* [row][dimension], [row][component] */
    const DenseRows dense(group, blockIdx.z);
    const int d0 = blockIdx.x * DenseTile::kSide, k0 = blockIdx.y * DenseTile::kSide, dim = original.dim;
    if (dense.count == 0)
        return;
    const DenseThread thread;
    DenseSums first, second, centre;
    clear(first);
    clear(second);
#pragma unroll
    for (int i = 0; i < DenseTile::kMicro; i++)
#pragma unroll
        for (int j = 0; j < DenseTile::kMicro; j++) {
            const int d = d0 + thread.i(i), k = k0 + thread.j(j);
            const bool inside = kDiag && d < dim && k < group.k_count;
            centre[i][j] = inside ? model.centre[static_cast<int64_t>(group.k_begin + k) * dim + d] : 0.0;
        }
    for (int r0 = 0; r0 < dense.count; r0 += DenseTile::kDepth) {
        __syncthreads();
#pragma unroll
        for (int step = 0; step < DenseTile::kMicro; step++) {
            const int d = threadIdx.x % DenseTile::kSide,
                      r = threadIdx.x / DenseTile::kSide + step * DenseTile::kMicro;
            const bool inside = r0 + r < dense.count && d0 + d < dim;
            x.value[r][d] = inside ? centred<T>(original, dense.rows[r0 + r], d0 + d) : 0.0;
        }
#pragma unroll
        for (int step = 0; step < DenseTile::kMicro; step++) {
            const int r = threadIdx.x % DenseTile::kDepth,
                      k = threadIdx.x / DenseTile::kDepth + step * DenseTile::kLanes;
            const bool inside = r0 + r < dense.count && k0 + k < group.k_count;
            weight.value[r][k] = inside ? dense.column(group, k0 + k)[r0 + r] : 0.0;
        }
        __syncthreads();
        fold(first, thread, x, weight,
             [](double sum, double a, double w, int, int, int) { return fma(w, a, sum); });
        if (kDiag)
            fold(second, thread, x, weight, [&](double sum, double a, double w, int, int i, int j) {
                const double t = a - centre[i][j];
                return fma(w * t, t, sum);
            });
    }
#pragma unroll
    for (int j = 0; j < DenseTile::kMicro; j++)
#pragma unroll
        for (int i = 0; i < DenseTile::kMicro; i++) {
            const int d = d0 + thread.i(i), k = k0 + thread.j(j);
            if (d >= dim || k >= group.k_count)
                continue;
            const int64_t at = static_cast<int64_t>(group.k_begin + k) * dim + d;
            const double inverse = stats.inverse_bound[d];
            add_fixed(&stats.s[at], first[i][j] * (inverse * stats.one));
            if (kDiag)
                add_fixed2(&stats.q_high[at], &stats.q_low[at], second[i][j] * inverse * inverse * stats.one,
                           stats.one);
        }
}

/* ---- full second moments ---- */

/* The rows of a quantum that a component keeps: usually few. */
struct KeptRows {
    double weight[FGMM_KERNEL_QUANTUM];
    int16_t place[FGMM_KERNEL_QUANTUM]; /* among the quantum's dense rows, ascending */
    int before[DenseTile::kThreads / kWarp];
    int count;
};

__device__ void keep_rows(KeptRows &kept, const double *column /* [count] */, int count)
{
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    int base = 0;
    for (int r0 = 0; r0 < count; r0 += DenseTile::kThreads) {
        const int r = r0 + threadIdx.x;
        const double weight = r < count ? column[r] : 0.0;
        const unsigned votes = __ballot_sync(kWholeWarp, weight > 0);
        if (lane == 0)
            kept.before[warp] = __popc(votes);
        __syncthreads();
        int at = base + __popc(votes & ((1u << lane) - 1));
        for (int w = 0; w < DenseTile::kThreads / kWarp; w++) {
            at += w < warp ? kept.before[w] : 0;
            base += kept.before[w];
        }
        if (weight > 0) {
            kept.weight[at] = weight;
            kept.place[at] = static_cast<int16_t>(r);
        }
        __syncthreads();
    }
    if (threadIdx.x == 0)
        kept.count = base;
    __syncthreads();
}

/* Loads [16 kept rows from r0][64 dimensions from d0] of x - centre. */
template <typename T>
__device__ __forceinline__ void load_kept(DenseStage &stage, const fgmm_row_view &original,
                                          const DenseRows &dense, const KeptRows &kept, const double *centre,
                                          int r0, int d0, bool weighted)
{
    const int d = threadIdx.x % DenseTile::kSide;
#pragma unroll
    for (int step = 0; step < DenseTile::kMicro; step++) {
        const int r = threadIdx.x / DenseTile::kSide + step * DenseTile::kMicro;
        double t = 0;
        if (r0 + r < kept.count && d0 + d < original.dim) {
            t = centred<T>(original, dense.rows[kept.place[r0 + r]], d0 + d) - centre[d0 + d];
            if (weighted)
                t *= kept.weight[r0 + r];
        }
        stage.value[r][d] = t;
    }
}

/* q of one component: 64 dimensions i (down) by 64 dimensions j (across), j <= i. Grid: (components, tile
 * pairs, quanta). */
template <typename T>
__global__ void __launch_bounds__(DenseTile::kThreads)
    scatter(fgmm_row_view original, fgmm_model_view model, fgmm_dense_group group, fgmm_stats_view stats)
{
    __shared__ DenseStage a, b;
    __shared__ KeptRows kept;
    const DenseRows dense(group, blockIdx.z);
    const int k = group.k_begin + blockIdx.x, dim = original.dim;
    const double *centre = model.centre + static_cast<int64_t>(k) * dim;
    int tile_i = 0, tile_j = blockIdx.y; /* the pair number counts (0,0) (1,0) (1,1) (2,0) ... */
    while (tile_j > tile_i)
        tile_j -= ++tile_i;
    const int i0 = tile_i * DenseTile::kSide, j0 = tile_j * DenseTile::kSide;
    keep_rows(kept, dense.column(group, blockIdx.x), dense.count);
    if (kept.count == 0)
        return;
    const DenseThread thread;
    DenseSums q;
    clear(q);
    for (int r0 = 0; r0 < kept.count; r0 += DenseTile::kDepth) {
        __syncthreads();
        load_kept<T>(a, original, dense, kept, centre, r0, j0, false);
        load_kept<T>(b, original, dense, kept, centre, r0, i0, true);
        __syncthreads();
        fold(q, thread, a, b, [](double sum, double u, double v, int, int, int) { return fma(u, v, sum); });
    }
    const int64_t triangle = static_cast<int64_t>(dim) * (dim + 1) / 2;
#pragma unroll
    for (int down = 0; down < DenseTile::kMicro; down++)
#pragma unroll
        for (int across = 0; across < DenseTile::kMicro; across++) {
            const int i = i0 + thread.j(down), j = j0 + thread.i(across);
            if (i >= dim || j > i)
                continue;
            const int64_t at = k * triangle + static_cast<int64_t>(i) * (i + 1) / 2 + j;
            add_fixed2(&stats.q_high[at], &stats.q_low[at],
                       q[across][down] * stats.inverse_bound[i] * stats.inverse_bound[j] * stats.one,
                       stats.one);
        }
}

int tiles(int count, int tile)
{
    return (count + tile - 1) / tile;
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_dense_sums(const fgmm_row_view *original, const fgmm_model_view *model,
                            const fgmm_dense_group *group, const fgmm_stats_view *stats, fgmm_stream stream)
{
    const dim3 grid(tiles(original->dim, DenseTile::kSide), tiles(group->k_count, DenseTile::kSide),
                    group->quanta);
    return dispatch_rows(original->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if (stats->moment == FGMM_KERNEL_MOMENT_DIAG)
            sums<T, true><<<grid, DenseTile::kThreads, 0, stream>>>(*original, *model, *group, *stats);
        else
            sums<T, false><<<grid, DenseTile::kThreads, 0, stream>>>(*original, *model, *group, *stats);
        return cudaGetLastError();
    });
}

int fgmm__launch_dense_scatter(const fgmm_row_view *original, const fgmm_model_view *model,
                               const fgmm_dense_group *group, const fgmm_stats_view *stats,
                               fgmm_stream stream)
{
    const int side = tiles(original->dim, DenseTile::kSide);
    const dim3 grid(group->k_count, side * (side + 1) / 2, group->quanta);
    return dispatch_rows(original->type, [&](auto zero) -> int {
        scatter<decltype(zero)><<<grid, DenseTile::kThreads, 0, stream>>>(*original, *model, *group, *stats);
        return cudaGetLastError();
    });
}
