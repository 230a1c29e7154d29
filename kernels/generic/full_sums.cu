/* The sums of kept items of full components: n, s and q, from items sorted by component.
 *
 * A block has up to kItems items of one component and 64 x 64 dimensions of its second moments, and keeps
 * their sums in registers: one atomic a word, where an item by itself would take one. Contributions are
 * rounded to the grid one by one, by adding 1.5 * 2^52 as in sums.cu: the high limb of r t_i t_j, then what
 * that left. Integers are summed, so any order of items and any cut into tasks gives the same bits. */
#include <cuda_runtime.h>
#include "kernels/generic/fixed.cuh"
#include "kernels/generic/full_items.cuh"
#include "kernels/generic/full_tile.cuh"
#include "kernels/generic/warp.cuh"

namespace fgmm
{
namespace
{

constexpr double kMagic = 0x1.8p52;
constexpr unsigned long long kMagicBits = 0x4338000000000000ull;

/* Adds the rounding of a * b to `sum` (kMagicBits more than it) and returns it. */
__device__ __forceinline__ double add_rounded(unsigned long long &sum, double a, double b)
{
    const double rounded = fma(a, b, kMagic);
    sum += static_cast<unsigned long long>(__double_as_longlong(rounded));
    return rounded - kMagic;
}

__device__ __forceinline__ void flush(int64_t *to, unsigned long long sum, int roundings)
{
    const int64_t value = static_cast<int64_t>(sum - roundings * kMagicBits);
    if (value != 0)
        add_words(to, value);
}

struct Shared {
    DenseStage t, weighted; /* [item][dimension]: t_j / bound_j; r t_i / bound_i * one */
    double weight[FullSums::kItems];
    int32_t row[FullSums::kItems];
};

/* What a thread loads: dimension `d` of every fourth item. */
template <typename T> struct Loader {
    const T *data;
    double origin, centre, inverse; /* of dimension d */
    int d, dim;
    T waiting[DenseTile::kMicro];

    __device__ __forceinline__ Loader(const fgmm_row_view &rows, const fgmm_model_view &model,
                                      const fgmm_stats_view &stats, int component, int first)
        : data(static_cast<const T *>(rows.data)), d(first + threadIdx.x % DenseTile::kSide), dim(rows.dim)
    {
        const bool inside = d < dim;
        origin = inside ? rows.origin[d] : 0.0;
        centre = inside ? model.centre[static_cast<int64_t>(component) * dim + d] : 0.0;
        inverse = inside ? stats.inverse_bound[d] : 0.0;
    }
    static __device__ __forceinline__ int item(int step)
    {
        return threadIdx.x / DenseTile::kSide + step * DenseTile::kMicro;
    }
    __device__ __forceinline__ void fetch(const Shared &shared, int first, int count)
    {
#pragma unroll
        for (int step = 0; step < DenseTile::kMicro; step++) {
            const int i = first + item(step);
            waiting[step] = i < count && d < dim ? data[static_cast<int64_t>(shared.row[i]) * dim + d] : T(0);
        }
    }
    /* x - origin of the item of a step. */
    __device__ __forceinline__ double value(int step) const
    {
        return to_double(waiting[step]) - origin;
    }
};

/* Sums of a thread: 4 x 4 second moments. */
struct Moments {
    unsigned long long high[DenseTile::kMicro][DenseTile::kMicro], low[DenseTile::kMicro][DenseTile::kMicro];
};

/* Adds the stage's 16 items, those past the end being zero. */
__device__ __forceinline__ void add_items(Moments &q, const DenseThread &thread, const Shared &shared,
                                          double one)
{
#pragma unroll 2
    for (int item = 0; item < DenseTile::kDepth; item++) {
        double u[DenseTile::kMicro], v[DenseTile::kMicro];
#pragma unroll
        for (int step = 0; step < DenseTile::kMicro; step++) {
            u[step] = shared.t.value[item][thread.i(step)];
            v[step] = shared.weighted.value[item][thread.j(step)];
        }
#pragma unroll
        for (int i = 0; i < DenseTile::kMicro; i++)
#pragma unroll
            for (int j = 0; j < DenseTile::kMicro; j++) {
                const double rounded = add_rounded(q.high[i][j], u[i], v[j]);
                add_rounded(q.low[i][j], fma(u[i], v[j], -rounded), one);
            }
    }
}

__device__ __forceinline__ void flush_moments(const Moments &q, const DenseThread &thread,
                                              const fgmm_stats_view &stats, int component, int i0, int j0,
                                              int dim, int roundings)
{
    const int64_t triangle = static_cast<int64_t>(dim) * (dim + 1) / 2;
#pragma unroll
    for (int down = 0; down < DenseTile::kMicro; down++)
#pragma unroll
        for (int across = 0; across < DenseTile::kMicro; across++) {
            const int i = i0 + thread.j(down), j = j0 + thread.i(across);
            if (i >= dim || j > i)
                continue;
            const int64_t at = component * triangle + static_cast<int64_t>(i) * (i + 1) / 2 + j;
            flush(&stats.q_high[at], q.high[across][down], roundings);
            flush(&stats.q_low[at], q.low[across][down], roundings);
        }
}

/* Rows and weights of a task to shared memory; the block of the first dimensions adds the masses. */
__device__ __forceinline__ void load_items(Shared &shared, const fgmm_full_pairs &pairs, const FullTask &task,
                                           const fgmm_stats_view &stats, bool masses)
{
    static_assert(FullSums::kItems <= DenseTile::kThreads && FullSums::kItems % kWarp == 0,
                  "a thread an item");
    if (threadIdx.x >= FullSums::kItems)
        return;
    const bool inside = threadIdx.x < task.count;
    const int32_t item = inside ? pairs.sorted[task.first + threadIdx.x] : 0;
    const double weight = inside ? pairs.values[item] : 0.0;
    shared.row[threadIdx.x] = item / FGMM_CANDIDATES;
    shared.weight[threadIdx.x] = weight;
    if (!masses)
        return;
    const int64_t n = warp_sum(static_cast<int64_t>(__double2ll_rn(weight * stats.one)));
    if (threadIdx.x % kWarp == 0 && n != 0)
        add_words(&stats.n[task.component], n);
}

/* A task's moments of dimensions i0.. by j0..; on the diagonal its first moments too. */
template <typename T>
__device__ __forceinline__ void add_task(Shared &shared, const fgmm_row_view &rows,
                                         const fgmm_model_view &model, const fgmm_stats_view &stats,
                                         const FullTask &task, int i0, int j0)
{
    const DenseThread thread;
    const int dim = rows.dim, column = threadIdx.x % DenseTile::kSide;
    const bool diagonal = i0 == j0;
    const int at_s = i0 + column;
    Moments q = {};
    unsigned long long s = 0;
    Loader<T> across(rows, model, stats, task.component, j0), down(rows, model, stats, task.component, i0);
    const double scale_down = down.inverse * stats.one;
    __syncthreads(); /* items are there */
    across.fetch(shared, 0, task.count);
    down.fetch(shared, 0, task.count);
    int roundings = 0;
    for (int first = 0; first < task.count; first += DenseTile::kDepth) {
#pragma unroll
        for (int step = 0; step < DenseTile::kMicro; step++) {
            const int item = Loader<T>::item(step), at = first + item;
            const double weight = at < task.count ? shared.weight[at] : 0.0;
            const double x = down.value(step);
            shared.t.value[item][column] = (across.value(step) - across.centre) * across.inverse;
            shared.weighted.value[item][column] = weight * (x - down.centre) * scale_down;
            if (diagonal)
                add_rounded(s, weight * x, scale_down);
        }
        across.fetch(shared, first + DenseTile::kDepth, task.count);
        down.fetch(shared, first + DenseTile::kDepth, task.count);
        __syncthreads();
        add_items(q, thread, shared, stats.one);
        roundings += DenseTile::kDepth;
        __syncthreads();
    }
    if (diagonal && at_s < dim)
        flush(&stats.s[static_cast<int64_t>(task.component) * dim + at_s], s,
              roundings / DenseTile::kDepth * DenseTile::kMicro);
    flush_moments(q, thread, stats, task.component, i0, j0, dim, roundings);
}

/* Grid: (tasks, pairs of tiles of dimensions: (0,0) (1,0) (1,1) (2,0) ...). */
template <typename T>
__global__ void __launch_bounds__(DenseTile::kThreads, FullSums::kBlocks)
    sums(fgmm_row_view rows, fgmm_model_view model, fgmm_full_pairs pairs, fgmm_stats_view stats)
{
    __shared__ Shared shared;
    int tile_i = 0, tile_j = blockIdx.y;
    while (tile_j > tile_i)
        tile_j -= ++tile_i;
    const int i0 = tile_i * DenseTile::kSide, j0 = tile_j * DenseTile::kSide;
    const int tasks = task_count(pairs, FullSums::kItems);
    for (int number = blockIdx.x; number < tasks; number += gridDim.x) {
        const FullTask task = find_task(pairs, number, FullSums::kItems);
        if (task.count == 0)
            continue;
        load_items(shared, pairs, task, stats, blockIdx.y == 0);
        add_task<T>(shared, rows, model, stats, task, i0, j0);
        __syncthreads(); /* all have read the items */
    }
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_full_sums(const fgmm_row_view *rows, const fgmm_model_view *model,
                           const fgmm_full_pairs *pairs, const fgmm_stats_view *stats, fgmm_stream stream)
{
    const int side = (rows->dim + DenseTile::kSide - 1) / DenseTile::kSide;
    const dim3 grid(task_blocks(*pairs, rows->rows, FullSums::kItems), side * (side + 1) / 2);
    return dispatch_rows(rows->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (sizeof(T) == sizeof(double))
            return cudaErrorInvalidValue; /* stored rows are never float64 */
        else
            sums<T><<<grid, DenseTile::kThreads, 0, stream>>>(*rows, *model, *pairs, *stats);
        return cudaGetLastError();
    });
}
