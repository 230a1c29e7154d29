/* Screening with tensor cores where a row is wide, or has columns for its squares too: the sums are bounds as
 * in screen.cu, but rows are of more columns than its block holds. A group of warps keeps the sums of 64 rows
 * by 128 or 256 components while slabs of 64 columns pass by; then lists take their candidates, and the next
 * components follow. A tile of rows passes by with the components, or, where it has few slabs, stays
 * (traits.cuh).
 *
 * Roles: three warps that convert the block's next rows to fp16, to memory of its own; a thread that fetches
 * slabs by bulk copies, components' for both blocks of a cluster; consumer warpgroups of 64 rows. Lists are
 * kept by quads of lanes (lists.cuh). */
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include "kernels/ptx/registers.cuh"
#include "kernels/ptx/wgmma.cuh"
#include "kernels/sm90/convert.cuh"
#include "kernels/sm90/lists.cuh"
#include "kernels/sm90/ring.cuh"
#include "kernels/sm90/traits.cuh"
#include "kernels/sm90/walk.cuh"

namespace fgmm
{
namespace
{

/* rows: a slab for each of columns; or all slabs of a tile of rows, which stays, with its extra columns
 * apart. */
template <class Shape> struct WideShared {
    alignas(1024) unsigned char rows[Shape::kKept ? Shape::kSlabs : Shape::kStages][Shape::kRowSlab];
    alignas(1024) unsigned char columns[Shape::kStages][Shape::kColumnSlab];
    alignas(16) unsigned char row_extra[Shape::kKept ? Shape::kRowExtra : 16];
    float2 measures[Shape::kRowTiles][Shape::kRows]; /* convert.cuh */
    uint64_t full[Shape::kStages], empty[Shape::kStages];
    uint64_t rows_full[Shape::kRowTiles], rows_empty[Shape::kRowTiles];
    uint64_t kept_full[Shape::kSlabs + 1], kept_empty[Shape::kSlabs + 1]; /* extra columns, slabs */
};

/* The block's converted rows. */
template <class Shape>
__device__ __forceinline__ unsigned char *converted(unsigned char *operand, const fgmm_sm90_wide &tables,
                                                    int slot)
{
    return operand + blockIdx.x * Shape::operand(tables.slabs) + slot * Shape::row_tile(tables.slabs);
}

/* A converter warp. Items are octets of a lane; kBatch of them are always on their way, also from one tile to
 * the next. */
template <class Shape, typename T, bool kSquares, bool kWhole>
__device__ __forceinline__ void convert_rows(WideShared<Shape> &shared, const fgmm_row_view &rows,
                                             const fgmm_sm90_wide &tables, unsigned char *operand, int warp)
{
    constexpr int kBatch = sizeof(T) == 4 || kSquares || !kWhole ? 4 : 8; /* 32 registers at most */
    const Sharing sharing(tables.octets);
    ItemReader<Shape, T, kWhole> reader(rows, sharing, warp);
    Packed<T> waiting[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; b++)
        waiting[b] = reader.next();
    Walk<Shape> walk(rows.rows);
    Item<Shape> item(sharing, warp);
    Ring ring;
    Norms norms = {0, 0};
    while (true) {
#pragma unroll
        for (int b = 0; b < kBatch; b++) {
            const RowPlace<Shape> place = {converted<Shape>(operand, tables, ring.slot), item.row};
            if (item.octet(sharing) < tables.octets)
                convert_item<Shape, kSquares>(waiting[b], tables, item.octet(sharing), place, norms);
            waiting[b] = reader.next();
            if (item.step + 1 == sharing.steps) {
                end_row<Shape, kSquares>(sharing, tables, place, norms, shared.measures[ring.slot]);
                norms = {0, 0};
            }
            if (item.next(sharing))
                continue;
            ptx::fence_async_proxy_global();
            ptx::barrier_arrive(&shared.rows_full[ring.slot]);
            walk.next();
            if (!walk.more())
                return;
            ring.next(Shape::kRowTiles);
            ptx::barrier_wait(&shared.rows_empty[ring.slot], ring.phase ^ 1);
            item = Item<Shape>(sharing, warp);
        }
    }
}

/* The same where rows are short (convert.cuh). */
template <class Shape, typename T, bool kSquares, int kLanes, bool kWhole>
__device__ __forceinline__ void convert_short(WideShared<Shape> &shared, const fgmm_row_view &view,
                                              const fgmm_sm90_wide &tables, unsigned char *operand, int warp)
{
    typedef ShortRows<Shape, T, kSquares, kLanes, kWhole> Rows;
    Rows rows(view, tables);
    Walk<Shape> walk(view.rows);
    Ring ring;
    int batch = warp; /* of the tile */
#pragma unroll
    for (int b = 0; b < Rows::kBatch; b++)
        rows.fetch(walk.first_row() + batch * Rows::kBatchRows, b);
    while (walk.more()) {
        const int base = batch * Rows::kBatchRows, slot = ring.slot;
        ptx::barrier_wait(&shared.rows_empty[slot], ring.phase ^ 1);
        batch += Shape::kConverters;
        const bool last = batch >= Rows::kBatches; /* of this warp, in this tile */
        if (last) {
            batch -= Rows::kBatches;
            walk.next();
            ring.next(Shape::kRowTiles);
        }
        rows.convert(converted<Shape>(operand, tables, slot), shared.measures[slot], base,
                     walk.first_row() + batch * Rows::kBatchRows);
        if (last) {
            ptx::fence_async_proxy_global();
            ptx::barrier_arrive(&shared.rows_full[slot]);
        }
    }
}

/* Where a walk over tiles of rows and of components stands. Rows that stay come with the first tile of
 * components and may go with the last. */
struct Stand {
    uint32_t row_phase = 0;
    bool first, last;
};

/* One thread: a tile of components and rows. The components' share of this block goes to all blocks of the
 * cluster; a slot is free when all blocks' consumers have left it, since each block writes to all. Extra
 * columns come before the slabs. */
template <class Shape>
__device__ __forceinline__ void feed_tile(WideShared<Shape> &shared, Ring &ring, const Stand &stand,
                                          const unsigned char *rows, const unsigned char *columns, int slabs,
                                          uint32_t rank)
{
    constexpr uint16_t kAll = (1 << Shape::kCluster) - 1;
#pragma unroll 1
    for (int slab = -1; slab < slabs; slab++) {
        const uint32_t of_rows = slab < 0 ? Shape::kRowExtra : Shape::kRowSlab;
        const uint32_t of_columns = slab < 0 ? Shape::kColumnExtra : Shape::kColumnSlab;
        const uint32_t share = of_columns / Shape::kCluster;
        uint64_t *full = &shared.full[ring.slot];
        ptx::barrier_wait(&shared.empty[ring.slot], ring.phase ^ 1);
        ptx::barrier_expect(full, Shape::kKept ? of_columns : of_rows + of_columns);
        ptx::bulk_copy_to(shared.columns[ring.slot] + rank * share, columns + rank * share, share, full,
                          kAll);
        if (!Shape::kKept) {
            ptx::bulk_copy(shared.rows[ring.slot], rows, of_rows, full);
        } else if (stand.first) {
            uint64_t *kept_full = &shared.kept_full[slab + 1];
            ptx::barrier_wait(&shared.kept_empty[slab + 1], stand.row_phase ^ 1);
            ptx::barrier_expect(kept_full, of_rows);
            ptx::bulk_copy(slab < 0 ? shared.row_extra : shared.rows[slab], rows, of_rows, kept_full);
        }
        rows += of_rows;
        columns += of_columns;
        ring.next(Shape::kStages);
    }
}

/* One thread: all slabs. */
template <class Shape>
__device__ void feed_slabs(WideShared<Shape> &shared, int rows, const fgmm_sm90_wide &tables,
                           unsigned char *operand)
{
    Ring ring, row_ring;
    Stand stand;
    for (Walk<Shape> walk(rows); walk.more(); walk.next(), stand.row_phase ^= 1) {
        ptx::barrier_wait(&shared.rows_full[row_ring.slot], row_ring.phase);
        ptx::fence_async_proxy_global();
        for (int tile = 0; tile < tables.tiles; tile++) {
            stand.first = tile == 0;
            feed_tile(shared, ring, stand, converted<Shape>(operand, tables, row_ring.slot),
                      tables.records + tile * Shape::record(tables.slabs), tables.slabs, walk.rank);
        }
        row_ring.next(Shape::kRowTiles);
    }
}

/* A warp waits for a slot, and for rows that stay. */
template <class Shape>
__device__ __forceinline__ void enter(WideShared<Shape> &shared, const Ring &ring, const Stand &stand,
                                      int slab)
{
    ptx::barrier_wait(&shared.full[ring.slot], ring.phase);
    if (Shape::kKept && stand.first)
        ptx::barrier_wait(&shared.kept_full[slab + 1], stand.row_phase);
}

/* A warp has read a slot: tells every block of the cluster. */
template <class Shape>
__device__ __forceinline__ void leave(WideShared<Shape> &shared, int slot, const Stand &stand, int slab)
{
    const uint32_t lane = threadIdx.x % kWarp;
    if (lane < Shape::kCluster)
        ptx::barrier_arrive_at(&shared.empty[slot], lane);
    if (Shape::kKept && stand.last)
        ptx::barrier_arrive_warp(&shared.kept_empty[slab + 1]);
}

template <int kHalves>
__device__ __forceinline__ void wgmma(float (&s)[kHalves][64], uint64_t rows, uint64_t columns, int add)
{
    if constexpr (kHalves == 2)
        ptx::wgmma_64x256x16(s, rows, columns, add);
    else
        ptx::wgmma_64x128x16(s[0], rows, columns, add);
}

/* The sums of a group's 64 rows with a tile of components. One slab's products are in flight while the next
 * one's are issued. */
template <class Shape>
__device__ __forceinline__ void multiply(float (&s)[Shape::kHalves][64], WideShared<Shape> &shared,
                                         Ring &ring, const Stand &stand, int group, int slabs)
{
#pragma unroll
    for (int half = 0; half < Shape::kHalves; half++)
        ptx::pin(s[half]);
    enter(shared, ring, stand, -1);
    ptx::wgmma_fence();
    wgmma(s,
          ptx::plain_operand<Shape::kRows>((Shape::kKept ? shared.row_extra : shared.rows[ring.slot]) +
                                           group * Shape::kGroupRows * 16),
          ptx::plain_operand<Shape::kColumns>(shared.columns[ring.slot]), 0);
    ptx::wgmma_commit();
#pragma unroll 1
    for (int slab = 0; slab < slabs; slab++) {
        const int before = ring.slot;
        ring.next(Shape::kStages);
        enter(shared, ring, stand, slab);
        const uint64_t rows =
            ptx::operand(shared.rows[Shape::kKept ? slab : ring.slot] + group * Shape::kGroupSlab);
        const uint64_t columns = ptx::operand(shared.columns[ring.slot]);
        ptx::wgmma_fence();
#pragma unroll
        for (int step = 0; step < FGMM_SM90_SLAB / 16; step++)
            wgmma(s, ptx::advance(rows, step * 32), ptx::advance(columns, step * 32), 1);
        ptx::wgmma_commit();
        ptx::wgmma_wait_but_one();
        leave(shared, before, stand, slab - 1);
    }
    ptx::wgmma_wait();
#pragma unroll
    for (int half = 0; half < Shape::kHalves; half++)
        ptx::pin(s[half]);
    leave(shared, ring.slot, stand, slabs - 1);
    ring.next(Shape::kStages);
}

/* A tile's sums to candidates. Lower bounds come from all of them before any is listed. */
template <int kHalves>
__device__ __forceinline__ void take_tile(RowLists &lists, RowState (&row)[2], const float (&s)[kHalves][64],
                                          const float (&width)[kHalves][2] /* [half][row] */, int tile,
                                          float span)
{
    float group_most[kHalves][2][kGroupsOfColumns], most[kHalves][2], lower[2];
#pragma unroll
    for (int half = 0; half < kHalves; half++) {
        find_most(s[half], group_most[half], most[half]);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float its = most[half][h] - width[half][h];
            lower[h] = half == 0 ? its : fmaxf(lower[h], its);
        }
    }
    raise_thresholds(row, lower);
#pragma unroll
    for (int half = 0; half < kHalves; half++)
        if (any_above(row, most[half]))
            append(lists, row, s[half], group_most[half], most[half], kHalves * tile + half, span);
}

/* A warpgroup: its 64 rows of each tile of the block. */
template <class Shape>
__device__ void screen_rows(WideShared<Shape> &shared, int rows, const fgmm_sm90_wide &tables,
                            const fgmm_candidate_lists &lists, int least, int group)
{
    constexpr int kHalves = Shape::kHalves;
    const int thread = threadIdx.x % Shape::kWarpgroup, lane = thread % kWarp;
    const int place = group * Shape::kGroupRows + thread / kWarp * 16 + lane / 4;
    const float span = tables.units->span, unit = tables.units->unit32;
    const float4 *widths = reinterpret_cast<const float4 *>(tables.widths);
    Ring ring, row_ring;
    Stand stand;
    float s[kHalves][64];
    for (Walk<Shape> walk(rows); walk.more(); walk.next(), stand.row_phase ^= 1) {
        const int number = walk.first_row() + place;
        RowLists list = {lists.entries, number, 0};
        RowState row[2];
        float measure[2]; /* the first of the row's */
        ptx::barrier_wait(&shared.rows_full[row_ring.slot], row_ring.phase);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float2 stored = shared.measures[row_ring.slot][place + 8 * h];
            const bool screened = number + 8 * h < rows && stored.x < INFINITY;
            measure[h] = screened ? stored.x : 0.0f;
            row[h] = opened(screened ? stored.y : 0.0f, screened);
        }
#pragma unroll 1
        for (int tile = 0; tile < tables.tiles; tile++) {
            float width[kHalves][2];
            stand.first = tile == 0;
            stand.last = tile + 1 == tables.tiles;
#pragma unroll
            for (int half = 0; half < kHalves; half++) {
                const float4 of_tile = __ldg(&widths[kHalves * tile + half]);
#pragma unroll
                for (int h = 0; h < 2; h++)
                    width[half][h] = fmaf(of_tile.y, measure[h], fmaf(of_tile.z, row[h].norm, of_tile.x));
            }
            multiply(s, shared, ring, stand, group, tables.slabs);
            take_tile(list, row, s, width, tile, span);
        }
        ptx::barrier_arrive_warp(&shared.rows_empty[row_ring.slot]); /* all slabs have been read */
        row_ring.next(Shape::kRowTiles);
        close_lists(list, row, lists.counts, rows, least, unit);
    }
}

template <class Shape> __device__ void init_barriers(WideShared<Shape> &shared)
{
    constexpr int kConsumerWarps = Shape::kGroups * Shape::kGroupWarps;
    for (int i = 0; i < Shape::kStages; i++) {
        ptx::barrier_init(&shared.full[i], 1);
        ptx::barrier_init(&shared.empty[i], Shape::kCluster * kConsumerWarps);
    }
    for (int i = 0; i < Shape::kRowTiles; i++) {
        ptx::barrier_init(&shared.rows_full[i], Shape::kConverters * kWarp);
        ptx::barrier_init(&shared.rows_empty[i], kConsumerWarps * ptx::kWarpArrivals);
    }
    for (int i = 0; i <= Shape::kSlabs; i++) {
        ptx::barrier_init(&shared.kept_full[i], 1);
        ptx::barrier_init(&shared.kept_empty[i], kConsumerWarps * ptx::kWarpArrivals);
    }
    ptx::fence_barrier_init();
}

/* A converter warp, whichever way serves. Without squares twice as many octets are as many slabs. */
template <class Shape, typename T, bool kSquares, bool kWhole>
__device__ __forceinline__ void convert(WideShared<Shape> &shared, const fgmm_row_view &rows,
                                        const fgmm_sm90_wide &tables, unsigned char *operand, int warp)
{
    if constexpr (!Shape::kKept)
        convert_rows<Shape, T, kSquares, kWhole>(shared, rows, tables, operand, warp);
    else if (!kSquares && tables.octets > 16)
        convert_short<Shape, T, kSquares, 32, kWhole>(shared, rows, tables, operand, warp);
    else
        convert_short<Shape, T, kSquares, 16, kWhole>(shared, rows, tables, operand, warp);
}

template <class Shape, typename T, bool kSquares>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    screen_wide(fgmm_row_view rows, bool whole, fgmm_sm90_wide tables, unsigned char *operand,
                fgmm_candidate_lists lists, int least)
{
#if FGMM_SM90_BODY
    extern __shared__ unsigned char raw[];
    unsigned char *aligned = raw + (1024 - ptx::shared_address(raw) % 1024) % 1024;
    WideShared<Shape> &shared = *reinterpret_cast<WideShared<Shape> *>(aligned);
    /* The same on all lanes, which the compiler learns from the shuffle. */
    const int warp = __shfl_sync(kWholeWarp, threadIdx.x / kWarp, 0), group = warp / Shape::kGroupWarps;
    if (threadIdx.x == 0)
        init_barriers(shared);
    ptx::cluster_sync();
    if (group >= Shape::kGroups) {
        ptx::give_registers<Shape::kProducerRegisters>();
        const int converter = warp - Shape::kGroups * Shape::kGroupWarps - 1;
        if (converter >= 0 && whole)
            convert<Shape, T, kSquares, true>(shared, rows, tables, operand, converter);
        else if (converter >= 0)
            convert<Shape, T, kSquares, false>(shared, rows, tables, operand, converter);
        else if (threadIdx.x % kWarp == 0)
            feed_slabs(shared, rows.rows, tables, operand);
    } else {
        ptx::take_registers<Shape::kConsumerRegisters>();
        screen_rows(shared, rows.rows, tables, lists, least, group);
    }
    __syncwarp();
    ptx::cluster_sync(); /* the other block may still write here */
#else
    __trap(); /* fgmm__sm90_serves keeps other devices away */
#endif
}

template <class Shape, typename T, bool kSquares>
cudaError_t launch(const fgmm_row_view &rows, const fgmm_sm90_wide &tables, void *operand, int32_t least,
                   const fgmm_candidate_lists &lists, int multiprocessors, fgmm_stream stream)
{
    constexpr int kBytes = sizeof(WideShared<Shape>) + 1024;
    static_assert(kBytes <= 232448, "what a block of Hopper can have");
    const auto kernel = screen_wide<Shape, T, kSquares>;
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (error != cudaSuccess)
        return error;
    const int room = multiprocessors < FGMM_SM90_BLOCKS ? multiprocessors : FGMM_SM90_BLOCKS;
    const int pairs = (rows.rows + Shape::kPairRows - 1) / Shape::kPairRows,
              clusters = pairs < room / Shape::kCluster ? pairs : room / Shape::kCluster;
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = Shape::kCluster;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(clusters * Shape::kCluster);
    config.blockDim = dim3(Shape::kThreads);
    config.dynamicSmemBytes = kBytes;
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, rows, octets_are_whole<T>(rows.data, rows.dim), tables,
                              static_cast<unsigned char *>(operand), lists, static_cast<int>(least));
}

template <class Shape, typename T>
cudaError_t launch_form(const fgmm_row_view &rows, const fgmm_sm90_wide &tables, void *operand, int32_t least,
                        const fgmm_candidate_lists &lists, int multiprocessors, fgmm_stream stream)
{
    const auto launcher = tables.squares ? launch<Shape, T, true> : launch<Shape, T, false>;
    return launcher(rows, tables, operand, least, lists, multiprocessors, stream);
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_sm90_wide_screen(const fgmm_row_view *rows, const fgmm_sm90_wide *tables, void *operand,
                                  int32_t least, const fgmm_candidate_lists *lists, int multiprocessors,
                                  fgmm_stream stream)
{
    return dispatch_rows(rows->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (sizeof(T) == sizeof(double)) {
            return cudaErrorInvalidValue;
        } else {
            const auto launcher = tables->slabs <= FGMM_SM90_KEPT_SLABS ? launch_form<WideShape<true>, T>
                                                                        : launch_form<WideShape<false>, T>;
            return launcher(*rows, *tables, operand, least, *lists, multiprocessors, stream);
        }
    });
}
