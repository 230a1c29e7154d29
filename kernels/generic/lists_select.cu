/* The k nearest of what the tile has found, exactly: a block a query. Finds that the k-th least upper bound
 * rules out are left aside; the others get their distance in float64, term by term in the order of dimensions
 * without contraction, as on the CPU, and are sorted by distance and id with the nearest so far. The order in
 * which they were found does not matter. */
#include <cuda_runtime.h>
#include <float.h>
#include "kernels/generic/exact.cuh"
#include "kernels/generic/order.cuh"
#include "kernels/generic/warp.cuh"
#include "kernels/lists.h"

namespace fgmm
{
namespace
{

using Near = fgmm_list_near;

__device__ __forceinline__ bool nearer(const Near &a, const Near &b)
{
    return a.distance < b.distance || (a.distance == b.distance && a.id < b.id);
}

/* What the threads of a block share. kRoom: a power of two, at least twice the largest k. */
template <int kRoom> struct Work {
    Near items[kRoom];
    int n, kept;
    int of_warps[kWarp];
};

/* Squared differences of a warp's 32 rows in 16 dimensions; the odd pitch keeps both ways free of conflicts.
 */
struct Squares {
    static constexpr int kDims = 16;
    double of[kWarp][kDims + 1];
};

template <int kThreads> __device__ int block_sum(int value, int *of_warps)
{
    value = __reduce_add_sync(kWholeWarp, value);
    if (kThreads == kWarp)
        return value;
    if (threadIdx.x % kWarp == 0)
        of_warps[threadIdx.x / kWarp] = value;
    __syncthreads();
    int sum = 0;
    for (int w = 0; w < kThreads / kWarp; w++)
        sum += of_warps[w];
    __syncthreads();
    return sum;
}

/* Bitonic; n items, padded in place to a power of two within the room. */
template <int kThreads, int kRoom> __device__ void sort(Work<kRoom> &work, int n)
{
    int size = 1;
    while (size < n)
        size *= 2;
    for (int i = n + threadIdx.x; i < size; i += kThreads)
        work.items[i] = {INFINITY, INT64_MAX};
    for (int run = 2; run <= size; run *= 2)
        for (int step = run / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int i = threadIdx.x; i < size / 2; i += kThreads) {
                const int a = i / step * 2 * step + i % step, b = a + step;
                const Near left = work.items[a], right = work.items[b];
                if (nearer(right, left) == ((a & run) == 0)) {
                    work.items[a] = right;
                    work.items[b] = left;
                }
            }
        }
    __syncthreads();
}

/* A warp puts at most 64 different items in order, each at the number of those nearer; n becomes at most k.
 */
template <int kRoom> __device__ void order_few(Work<kRoom> &work, int n, int k)
{
    const int lane = threadIdx.x;
    const Near none = {INFINITY, INT64_MAX};
    const Near low = lane < n ? work.items[lane] : none,
               high = lane + kWarp < n ? work.items[lane + kWarp] : none;
    int low_at = 0, high_at = 0;
    for (int i = 0; i < n; i++) {
        const Near item = work.items[i];
        low_at += nearer(item, low);
        high_at += nearer(item, high);
    }
    __syncwarp();
    if (lane < n && low_at < k)
        work.items[low_at] = low;
    if (lane + kWarp < n && high_at < k)
        work.items[high_at] = high;
    if (lane == 0)
        work.n = min(n, k);
    __syncwarp();
}

/* Sorts, drops repeats and leaves at most k items; work.n says how many. All threads. */
template <int kThreads, int kRoom>
__device__ void reduce_to_nearest(Work<kRoom> &work, int n, int k, bool repeats)
{
    if (kThreads == kWarp && !repeats && n <= 2 * kWarp) {
        order_few(work, n, k);
        return;
    }
    sort<kThreads>(work, n);
    if (threadIdx.x < kWarp) { /* in place: an item moves down or stays */
        const int lane = threadIdx.x;
        int kept = 0;
        for (int i0 = 0; i0 < n && kept < k; i0 += kWarp) {
            const int i = i0 + lane;
            const Near item = i < n ? work.items[i] : Near{};
            const bool first = i < n && (!repeats || i == 0 || work.items[i - 1].id != item.id);
            const unsigned firsts = __ballot_sync(kWholeWarp, first);
            const int to = kept + __popc(firsts & ((1u << lane) - 1));
            __syncwarp(); /* all have read before any writes: the item before is at i - 1 or, moved, equal */
            if (first && to < k)
                work.items[to] = item;
            __syncwarp();
            kept += __popc(firsts);
        }
        if (lane == 0)
            work.n = min(kept, k);
    }
    __syncthreads();
}

__device__ __forceinline__ const char *row_at(const fgmm_list_view &lists, uint32_t place)
{
    return lists.rows + static_cast<int64_t>(place) * lists.pitch;
}

template <typename T>
__device__ Near measured(const fgmm_list_view &lists, const fgmm_list_queries &queries, int q, uint32_t place)
{
    const double distance = exact_distance(queries.values + static_cast<int64_t>(q) * queries.dim,
                                           reinterpret_cast<const T *>(row_at(lists, place)), queries.dim);
    return {distance, lists.ids != nullptr ? lists.ids[place] : lists.first_id + place};
}

/* The distances of items [0, n), whose ids are places, as exact_distance computes them; then their ids are
 * those of rows. A warp takes 32 at a time: its lanes read along rows, four dimensions each, then each adds
 * one row's terms in the order of dimensions. Rows are zero past dim, which changes no sum. */
template <typename T, int kThreads, int kRoom>
__device__ void measure_items(const fgmm_list_view &lists, const fgmm_list_queries &queries, int q,
                              Work<kRoom> &work, Squares *squares, int n)
{
    constexpr int kDims = Squares::kDims, kLanes = kDims / 4, kAtOnce = kWarp / kLanes;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, dim = queries.dim;
    const int quad = lane % kLanes * 4;
    const float *query = queries.values + static_cast<int64_t>(q) * dim;
    const bool whole = dim % 4 == 0;
    double(*of)[kDims + 1] = squares[warp].of;
    for (int i0 = warp * kWarp; i0 < n; i0 += kThreads) {
        const int count = min(n - i0, kWarp);
        const T *rows[kLanes]; /* of items lane / kLanes + step * kAtOnce */
        double sum = 0;
#pragma unroll
        for (int step = 0; step < kLanes; step++) {
            const int i = min(step * kAtOnce + lane / kLanes, count - 1);
            rows[step] =
                reinterpret_cast<const T *>(row_at(lists, static_cast<uint32_t>(work.items[i0 + i].id)));
        }
        Quad<T> quads[kLanes];
        Quad<float> values;
        const auto load = [&](int d0) {
#pragma unroll
            for (int step = 0; step < kLanes; step++)
                quads[step] = load_quad(rows[step], d0 + quad, dim, true);
            values = load_quad(query, d0 + quad, dim, whole);
        };
        load(0);
        for (int d0 = 0; d0 < dim; d0 += kDims) {
#pragma unroll
            for (int step = 0; step < kLanes; step++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const double t = __dsub_rn(to_double(quads[step].value[e]), to_double(values.value[e]));
                    of[step * kAtOnce + lane / kLanes][quad + e] = __dmul_rn(t, t);
                }
            load(d0 + kDims);
            __syncwarp();
#pragma unroll
            for (int j = 0; j < kDims; j++)
                sum = __dadd_rn(sum, of[lane][j]);
            __syncwarp();
        }
        if (lane < count) {
            const uint32_t place = static_cast<uint32_t>(work.items[i0 + lane].id);
            work.items[i0 + lane] = {sum, lists.ids != nullptr ? lists.ids[place] : lists.first_id + place};
        }
    }
    __syncthreads();
}

/* The distance that a key stands for. */
__device__ __forceinline__ double value_of(const fgmm_list_queries &queries, uint32_t key)
{
    return queries.whole ? static_cast<double>(key) : static_cast<double>(__uint_as_float(key));
}

/* What work.items holds are the query's nearest. All threads. */
template <int kThreads, int kRoom>
__device__ void write_nearest(const fgmm_list_queries &queries, int q, const Work<kRoom> &work)
{
    for (int i = threadIdx.x; i < work.n; i += kThreads)
        queries.nearest[static_cast<int64_t>(q) * queries.k + i] = work.items[i];
    if (threadIdx.x != 0)
        return;
    queries.nearest_counts[q] = work.n;
    if (work.n < queries.k)
        return;
    const double farthest = work.items[work.n - 1].distance;
    const uint32_t key =
        queries.whole ? static_cast<uint32_t>(farthest) : __float_as_uint(__double2float_ru(farthest));
    queries.bounds[q] = min(queries.bounds[q], key);
}

template <int kThreads, int kRoom>
__device__ int append_nearest(const fgmm_list_queries &queries, int q, Work<kRoom> &work, int n)
{
    const int have = queries.nearest_counts[q];
    for (int i = threadIdx.x; i < have; i += kThreads)
        work.items[n + i] = queries.nearest[static_cast<int64_t>(q) * queries.k + i];
    __syncthreads();
    return n + have;
}

template <typename T, int kThreads, int kRoom>
__global__ void __launch_bounds__(kThreads) select_nearest(fgmm_list_view lists, fgmm_list_queries queries)
{
    extern __shared__ __align__(16) char memory[];
    Work<kRoom> &work = *reinterpret_cast<Work<kRoom> *>(memory);
    Squares *squares = reinterpret_cast<Squares *>(&work + 1);
    const int q = blockIdx.x, have = queries.nearest_counts[q];
    const uint32_t found = queries.counts[q];
    const fgmm_list_find *finds = queries.finds + static_cast<int64_t>(q) * queries.capacity;
    __syncthreads();
    if (threadIdx.x == 0)
        queries.counts[q] = 0;
    if (found == 0)
        return;
    const int n = static_cast<int>(min(found, queries.capacity));
    bool fits = found <= queries.capacity;
    /* Repeats may fill the places of others: then more are looked at. */
    for (int needed = queries.repeats ? 2 * queries.k : queries.k; fits; needed *= 2) {
        const bool all = n <= needed || (n <= kRoom / 2 && n <= 2 * needed);
        const uint32_t limit =
            all ? 0xffffffffu
                : least_key<8, kThreads>(
                      n, needed, threadIdx.x, [&](int i) { return finds[i].upper; },
                      [&](int below) { return block_sum<kThreads>(below, work.of_warps); });
        if (threadIdx.x == 0)
            work.kept = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += kThreads) {
            const fgmm_list_find find = finds[i];
            if (find.lower > limit)
                continue;
            const int at = atomicAdd(&work.kept, 1);
            if (at + have >= kRoom)
                continue;
            if (queries.whole)
                work.items[at] = {static_cast<double>(find.lower),
                                  lists.ids != nullptr ? lists.ids[find.place] : lists.first_id + find.place};
            else
                work.items[at] = {0, find.place};
        }
        __syncthreads();
        const int kept = work.kept;
        fits = kept + have <= kRoom;
        if (!fits)
            break;
        if (!queries.whole)
            measure_items<T, kThreads>(lists, queries, q, work, squares, kept);
        reduce_to_nearest<kThreads>(work, append_nearest<kThreads>(queries, q, work, kept), queries.k,
                                    queries.repeats);
        if (kept < n && (work.n < queries.k || work.items[queries.k - 1].distance > value_of(queries, limit)))
            continue;
        write_nearest<kThreads>(queries, q, work);
        return;
    }
    if (threadIdx.x == 0)
        queries.overflowed[atomicAdd(queries.n_overflowed, 1)] = q;
}

/* ---- without a screen ---- */

/* All rows of the query's lists that are here. */
template <typename T, int kThreads, int kRoom>
__device__ void scan_exactly(const fgmm_list_view &lists, const fgmm_list_queries &queries, int q,
                             Work<kRoom> &work)
{
    __syncthreads();
    int n = append_nearest<kThreads>(queries, q, work, 0);
    const int k = queries.k;
    Near farthest = n == k ? work.items[k - 1] : Near{INFINITY, INT64_MAX};
    for (int p = 0; p < queries.nprobe; p++) {
        const int list = queries.probes[static_cast<int64_t>(q) * queries.probe_pitch + p];
        for (int r0 = 0; r0 < lists.size[list]; r0 += kThreads) {
            const int r = r0 + threadIdx.x;
            if (threadIdx.x == 0)
                work.kept = n;
            __syncthreads();
            if (r < lists.size[list]) {
                const Near item = measured<T>(lists, queries, q, lists.begin[list] + r);
                if (nearer(item, farthest))
                    work.items[atomicAdd(&work.kept, 1)] = item;
            }
            __syncthreads();
            n = work.kept;
            __syncthreads();
            if (n + kThreads <= kRoom)
                continue;
            reduce_to_nearest<kThreads>(work, n, k, queries.repeats);
            n = work.n;
            farthest = n == k ? work.items[k - 1] : farthest;
            __syncthreads();
        }
    }
    reduce_to_nearest<kThreads>(work, n, k, queries.repeats);
    write_nearest<kThreads>(queries, q, work);
}

template <typename T, int kThreads, int kRoom>
__global__ void __launch_bounds__(kThreads)
    search_exactly(fgmm_list_view lists, fgmm_list_queries queries, bool all)
{
    extern __shared__ __align__(16) char memory[];
    Work<kRoom> &work = *reinterpret_cast<Work<kRoom> *>(memory);
    const int n = all ? queries.n : *queries.n_overflowed;
    for (int i = blockIdx.x; i < n; i += gridDim.x)
        scan_exactly<T, kThreads>(lists, queries, all ? i : queries.overflowed[i], work);
}

/* Small k: a warp a query, so that many are under way; else a block that sorts thousands. */
struct Small {
    static constexpr int kThreads = kWarp, kRoom = 256, kMostNearest = 64;
};
struct Large {
    static constexpr int kThreads = 256, kRoom = 4096;
};
static_assert(2 * FGMM_LISTS_MOST_NEAREST + Large::kThreads <= Large::kRoom, "the nearest and a step fit");
static_assert(2 * Small::kMostNearest + Small::kThreads <= Small::kRoom, "the nearest and a step fit");

template <typename Kernel> int allow_shared(Kernel kernel, size_t bytes)
{
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

template <typename T, typename Size>
int launch_select(const fgmm_list_view &lists, const fgmm_list_queries &queries, cudaStream_t stream)
{
    constexpr size_t kBytes = sizeof(Work<Size::kRoom>),
                     kMost = kBytes + Size::kThreads / kWarp * sizeof(Squares);
    const auto kernel = select_nearest<T, Size::kThreads, Size::kRoom>;
    const int code = allow_shared(kernel, kMost);
    if (code != cudaSuccess)
        return code;
    kernel<<<queries.n, Size::kThreads, queries.whole ? kBytes : kMost, stream>>>(lists, queries);
    return cudaGetLastError();
}

template <typename T>
int launch_exact(const fgmm_list_view &lists, const fgmm_list_queries &queries, bool all, cudaStream_t stream)
{
    constexpr int kBlocks = 1024;
    constexpr size_t kBytes = sizeof(Work<Large::kRoom>);
    const auto kernel = search_exactly<T, Large::kThreads, Large::kRoom>;
    const int code = allow_shared(kernel, kBytes);
    if (code != cudaSuccess)
        return code;
    const int blocks = queries.n < kBlocks ? queries.n : kBlocks;
    kernel<<<blocks, Large::kThreads, kBytes, stream>>>(lists, queries, all);
    return cudaGetLastError();
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_list_select(const fgmm_list_view *lists, const fgmm_list_queries *queries,
                             fgmm_stream stream)
{
    return dispatch_rows(lists->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (sizeof(T) == sizeof(double))
            return cudaErrorInvalidValue; /* lists are never float64 */
        else
            return queries->k <= Small::kMostNearest ? launch_select<T, Small>(*lists, *queries, stream)
                                                     : launch_select<T, Large>(*lists, *queries, stream);
    });
}

int fgmm__launch_list_exact(const fgmm_list_view *lists, const fgmm_list_queries *queries, bool all,
                            fgmm_stream stream)
{
    return dispatch_rows(lists->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (sizeof(T) == sizeof(double))
            return cudaErrorInvalidValue; /* lists are never float64 */
        else
            return launch_exact<T>(*lists, *queries, all, stream);
    });
}
