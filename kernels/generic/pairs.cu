/* The kept (row, component) pairs of a chunk's sparse rows, sorted by component for sums.cu.
 *
 * Most rows have one candidate: it takes the whole row, and a thread passes it on as it is. A warp rescores
 * the candidates of the others in float64 and normalises them. A counting sort: a pair's rank in its
 * component is taken when it is found, the last block turns counts into offsets, `scatter` moves the pairs.
 * Pairs of one component come in any order; their sums do not depend on it. */
#include <cuda_runtime.h>
#include <type_traits>
#include "kernels/generic/direct.cuh"

namespace fgmm
{
namespace
{

/* Responsibilities of a lane's candidates (0: dropped), from values; returns the row's log2-density. */
__device__ double responsibilities(const Candidates &held, const fgmm_model_view &model,
                                   double (&r)[RowWarps::kSlots])
{
    const double best = best_value(held);
    if (model.hard) {
        const int component = component_of(held, best);
#pragma unroll
        for (int slot = 0; slot < RowWarps::kSlots; slot++)
            r[slot] = held.component[slot] == component ? 1.0 : 0.0;
        return best;
    }
    const double sum = mass(held, best, model.keep_bits);
#pragma unroll
    for (int slot = 0; slot < RowWarps::kSlots; slot++)
        r[slot] = held.component[slot] >= 0 && held.value[slot] >= best - model.keep_bits
                      ? exp2(held.value[slot] - best) / sum
                      : 0.0;
    return best + log2(sum);
}

__device__ __forceinline__ unsigned lanes_below()
{
    return (1u << (threadIdx.x % kWarp)) - 1;
}

/* Takes a rank in its component for the pair of each lane (-1: none). Lanes of one component share an atomic.
 */
__device__ int take_rank(int32_t *counts, int component)
{
    const unsigned alike = __match_any_sync(kWholeWarp, component);
    const int leader = __ffs(alike) - 1, lane = threadIdx.x % kWarp;
    int base = 0;
    if (component >= 0 && lane == leader)
        base = atomicAdd(&counts[component], __popc(alike));
    return __shfl_sync(kWholeWarp, base, leader) + __popc(alike & lanes_below());
}

/* A row with several candidates, as the warp has it. */
struct Several {
    Candidates held;
    double r[RowWarps::kSlots];
};

__device__ int kept_pairs(const Several &several)
{
    int pairs = 0;
#pragma unroll
    for (int slot = 0; slot < RowWarps::kSlots; slot++)
        pairs += __popc(__ballot_sync(kWholeWarp, several.r[slot] > 0));
    return pairs;
}

/* Room for `more` pairs behind the rows' own places; -1, after leaving no gap unmarked, when there is none.
 */
__device__ int take_room(const fgmm_pair_view &work, int rows, int more)
{
    const int lane = threadIdx.x % kWarp, room = work.capacity - rows;
    int base = 0;
    if (more > 0) {
        if (lane == 0)
            base = atomicAdd(&work.state->wanted, more);
        base = __shfl_sync(kWholeWarp, base, 0);
    }
    if (base + more <= room)
        return rows + base;
    for (int place = base + lane; place < room && place < base + more; place += kWarp)
        work.pairs[rows + place].component = -1;
    return -1;
}

/* Writes the row's pairs but the first, whose component it returns (-1: none), on all lanes; the first has
 * the row's own place. */
template <typename T>
__device__ int write_pairs(const fgmm_pair_view &work, const fgmm_row_view &original,
                           const fgmm_model_view &model, const fgmm_stats_view &stats, int row,
                           const Several &several, int pairs)
{
    const int room = take_room(work, original.rows, pairs - 1);
    if (room < 0) {
        add_row<T>(original, model, stats, row, several.held, several.r);
        return -1;
    }
    int before = 0, first = -1;
#pragma unroll
    for (int slot = 0; slot < RowWarps::kSlots; slot++) {
        const bool kept = several.r[slot] > 0;
        const unsigned all = __ballot_sync(kWholeWarp, kept);
        const int number = before + __popc(all & lanes_below()), c = several.held.component[slot];
        before += __popc(all);
        if (!kept)
            continue;
        const int place = number == 0 ? row : room + number - 1;
        work.weights[place] = {several.r[slot], several.held.distance[slot]};
        if (number == 0)
            first = c;
        else
            work.pairs[place] = {row, c, atomicAdd(&work.counts[c], 1), place};
    }
    return __reduce_max_sync(kWholeWarp, first);
}

/* Exclusive sum over the block's threads; *total: of all. */
__device__ int block_exclusive_sum(int value, int *total)
{
    __shared__ int sums[RowWarps::kWarps];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    int inclusive = value;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
        const int below = __shfl_up_sync(kWholeWarp, inclusive, step);
        inclusive += lane >= step ? below : 0;
    }
    if (lane == kWarp - 1)
        sums[warp] = inclusive;
    __syncthreads();
    int before = 0;
    *total = 0;
#pragma unroll
    for (int w = 0; w < RowWarps::kWarps; w++) {
        before += w < warp ? sums[w] : 0;
        *total += sums[w];
    }
    __syncthreads();
    return before + inclusive - value;
}

/* One block: counts to offsets; counts and state are made ready for the next chunk. Other blocks wrote what
 * is read here: the loads bypass this multiprocessor's cache. */
__device__ void scan_counts(const fgmm_pair_view &work, int k, int rows)
{
    int before = 0;
    for (int first = 0; first < k; first += RowWarps::kThreads * FGMM_PAIR_COUNTS) {
        const int at = first + threadIdx.x * FGMM_PAIR_COUNTS;
        int4 counts[FGMM_PAIR_COUNTS / 4] = {};
        int sum = 0, total;
        if (at < k) {
#pragma unroll
            for (int i = 0; i < FGMM_PAIR_COUNTS / 4; i++)
                counts[i] = __ldcg(reinterpret_cast<const int4 *>(work.counts + at) + i);
        }
#pragma unroll
        for (int i = 0; i < FGMM_PAIR_COUNTS / 4; i++)
            sum += counts[i].x + counts[i].y + counts[i].z + counts[i].w;
        int offset = before + block_exclusive_sum(sum, &total);
        before += total;
        if (at >= k)
            continue;
#pragma unroll
        for (int i = 0; i < FGMM_PAIR_COUNTS / 4; i++) {
            const int4 n = counts[i];
            const int4 offsets = {offset, offset + n.x, offset + n.x + n.y, offset + n.x + n.y + n.z};
            reinterpret_cast<int4 *>(work.offsets + at)[i] = offsets;
            reinterpret_cast<int4 *>(work.counts + at)[i] = int4{0, 0, 0, 0};
            offset = offsets.w + n.w;
        }
    }
    if (threadIdx.x == 0)
        *work.state = {0, 0, min(__ldcg(&work.state->wanted), work.capacity - rows), before};
}

/* M: element type of the rows that distances are taken of; T: of the original rows. A thread a row; then its
 * warp, where the row has several candidates. */
template <typename M, typename T>
__global__ void __launch_bounds__(RowWarps::kThreads)
    find_pairs(fgmm_row_view metric, fgmm_row_view original, fgmm_model_view model,
               fgmm_candidate_lists lists, fgmm_pair_view work, fgmm_stats_view stats)
{
    __shared__ Totals totals;
    __shared__ bool is_last;
    const int lane = threadIdx.x % kWarp, row = blockIdx.x * RowWarps::kThreads + threadIdx.x;
    if (threadIdx.x == 0)
        totals = {0, 0, 0};
    __syncthreads();
    const int count = row < metric.rows ? lists.counts[row] : 0;
    int component = -1, weight = -1;
    if (count == 1)
        component = lists.entries[static_cast<int64_t>(row) * FGMM_CANDIDATES].component;
    int64_t pairs = __popc(__ballot_sync(kWholeWarp, count == 1));
    Limbs log = {0, 0};
    unsigned left = __ballot_sync(kWholeWarp, count > 1 && count <= FGMM_CANDIDATES);
    for (; left != 0; left &= left - 1) {
        const int owner = __ffs(left) - 1, its_row = row - lane + owner;
        Several several;
        rescore<M>(several.held, metric, model, its_row,
                   lists.entries + static_cast<int64_t>(its_row) * FGMM_CANDIDATES,
                   __shfl_sync(kWholeWarp, count, owner));
        const double density = responsibilities(several.held, model, several.r);
        add_limbs(log, split(density * (stats.inverse_log_bound * stats.one), stats.one));
        const int kept = kept_pairs(several);
        pairs += kept;
        if (!stats.sums)
            continue;
        const int first = write_pairs<T>(work, original, model, stats, its_row, several, kept);
        if (lane == owner) {
            component = first;
            weight = row;
        }
    }
    const int rank = take_rank(work.counts, component);
    if (row < metric.rows)
        work.pairs[row] = {row, component, rank, weight};
    if (lane == 0)
        totals.add(log, pairs);
    __syncthreads();
    if (threadIdx.x == 0) {
        totals.flush(stats);
        __threadfence();
        is_last = atomicAdd(&work.state->finished, 1) == static_cast<int>(gridDim.x) - 1;
        __threadfence();
    }
    __syncthreads();
    if (is_last)
        scan_counts(work, model.k, metric.rows);
}

__global__ void __launch_bounds__(RowWarps::kThreads) scatter(fgmm_pair_view work, int rows)
{
    const int count = rows + work.state->extras;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
        const fgmm_pair pair = work.pairs[i];
        if (pair.component >= 0)
            work.sorted[work.offsets[pair.component] + pair.rank] = pair;
    }
}

template <typename M, typename T>
int launch(const fgmm_row_view *metric, const fgmm_row_view *original, const fgmm_model_view *model,
           const fgmm_candidate_lists *lists, const fgmm_pair_view *work, const fgmm_stats_view *stats,
           fgmm_stream stream)
{
    const int blocks = (metric->rows + RowWarps::kThreads - 1) / RowWarps::kThreads;
    find_pairs<M, T>
        <<<blocks, RowWarps::kThreads, 0, stream>>>(*metric, *original, *model, *lists, *work, *stats);
    scatter<<<blocks, RowWarps::kThreads, 0, stream>>>(*work, metric->rows);
    return cudaGetLastError();
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_pairs(const fgmm_row_view *metric, const fgmm_row_view *original,
                       const fgmm_model_view *model, const fgmm_candidate_lists *lists,
                       const fgmm_pair_view *work, const fgmm_stats_view *stats, fgmm_stream stream)
{
    return dispatch_rows(original->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (std::is_same<T, double>::value)
            return cudaErrorInvalidValue; /* stored rows are never float64 */
        else if (metric->type == FGMM_ROWS_F64)
            return launch<double, T>(metric, original, model, lists, work, stats, stream);
        else
            return launch<T, T>(metric, original, model, lists, work, stats, stream);
    });
}
