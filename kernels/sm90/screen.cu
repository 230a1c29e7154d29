/* Screening with tensor cores: which components can matter for a row, from one product of half-precision rows
 * and means.
 *
 * For spherical components, l_k(x) = offset_k - F_k (|x|^2 - 2 x.m_k + |m_k|^2). All of it is one product:
 * beside its mean, times 2 F_k, a component has a few columns more that meet 1, |x|^2 and |x|, so that the
 * fp32 sum that leaves the tensor cores is an upper bound of l_k that holds against every rounding. The most
 * that an upper bound of the tile can be above its l_k is a function of |x|^2 and |x|, which gives the lower
 * bound of the tile's best. A component stays in the row's list while its upper bound is within keep_bits of
 * the largest lower bound; pairs.cu, sums.cu and select.cu compute those few in float64. On real rows the
 * bounds are a fraction of a bit apart.
 *
 * Roles: consumer warpgroups, each with 64 rows of the block's row tile; a warp that feeds component tiles by
 * bulk copies; warps that convert the next rows to fp16. */
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <float.h>
#include <string.h>
#include "kernels/generic/rows.cuh"
#include "kernels/generic/warp.cuh"
#include "kernels/ptx/math.cuh"
#include "kernels/ptx/registers.cuh"
#include "kernels/ptx/wgmma.cuh"
#include "kernels/sm90/columns.cuh"
#include "kernels/sm90/lists.cuh"
#include "kernels/sm90/packed.cuh"
#include "kernels/sm90/ring.cuh"
#include "kernels/sm90/scattered_sum.cuh"
#include "kernels/sm90/traits.cuh"

namespace fgmm
{
namespace
{

template <class Shape> struct ScreenShared {
    alignas(1024) unsigned char record[Shape::kStages][Shape::kRecordPlace];
    alignas(1024) unsigned char rows[Shape::kRowTiles][Shape::kRowTileBytes]; /* [group]: traits.cuh */
    float square[Shape::kRowTiles][Shape::kRows]; /* |y|^2; infinity: not to be screened */
    uint64_t record_full[Shape::kStages], record_empty[Shape::kStages];
    uint64_t rows_full[Shape::kRowTiles][Shape::kGroups], rows_empty[Shape::kRowTiles][Shape::kGroups];
    uint64_t turn[Shape::kGroups]; /* to multiply */
};

/* How converter warps cut the rows: a row is shared by kLanes lanes of 8 dimensions; a batch is what a warp
 * hands over at a time, kBatch rows a thread, in two parts: the next part is on its way from memory while one
 * is converted. kWhole: as in load_octet. */
template <class Shape, typename T, bool kWhole> struct Conversion {
    static constexpr int kLanes = Shape::kHalves * 8;
    static constexpr int kStep = kWarp / kLanes; /* rows at a time */
    static constexpr int kBatch = !kWhole ? 2 : sizeof(T) == 4 || kLanes == 8 ? 4 : 8;
    static constexpr int kPart = kBatch / 2;
    static constexpr int kBatchRows = kStep * kBatch;
    static constexpr int kGroupBatches = Shape::kGroupRows / kBatchRows;
    static constexpr int kTileBatches = Shape::kGroups * kGroupBatches;
    static_assert(kGroupBatches * kBatch * kStep == Shape::kGroupRows,
                  "every thread has a row at every step");
    static_assert(kTileBatches >= Shape::kConverters, "a warp's next batch is in this tile or the next");
    /* In bytes from the batch's first row, which is `base` of its group: the place of a lane's b-th octet,
     * that of the first (as if base were 0) being `first`. Rows of a lane are kStep apart, and a lane's first
     * row is below kStep, so the swizzle of a row is that of its parts, and all but one instruction are
     * constants. */
    __device__ static __forceinline__ uint32_t place(uint32_t first, int base, int b)
    {
        const uint32_t row = (kBatchRows % 8 == 0 ? 0 : base) + b * kStep;
        return (first ^ (row % 8 * 16)) + b * kStep * Shape::kHalfBytes;
    }
};

template <class Shape> __device__ void init_barriers(ScreenShared<Shape> &shared, int group_batches)
{
    for (int i = 0; i < Shape::kStages; i++) {
        ptx::barrier_init(&shared.record_full[i], 1);
        ptx::barrier_init(&shared.record_empty[i], Shape::kConsumerWarps * ptx::kWarpArrivals);
    }
    for (int i = 0; i < Shape::kRowTiles; i++)
        for (int group = 0; group < Shape::kGroups; group++) {
            ptx::barrier_init(&shared.rows_full[i][group], group_batches * ptx::kWarpArrivals);
            ptx::barrier_init(&shared.rows_empty[i][group], Shape::kGroupWarps * ptx::kWarpArrivals);
        }
    for (int group = 0; group < Shape::kGroups; group++)
        ptx::barrier_init(&shared.turn[group], Shape::kGroupWarps * ptx::kWarpArrivals);
}

/* All threads: the second eight extra columns of rows are zero for ever. */
template <class Shape> __device__ void clear_extra(ScreenShared<Shape> &shared)
{
    constexpr int kGroupsInAll = Shape::kRowTiles * Shape::kGroups;
    for (int i = threadIdx.x; i < kGroupsInAll * Shape::kGroupRows; i += Shape::kThreads) {
        unsigned char *group = shared.rows[0] + i / Shape::kGroupRows * Shape::kGroupBytes;
        reinterpret_cast<uint4 *>(group + Shape::kGroupExtra)[Shape::kGroupRows + i % Shape::kGroupRows] =
            make_uint4(0, 0, 0, 0);
    }
}

/* One thread: all component tiles, again for each row tile of the block. */
template <class Shape>
__device__ void feed_records(ScreenShared<Shape> &shared, const fgmm_sm90_tables &tables, int row_tiles)
{
    const unsigned char *records = static_cast<const unsigned char *>(tables.records);
    Ring ring;
    for (int t = blockIdx.x; t < row_tiles; t += gridDim.x)
        for (int tile = 0; tile < tables.tiles; tile++) {
            ptx::barrier_wait(&shared.record_empty[ring.slot], ring.phase ^ 1);
            ptx::barrier_expect(&shared.record_full[ring.slot], Shape::kRecordBytes);
            ptx::bulk_copy(shared.record[ring.slot],
                           records + static_cast<int64_t>(tile) * Shape::kRecordBytes, Shape::kRecordBytes,
                           &shared.record_full[ring.slot]);
            ring.next(Shape::kStages);
        }
}

/* y = fma(value, scale, shift) = scale * (value - origin), rounded once, and then to fp16 at `place`. Returns
 * the sum of y^2. */
template <typename T>
__device__ __forceinline__ float convert_octet(const Packed<T> &octet, float scale, const float (&shift)[8],
                                               void *place)
{
    float square = 0;
    uint32_t packed[4];
#pragma unroll
    for (int e = 0; e < 8; e += 2) {
        const float2 value = octet.pair(e / 2);
        const float y = fmaf(value.x, scale, shift[e]), z = fmaf(value.y, scale, shift[e + 1]);
        square = fmaf(y, y, fmaf(z, z, square));
        const __half2 pair = __floats2half2_rn(y, z);
        memcpy(&packed[e / 2], &pair, sizeof pair);
    }
    ptx::store_operand(place, make_uint4(packed[0], packed[1], packed[2], packed[3]));
    return square;
}

/* A converter warp: its share of the batches of each row tile, minus origin, scaled, to fp16 in the swizzled
 * layout; their squared norms and extra columns. */
template <class Shape, typename T, bool kWhole>
__device__ void convert_rows(ScreenShared<Shape> &shared, const fgmm_row_view &rows, float scale,
                             int row_tiles, int converter)
{
    typedef Conversion<Shape, T, kWhole> Cut;
    constexpr int kLanes = Cut::kLanes, kBatch = Cut::kBatch, kPart = Cut::kPart,
                  kGroupRows = Shape::kGroupRows;
    const int lane = threadIdx.x % kLanes, d0 = lane * 8, first = threadIdx.x % kWarp / kLanes;
    /* Lanes past the last dimension have its octet again: it meets zeros, and its square does not count. */
    const int octet = min(d0, (rows.dim - 1) / 8 * 8);
    float shift[8];
#pragma unroll
    for (int e = 0; e < 8; e++)
        shift[e] = octet + e < rows.dim ? -scale * rows.origin32[octet + e] : 0.0f;
    const char *data = reinterpret_cast<const char *>(static_cast<const T *>(rows.data) + octet);
    asm("" : "+l"(data)); /* one address, or the compiler makes each row's of its parts */
    __builtin_assume(__isGlobal(data));
    auto load = [&](int tile, int batch, int b) {
        const int row = tile * Shape::kRows + batch * Cut::kBatchRows + b * Cut::kStep + first;
        const int64_t offset =
            static_cast<int64_t>(min(row, rows.rows - 1)) * (rows.dim * static_cast<int>(sizeof(T)));
        return load_packed<kWhole>(reinterpret_cast<const T *>(data + offset), 0, rows.dim - octet);
    };
    /* Where the octet of row `first` of a batch goes; of further rows: Conversion. */
    const uint32_t place = swizzled(first, d0, kGroupRows) * static_cast<uint32_t>(sizeof(__half));
    int batch = converter; /* of the row tile */
    Packed<T> waiting[2][kPart];
#pragma unroll
    for (int i = 0; i < kPart; i++)
        waiting[0][i] = load(blockIdx.x, batch, i);
    Ring ring;
    for (int t = blockIdx.x; t < row_tiles;) {
        const int group = batch / Cut::kGroupBatches, base = batch % Cut::kGroupBatches * Cut::kBatchRows;
        unsigned char *tile = shared.rows[ring.slot] + group * Shape::kGroupBytes;
        const bool last = batch + Shape::kConverters >= Cut::kTileBatches;
        const int next_batch = batch + Shape::kConverters - (last ? Cut::kTileBatches : 0);
        const int next_tile = last ? t + gridDim.x : t;
        float square[kBatch];
#pragma unroll
        for (int part = 0; part < 2; part++) {
#pragma unroll
            for (int i = 0; i < kPart; i++)
                waiting[1 - part][i] = part == 0 ? load(t, batch, kPart + i) : load(next_tile, next_batch, i);
            /* Once a batch would do, but the compiler moves no load past this, and would move them all down
             * to where they are used. */
            ptx::barrier_wait(&shared.rows_empty[ring.slot][group], ring.phase ^ 1);
#pragma unroll
            for (int i = 0; i < kPart; i++) {
                const int b = part * kPart + i;
                const float part_square =
                    convert_octet(waiting[part][i], scale, shift,
                                  tile + base * Shape::kHalfBytes + Cut::place(place, base, b));
                square[b] = d0 < rows.dim ? part_square : 0;
            }
        }
        constexpr int kOwners = kLanes / kBatch; /* lanes that end with the same row's sum */
        const float sum = scattered_sum<kLanes>(square, lane);
        const int row = base + lane / kOwners * Cut::kStep + first;
        const bool fits = sum < kMostSquare, owner = lane % kOwners == 0;
        if (owner) {
            ptx::store_operand(tile + Shape::kGroupExtra + row * 16, row_columns(sum, fits));
            shared.square[ring.slot][group * kGroupRows + row] = fits ? sum : INFINITY;
        }
        if (__any_sync(kWholeWarp, !fits)) { /* rare: the row becomes zero, so that no sum is NaN */
            __syncwarp();
#pragma unroll 1
            for (int d = 0; d < kLanes * 8 && owner && !fits; d += 8)
                ptx::store_operand(reinterpret_cast<__half *>(tile) + swizzled(row, d, kGroupRows),
                                   make_uint4(0, 0, 0, 0));
        }
        ptx::fence_async_proxy();
        ptx::barrier_arrive_warp(&shared.rows_full[ring.slot][group]);
        if (last)
            ring.next(Shape::kRowTiles);
        t = next_tile;
        batch = next_batch;
    }
}

/* Begins a warpgroup's sums with a component tile. */
template <class Shape>
__device__ __forceinline__ void multiply(float (&s)[64], const unsigned char *rows,
                                         const unsigned char *record)
{
    const uint64_t mine = ptx::operand(rows), means = ptx::operand(record);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < Shape::kHalves * 4; step++)
        ptx::wgmma_64x128x16(s, ptx::advance(mine, step / 4 * Shape::kGroupRows * 128 + step % 4 * 32),
                             ptx::advance(means, step / 4 * Shape::kColumns * 128 + step % 4 * 32), step > 0);
    ptx::wgmma_64x128x16(s, ptx::plain_operand<Shape::kGroupRows>(rows + Shape::kGroupExtra),
                         ptx::plain_operand<Shape::kColumns>(record + Shape::kRecordExtra), 1);
    ptx::wgmma_commit();
}

/* A warpgroup: the products of its 64 rows with every component tile. Groups take turns to begin one, so that
 * they do not all multiply and then all look at their sums. */
template <class Shape>
__device__ void screen_rows(ScreenShared<Shape> &shared, const fgmm_row_view &rows,
                            const fgmm_sm90_tables &tables, const fgmm_candidate_lists &lists, int row_tiles,
                            int least, int group)
{
    const int thread = threadIdx.x % Shape::kWarpgroup, lane = thread % kWarp;
    const int first = group * Shape::kGroupRows + thread / kWarp * 16 +
                      lane / 4; /* in the row tile; the other row is 8 below */
    const int next_group = (group + 1) % Shape::kGroups;
    uint32_t turn = group == 0; /* phase; the first group's first turn has come */
    Ring row_ring, ring;
    float s[64];
    for (int t = blockIdx.x; t < row_tiles; t += gridDim.x) {
        ptx::barrier_wait(&shared.rows_full[row_ring.slot][group], row_ring.phase);
        const unsigned char *tile_rows = shared.rows[row_ring.slot] + group * Shape::kGroupBytes;
        const int number = t * Shape::kRows + first;
        RowLists list = {lists.entries, number, 0};
        RowState row[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float square = shared.square[row_ring.slot][first + 8 * h];
            const bool screened = number + 8 * h < rows.rows && square < INFINITY;
            row[h] = opened(screened ? ptx::sqrt_approx(square) * (1 + 0x1p-14f) : 0.0f, screened);
        }
#pragma unroll 1
        for (int tile = 0; tile < tables.tiles; tile++) {
            ptx::barrier_wait(&shared.record_full[ring.slot], ring.phase);
            const unsigned char *record = shared.record[ring.slot];
            ptx::pin(s);
            ptx::barrier_wait(&shared.turn[group], turn);
            turn ^= 1;
            multiply<Shape>(s, tile_rows, record);
            ptx::barrier_arrive_warp(&shared.turn[next_group]);
            const float4 widths = *reinterpret_cast<const float4 *>(record + Shape::kRecordWidths);
            float width[2];
#pragma unroll
            for (int h = 0; h < 2; h++)
                width[h] = fmaf(fmaf(widths.y, row[h].norm, widths.z), row[h].norm, widths.x);
            ptx::wgmma_wait();
            ptx::pin(s);
            ptx::barrier_arrive_warp(&shared.record_empty[ring.slot]); /* widths are read on all lanes */
            ring.next(Shape::kStages);
            take_candidates(list, row, s, width, tile, tables.span);
        }
        ptx::barrier_arrive_warp(&shared.rows_empty[row_ring.slot][group]);
        row_ring.next(Shape::kRowTiles);
        close_lists(list, row, lists.counts, rows.rows, least, tables.unit);
    }
}

template <class Shape, typename T>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    screen(fgmm_row_view rows, fgmm_sm90_tables tables, fgmm_candidate_lists lists, int row_tiles, int least,
           bool whole)
{
#if FGMM_SM90_BODY
    extern __shared__ unsigned char raw[];
    unsigned char *aligned = raw + (1024 - ptx::shared_address(raw) % 1024) % 1024;
    ScreenShared<Shape> &shared = *reinterpret_cast<ScreenShared<Shape> *>(aligned);
    /* The same on all lanes, which the compiler learns from the shuffle: operands stay in uniform registers.
     */
    const int role = __shfl_sync(kWholeWarp, threadIdx.x / kWarp, 0), group = role / Shape::kGroupWarps;
    if (threadIdx.x == 0)
        init_barriers(shared, whole ? Conversion<Shape, T, true>::kGroupBatches
                                    : Conversion<Shape, T, false>::kGroupBatches);
    clear_extra(shared);
    ptx::fence_async_proxy();
    __syncthreads();
    if (role >= Shape::kConsumerWarps) {
        ptx::give_registers<Shape::kProducerRegisters>();
        const int converter = role - Shape::kConsumerWarps - 1;
        if (converter >= 0 && whole)
            convert_rows<Shape, T, true>(shared, rows, tables.scale, row_tiles, converter);
        else if (converter >= 0)
            convert_rows<Shape, T, false>(shared, rows, tables.scale, row_tiles, converter);
        else if (threadIdx.x % kWarp == 0)
            feed_records(shared, tables, row_tiles);
    } else {
        ptx::take_registers<Shape::kConsumerRegisters>();
        screen_rows(shared, rows, tables, lists, row_tiles, least, group);
    }
#else
    __trap(); /* fgmm__sm90_serves keeps other devices away */
#endif
}

template <class Shape, typename T>
int launch(const fgmm_row_view *rows, const fgmm_sm90_tables *tables, int32_t least,
           const fgmm_candidate_lists *lists, int multiprocessors, fgmm_stream stream)
{
    const int bytes = static_cast<int>(sizeof(ScreenShared<Shape>)) + 1024;
    static_assert(sizeof(ScreenShared<Shape>) + 1024 <= 232448, "what a block of Hopper can have");
    const cudaError_t error =
        cudaFuncSetAttribute(screen<Shape, T>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess)
        return error;
    const int row_tiles = (rows->rows + Shape::kRows - 1) / Shape::kRows;
    const int blocks = row_tiles < multiprocessors ? row_tiles : multiprocessors;
    const bool whole = octets_are_whole<T>(rows->data, rows->dim);
    screen<Shape, T>
        <<<blocks, Shape::kThreads, bytes, stream>>>(*rows, *tables, *lists, row_tiles, least, whole);
    return cudaGetLastError();
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_sm90_screen(const fgmm_row_view *rows, const fgmm_sm90_tables *tables, int32_t least,
                             const fgmm_candidate_lists *lists, int multiprocessors, fgmm_stream stream)
{
    return dispatch_rows(rows->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (sizeof(T) == sizeof(double))
            return cudaErrorInvalidValue;
        else if (tables->halves == 1)
            return launch<ScreenShape<1>, T>(rows, tables, least, lists, multiprocessors, stream);
        else
            return launch<ScreenShape<2>, T>(rows, tables, least, lists, multiprocessors, stream);
    });
}
