/* From lists of candidates to responsibilities, for full components. What is to be scored is sorted by
 * component first, so that a factor of dim^2 values is read once for up to 64 rows.
 *
 * First the component that the screen likes best is scored for every row. Mostly its log-density is so far
 * above the bounds of all others that the row is settled; a row that is not is open, and its other candidates
 * are scored in a second round. Items of a component come in any order, and so do the entries of a list; no
 * result depends on either. */
#include <cuda_runtime.h>
#include "kernels/generic/candidates.cuh"
#include "kernels/generic/fixed.cuh"
#include "kernels/generic/full_items.cuh"
#include "kernels/generic/full_tile.cuh"

namespace fgmm
{
namespace
{

/* ---- sorting ---- */

/* Which items are sorted. */
enum Which { kFirst, kOthers, kKept };

/* Calls f(item, component) for the items of a thread's row. */
template <Which which, typename F>
__device__ __forceinline__ void for_items(const fgmm_full_pairs &pairs, int rows, F f)
{
    const int thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= (which == kOthers ? *pairs.n_open : rows))
        return;
    const int row = which == kOthers ? pairs.open[thread] : thread, count = pairs.lists.counts[row];
    if (count > FGMM_CANDIDATES)
        return; /* dense */
    const int begin = which == kOthers ? 1 : 0, end = which == kFirst ? 1 : count;
    for (int place = begin; place < end; place++) {
        const int64_t item = item_of(row, place);
        if (which != kKept || pairs.values[item] > 0)
            f(static_cast<int32_t>(item), pairs.lists.entries[item].component);
    }
}

template <Which which>
__global__ void __launch_bounds__(RowWarps::kThreads) count_items(fgmm_full_pairs pairs, int rows)
{
    for_items<which>(pairs, rows, [&](int32_t, int c) { atomicAdd(&pairs.counts[c], 1); });
}

/* One block: counts to places of the first items; counts are zero again. */
__global__ void __launch_bounds__(FullScan::kThreads) scan_items(fgmm_full_pairs pairs)
{
    __shared__ int sums[FullScan::kThreads / kWarp];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    int before = 0;
    for (int first = 0; first < pairs.k; first += FullScan::kThreads) {
        const int c = first + threadIdx.x, count = c < pairs.k ? pairs.counts[c] : 0;
        int inclusive = count;
#pragma unroll
        for (int step = 1; step < kWarp; step *= 2) {
            const int below = __shfl_up_sync(kWholeWarp, inclusive, step);
            inclusive += lane >= step ? below : 0;
        }
        if (lane == kWarp - 1)
            sums[warp] = inclusive;
        __syncthreads();
        int earlier = 0, total = 0;
        for (int w = 0; w < FullScan::kThreads / kWarp; w++) {
            earlier += w < warp ? sums[w] : 0;
            total += sums[w];
        }
        if (c < pairs.k) {
            pairs.ends[c] = before + earlier + inclusive - count;
            pairs.counts[c] = 0;
        }
        before += total;
        __syncthreads();
    }
}

/* Moves a component's place in `ends` on, item by item, until it is what its name says. */
template <Which which>
__global__ void __launch_bounds__(RowWarps::kThreads) place_items(fgmm_full_pairs pairs, int rows)
{
    for_items<which>(pairs, rows,
                     [&](int32_t item, int c) { pairs.sorted[atomicAdd(&pairs.ends[c], 1)] = item; });
}

template <Which which> void sort_items(const fgmm_full_pairs &pairs, int rows, fgmm_stream stream)
{
    const int blocks = (rows + RowWarps::kThreads - 1) / RowWarps::kThreads;
    count_items<which><<<blocks, RowWarps::kThreads, 0, stream>>>(pairs, rows);
    scan_items<<<1, FullScan::kThreads, 0, stream>>>(pairs);
    place_items<which><<<blocks, RowWarps::kThreads, 0, stream>>>(pairs, rows);
}

/* ---- scoring ---- */

/* The log2-densities of sorted items. */
template <typename T>
__global__ void __launch_bounds__(DenseTile::kThreads, FullScores::kBlocks)
    score(fgmm_row_view rows, fgmm_model_view model, fgmm_full_pairs pairs)
{
    __shared__ FullStages stages;
    const int tasks = task_count(pairs, DenseTile::kSide);
    for (int number = blockIdx.x; number < tasks; number += gridDim.x) {
        const FullTask task = find_task(pairs, number, DenseTile::kSide);
        if (task.count == 0)
            continue;
        const ItemRows list = {pairs.sorted + task.first, task.count};
        const double square = full_squares<T>(stages, rows, model, list, task.component, 0);
        if (threadIdx.x < task.count)
            pairs.values[list.items[threadIdx.x]] = model.offset[task.component] - square;
    }
}

int launch_score(const fgmm_row_view &rows, const fgmm_model_view &model, const fgmm_full_pairs &pairs,
                 fgmm_stream stream)
{
    const int blocks = task_blocks(pairs, rows.rows, DenseTile::kSide);
    return dispatch_rows(rows.type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (sizeof(T) == sizeof(double))
            return cudaErrorInvalidValue; /* stored rows are never float64 */
        else
            score<T><<<blocks, DenseTile::kThreads, 0, stream>>>(rows, model, pairs);
        return cudaGetLastError();
    });
}

/* ---- which rows are open ---- */

__global__ void __launch_bounds__(RowWarps::kThreads)
    find_open(fgmm_full_pairs pairs, int rows, double keep_bits)
{
    const int row = blockIdx.x * RowWarps::kThreads + threadIdx.x, lane = threadIdx.x % kWarp;
    double least = 0; /* what a component must have to matter */
    bool open = false;
    if (row < rows && pairs.lists.counts[row] <= FGMM_CANDIDATES) {
        least = pairs.values[item_of(row, 0)] - keep_bits;
        open = !(static_cast<double>(pairs.runner_up[row]) < least);
    }
    const unsigned votes = __ballot_sync(kWholeWarp, open);
    int base = 0;
    if (lane == 0 && votes != 0)
        base = atomicAdd(pairs.n_open, __popc(votes));
    base = __shfl_sync(kWholeWarp, base, 0);
    if (open) {
        pairs.open[base + __popc(votes & ((1u << lane) - 1))] = row;
        pairs.threshold[row] = __double2float_rd(least);
    }
}

/* Rows whose entries cost more to be scored than to be screened again by whole factors. */
__global__ void __launch_bounds__(RowWarps::kThreads) find_crowded(fgmm_full_pairs pairs)
{
    const int place = blockIdx.x * RowWarps::kThreads + threadIdx.x;
    if (place >= *pairs.n_open)
        return;
    const int row = pairs.open[place];
    if (pairs.lists.counts[row] <= FullScores::kCrowded)
        return;
    pairs.crowded[atomicAdd(pairs.n_crowded, 1)] = row;
    pairs.lists.counts[row] = 1;
}

/* Whether at least `least` components are known to be the row's most likely ones: those that are not listed
 * are under the threshold, and so may be some of the entries. */
__device__ __forceinline__ bool is_sure(const fgmm_full_pairs &pairs, int row, int count, int least)
{
    int certain = 1; /* a settled row, without threshold, has one entry */
    for (int place = 1; place < count && certain < least; place++)
        certain += pairs.values[item_of(row, place)] >= static_cast<double>(pairs.threshold[row]);
    return certain >= least;
}

/* Counts as other kernels know them: entries that found no place were counted on. */
__global__ void __launch_bounds__(RowWarps::kThreads) end_lists(fgmm_full_pairs pairs, int rows, int least)
{
    const int row = blockIdx.x * RowWarps::kThreads + threadIdx.x;
    if (row >= rows)
        return;
    const int count = pairs.lists.counts[row];
    if (count > FGMM_CANDIDATES || !is_sure(pairs, row, count, least))
        pairs.lists.counts[row] = FGMM_DENSE_ROW;
}

/* ---- responsibilities ---- */

/* A warp: the row's values to responsibilities. Returns its log2-density; *kept: how many are not 0. */
__device__ __forceinline__ double normalise(const fgmm_full_pairs &pairs, int row, int count,
                                            double keep_bits, int *kept)
{
    Candidates held;
    double *values = pairs.values + item_of(row, 0);
    take_values(held, pairs.lists.entries + item_of(row, 0), values, count);
    const double best = best_value(held), sum = mass_in_any_order(held, best, keep_bits);
    *kept = 0;
#pragma unroll
    for (int slot = 0; slot < RowWarps::kSlots; slot++) {
        const bool keeps = held.component[slot] >= 0 && held.value[slot] >= best - keep_bits;
        const double r = keeps ? exp2(held.value[slot] - best) / sum : 0.0;
        if (held.component[slot] >= 0)
            values[slot * kWarp + threadIdx.x % kWarp] = r;
        *kept += __popc(__ballot_sync(kWholeWarp, r > 0));
    }
    return best + log2(sum);
}

/* A thread a row; then its warp, where the row has several entries. */
__global__ void __launch_bounds__(RowWarps::kThreads)
    responsibilities(fgmm_full_pairs pairs, int rows, double keep_bits, fgmm_stats_view stats)
{
    __shared__ Totals totals;
    const int lane = threadIdx.x % kWarp, row = blockIdx.x * RowWarps::kThreads + threadIdx.x;
    if (threadIdx.x == 0)
        totals = {0, 0, 0};
    __syncthreads();
    const int count = row < rows ? pairs.lists.counts[row] : FGMM_DENSE_ROW;
    const double scale = stats.inverse_log_bound * stats.one;
    int64_t n_pairs = __popc(__ballot_sync(kWholeWarp, count == 1));
    Limbs log = {0, 0};
    if (count == 1) {
        log = split(pairs.values[item_of(row, 0)] * scale, stats.one);
        pairs.values[item_of(row, 0)] = 1;
    }
    log = {warp_sum(log.high), warp_sum(log.low)};
    unsigned left = __ballot_sync(kWholeWarp, count > 1 && count <= FGMM_CANDIDATES);
    for (; left != 0; left &= left - 1) {
        const int owner = __ffs(left) - 1;
        int kept;
        const double density =
            normalise(pairs, row - lane + owner, __shfl_sync(kWholeWarp, count, owner), keep_bits, &kept);
        add_limbs(log, split(density * scale, stats.one));
        n_pairs += kept;
    }
    if (lane == 0)
        totals.add(log, n_pairs);
    __syncthreads();
    if (threadIdx.x == 0)
        totals.flush(stats);
}

int row_blocks(int rows)
{
    return (rows + RowWarps::kThreads - 1) / RowWarps::kThreads;
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_full_first(const fgmm_row_view *rows, const fgmm_model_view *model,
                            const fgmm_full_pairs *pairs, fgmm_stream stream)
{
    int error = cudaMemsetAsync(pairs->n_open, 0, sizeof *pairs->n_open, stream);
    if (error == cudaSuccess)
        error = cudaMemsetAsync(pairs->n_crowded, 0, sizeof *pairs->n_crowded, stream);
    if (error != cudaSuccess)
        return error;
    sort_items<kFirst>(*pairs, rows->rows, stream);
    error = launch_score(*rows, *model, *pairs, stream);
    if (error != cudaSuccess)
        return error;
    find_open<<<row_blocks(rows->rows), RowWarps::kThreads, 0, stream>>>(*pairs, rows->rows,
                                                                         model->keep_bits);
    return cudaGetLastError();
}

int fgmm__launch_full_crowded(int32_t rows, const fgmm_full_pairs *pairs, fgmm_stream stream)
{
    find_crowded<<<row_blocks(rows), RowWarps::kThreads, 0, stream>>>(*pairs);
    return cudaGetLastError();
}

int fgmm__launch_full_others(const fgmm_row_view *rows, const fgmm_model_view *model, int32_t least,
                             const fgmm_full_pairs *pairs, fgmm_stream stream)
{
    sort_items<kOthers>(*pairs, rows->rows, stream);
    const int error = launch_score(*rows, *model, *pairs, stream);
    if (error != cudaSuccess)
        return error;
    end_lists<<<row_blocks(rows->rows), RowWarps::kThreads, 0, stream>>>(*pairs, rows->rows, least);
    return cudaGetLastError();
}

int fgmm__launch_full_responsibilities(const fgmm_row_view *rows, const fgmm_model_view *model,
                                       const fgmm_full_pairs *pairs, const fgmm_stats_view *stats,
                                       fgmm_stream stream)
{
    responsibilities<<<row_blocks(rows->rows), RowWarps::kThreads, 0, stream>>>(*pairs, rows->rows,
                                                                                model->keep_bits, *stats);
    if (stats->sums)
        sort_items<kKept>(*pairs, rows->rows, stream);
    return cudaGetLastError();
}
