/* What the tile needs beforehand: constants of rows, queries as bytes, and pairs of query and list sorted by
 * list. Pairs of a list come in any order; nothing that is kept depends on it. */
#include <cuda_runtime.h>
#include "kernels/generic/order.cuh"
#include "kernels/generic/rows.cuh"
#include "kernels/generic/warp.cuh"
#include "kernels/lists.h"

namespace fgmm
{
namespace
{

constexpr int kThreads = 256, kScanThreads = 1024, kWarps = kThreads / kWarp;

/* ---- constants of rows ---- */

/* fp32 holds squares up to here with room for what the tile adds. */
constexpr double kMostSquare = 1e30;

/* A warp a row. Grid: (lists, blocks a list). */
template <typename T> __global__ void __launch_bounds__(kThreads) list_norms(fgmm_list_view lists)
{
    const int list = blockIdx.x, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const float *centre = lists.centres + static_cast<int64_t>(list) * lists.dim;
    const int size = lists.size[list];
    float longest = 0;
    for (int r = blockIdx.y * kWarps + warp; r < size; r += gridDim.y * kWarps) {
        const int64_t place = static_cast<int64_t>(lists.begin[list]) + r;
        const T *row = reinterpret_cast<const T *>(lists.rows + place * lists.pitch);
        if (lists.squares != nullptr) {
            int square = 0;
            for (int d = lane; d < lists.dim; d += kWarp)
                square += static_cast<int>(row[d]) * static_cast<int>(row[d]);
            square = warp_sum(square);
            if (lane == 0)
                lists.squares[place] = square;
        }
        if (lists.norms == nullptr)
            continue;
        double far = 0;
        for (int d = lane; d < lists.dim; d += kWarp) {
            const double t = to_double(row[d]) - static_cast<double>(centre[d]);
            far += t * t;
        }
        far = warp_sum(far);
        const bool held = far <= kMostSquare;
        const float length = held ? __double2float_ru(sqrt(far) * (1 + 0x1p-40)) : 0.0f;
        longest = fmaxf(longest, length);
        if (lane == 0)
            lists.norms[place] = {held ? __double2float_rd(far * (0.5 - 0x1p-21)) : -INFINITY, length};
    }
    if (lane == 0)
        atomicMax(&lists.longest[list], __float_as_uint(longest));
}

/* ---- queries ---- */

/* Nothing has been found. */
__global__ void __launch_bounds__(kThreads) begin_queries(fgmm_list_queries queries, int32_t *zeros)
{
    const int q = blockIdx.x * kThreads + threadIdx.x;
    if (q >= queries.n)
        return;
    queries.bounds[q] = FGMM_LISTS_NO_BOUND;
    queries.counts[q] = 0;
    queries.nearest_counts[q] = 0;
    zeros[q] = 0;
}

/* A warp a query. */
template <typename T>
__global__ void __launch_bounds__(kThreads) list_bytes(fgmm_list_queries queries, float least, float most)
{
    const int q = blockIdx.x * kWarps + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    if (q >= queries.n)
        return;
    int square = 0;
    bool wrong = false;
    for (int d = lane; d < queries.byte_pitch; d += kWarp) {
        const float value = d < queries.dim ? queries.values[static_cast<int64_t>(q) * queries.dim + d] : 0;
        const bool fits = value >= least && value <= most && value == truncf(value);
        const int whole = fits ? static_cast<int>(value) : 0;
        wrong = wrong || !fits;
        queries.bytes[static_cast<int64_t>(q) * queries.byte_pitch + d] = static_cast<uint8_t>(whole);
        square += whole * whole;
    }
    square = warp_sum(square);
    if (lane == 0)
        queries.squares[q] = square;
    if (wrong)
        *queries.not_whole = 1;
}

/* ---- grouping ---- */

/* Calls take(list, entry) for every pair that takes part; a thread a pair, or sampling, a slot. */
template <typename Take>
__device__ __forceinline__ void each_pair(const fgmm_list_view &lists, const fgmm_list_queries &queries,
                                          bool sampling, Take take)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (!sampling) {
        if (i >= static_cast<int64_t>(queries.n) * queries.nprobe)
            return;
        const int64_t query = i / queries.nprobe;
        const int list = queries.probes[query * queries.probe_pitch + i % queries.nprobe];
        if (lists.size[list] > 0)
            take(list, static_cast<int>(query));
        return;
    }
    const int64_t query = i / queries.sample_lists;
    if (query >= queries.n || queries.bounds[query] != FGMM_LISTS_NO_BOUND)
        return;
    int slot = static_cast<int>(i % queries.sample_lists); /* the first lists that are here */
    for (int p = 0; p < queries.nprobe; p++) {
        const int list = queries.probes[query * queries.probe_pitch + p];
        if (lists.size[list] > 0 && slot-- == 0) {
            take(list, static_cast<int>(i));
            return;
        }
    }
}

__global__ void __launch_bounds__(kThreads)
    count_pairs(fgmm_list_view lists, fgmm_list_queries queries, fgmm_list_plan plan, bool sampling)
{
    each_pair(lists, queries, sampling, [&](int list, int) { atomicAdd(&plan.counts[list], 1); });
}

__global__ void __launch_bounds__(kThreads)
    scatter_pairs(fgmm_list_view lists, fgmm_list_queries queries, fgmm_list_plan plan, bool sampling)
{
    each_pair(lists, queries, sampling,
              [&](int list, int entry) { plan.visitors[atomicAdd(&plan.counts[list], 1)] = entry; });
}

/* Three sums over a block, each exclusive; `total` gets the block's. */
struct Sums {
    int visitors, groups, items;
};
__device__ __forceinline__ Sums operator+(Sums a, Sums b)
{
    return {a.visitors + b.visitors, a.groups + b.groups, a.items + b.items};
}
__device__ __forceinline__ Sums shifted_up(Sums s, int step)
{
    Sums below = {__shfl_up_sync(kWholeWarp, s.visitors, step), __shfl_up_sync(kWholeWarp, s.groups, step),
                  __shfl_up_sync(kWholeWarp, s.items, step)};
    return static_cast<int>(threadIdx.x) % kWarp >= step ? s + below : s;
}

__device__ Sums exclusive_scan(Sums mine, Sums *of_warps /* [32], shared */, Sums *total)
{
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    Sums s = mine;
    for (int step = 1; step < kWarp; step *= 2)
        s = shifted_up(s, step);
    if (lane == kWarp - 1)
        of_warps[warp] = s;
    __syncthreads();
    if (warp == 0) {
        Sums w = of_warps[lane];
        for (int step = 1; step < kWarp; step *= 2)
            w = shifted_up(w, step);
        of_warps[lane] = w;
    }
    __syncthreads();
    *total = of_warps[kWarp - 1];
    const Sums before = warp > 0 ? of_warps[warp - 1] : Sums{0, 0, 0};
    __syncthreads();
    return {before.visitors + s.visitors - mine.visitors, before.groups + s.groups - mine.groups,
            before.items + s.items - mine.items};
}

/* One block. Leaves in counts where each list's visitors begin. most_rows: of a list that count. */
__global__ void __launch_bounds__(kScanThreads)
    plan_groups(fgmm_list_view lists, fgmm_list_plan plan, int most_rows)
{
    __shared__ Sums of_warps[kWarp];
    Sums carry = {0, 0, 0}, total;
    for (int j0 = 0; j0 < lists.lists; j0 += kScanThreads) {
        const int j = j0 + threadIdx.x;
        const int visitors = j < lists.lists ? plan.counts[j] : 0;
        const int groups = (visitors + plan.group_queries - 1) / plan.group_queries;
        const int chunks = visitors > 0 ? (min(lists.size[j], most_rows) - 1) / plan.chunk_rows + 1 : 0;
        const Sums at = carry + exclusive_scan({visitors, groups, groups * chunks}, of_warps, &total);
        if (j < lists.lists)
            plan.counts[j] = at.visitors;
        for (int g = 0; g < groups; g++) {
            const int first = g * plan.group_queries;
            plan.groups[at.groups + g] = {j, at.visitors + first, min(visitors - first, plan.group_queries),
                                          at.items + g * chunks};
        }
        carry = carry + total;
    }
    if (threadIdx.x == 0) {
        plan.state[0] = carry.groups;
        plan.state[1] = carry.items;
        plan.state[2] = 0;
    }
}

/* ---- first bounds ---- */

/* kHeld: of a lane. */
template <int kHeld>
__device__ __forceinline__ uint32_t least_of_sample(const uint32_t *sample, int n, int needed)
{
    return least_key<kHeld, kWarp>(
        n, needed, threadIdx.x % kWarp, [&](int i) { return sample[i]; },
        [](int below) { return __reduce_add_sync(kWholeWarp, below); });
}

/* A warp a query: the least key that so many of its sample do not exceed that k different rows are among
 * them. */
__global__ void __launch_bounds__(kThreads) first_bounds(fgmm_list_queries queries)
{
    const int q = blockIdx.x * kWarps + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    if (blockIdx.x == 0 && threadIdx.x == 0)
        *queries.n_overflowed = 0;
    if (q >= queries.n || queries.bounds[q] != FGMM_LISTS_NO_BOUND)
        return;
    const int n = queries.sample_lists * (queries.sample_rows / queries.sample_fold);
    const uint32_t *sample = queries.sample + static_cast<int64_t>(q) * n;
    /* A row is at most once in each list. */
    const int needed = queries.repeats ? queries.sample_lists * (queries.k - 1) + 1 : queries.k;
    const uint32_t key = n <= 4 * kWarp    ? least_of_sample<4>(sample, n, needed)
                         : n <= 8 * kWarp  ? least_of_sample<8>(sample, n, needed)
                         : n <= 16 * kWarp ? least_of_sample<16>(sample, n, needed)
                                           : least_of_sample<32>(sample, n, needed);
    if (lane == 0)
        queries.bounds[q] = key;
}

__global__ void __launch_bounds__(kThreads) take_probes(fgmm_list_queries ranked, int32_t *probes)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i < static_cast<int64_t>(ranked.n) * ranked.k)
        probes[i] = static_cast<int32_t>(ranked.nearest[i].id);
}

int blocks_of(int64_t n, int64_t each)
{
    return static_cast<int>((n + each - 1) / each);
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_list_norms(const fgmm_list_view *lists, fgmm_stream stream)
{
    constexpr int kBlocks = 4096;
    const cudaError_t code =
        cudaMemsetAsync(lists->longest, 0, static_cast<size_t>(lists->lists) * sizeof(uint32_t), stream);
    if (code != cudaSuccess)
        return code;
    const dim3 grid(lists->lists, lists->lists < kBlocks ? kBlocks / lists->lists : 1);
    return dispatch_rows(lists->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (sizeof(T) == sizeof(double))
            return cudaErrorInvalidValue; /* lists are never float64 */
        else
            list_norms<T><<<grid, kThreads, 0, stream>>>(*lists);
        return cudaGetLastError();
    });
}

int fgmm__launch_list_begin(const fgmm_list_queries *queries, int32_t *zeros, fgmm_stream stream)
{
    begin_queries<<<blocks_of(queries->n, kThreads), kThreads, 0, stream>>>(*queries, zeros);
    return cudaGetLastError();
}

int fgmm__launch_list_bytes(const fgmm_list_queries *queries, fgmm_row_type type, fgmm_stream stream)
{
    const int blocks = blocks_of(queries->n, kWarps);
    if (type == FGMM_ROWS_U8)
        list_bytes<uint8_t><<<blocks, kThreads, 0, stream>>>(*queries, 0, 255);
    else
        list_bytes<int8_t><<<blocks, kThreads, 0, stream>>>(*queries, -128, 127);
    return cudaGetLastError();
}

int fgmm__launch_list_plan(const fgmm_list_view *lists, const fgmm_list_queries *queries,
                           const fgmm_list_plan *plan, bool sampling, fgmm_stream stream)
{
    const int64_t threads =
        static_cast<int64_t>(queries->n) * (sampling ? queries->sample_lists : queries->nprobe);
    const int blocks = blocks_of(threads, kThreads);
    const cudaError_t code =
        cudaMemsetAsync(plan->counts, 0, static_cast<size_t>(lists->lists) * sizeof(int32_t), stream);
    if (code != cudaSuccess)
        return code;
    count_pairs<<<blocks, kThreads, 0, stream>>>(*lists, *queries, *plan, sampling);
    plan_groups<<<1, kScanThreads, 0, stream>>>(*lists, *plan, sampling ? queries->sample_rows : INT32_MAX);
    scatter_pairs<<<blocks, kThreads, 0, stream>>>(*lists, *queries, *plan, sampling);
    return cudaGetLastError();
}

int fgmm__launch_list_bounds(const fgmm_list_queries *queries, fgmm_stream stream)
{
    first_bounds<<<blocks_of(queries->n, kWarps), kThreads, 0, stream>>>(*queries);
    return cudaGetLastError();
}

int fgmm__launch_list_probes(const fgmm_list_queries *ranked, int32_t *probes, fgmm_stream stream)
{
    take_probes<<<blocks_of(static_cast<int64_t>(ranked->n) * ranked->k, kThreads), kThreads, 0, stream>>>(
        *ranked, probes);
    return cudaGetLastError();
}
