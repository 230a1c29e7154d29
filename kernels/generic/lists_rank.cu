/* The order of lists: which centroids are nearest to each query. All pairs are multiplied twice, in fp16
 * about the centroids' mean: the first time for upper bounds, of which each group of centroids keeps the
 * least, so that the nprobe-th least of those bounds the nprobe-th distance; the second time for the pairs
 * whose lower bound reaches it, which are little more than nprobe a query. Bounds are those of
 * lists_tile.cuh, with a scale of its own for each query. */
#include <cuda_runtime.h>
#include "kernels/generic/lists_tile.cuh"
#include "kernels/ptx/async_copy.cuh"

namespace fgmm
{
namespace
{

/* A block: some queries, in shared memory as first operands, by 256 centroids, 32 in the registers of each
 * warp. A warp with 128 dimensions holds 64 registers of them, so two blocks a multiprocessor. */
struct RankTile {
    static constexpr int kThreads = 256, kWarps = kThreads / kWarp, kBlocks = 2;
    static constexpr int kRows = ListTile::kRows, kBlockRows = kWarps * kRows;
    static constexpr int kPieceDims = 64, kMostQueries = 128;
    static constexpr int kStaged = 128; /* pairs that a warp puts aside, with room for one of each lane */
};

struct Centroid {
    float half, length; /* |x - mean|^2 / 2 and |x - mean|, scaled */
};

struct RankShared {
    StagedPair staged[RankTile::kWarps][RankTile::kStaged];
};

/* ---- operands ---- */

/* A warp a centroid. */
__global__ void __launch_bounds__(RankTile::kThreads) rank_rows(fgmm_list_rank rank)
{
    const fgmm_list_view &view = rank.centroids;
    const int row = blockIdx.x * RankTile::kWarps + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const float scale = power_of_two(-exponent_above(view.longest[0]));
    if (row >= rank.padded_rows)
        return;
    __half2 *to = reinterpret_cast<__half2 *>(rank.rows) +
                  static_cast<int64_t>(row) * rank.pieces * (RankTile::kPieceDims / 2);
    const bool held = row < *view.size && view.norms[row].half_square >= 0;
    const float *from = reinterpret_cast<const float *>(view.rows + static_cast<int64_t>(row) * view.pitch);
    for (int d = 2 * lane; d < rank.pieces * RankTile::kPieceDims; d += 2 * kWarp) {
        float value[2];
        for (int e = 0; e < 2; e++)
            value[e] =
                held && d + e < view.dim ? fmaf(from[d + e], scale, -view.centres[d + e] * scale) : 0.0f;
        to[d / 2] = __floats2half2_rn(value[0], value[1]);
    }
}

/* A warp a query: its operand and terms. */
__global__ void __launch_bounds__(RankTile::kThreads)
    rank_queries(fgmm_list_rank rank, fgmm_list_queries queries)
{
    constexpr float kMostLength = 1e15f;
    const int n = blockIdx.x * RankTile::kWarps + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    if (n >= rank.padded_queries)
        return;
    const fgmm_list_view &view = rank.centroids;
    const int dim = view.dim;
    const float *query = queries.values + static_cast<int64_t>(n) * dim;
    const bool there = n < queries.n;
    float square = 0, error = 0;
    for (int d = lane; there && d < dim; d += kWarp) {
        const float t = query[d] - view.centres[d];
        square = fmaf(t, t, square);
    }
    const float length = sqrtf(warp_sum(square)) * (1 + (dim + 8) * 0x1p-23f);
    const bool held = there && length <= kMostLength;
    const float scale = power_of_two(held ? -exponent_above(__float_as_uint(length)) : 0);
    const float row_scale = power_of_two(-exponent_above(view.longest[0]));
    char *operands = static_cast<char *>(rank.queries) +
                     static_cast<int64_t>(n / 16) * 16 * rank.pieces * ListTile::kPieceBytes;
    for (int d = 2 * lane; d < rank.pieces * RankTile::kPieceDims; d += 2 * kWarp) {
        float value[2];
        for (int e = 0; e < 2; e++)
            value[e] = held && d + e < dim ? fmaf(query[d + e], scale, -view.centres[d + e] * scale) : 0.0f;
        const __half2 pair = __floats2half2_rn(value[0], value[1]);
        const float2 back = __half22float2(pair);
        error = fmaf(value[0] - back.x, value[0] - back.x, error);
        error = fmaf(value[1] - back.y, value[1] - back.y, error);
        *reinterpret_cast<__half2 *>(operands + operand_place(rank.pieces, n % 16, d / RankTile::kPieceDims,
                                                              d % RankTile::kPieceDims / 8, d % 8 / 2)) =
            pair;
    }
    error = sqrtf(warp_sum(error)) * (1 + 0x1p-10f) + length * scale * 0x1p-23f;
    if (lane != 0)
        return;
    const float scaled = length * scale, half = 0.5f * scaled * (length * row_scale);
    /* And the least number, to which a square may have been rounded down. */
    const float rest =
        scaled * sqrtf(static_cast<float>(dim)) * 1.02f * 0x1p-25f + 0x1p-148f * row_scale * scale;
    fgmm_list_rank_query terms;
    terms.scale = scale;
    terms.low = there ? half * (1 - 0x1p-19f - (dim + 8) * 0x1p-21f) - rest : 0.0f;
    terms.high = held ? half * (1 + 0x1p-19f) + rest : INFINITY;
    terms.width =
        held ? (scaled * (0x1p-11f + 0x1p-22f + (dim + 16) * 1.02f * 0x1p-22f) + error * (1 + 0x1p-10f)) *
                   (1 + 0x1p-20f)
             : 0.0f;
    rank.terms[n] = terms;
}

/* ---- products ---- */

/* What sums are weighed with. rest: bounding, the query's part of an upper bound; else what the other parts
 * of a lower bound must not exceed. */
struct RankQuery {
    float scale, width, rest;
};

/* A warp's centroids: four tiles of 8, of each row g in this lane; the terms of rows 2t and 2t + 1. */
template <int kPieces> struct RankRows {
    uint4 operand[kPieces][ListTile::kTiles][2];
    Centroid terms[ListTile::kTiles][2];
};

__device__ __forceinline__ void load_rank_piece(const fgmm_list_rank &rank,
                                                uint4 (&operand)[ListTile::kTiles][2], int r0, int piece)
{
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int tile = 0; tile < ListTile::kTiles; tile++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int64_t row = r0 + 8 * tile + lane / 4;
            operand[tile][i] = __ldg(static_cast<const uint4 *>(rank.rows) + (row * rank.pieces + piece) * 8 +
                                     lane % 4 + 4 * i);
        }
}

/* bounding: what fp32 cannot hold bounds nothing; else it is always near. */
__device__ __forceinline__ Centroid load_centroid(const fgmm_list_rank &rank, int row, float scale,
                                                  bool bounding)
{
    const fgmm_list_view &view = rank.centroids;
    if (row >= *view.size)
        return {INFINITY, 0};
    const fgmm_list_norm norm = view.norms[row];
    return {norm.half_square < 0 && bounding ? INFINITY : norm.half_square * scale, norm.length * scale};
}

/* The products of 16 * kWide queries from n0 on with the warp's rows. */
template <int kPieces, int kHeld, int kWide>
__device__ __forceinline__ void multiply_rank(const fgmm_list_rank &rank, RankRows<kPieces> &rows,
                                              const char *operands, int r0, int n0,
                                              float (&sums)[kWide][ListTile::kTiles][4])
{
    constexpr int kStepBytes = kWarp * 16;
    const int pieces = kHeld > 0 ? kHeld : rank.pieces, lane = threadIdx.x % kWarp;
#pragma unroll
    for (int w = 0; w < kWide; w++)
#pragma unroll
        for (int tile = 0; tile < ListTile::kTiles; tile++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                sums[w][tile][e] = 0;
#pragma unroll(kHeld > 0 ? kHeld : 1)
    for (int piece = 0; piece < pieces; piece++) {
        if (kHeld == 0)
            load_rank_piece(rank, rows.operand[0], r0, piece);
#pragma unroll
        for (int w = 0; w < kWide; w++)
#pragma unroll
            for (int step = 0; step < ListTile::kSteps; step++) {
                const int at = ((n0 / 16 + w) * pieces + piece) * ListTile::kSteps + step;
                const uint4 q = *reinterpret_cast<const uint4 *>(operands + at * kStepBytes + lane * 16);
#pragma unroll
                for (int tile = 0; tile < ListTile::kTiles; tile++) {
                    const uint4 &x = rows.operand[kHeld > 0 ? piece : 0][tile][step / 2];
                    ptx::mma_f16(sums[w][tile], q.x, q.y, q.z, q.w, step % 2 == 0 ? x.x : x.z,
                                 step % 2 == 0 ? x.y : x.w);
                }
            }
    }
}

/* The least upper bound of the lane's 8 centroids, or of the warp's 32, for its two queries. */
__device__ __forceinline__ void keep_least(const fgmm_list_rank &rank, const fgmm_list_queries &queries,
                                           const Centroid (&terms)[ListTile::kTiles][2],
                                           const float (&sums)[ListTile::kTiles][4], const RankQuery *shared,
                                           int r0, int n0)
{
    const int lane = threadIdx.x % kWarp, t = lane % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int n = n0 + lane / 4 + 8 * h, q = blockIdx.x * rank.tile_queries + n;
        const RankQuery query = shared[n];
        const float scale = query.scale * (1 + 0x1p-18f);
        float least = INFINITY;
#pragma unroll
        for (int tile = 0; tile < ListTile::kTiles; tile++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                least = fminf(least, fmaf(terms[tile][e].half, scale,
                                          fmaf(terms[tile][e].length, query.width, -sums[tile][2 * h + e])));
        if (rank.fold == RankTile::kRows) {
            least = fminf(least, __shfl_xor_sync(kWholeWarp, least, 1));
            least = fminf(least, __shfl_xor_sync(kWholeWarp, least, 2));
        }
        const uint32_t key = __float_as_uint(fmaxf(least + query.rest, 0.0f));
        const int group = rank.fold == RankTile::kRows ? r0 / RankTile::kRows : r0 / 8 + t;
        if (q < queries.n && (t == 0 || rank.fold != RankTile::kRows))
            queries.sample[static_cast<int64_t>(q) * queries.sample_rows + group] = key;
    }
}

/* Appends a pair to the query's finds. */
__device__ __forceinline__ void keep_rank_find(const fgmm_list_rank &rank, const fgmm_list_queries &queries,
                                               float row_scale, int row, int q, float sum)
{
    if (row >= *rank.centroids.size || q >= queries.n)
        return;
    const fgmm_list_rank_query query = rank.terms[q];
    const Centroid centroid = load_centroid(rank, row, row_scale, false);
    const float half = centroid.half * query.scale, error = centroid.length * query.width;
    const float unscale = 2 / row_scale / query.scale;
    const float low = (half + query.low - error - sum) * unscale * (1 - 0x1p-20f);
    const float high = (half * (1 + 0x1p-18f) + query.high + error - sum) * unscale * (1 + 0x1p-20f);
    fgmm_list_find find;
    find.place = static_cast<uint32_t>(row);
    find.lower = low > 0 && low < INFINITY ? __float_as_uint(low) : 0;
    find.upper = half >= 0 && high < INFINITY ? __float_as_uint(fmaxf(high, 0.0f)) : FGMM_LISTS_NO_BOUND;
    const uint32_t at = atomicAdd(&queries.counts[q], 1u);
    if (at < queries.capacity)
        queries.finds[static_cast<int64_t>(q) * queries.capacity + at] = find;
}

/* Finishes what the warp has put aside. Out of line, so that the products keep their registers. */
__device__ __noinline__ void finish(const fgmm_list_rank &rank, const fgmm_list_queries &queries,
                                    const StagedPair *staged, int n, float row_scale, int r0)
{
    const int lane = threadIdx.x % kWarp;
    __syncwarp();
    for (int i = lane; i < n; i += kWarp)
        keep_rank_find(rank, queries, row_scale, r0 + staged[i].row,
                       blockIdx.x * rank.tile_queries + staged[i].query, __uint_as_float(staged[i].sum));
    __syncwarp();
}

/* One of 16 sums by its number, from registers. */
__device__ __forceinline__ float pick(const float (&sums)[ListTile::kTiles][4], int i)
{
    float left[8];
#pragma unroll
    for (int j = 0; j < 8; j++)
        left[j] = i & 1 ? sums[j / 2][j % 2 * 2 + 1] : sums[j / 2][j % 2 * 2];
#pragma unroll
    for (int n = 4, bit = 2; n > 0; n /= 2, bit *= 2)
#pragma unroll
        for (int j = 0; j < n; j++)
            left[j] = i & bit ? left[2 * j + 1] : left[2 * j];
    return left[0];
}

/* Puts aside, in the warp's own place, the pairs that the bounds do not rule out; NaN rules nothing out. n:
 * how many there are. */
__device__ __forceinline__ void keep_near(const fgmm_list_rank &rank, const fgmm_list_queries &queries,
                                          const Centroid (&terms)[ListTile::kTiles][2],
                                          const float (&sums)[ListTile::kTiles][4], const RankQuery *shared,
                                          StagedPair *staged, int &n, float row_scale, int r0, int n0)
{
    const int lane = threadIdx.x % kWarp;
    unsigned near = 0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const RankQuery query = shared[n0 + lane / 4 + 8 * h];
#pragma unroll
        for (int tile = 0; tile < ListTile::kTiles; tile++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const float low = fmaf(terms[tile][e].half, query.scale,
                                       -fmaf(terms[tile][e].length, query.width, sums[tile][2 * h + e]));
                if (!(low > query.rest))
                    near |= 1u << (4 * tile + 2 * h + e);
            }
    }
    for (;;) {
        const unsigned owners = __ballot_sync(kWholeWarp, near != 0);
        if (owners == 0)
            return;
        if (n + kWarp > RankTile::kStaged) {
            finish(rank, queries, staged, n, row_scale, r0);
            n = 0;
        }
        if (near != 0) {
            const int i = __ffs(static_cast<int>(near)) - 1;
            near &= near - 1;
            staged[n + __popc(owners & ((1u << lane) - 1))] = {
                static_cast<uint16_t>(8 * (i / 4) + lane % 4 * 2 + i % 2),
                static_cast<uint16_t>(n0 + lane / 4 + 8 * (i / 2 % 2)), __float_as_uint(pick(sums, i))};
        }
        n += __popc(owners);
    }
}

/* Grid: (tiles of queries, 256 centroids each). kBounding: the first pass. */
template <bool kBounding, int kHeld>
__global__ void __launch_bounds__(RankTile::kThreads, RankTile::kBlocks)
    rank_tile(const __grid_constant__ fgmm_list_rank rank, const __grid_constant__ fgmm_list_queries queries)
{
    constexpr int kPieces = kHeld > 0 ? kHeld : 1, kWide = kHeld > 0 ? 1 : 2;
    extern __shared__ __align__(128) char memory[];
    RankShared &aside = *reinterpret_cast<RankShared *>(memory);
    RankQuery *terms = reinterpret_cast<RankQuery *>(memory + sizeof(RankShared));
    char *operands =
        memory + (sizeof(RankShared) + RankTile::kMostQueries * sizeof(RankQuery) + 127) / 128 * 128;
    const int lane = threadIdx.x % kWarp, first = blockIdx.x * rank.tile_queries;
    const int r0 = blockIdx.y * RankTile::kBlockRows + threadIdx.x / kWarp * RankTile::kRows;
    const int bytes = rank.tile_queries * rank.pieces * ListTile::kPieceBytes;
    const char *from = static_cast<const char *>(rank.queries) + static_cast<int64_t>(blockIdx.x) * bytes;
    for (int i = threadIdx.x * 16; i < bytes; i += RankTile::kThreads * 16)
        ptx::copy_async_16(operands + i, from + i);
    const float row_scale = power_of_two(-exponent_above(rank.centroids.longest[0]));
    RankRows<kPieces> rows;
#pragma unroll
    for (int piece = 0; piece < kHeld; piece++)
        load_rank_piece(rank, rows.operand[piece], r0, piece);
#pragma unroll
    for (int tile = 0; tile < ListTile::kTiles; tile++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            rows.terms[tile][e] = load_centroid(rank, r0 + 8 * tile + lane % 4 * 2 + e, row_scale, kBounding);
    for (int n = threadIdx.x; n < rank.tile_queries; n += RankTile::kThreads) {
        const int q = first + n;
        const fgmm_list_rank_query query = rank.terms[q];
        float rest = query.high;
        if (!kBounding)
            rest =
                q < queries.n ? __uint_as_float(queries.bounds[q]) * (1 + 0x1p-20f) - query.low : -INFINITY;
        terms[n] = {query.scale, query.width, rest};
    }
    ptx::copy_async_wait_all();
    __syncthreads();
    StagedPair *staged = aside.staged[threadIdx.x / kWarp];
    int n_staged = 0;
    for (int n0 = 0; n0 < rank.tile_queries; n0 += 16 * kWide) {
        float sums[kWide][ListTile::kTiles][4];
        multiply_rank<kPieces, kHeld, kWide>(rank, rows, operands, r0, n0, sums);
#pragma unroll
        for (int w = 0; w < kWide; w++)
            if (kBounding)
                keep_least(rank, queries, rows.terms, sums[w], terms, r0, n0 + 16 * w);
            else
                keep_near(rank, queries, rows.terms, sums[w], terms, staged, n_staged, row_scale, r0,
                          n0 + 16 * w);
    }
    if (!kBounding)
        finish(rank, queries, staged, n_staged, row_scale, r0);
}

size_t rank_shared_bytes(const fgmm_list_rank &rank)
{
    return (sizeof(RankShared) + RankTile::kMostQueries * sizeof(RankQuery) + 127) / 128 * 128 +
           static_cast<size_t>(rank.tile_queries) * rank.pieces * ListTile::kPieceBytes;
}

template <bool kBounding, int kHeld>
int launch_tile(const fgmm_list_rank &rank, const fgmm_list_queries &queries, cudaStream_t stream)
{
    const auto kernel = rank_tile<kBounding, kHeld>;
    const size_t bytes = rank_shared_bytes(rank);
    const cudaError_t code =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (code != cudaSuccess)
        return code;
    const dim3 grid(rank.padded_queries / rank.tile_queries,
                    (rank.padded_rows + RankTile::kBlockRows - 1) / RankTile::kBlockRows);
    kernel<<<grid, RankTile::kThreads, bytes, stream>>>(rank, queries);
    return cudaGetLastError();
}

template <bool kBounding>
int launch_held(const fgmm_list_rank &rank, const fgmm_list_queries &queries, cudaStream_t stream)
{
    if (rank.pieces == 1)
        return launch_tile<kBounding, 1>(rank, queries, stream);
    if (rank.pieces == 2)
        return launch_tile<kBounding, 2>(rank, queries, stream);
    return launch_tile<kBounding, 0>(rank, queries, stream);
}

} // namespace
} // namespace fgmm

using namespace fgmm;

bool fgmm__list_rank_shape(int32_t lists, int32_t dim, int32_t n, int32_t nprobe, fgmm_list_rank *rank)
{
    constexpr int kGroupsAProbe = 3, kFolds[2] = {RankTile::kRows, 8};
    rank->pieces = (dim + RankTile::kPieceDims - 1) / RankTile::kPieceDims;
    const int bytes = rank->pieces * ListTile::kPieceBytes;
    rank->tile_queries = RankTile::kMostQueries;
    while (rank->tile_queries > ListTile::kQueryStep && rank->tile_queries * bytes > ListTile::kOperandBytes)
        rank->tile_queries /= 2;
    if (rank->tile_queries * bytes > ListTile::kMostOperandBytes)
        return false;
    rank->padded_rows = (lists + RankTile::kBlockRows - 1) / RankTile::kBlockRows * RankTile::kBlockRows;
    rank->padded_queries = (n + rank->tile_queries - 1) / rank->tile_queries * rank->tile_queries;
    for (const int fold : kFolds)
        if (static_cast<int64_t>(kGroupsAProbe) * nprobe * fold <= lists) {
            rank->fold = fold;
            return true;
        }
    return false;
}

size_t fgmm__list_rank_row_bytes(const fgmm_list_rank *rank)
{
    return static_cast<size_t>(rank->padded_rows) * rank->pieces * ListTile::kPieceBytes;
}

size_t fgmm__list_rank_query_bytes(const fgmm_list_rank *rank)
{
    return static_cast<size_t>(rank->padded_queries) * rank->pieces * ListTile::kPieceBytes;
}

int fgmm__launch_list_rank_rows(const fgmm_list_rank *rank, fgmm_stream stream)
{
    const int blocks = (rank->padded_rows + RankTile::kWarps - 1) / RankTile::kWarps;
    rank_rows<<<blocks, RankTile::kThreads, 0, stream>>>(*rank);
    return cudaGetLastError();
}

int fgmm__launch_list_rank_queries(const fgmm_list_rank *rank, const fgmm_list_queries *queries,
                                   fgmm_stream stream)
{
    const int blocks = (rank->padded_queries + RankTile::kWarps - 1) / RankTile::kWarps;
    rank_queries<<<blocks, RankTile::kThreads, 0, stream>>>(*rank, *queries);
    return cudaGetLastError();
}

int fgmm__launch_list_rank(const fgmm_list_rank *rank, const fgmm_list_queries *queries, bool bounding,
                           fgmm_stream stream)
{
    return bounding ? launch_held<true>(*rank, *queries, stream)
                    : launch_held<false>(*rank, *queries, stream);
}
