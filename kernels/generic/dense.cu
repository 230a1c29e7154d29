/* The dense path: rows that many components share (or all rows: full covariances, total scatter). A quantum's
 * dense rows are gathered in row order; log2-densities of all components go to a slab of bounded size, are
 * normalised there, and dense_sums.cu multiplies them with the rows. Everything is float64 and grouped by
 * quantum, so results do not depend on tiles or ranks. */
#include <cuda_runtime.h>
#include "kernels/generic/dense_tile.cuh"
#include "kernels/generic/fixed.cuh"
#include "kernels/generic/full_tile.cuh"
#include "kernels/generic/warp.cuh"

namespace fgmm
{
namespace
{

/* ---- gathering ---- */

/* A block of 1,024 threads a quantum: a prefix sum of flags over warps keeps the rows' order. */
__global__ void __launch_bounds__(FGMM_KERNEL_QUANTUM)
    gather(const int32_t *counts /* [rows] or NULL */, int rows, fgmm_dense_lists lists)
{
    __shared__ int before[FGMM_KERNEL_QUANTUM / kWarp];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int row = blockIdx.x * FGMM_KERNEL_QUANTUM + threadIdx.x;
    const bool dense = row < rows && (counts == nullptr || counts[row] > FGMM_CANDIDATES);
    const unsigned votes = __ballot_sync(kWholeWarp, dense);
    if (lane == 0)
        before[warp] = __popc(votes);
    __syncthreads();
    int at = __popc(votes & ((1u << lane) - 1)), total = 0;
    for (int w = 0; w < FGMM_KERNEL_QUANTUM / kWarp; w++) {
        at += w < warp ? before[w] : 0;
        total += before[w];
    }
    if (dense)
        lists.rows[static_cast<int64_t>(blockIdx.x) * FGMM_KERNEL_QUANTUM + at] = row;
    if (threadIdx.x == 0)
        lists.counts[blockIdx.x] = lists.home_counts[blockIdx.x] = total;
}

/* ---- log2-densities ---- */

/* Spherical and diag: a block takes 64 rows (across) by 64 components (down). Grid: (row tiles, component
 * tiles, quanta). */
template <typename T, bool kDiag>
__global__ void __launch_bounds__(DenseTile::kThreads)
    logits(fgmm_row_view metric, fgmm_model_view model, fgmm_dense_group group)
{
    __shared__ DenseStage x, mean, factor;
    const DenseRows dense(group, blockIdx.z);
    const int r0 = blockIdx.x * DenseTile::kSide, k0 = blockIdx.y * DenseTile::kSide;
    if (r0 >= dense.count)
        return;
    const DenseThread thread;
    DenseSums sums;
    clear(sums);
    for (int d0 = 0; d0 < model.dim; d0 += DenseTile::kDepth) {
        __syncthreads();
        load_rows<T>(x, metric, dense, r0, d0);
        load_matrix(mean, model.mean, model.k, model.dim, group.k_begin + k0, d0);
        if (kDiag)
            load_matrix(factor, model.factor, model.k, model.dim, group.k_begin + k0, d0);
        __syncthreads();
        fold(sums, thread, x, mean, [&](double sum, double a, double m, int depth, int, int j) {
            const double t = kDiag ? (a - m) * factor.value[depth][thread.j(j)] : a - m;
            return fma(t, t, sum);
        });
    }
#pragma unroll
    for (int j = 0; j < DenseTile::kMicro; j++) {
        const int k = k0 + thread.j(j);
        if (k >= group.k_count)
            continue;
        const double offset = model.offset[group.k_begin + k],
                     f = kDiag ? 1.0 : model.factor[group.k_begin + k];
        double *column = dense.column(group, k);
#pragma unroll
        for (int i = 0; i < DenseTile::kMicro; i++)
            column[r0 + thread.i(i)] = offset - f * sums[i][j];
    }
}

/* Full: a block takes 64 rows and one component. Grid: (components, row tiles, quanta). */
template <typename T>
__global__ void __launch_bounds__(DenseTile::kThreads)
    logits_full(fgmm_row_view metric, fgmm_model_view model, fgmm_dense_group group)
{
    __shared__ FullStages stages;
    const DenseRows dense(group, blockIdx.z);
    const int k = group.k_begin + blockIdx.x, r0 = blockIdx.y * DenseTile::kSide;
    if (r0 >= dense.count)
        return;
    const double square = full_squares<T>(stages, metric, model, dense, k, r0);
    if (threadIdx.x < DenseTile::kSide)
        dense.column(group, blockIdx.x)[r0 + threadIdx.x] = model.offset[k] - square;
}

/* ---- normalising ---- */

/* Maximum, its component and the sum of 2^(l - maximum), joined in a fixed order. */
struct RowState {
    double max, sum;
    int best;

    __device__ __forceinline__ void add(double value, int k)
    {
        if (value > max) {
            sum = sum * exp2(max - value) + 1.0;
            max = value;
            best = k;
        } else if (value > -INFINITY) {
            sum += exp2(value - max);
        }
    }
    /* `other` saw other components, in any relation to these. */
    __device__ __forceinline__ void join(const RowState &other)
    {
        if (other.max == -INFINITY)
            return;
        if (other.max > max) {
            sum = sum * exp2(max - other.max) + other.sum;
            best = other.best;
            max = other.max;
        } else {
            sum += other.sum * exp2(other.max - max);
            best = other.max == max ? min(best, other.best) : best;
        }
    }
};

/* Lane: row; warp w: components w, w + 8, ... Grid: (row tiles of 32, quanta). */
__global__ void __launch_bounds__(SlabTile::kThreads) reduce(fgmm_dense_group group)
{
    __shared__ RowState states[SlabTile::kWarps][SlabTile::kRows];
    const DenseRows dense(group, blockIdx.y);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, r = blockIdx.x * SlabTile::kRows + lane;
    if (blockIdx.x * SlabTile::kRows >= dense.count)
        return;
    RowState state = {-INFINITY, 0.0, 0};
    if (r < dense.count)
        for (int k = warp; k < group.k_count; k += SlabTile::kWarps)
            state.add(dense.column(group, k)[r], group.k_begin + k);
    states[warp][lane] = state;
    __syncthreads();
    if (warp != 0 || r >= dense.count)
        return;
    const int64_t place = dense.place(r);
    RowState whole = {-INFINITY, 0.0, 0};
    if (group.k_begin > 0)
        whole = {group.row_max[place], group.row_sum[place], group.row_best[place]};
    for (int w = 0; w < SlabTile::kWarps; w++)
        whole.join(states[w][lane]);
    group.row_max[place] = whole.max;
    group.row_sum[place] = whole.sum;
    group.row_best[place] = whole.best;
}

/* Adds the log-densities of a warp's 32 rows. */
__device__ void add_logs(const fgmm_stats_view &stats, bool inside, double density)
{
    Limbs limbs = inside ? split(density * (stats.inverse_log_bound * stats.one), stats.one) : Limbs{0, 0};
    limbs.high = warp_sum(limbs.high);
    limbs.low = warp_sum(limbs.low);
    if (threadIdx.x % kWarp == 0) {
        add_words(stats.log_high, limbs.high);
        add_words(stats.log_low, limbs.low);
    }
}

/* Slab: log2-densities to responsibilities, in place; adds n, the spherical moment, pairs and (once a row)
 * the log-density. Lane: row; a warp takes every eighth of 64 components. Grid: (row tiles of 32, component
 * tiles, quanta). */
__global__ void __launch_bounds__(SlabTile::kThreads)
    responsibilities(fgmm_model_view model, fgmm_dense_group group, fgmm_stats_view stats)
{
    const DenseRows dense(group, blockIdx.z);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, r = blockIdx.x * SlabTile::kRows + lane;
    if (blockIdx.x * SlabTile::kRows >= dense.count)
        return;
    const bool inside = r < dense.count;
    const double max = inside ? group.row_max[dense.place(r)] : 0.0,
                 sum = inside ? group.row_sum[dense.place(r)] : 1.0;
    const int best = inside ? group.row_best[dense.place(r)] : -1;
    const double density = model.hard ? max : max + log2(sum);
    if (group.k_begin == 0 && blockIdx.y == 0 && warp == 0)
        add_logs(stats, inside, density);
    int pairs = 0;
    const int last = min(group.k_count, static_cast<int>(blockIdx.y + 1) * SlabTile::kComponents);
    for (int k = blockIdx.y * SlabTile::kComponents + warp; k < last; k += SlabTile::kWarps) {
        const int component = group.k_begin + k;
        double *value = dense.column(group, k) + r;
        const double l = inside ? *value : -INFINITY;
        double weight = 0;
        if (model.hard)
            weight = component == best ? 1.0 : 0.0;
        else if (l >= max - model.keep_bits)
            weight = exp2(l - density);
        *value = weight;
        const unsigned kept = __ballot_sync(kWholeWarp, weight > 0);
        if (kept == 0 || !stats.sums) {
            pairs += __popc(kept);
            continue;
        }
        pairs += __popc(kept);
        const double n = warp_sum(weight);
        if (lane == 0)
            add_fixed(&stats.n[component], n * stats.one);
        if (stats.moment == FGMM_KERNEL_MOMENT_SPHERICAL) {
            const double distance = (model.offset[component] - l) / model.factor[component];
            const double q = warp_sum(weight > 0 ? weight * distance : 0.0);
            if (lane == 0)
                add_fixed2(&stats.q_high[component], &stats.q_low[component],
                           q * (stats.inverse_spherical_bound * stats.one), stats.one);
        }
    }
    if (lane == 0 && pairs != 0)
        add_words(stats.pairs, pairs);
}

int tiles(int count, int tile)
{
    return (count + tile - 1) / tile;
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_dense_lists(const int32_t *counts, int32_t rows, const fgmm_dense_lists *lists,
                             fgmm_stream stream)
{
    gather<<<tiles(rows, FGMM_KERNEL_QUANTUM), FGMM_KERNEL_QUANTUM, 0, stream>>>(counts, rows, *lists);
    return cudaGetLastError();
}

int fgmm__launch_dense_logits(const fgmm_row_view *metric, const fgmm_model_view *model,
                              const fgmm_dense_group *group, fgmm_stream stream)
{
    const int row_tiles = tiles(group->max_rows, DenseTile::kSide);
    return dispatch_rows(metric->type, [&](auto zero) -> int {
        using T = decltype(zero);
        const dim3 grid(row_tiles, tiles(group->k_count, DenseTile::kSide), group->quanta);
        if (model->form == FGMM_FORM_FULL)
            logits_full<T>
                <<<dim3(group->k_count, row_tiles, group->quanta), DenseTile::kThreads, 0, stream>>>(
                    *metric, *model, *group);
        else if (model->form == FGMM_FORM_DIAG)
            logits<T, true><<<grid, DenseTile::kThreads, 0, stream>>>(*metric, *model, *group);
        else
            logits<T, false><<<grid, DenseTile::kThreads, 0, stream>>>(*metric, *model, *group);
        return cudaGetLastError();
    });
}

int fgmm__launch_dense_reduce(const fgmm_dense_group *group, fgmm_stream stream)
{
    reduce<<<dim3(tiles(group->max_rows, SlabTile::kRows), group->quanta), SlabTile::kThreads, 0, stream>>>(
        *group);
    return cudaGetLastError();
}

int fgmm__launch_dense_responsibilities(const fgmm_model_view *model, const fgmm_dense_group *group,
                                        const fgmm_stats_view *stats, fgmm_stream stream)
{
    const dim3 grid(tiles(group->max_rows, SlabTile::kRows), tiles(group->k_count, SlabTile::kComponents),
                    group->quanta);
    responsibilities<<<grid, SlabTile::kThreads, 0, stream>>>(*model, *group, *stats);
    return cudaGetLastError();
}
