/* A list against the queries that visit it. A block takes a chunk of the list's rows and up to 256 queries:
 * the queries lie in shared memory as operands, rows go straight from global memory to the registers of the
 * one warp that multiplies them. The order of dimensions within a product is free, so a lane takes 16-byte
 * granules t and t + 4 of every 128 bytes, of rows and queries alike. What the bounds do not rule out is
 * appended to the query's finds. */
#include <cuda_runtime.h>
#include "kernels/generic/lists_tile.cuh"

namespace fgmm
{
namespace
{

/* A warp's rows: four tiles of 8, of each row g in this lane, kPieces of their operands; and the constants of
 * rows 2t and 2t + 1, which this lane's sums belong to. */
template <typename Screen, int kPieces> struct WarpRows {
    uint4 operand[kPieces][ListTile::kTiles][2]; /* [piece][tile][granule] */
    typename Screen::Row terms[ListTile::kTiles][2];
};

template <typename Screen> struct Item {
    Screen screen;
    const fgmm_list_view &lists;
    const fgmm_list_queries &queries;
    ListShared &shared;
    const char *operands; /* operand_place */
    typename Screen::Hot *hot;
    typename Screen::Cold *cold;
    int pieces, padded; /* of an operand; queries with the padding */
    const char *rows;   /* the list's first */
    int end;            /* rows of the list */
};

__device__ __forceinline__ int32_t as_sum(uint32_t bits, int32_t)
{
    return static_cast<int32_t>(bits);
}
__device__ __forceinline__ float as_sum(uint32_t bits, float)
{
    return __uint_as_float(bits);
}
__device__ __forceinline__ uint32_t as_bits(int32_t sum)
{
    return static_cast<uint32_t>(sum);
}
__device__ __forceinline__ uint32_t as_bits(float sum)
{
    return __float_as_uint(sum);
}

/* The upper bound of a pair of the sample; none where there is no such row or query. */
template <typename Screen>
__device__ __forceinline__ uint32_t sampled(const Item<Screen> &item, typename Screen::Sum sum,
                                            const typename Screen::Row &row, int r, int n)
{
    uint32_t lower, upper;
    if (r >= item.end || n >= item.shared.group.count)
        return FGMM_LISTS_NO_BOUND;
    item.screen.measure(sum, row, item.lists, item.shared.place + r, item.hot[n], item.cold[n], &lower,
                        &upper);
    return upper;
}

/* Keys of a lane's 8 rows for its two queries: of each row, or the least. */
template <typename Screen>
__device__ __forceinline__ void sample(const Item<Screen> &item,
                                       const typename Screen::Row (&terms)[ListTile::kTiles][2],
                                       const typename Screen::Sum (&sums)[ListTile::kTiles][4], int r0, int n)
{
    const int fold = item.queries.sample_fold, keys = item.queries.sample_rows / fold;
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (n + 8 * h >= item.shared.group.count)
            continue;
        uint32_t *to = item.queries.sample + static_cast<int64_t>(item.cold[n + 8 * h].visitor) * keys;
        uint32_t least = FGMM_LISTS_NO_BOUND;
#pragma unroll
        for (int tile = 0; tile < ListTile::kTiles; tile++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int r = r0 + 8 * tile + 2 * t + e;
                const uint32_t key = sampled(item, sums[tile][2 * h + e], terms[tile][e], r, n + 8 * h);
                least = min(least, key);
                if (fold == 1 && r < item.end)
                    to[r] = key;
            }
        if (fold != 1)
            to[r0 / 8 + t] = least;
    }
}

/* Finishes one pair that was not ruled out. Out of line, so that the products keep their registers. */
template <typename Screen>
__device__ __noinline__ void keep(const fgmm_list_view &lists, const fgmm_list_queries &queries,
                                  const ListShared &shared, const typename Screen::Hot *hot,
                                  const typename Screen::Cold *cold, StagedPair pair)
{
    const int r = shared.begin + pair.row, n = pair.query;
    fgmm_list_find find;
    if (r >= shared.end || n >= shared.group.count)
        return;
    Screen screen;
    screen.open_again(shared);
    const int64_t place = shared.place + r;
    if (!screen.measure(as_sum(pair.sum, typename Screen::Sum()), screen.row(lists, place, true), lists,
                        place, hot[n], cold[n], &find.lower, &find.upper))
        return;
    find.place = static_cast<uint32_t>(place);
    const int query = cold[n].visitor;
    const uint32_t at = atomicAdd(&queries.counts[query], 1u);
    if (at < queries.capacity)
        queries.finds[static_cast<int64_t>(query) * queries.capacity + at] = find;
}

/* Puts the pair aside, or finishes it where there is no room. */
template <typename Screen>
__device__ __forceinline__ void put_aside(const Item<Screen> &item, typename Screen::Sum sum, int row, int n)
{
    const StagedPair pair = {static_cast<uint16_t>(row), static_cast<uint16_t>(n), as_bits(sum)};
    const int at = atomicAdd(&item.shared.n_staged, 1);
    if (at < ListTile::kStaged)
        item.shared.staged[at] = pair;
    else
        keep<Screen>(item.lists, item.queries, item.shared, item.hot, item.cold, pair);
}

template <typename Screen, int kPieces>
__device__ __forceinline__ void load_piece(const Item<Screen> &item, WarpRows<Screen, kPieces> &rows, int r0,
                                           int slot, int piece)
{
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int tile = 0; tile < ListTile::kTiles; tile++) {
        const int r = min(r0 + 8 * tile + lane / 4, item.end - 1);
        const char *row = item.rows + static_cast<int64_t>(r) * item.lists.pitch;
#pragma unroll
        for (int i = 0; i < 2; i++)
            rows.operand[slot][tile][i] = item.screen.row_granule(row, piece * 8 + lane % 4 + 4 * i);
    }
}

template <typename Screen, int kPieces, int kHeld>
__device__ __forceinline__ void load_rows(const Item<Screen> &item, WarpRows<Screen, kPieces> &rows, int r0)
{
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int piece = 0; piece < kHeld; piece++)
        load_piece(item, rows, r0, piece, piece);
#pragma unroll
    for (int tile = 0; tile < ListTile::kTiles; tile++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int r = r0 + 8 * tile + lane % 4 * 2 + e;
            rows.terms[tile][e] = item.screen.row(item.lists, item.shared.place + r, r < item.end);
        }
}

/* Adds one piece's products of 16 queries (their operands from `queries` on) and the warp's rows. */
template <typename Screen>
__device__ __forceinline__ void multiply_piece(const uint4 (&rows)[ListTile::kTiles][2], const char *queries,
                                               typename Screen::Sum (&sums)[ListTile::kTiles][4])
{
#pragma unroll
    for (int step = 0; step < ListTile::kSteps; step++) {
        const uint4 q = *reinterpret_cast<const uint4 *>(queries + step * kWarp * 16);
#pragma unroll
        for (int tile = 0; tile < ListTile::kTiles; tile++) {
            const uint4 &x = rows[tile][step / 2];
            Screen::multiply(sums[tile], q.x, q.y, q.z, q.w, step % 2 == 0 ? x.x : x.z,
                             step % 2 == 0 ? x.y : x.w);
        }
    }
}

/* 16 queries from n0 on: keeps what is near, or samples all. */
template <typename Screen, bool kSampling>
__device__ __forceinline__ void judge(const Item<Screen> &item,
                                      const typename Screen::Row (&terms)[ListTile::kTiles][2],
                                      const typename Screen::Sum (&sums)[ListTile::kTiles][4],
                                      const typename Screen::Hot (&query)[2], int r0, int n0)
{
    const int lane = threadIdx.x % kWarp;
    const int r = lane % 4 * 2, n = n0 + lane / 4;
    if constexpr (kSampling) {
        sample(item, terms, sums, r0, n);
        return;
    }
    bool any = false;
#pragma unroll
    for (int tile = 0; tile < ListTile::kTiles; tile++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            any |= Screen::near(sums[tile][e], terms[tile][e % 2], query[e / 2]);
    if (!any)
        return;
#pragma unroll
    for (int tile = 0; tile < ListTile::kTiles; tile++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (Screen::near(sums[tile][e], terms[tile][e % 2], query[e / 2]))
                put_aside(item, sums[tile][e], r0 - item.shared.begin + 8 * tile + r + e % 2,
                          n + 8 * (e / 2));
}

/* The warp's rows by all queries. kHeld: pieces in registers; 0: each is read again for every kWide * 16. */
template <typename Screen, bool kSampling, int kPieces, int kHeld, int kWide>
__device__ __forceinline__ void scan(const Item<Screen> &item, WarpRows<Screen, kPieces> &rows, int r0)
{
    const int lane = threadIdx.x % kWarp, pieces = kHeld > 0 ? kHeld : item.pieces;
    constexpr int kStepBytes = kWarp * 16;
    for (int n0 = 0; n0 < item.padded; n0 += 16 * kWide) {
        typename Screen::Sum sums[kWide][ListTile::kTiles][4];
        typename Screen::Hot query[kWide][2];
#pragma unroll
        for (int w = 0; w < kWide; w++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                query[w][e / 2] = item.hot[n0 + 16 * w + lane / 4 + 8 * (e / 2)];
#pragma unroll
                for (int tile = 0; tile < ListTile::kTiles; tile++)
                    sums[w][tile][e] = Screen::start(rows.terms[tile][e % 2], query[w][e / 2]);
            }
#pragma unroll(kHeld > 0 ? kHeld : 1)
        for (int piece = 0; piece < pieces; piece++) {
            if (kHeld == 0)
                load_piece(item, rows, r0, 0, piece);
#pragma unroll
            for (int w = 0; w < kWide; w++) {
                const int first = ((n0 / 16 + w) * pieces + piece) * ListTile::kSteps * kStepBytes;
                multiply_piece<Screen>(rows.operand[kHeld > 0 ? piece : 0], item.operands + first + lane * 16,
                                       sums[w]);
            }
        }
#pragma unroll
        for (int w = 0; w < kWide; w++)
            judge<Screen, kSampling>(item, rows.terms, sums[w], query[w], r0, n0 + 16 * w);
    }
}

/* The group that an item belongs to: the last that begins at it or before. All lanes of a warp. */
__device__ int find_group(const fgmm_list_plan &plan, int item)
{
    const int lane = threadIdx.x % kWarp;
    int low = 0, n = plan.state[0]; /* it lies in [low, low + n) */
    while (n > 1) {
        const int step = (n + kWarp - 1) / kWarp, at = low + lane * step;
        const bool begun = lane * step < n && plan.groups[at].item <= item;
        const int last = 31 - __clz(__ballot_sync(kWholeWarp, begun));
        low += last * step;
        n = min(step, n - last * step);
    }
    return low;
}

/* Takes the next item; false when there is none. All threads. */
__device__ __forceinline__ bool next_item(const fgmm_list_view &lists, const fgmm_list_queries &queries,
                                          const fgmm_list_plan &plan, bool sampling, ListShared &shared)
{
    if (threadIdx.x < kWarp) {
        int item = threadIdx.x == 0 ? atomicAdd(&plan.state[2], 1) : 0;
        item = __shfl_sync(kWholeWarp, item, 0);
        const bool there = item < plan.state[1];
        const fgmm_list_group group = plan.groups[there ? find_group(plan, item) : 0];
        if (threadIdx.x == 0) {
            shared.item = there ? item : -1;
            shared.n_staged = 0;
            shared.longest_query = 0;
            shared.group = group;
            if (there) {
                const int size = lists.size[group.list];
                shared.place = lists.begin[group.list];
                shared.begin = (item - group.item) * plan.chunk_rows;
                shared.end =
                    min(sampling ? min(size, queries.sample_rows) : size, shared.begin + plan.chunk_rows);
            }
        }
    }
    __syncthreads();
    return shared.item >= 0;
}

/* Blocks a multiprocessor: warps hide the time that others wait for their rows. */
template <typename Screen> constexpr int list_blocks(int held)
{
    return Screen::kPieceDims == 128 && held == 1 ? 3 : 2;
}

template <typename Screen, bool kSampling, int kHeld>
__global__ void __launch_bounds__(ListTile::kThreads, list_blocks<Screen>(kHeld))
    list_tile(const __grid_constant__ fgmm_list_view lists, const __grid_constant__ fgmm_list_queries queries,
              const __grid_constant__ fgmm_list_plan plan)
{
    constexpr int kPieces = kHeld > 0 ? kHeld : 1, kWide = kHeld > 0 ? 1 : 2;
    extern __shared__ __align__(128) char memory[];
    const int pieces = (lists.dim + Screen::kPieceDims - 1) / Screen::kPieceDims;
    Item<Screen> item = {{}, lists, queries, *reinterpret_cast<ListShared *>(memory)};
    char *operands = memory + (sizeof(ListShared) + 127) / 128 * 128;
    item.pieces = pieces;
    item.operands = operands;
    item.hot = reinterpret_cast<typename Screen::Hot *>(operands +
                                                        plan.group_queries * pieces * ListTile::kPieceBytes);
    item.cold = reinterpret_cast<typename Screen::Cold *>(item.hot + plan.group_queries);
    float *floats = reinterpret_cast<float *>(item.cold + plan.group_queries);
    while (next_item(lists, queries, plan, kSampling, item.shared)) {
        item.padded = (item.shared.group.count + 16 * kWide - 1) / (16 * kWide) * (16 * kWide);
        item.rows = lists.rows + item.shared.place * lists.pitch;
        item.end = item.shared.end;
        item.screen.open(lists, floats, item.shared);
        int r0 = item.shared.begin + static_cast<int>(threadIdx.x) / kWarp * ListTile::kRows;
        item.screen.load_queries(lists, queries, plan, item.shared, kSampling, operands, pieces, item.padded,
                                 item.hot, item.cold);
        __syncthreads();
        for (; r0 < item.end; r0 += ListTile::kWarps * ListTile::kRows) {
            WarpRows<Screen, kPieces> rows;
            load_rows<Screen, kPieces, kHeld>(item, rows, r0);
            scan<Screen, kSampling, kPieces, kHeld, kWide>(item, rows, r0);
        }
        __syncthreads();
        const int staged = min(item.shared.n_staged, ListTile::kStaged);
        for (int i = threadIdx.x; i < staged; i += ListTile::kThreads)
            keep<Screen>(lists, queries, item.shared, item.hot, item.cold, item.shared.staged[i]);
        __syncthreads();
    }
}

size_t shared_bytes(int group_queries, int pieces, size_t terms, int piece_floats)
{
    return (sizeof(ListShared) + 127) / 128 * 128 +
           static_cast<size_t>(group_queries) * (pieces * ListTile::kPieceBytes + terms) +
           static_cast<size_t>(pieces) * piece_floats * sizeof(float);
}

template <typename Screen, bool kSampling, int kHeld>
int launch(const fgmm_list_view &lists, const fgmm_list_queries &queries, const fgmm_list_plan &plan,
           int pieces, cudaStream_t stream)
{
    const auto kernel = list_tile<Screen, kSampling, kHeld>;
    const size_t bytes =
        shared_bytes(plan.group_queries, pieces, sizeof(typename Screen::Hot) + sizeof(typename Screen::Cold),
                     Screen::kSharedFloats * Screen::kPieceDims);
    int device, multiprocessors, blocks;
    cudaError_t code =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (code == cudaSuccess)
        code = cudaGetDevice(&device);
    if (code == cudaSuccess)
        code = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (code == cudaSuccess)
        code = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, ListTile::kThreads, bytes);
    if (code != cudaSuccess)
        return code;
    kernel<<<multiprocessors * blocks, ListTile::kThreads, bytes, stream>>>(lists, queries, plan);
    return cudaGetLastError();
}

template <typename Screen, bool kSampling>
int launch_held(const fgmm_list_view &lists, const fgmm_list_queries &queries, const fgmm_list_plan &plan,
                cudaStream_t stream)
{
    const int pieces = (lists.dim + Screen::kPieceDims - 1) / Screen::kPieceDims;
    if (pieces == 1)
        return launch<Screen, kSampling, 1>(lists, queries, plan, pieces, stream);
    if (pieces == 2)
        return launch<Screen, kSampling, 2>(lists, queries, plan, pieces, stream);
    return launch<Screen, kSampling, 0>(lists, queries, plan, pieces, stream);
}

template <typename Screen>
int launch_screen(const fgmm_list_view &lists, const fgmm_list_queries &queries, const fgmm_list_plan &plan,
                  bool sampling, cudaStream_t stream)
{
    return sampling ? launch_held<Screen, true>(lists, queries, plan, stream)
                    : launch_held<Screen, false>(lists, queries, plan, stream);
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int32_t fgmm__list_group_queries(int32_t dim, bool whole)
{
    const int piece_dims = whole ? WholeScreen<uint8_t>::kPieceDims : RoundedScreen<float>::kPieceDims;
    const int bytes = (dim + piece_dims - 1) / piece_dims * ListTile::kPieceBytes;
    const int queries = ListTile::kOperandBytes / bytes / ListTile::kQueryStep * ListTile::kQueryStep;
    if (queries >= ListTile::kQueryStep)
        return queries < FGMM_LISTS_GROUP ? queries : FGMM_LISTS_GROUP;
    return ListTile::kQueryStep * bytes <= ListTile::kMostOperandBytes ? ListTile::kQueryStep : 0;
}

int fgmm__launch_list_tile(const fgmm_list_view *lists, const fgmm_list_queries *queries,
                           const fgmm_list_plan *plan, bool sampling, fgmm_stream stream)
{
    if (queries->whole)
        return lists->type == FGMM_ROWS_U8
                   ? launch_screen<WholeScreen<uint8_t>>(*lists, *queries, *plan, sampling, stream)
                   : launch_screen<WholeScreen<int8_t>>(*lists, *queries, *plan, sampling, stream);
    return dispatch_rows(lists->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (sizeof(T) == sizeof(double))
            return cudaErrorInvalidValue; /* lists are never float64 */
        else
            return launch_screen<RoundedScreen<T>>(*lists, *queries, *plan, sampling, stream);
    });
}
