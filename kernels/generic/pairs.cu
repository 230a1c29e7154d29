/* The kept (row, component) pairs of a chunk's sparse rows, sorted by component for sums.cu; the lists of its
 * dense rows.
 *
 * Most rows have one candidate: it takes the whole row, and a thread passes it on as it is. Warps rescore the
 * candidates of the others in float64 and normalise them (several.cuh); a row of which one is left is passed
 * on like the others. A counting sort: blocks count the rows' only candidates in shared memory and take ranks
 * for all of a component at one time, other pairs take theirs one by one. All blocks wait until the last one
 * has turned counts into offsets, and move their pairs. Pairs of one component come in any order; their sums
 * do not depend on it. */
#include <cuda_runtime.h>
#include <algorithm>
#include <type_traits>
#include "kernels/generic/several.cuh"
#include "kernels/ptx/launch.cuh"

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

struct Crowded {
    Limbs log; /* the row's log2-density */
    int pairs;
};

/* The pairs of a row with more candidates than lanes, by one warp. The first pair has the row's own place. */
template <typename M, typename T>
__device__ __noinline__ Crowded pair_crowded(const fgmm_row_view &metric, const fgmm_row_view &original,
                                             const fgmm_model_view &model, const fgmm_candidate_lists &lists,
                                             const fgmm_pair_view &work, const fgmm_stats_view &stats,
                                             int row, int count)
{
    Several several;
    rescore<M>(several.held, metric, model, row, lists.entries + static_cast<int64_t>(row) * FGMM_CANDIDATES,
               count);
    const double density = responsibilities(several.held, model, several.r);
    const int kept = kept_pairs(several);
    const Crowded found = {split(density * (stats.inverse_log_bound * stats.one), stats.one), kept};
    if (!stats.sums)
        return found;
    const int room = take_room(work, original.rows, kept - 1);
    if (room < 0) {
        add_row<T>(original, model, stats, row, several.held, several.r);
        return found;
    }
    int before = 0;
#pragma unroll
    for (int slot = 0; slot < RowWarps::kSlots; slot++) {
        const bool is_kept = several.r[slot] > 0;
        const unsigned all = __ballot_sync(kWholeWarp, is_kept);
        const int number = before + __popc(all & lanes_below()), c = several.held.component[slot];
        before += __popc(all);
        if (!is_kept)
            continue;
        const int place = number == 0 ? row : room + number - 1;
        work.weights[place] = {several.r[slot], several.held.distance[slot]};
        work.pairs[place] = {row, c, atomicAdd(&work.counts[c], 1), place};
    }
    return found;
}

/* Leaves the pairs of a group of rows whose responsibilities are known. */
template <typename T>
__device__ __forceinline__ void pair_group(const fgmm_row_view &original, const fgmm_model_view &model,
                                           const fgmm_pair_view &work, const fgmm_stats_view &stats,
                                           const Group &group)
{
    const int c = group.component;
    const unsigned kept = __ballot_sync(kWholeWarp, group.r > 0);
    const bool first = group.r > 0 && (kept & lanes_below() & (kWholeWarp << group.first)) == 0;
    const unsigned extras = kept & ~__ballot_sync(kWholeWarp, first);
    const int room = stats.sums ? take_room(work, original.rows, __popc(extras)) : -1;
    if (room < 0 && stats.sums)
        add_group<T>(original, model, stats, group);
    if (group.r <= 0 || (group.kept > 1 && room < 0))
        return;
    const int place = first ? group.row : room + __popc(extras & lanes_below());
    if (group.kept > 1)
        work.weights[place] = {group.r, group.distance};
    work.pairs[place] = {group.row, c, atomicAdd(&work.counts[c], 1), group.kept > 1 ? place : -1};
}

/* Exclusive sum over the block's threads; *total: of all. */
__device__ int block_exclusive_sum(int value, int *total)
{
    __shared__ int sums[PairBlocks::kWarps];
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
    for (int w = 0; w < PairBlocks::kWarps; w++) {
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
    for (int first = 0; first < k; first += PairBlocks::kThreads * FGMM_PAIR_COUNTS) {
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
    if (threadIdx.x == 0) {
        work.state->extras = min(__ldcg(&work.state->wanted), work.capacity - rows);
        work.state->total = before;
        work.state->wanted = work.state->finished = 0;
    }
}

/* A block's own. */
struct PairShared {
    int32_t counts[PairBlocks::kCounts]; /* of a round's first pairs, then their bases */
    int32_t several[PairBlocks::kQuanta * FGMM_KERNEL_QUANTUM]; /* rows of a round with several candidates */
    int32_t n_several, taken;                                   /* how many; how many warps have taken */
    bool is_last;
    Totals totals;
};

/* A thread's rows of a round. */
struct Firsts {
    int row[PairBlocks::kRows] /* -1: none */, count[PairBlocks::kRows], component[PairBlocks::kRows];
};

/* Rows of the block's quanta begin, begin + gridDim.x, ...: candidates and the first one's component. */
__device__ __forceinline__ Firsts read_firsts(const fgmm_candidate_lists &lists, int begin, int quanta,
                                              int rows)
{
    Firsts firsts;
#pragma unroll
    for (int i = 0; i < PairBlocks::kRows; i++) {
        const int quantum = begin + i / 2 * gridDim.x;
        const int row = quantum * FGMM_KERNEL_QUANTUM + i % 2 * PairBlocks::kThreads + threadIdx.x;
        const bool real = quantum < quanta && row < rows;
        firsts.row[i] = real ? row : -1;
        firsts.count[i] = real ? lists.counts[row] : 0;
        firsts.component[i] =
            real ? lists.entries[static_cast<int64_t>(row) * FGMM_CANDIDATES].component : -1;
    }
    return firsts;
}

/* Lists the dense rows of the round's quanta, in ascending order. */
__device__ void list_dense(const fgmm_dense_lists &dense, const Firsts &firsts, int begin, int quanta)
{
    bool any = false;
#pragma unroll
    for (int i = 0; i < PairBlocks::kRows; i++)
        any = any || firsts.count[i] > FGMM_CANDIDATES;
    any = __syncthreads_or(any);
#pragma unroll
    for (int i = 0; i < PairBlocks::kRows; i += 2) {
        const int quantum = begin + i / 2 * gridDim.x;
        int total = 0;
        if (quantum >= quanta)
            break;
        for (int half = 0; any && half < 2; half++) {
            int more;
            const bool is_dense = (half == 0 ? firsts.count[i] : firsts.count[i + 1]) > FGMM_CANDIDATES;
            const int before = total + block_exclusive_sum(is_dense, &more);
            total += more;
            if (is_dense)
                dense.rows[quantum * FGMM_KERNEL_QUANTUM + before] =
                    half == 0 ? firsts.row[i] : firsts.row[i + 1];
        }
        if (threadIdx.x == 0) {
            dense.counts[quantum] = total;
            dense.home_counts[quantum] = total;
        }
    }
}

/* Puts the lanes' rows with several candidates at the end of the block's list. */
__device__ __forceinline__ void enlist(PairShared &shared, int row, bool has_several)
{
    const unsigned all = __ballot_sync(kWholeWarp, has_several);
    int base = 0;
    if (all == 0)
        return;
    if (threadIdx.x % kWarp == 0)
        base = atomicAdd(&shared.n_several, __popc(all));
    base = __shfl_sync(kWholeWarp, base, 0);
    if (has_several)
        shared.several[base + __popc(all & lanes_below())] = row;
}

/* Passes on only candidates; returns how many the thread has. Other rows' places are marked as empty. local:
 * there is room for the counts of k components. */
__device__ __forceinline__ int pass_on(const fgmm_pair_view &work, PairShared &shared, int k, bool local,
                                       Firsts &firsts)
{
    int rank[PairBlocks::kRows], number = 0;
#pragma unroll
    for (int i = 0; i < PairBlocks::kRows; i++) {
        if (firsts.count[i] != 1)
            firsts.component[i] = -1;
        number += firsts.count[i] == 1;
        if (!local)
            rank[i] = take_rank(work.counts, firsts.component[i]);
    }
    if (local) {
#pragma unroll
        for (int i = 0; i < PairBlocks::kRows; i++)
            rank[i] = take_rank(shared.counts, firsts.component[i]);
        __syncthreads();
        for (int c = threadIdx.x; c < k; c += PairBlocks::kThreads)
            if (shared.counts[c] > 0)
                shared.counts[c] = atomicAdd(&work.counts[c], shared.counts[c]);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < PairBlocks::kRows; i++) {
        const int c = firsts.component[i];
        if (local && c >= 0)
            rank[i] += shared.counts[c];
        if (firsts.row[i] >= 0)
            work.pairs[firsts.row[i]] = {firsts.row[i], c, rank[i], -1};
    }
    return number;
}

/* The pairs of some rows with several candidates, one a lane (-1: none). */
template <typename M, typename T>
__device__ __forceinline__ void pair_rows(const fgmm_row_view &metric, const fgmm_row_view &original,
                                          const fgmm_model_view &model, const fgmm_candidate_lists &lists,
                                          const fgmm_pair_view &work, const fgmm_stats_view &stats, int row,
                                          Limbs &log, int64_t &pairs)
{
    const int lane = threadIdx.x % kWarp;
    int count = row >= 0 ? lists.counts[row] : 0;
    for (unsigned left = __ballot_sync(kWholeWarp, count > kWarp); left != 0; left &= left - 1) {
        const int owner = __ffs(left) - 1;
        const Crowded found =
            pair_crowded<M, T>(metric, original, model, lists, work, stats,
                               __shfl_sync(kWholeWarp, row, owner), __shfl_sync(kWholeWarp, count, owner));
        if (lane == 0)
            add_limbs(log, found.log);
        pairs += found.pairs;
    }
    if (count > kWarp)
        count = 0;
    int end = count;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
        const int below = __shfl_up_sync(kWholeWarp, end, step);
        end += lane >= step ? below : 0;
    }
    const int total = __shfl_sync(kWholeWarp, end, kWarp - 1);
    for (int from = 0; from < total;) {
        Group group = next_group(lists, row, count, end, from);
        from += group.items;
        score<M>(group, metric, model);
        const double density = weigh(group, model);
        if (group.real && lane == group.first && group.kept > 1) {
            const Limbs limbs = split(density * (stats.inverse_log_bound * stats.one), stats.one);
            add_limbs(log, limbs);
        }
        pairs += __popc(__ballot_sync(kWholeWarp, group.r > 0));
        pair_group<T>(original, model, work, stats, group);
    }
}

/* The last block turns counts into offsets, while the others wait for it. */
__device__ void wait_for_offsets(const fgmm_pair_view &work, PairShared &shared, int k, int rows)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        shared.is_last = atomicAdd(&work.state->finished, 1) == static_cast<int>(gridDim.x) - 1;
        __threadfence();
    }
    __syncthreads();
    volatile int32_t *sorting = &work.state->sorting;
    if (shared.is_last)
        scan_counts(work, k, rows);
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        if (shared.is_last)
            *sorting = 1;
        while (*sorting == 0)
            __nanosleep(40);
        __threadfence();
    }
    __syncthreads();
    let_next_kernel_come();
}

__device__ __forceinline__ void move_pair(const fgmm_pair_view &work, int place)
{
    const int4 words = __ldcg(reinterpret_cast<const int4 *>(work.pairs + place));
    const fgmm_pair pair = {words.x, words.y, words.z, words.w};
    if (pair.component >= 0)
        work.sorted[__ldcg(&work.offsets[pair.component]) + pair.rank] = pair;
}

/* M: element type of the rows that distances are taken of; T: of the original rows. */
template <typename M, typename T>
__global__ void __launch_bounds__(PairBlocks::kThreads, 1)
    sort_pairs(const __grid_constant__ fgmm_row_view metric, const __grid_constant__ fgmm_row_view original,
               const __grid_constant__ fgmm_model_view model,
               const __grid_constant__ fgmm_candidate_lists lists,
               const __grid_constant__ fgmm_dense_lists dense, const __grid_constant__ fgmm_pair_view work,
               const __grid_constant__ fgmm_stats_view stats)
{
    __shared__ PairShared shared;
    const int lane = threadIdx.x % kWarp, rows = metric.rows;
    const int quanta = (rows + FGMM_KERNEL_QUANTUM - 1) / FGMM_KERNEL_QUANTUM;
    const bool local = model.k <= PairBlocks::kCounts;
    int64_t pairs = 0;
    Limbs log = {0, 0};
    if (threadIdx.x == 0)
        shared.totals = {0, 0, 0};
    for (int begin = blockIdx.x; begin < quanta; begin += gridDim.x * PairBlocks::kQuanta) {
        Firsts firsts = read_firsts(lists, begin, quanta, rows);
        for (int c = threadIdx.x; local && c < model.k; c += PairBlocks::kThreads)
            shared.counts[c] = 0;
        if (threadIdx.x == 0)
            shared.n_several = shared.taken = 0;
        list_dense(dense, firsts, begin, quanta);
#pragma unroll
        for (int i = 0; i < PairBlocks::kRows; i++)
            enlist(shared, firsts.row[i], firsts.count[i] > 1 && firsts.count[i] <= FGMM_CANDIDATES);
        pairs += __reduce_add_sync(kWholeWarp, pass_on(work, shared, model.k, local, firsts));
        __syncthreads();
        const int several = shared.n_several;
        for (;;) {
            int first = 0;
            if (lane == 0 && several > 0)
                first = atomicAdd(&shared.taken, PairBlocks::kAtOnce);
            first = __shfl_sync(kWholeWarp, first, 0);
            if (first >= several)
                break;
            const int row =
                lane < PairBlocks::kAtOnce && first + lane < several ? shared.several[first + lane] : -1;
            pair_rows<M, T>(metric, original, model, lists, work, stats, row, log, pairs);
        }
        __syncthreads();
    }
    log = {warp_sum(log.high), warp_sum(log.low)};
    if (lane == 0)
        shared.totals.add(log, pairs);
    wait_for_offsets(work, shared, model.k, rows);
    if (threadIdx.x == 0)
        shared.totals.flush(stats);
    for (int quantum = blockIdx.x; quantum < quanta; quantum += gridDim.x)
        for (int row = threadIdx.x; row < FGMM_KERNEL_QUANTUM; row += PairBlocks::kThreads)
            if (quantum * FGMM_KERNEL_QUANTUM + row < rows)
                move_pair(work, quantum * FGMM_KERNEL_QUANTUM + row);
    const int last = rows + __ldcg(&work.state->extras);
    for (int place = rows + blockIdx.x * PairBlocks::kThreads + threadIdx.x; place < last;
         place += gridDim.x * PairBlocks::kThreads)
        move_pair(work, place);
}

template <typename M, typename T>
int launch(const fgmm_row_view *metric, const fgmm_row_view *original, const fgmm_model_view *model,
           const fgmm_candidate_lists *lists, const fgmm_dense_lists *dense, const fgmm_pair_view *work,
           const fgmm_stats_view *stats, int multiprocessors, fgmm_stream stream)
{
    const int quanta = (metric->rows + FGMM_KERNEL_QUANTUM - 1) / FGMM_KERNEL_QUANTUM;
    return launch_together(sort_pairs<M, T>, std::min(quanta, multiprocessors), PairBlocks::kThreads, stream,
                           *metric, *original, *model, *lists, *dense, *work, *stats);
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_pairs(const fgmm_row_view *metric, const fgmm_row_view *original,
                       const fgmm_model_view *model, const fgmm_candidate_lists *lists,
                       const fgmm_dense_lists *dense, const fgmm_pair_view *work,
                       const fgmm_stats_view *stats, int multiprocessors, fgmm_stream stream)
{
    return dispatch_rows(original->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (std::is_same<T, double>::value)
            return cudaErrorInvalidValue; /* stored rows are never float64 */
        else if (metric->type == FGMM_ROWS_F64)
            return launch<double, T>(metric, original, model, lists, dense, work, stats, multiprocessors,
                                     stream);
        else
            return launch<T, T>(metric, original, model, lists, dense, work, stats, multiprocessors, stream);
    });
}
