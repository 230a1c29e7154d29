/* Screening with tensor cores where a row is wide, or has columns for its squares too: the sums are bounds as
 * in screen.cu, but rows do not fit shared memory. A block keeps the sums of 128 rows by 256 components while
 * slabs of 64 columns of both pass by; then lists take their candidates, and the next components follow.
 *
 * Roles: three warps that convert the block's next rows to fp16, to memory of its own; a thread that fetches
 * slabs by bulk copies, components' for both blocks of a cluster; two consumer warpgroups of 64 rows. Lists
 * are kept by quads of lanes (lists.cuh). */
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

struct WideShared {
    alignas(1024) unsigned char rows[WideShape::kStages][WideShape::kRowSlab];
    alignas(1024) unsigned char columns[WideShape::kStages][WideShape::kColumnSlab];
    float2 measures[WideShape::kRowTiles][WideShape::kRows]; /* convert.cuh */
    uint64_t full[WideShape::kStages], empty[WideShape::kStages];
    uint64_t rows_full[WideShape::kRowTiles], rows_empty[WideShape::kRowTiles];
};

/* The block's converted rows. */
__device__ __forceinline__ unsigned char *converted(unsigned char *operand, const fgmm_sm90_wide &tables,
                                                    int slot)
{
    return operand + (blockIdx.x * WideShape::kRowTiles + slot) * WideShape::row_tile(tables.slabs);
}

/* A converter warp. Items are octets of a lane; kBatch of them are always on their way, also from one tile to
 * the next. */
template <typename T, bool kSquares, bool kWhole>
__device__ __forceinline__ void convert_rows(WideShared &shared, const fgmm_row_view &rows,
                                             const fgmm_sm90_wide &tables, unsigned char *operand, int warp)
{
    constexpr int kBatch = sizeof(T) == 4 || kSquares || !kWhole ? 4 : 8; /* 32 registers at most */
    const Sharing sharing(tables.octets);
    ItemReader<T, kWhole> reader(rows, sharing, warp);
    Packed<T> waiting[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; b++)
        waiting[b] = reader.next();
    Walk walk(rows.rows);
    Item item(sharing, warp);
    Ring ring;
    Norms norms = {0, 0};
    while (true) {
#pragma unroll
        for (int b = 0; b < kBatch; b++) {
            const RowPlace place = {converted(operand, tables, ring.slot), item.row};
            if (item.octet(sharing) < tables.octets)
                convert_octet<kSquares>(waiting[b], tables, item.octet(sharing), place, norms);
            waiting[b] = reader.next();
            if (item.step + 1 == sharing.steps) {
                end_row<kSquares>(sharing, tables, place, norms, shared.measures[ring.slot]);
                norms = {0, 0};
            }
            if (item.next(sharing))
                continue;
            ptx::fence_async_proxy_global();
            ptx::barrier_arrive(&shared.rows_full[ring.slot]);
            walk.next();
            if (!walk.more())
                return;
            ring.next(WideShape::kRowTiles);
            ptx::barrier_wait(&shared.rows_empty[ring.slot], ring.phase ^ 1);
            item = Item(sharing, warp);
        }
    }
}

/* One thread: a tile of components and rows. The components' share of this block goes to all blocks of the
 * cluster; a slot is free when all blocks' consumers have left it, since each block writes to all. Extra
 * columns come before the slabs. */
__device__ __forceinline__ void feed_tile(WideShared &shared, Ring &ring, const unsigned char *rows,
                                          const unsigned char *columns, int slabs, uint32_t rank)
{
    constexpr uint16_t kAll = (1 << WideShape::kCluster) - 1;
#pragma unroll 1
    for (int slab = -1; slab < slabs; slab++) {
        const uint32_t of_rows = slab < 0 ? WideShape::kRowExtra : WideShape::kRowSlab;
        const uint32_t of_columns = slab < 0 ? WideShape::kColumnExtra : WideShape::kColumnSlab;
        const uint32_t share = of_columns / WideShape::kCluster;
        uint64_t *full = &shared.full[ring.slot];
        ptx::barrier_wait(&shared.empty[ring.slot], ring.phase ^ 1);
        ptx::barrier_expect(full, of_rows + of_columns);
        ptx::bulk_copy(shared.rows[ring.slot], rows, of_rows, full);
        ptx::bulk_copy_to(shared.columns[ring.slot] + rank * share, columns + rank * share, share, full,
                          kAll);
        rows += of_rows;
        columns += of_columns;
        ring.next(WideShape::kStages);
    }
}

/* One thread: all slabs. */
__device__ void feed_slabs(WideShared &shared, int rows, const fgmm_sm90_wide &tables, unsigned char *operand)
{
    Ring ring, row_ring;
    for (Walk walk(rows); walk.more(); walk.next()) {
        ptx::barrier_wait(&shared.rows_full[row_ring.slot], row_ring.phase);
        ptx::fence_async_proxy_global();
        for (int tile = 0; tile < tables.tiles; tile++)
            feed_tile(shared, ring, converted(operand, tables, row_ring.slot),
                      tables.records + tile * WideShape::record(tables.slabs), tables.slabs, walk.rank);
        row_ring.next(WideShape::kRowTiles);
    }
}

/* A warp has read a slot: tells every block of the cluster. */
__device__ __forceinline__ void leave(WideShared &shared, int slot)
{
    const uint32_t lane = threadIdx.x % kWarp;
    if (lane < WideShape::kCluster)
        ptx::barrier_arrive_at(&shared.empty[slot], lane);
}

/* The sums of a group's 64 rows with a tile of components. One slab's products are in flight while the next
 * one's are issued. */
__device__ __forceinline__ void multiply(float (&s)[2][64], WideShared &shared, Ring &ring, int group,
                                         int slabs)
{
    ptx::pin(s[0]);
    ptx::pin(s[1]);
    ptx::barrier_wait(&shared.full[ring.slot], ring.phase);
    ptx::wgmma_fence();
    ptx::wgmma_64x256x16(
        s, ptx::plain_operand<WideShape::kRows>(shared.rows[ring.slot] + group * WideShape::kGroupRows * 16),
        ptx::plain_operand<WideShape::kColumns>(shared.columns[ring.slot]), 0);
    ptx::wgmma_commit();
#pragma unroll 1
    for (int slab = 0; slab < slabs; slab++) {
        const int before = ring.slot;
        ring.next(WideShape::kStages);
        ptx::barrier_wait(&shared.full[ring.slot], ring.phase);
        const uint64_t rows = ptx::operand(shared.rows[ring.slot] + group * WideShape::kGroupSlab);
        const uint64_t columns = ptx::operand(shared.columns[ring.slot]);
        ptx::wgmma_fence();
#pragma unroll
        for (int step = 0; step < FGMM_SM90_SLAB / 16; step++)
            ptx::wgmma_64x256x16(s, ptx::advance(rows, step * 32), ptx::advance(columns, step * 32), 1);
        ptx::wgmma_commit();
        ptx::wgmma_wait_but_one();
        leave(shared, before);
    }
    ptx::wgmma_wait();
    ptx::pin(s[0]);
    ptx::pin(s[1]);
    leave(shared, ring.slot);
    ring.next(WideShape::kStages);
}

/* A tile's sums to candidates. Lower bounds come from both halves before either is listed. */
__device__ __forceinline__ void take_tile(RowLists &lists, RowState (&row)[2], const float (&s)[2][64],
                                          const float (&width)[2][2] /* [half][row] */, int tile, float span)
{
    float group_most[2][2][kGroupsOfColumns], most[2][2], lower[2];
#pragma unroll
    for (int half = 0; half < 2; half++)
        find_most(s[half], group_most[half], most[half]);
#pragma unroll
    for (int h = 0; h < 2; h++)
        lower[h] = fmaxf(most[0][h] - width[0][h], most[1][h] - width[1][h]);
    raise_thresholds(row, lower);
#pragma unroll
    for (int half = 0; half < 2; half++)
        if (any_above(row, most[half]))
            append(lists, row, s[half], group_most[half], most[half], 2 * tile + half, span);
}

/* A warpgroup: its 64 rows of each tile of the block. */
__device__ void screen_rows(WideShared &shared, int rows, const fgmm_sm90_wide &tables,
                            const fgmm_candidate_lists &lists, int least, int group)
{
    const int thread = threadIdx.x % WideShape::kWarpgroup, lane = thread % kWarp;
    const int place = group * WideShape::kGroupRows + thread / kWarp * 16 + lane / 4;
    const float span = tables.units->span, unit = tables.units->unit32;
    const float4 *widths = reinterpret_cast<const float4 *>(tables.widths);
    Ring ring, row_ring;
    float s[2][64];
    for (Walk walk(rows); walk.more(); walk.next()) {
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
            const float4 of_tile[2] = {__ldg(&widths[2 * tile]), __ldg(&widths[2 * tile + 1])};
            float width[2][2];
            multiply(s, shared, ring, group, tables.slabs);
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    width[half][h] = fmaf(of_tile[half].y, measure[h],
                                          fmaf(of_tile[half].z, row[h].norm, of_tile[half].x));
            take_tile(list, row, s, width, tile, span);
        }
        if (lane == 0) /* all slabs of these rows have been read */
            ptx::barrier_arrive(&shared.rows_empty[row_ring.slot]);
        row_ring.next(WideShape::kRowTiles);
        close_lists(list, row, lists.counts, rows, least, unit);
    }
}

__device__ void init_barriers(WideShared &shared)
{
    constexpr int kConsumerWarps = WideShape::kGroups * WideShape::kGroupWarps;
    for (int i = 0; i < WideShape::kStages; i++) {
        ptx::barrier_init(&shared.full[i], 1);
        ptx::barrier_init(&shared.empty[i], WideShape::kCluster * kConsumerWarps);
    }
    for (int i = 0; i < WideShape::kRowTiles; i++) {
        ptx::barrier_init(&shared.rows_full[i], WideShape::kConverters * kWarp);
        ptx::barrier_init(&shared.rows_empty[i], kConsumerWarps);
    }
    ptx::fence_barrier_init();
}

template <typename T, bool kSquares>
__global__ void __launch_bounds__(WideShape::kThreads, 1)
    screen_wide(fgmm_row_view rows, bool whole, fgmm_sm90_wide tables, unsigned char *operand,
                fgmm_candidate_lists lists, int least)
{
#if FGMM_SM90_BODY
    extern __shared__ unsigned char raw[];
    unsigned char *aligned = raw + (1024 - ptx::shared_address(raw) % 1024) % 1024;
    WideShared &shared = *reinterpret_cast<WideShared *>(aligned);
    /* The same on all lanes, which the compiler learns from the shuffle. */
    const int warp = __shfl_sync(kWholeWarp, threadIdx.x / kWarp, 0), group = warp / WideShape::kGroupWarps;
    if (threadIdx.x == 0)
        init_barriers(shared);
    ptx::cluster_sync();
    if (group == WideShape::kGroups) {
        ptx::give_registers<WideShape::kProducerRegisters>();
        const int converter = warp % WideShape::kGroupWarps - 1;
        if (converter >= 0 && whole)
            convert_rows<T, kSquares, true>(shared, rows, tables, operand, converter);
        else if (converter >= 0)
            convert_rows<T, kSquares, false>(shared, rows, tables, operand, converter);
        else if (threadIdx.x % kWarp == 0)
            feed_slabs(shared, rows.rows, tables, operand);
    } else {
        ptx::take_registers<WideShape::kConsumerRegisters>();
        screen_rows(shared, rows.rows, tables, lists, least, group);
    }
    __syncwarp();
    ptx::cluster_sync(); /* the other block may still write here */
#else
    __trap(); /* fgmm__sm90_serves keeps other devices away */
#endif
}

template <typename T, bool kSquares>
cudaError_t launch(const fgmm_row_view &rows, const fgmm_sm90_wide &tables, void *operand, int32_t least,
                   const fgmm_candidate_lists &lists, int multiprocessors, fgmm_stream stream)
{
    constexpr int kBytes = sizeof(WideShared) + 1024;
    static_assert(kBytes <= 232448, "what a block of Hopper can have");
    const auto kernel = screen_wide<T, kSquares>;
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (error != cudaSuccess)
        return error;
    const int room = multiprocessors < FGMM_SM90_BLOCKS ? multiprocessors : FGMM_SM90_BLOCKS;
    const int pairs = (rows.rows + WideShape::kPairRows - 1) / WideShape::kPairRows,
              clusters = pairs < room / WideShape::kCluster ? pairs : room / WideShape::kCluster;
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = WideShape::kCluster;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(clusters * WideShape::kCluster);
    config.blockDim = dim3(WideShape::kThreads);
    config.dynamicSmemBytes = kBytes;
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, rows, octets_are_whole<T>(rows.data, rows.dim), tables,
                              static_cast<unsigned char *>(operand), lists, static_cast<int>(least));
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
        if constexpr (sizeof(T) == sizeof(double))
            return cudaErrorInvalidValue;
        else if (tables->squares)
            return launch<T, true>(*rows, *tables, operand, least, *lists, multiprocessors, stream);
        else
            return launch<T, false>(*rows, *tables, operand, least, *lists, multiprocessors, stream);
    });
}
