/* Dense rows: log-densities of all components, their sum, responsibilities and what they add to the
 * statistics, in one pass over the rows. A cluster of blocks has all components, 128 a block.
 *
 * With x' = x - pivot, l_k(x) = shift - f |x'|^2 + l'_k(x), and
 * l'_k = 2 F_k x'.m'_k - (F_k - f) |x'|^2 + offset_k: what is common to all components is apart, so that l'
 * is small and fp32 is enough (dense_rows.cu keeps other rows away). Products are made of halves: means in
 * two, rows in one where that is exact, else two; the product of second parts is left out.
 *
 * l' of 64 components by 64 rows is a warpgroup's sums; as p = 2^(l' - middle) / sum of all p, in two
 * halves again, they are the first operand of the sums, and the rows as they lie in shared memory the second.
 * `middle` comes from bounds, so no maximum is looked for, and one number a row crosses from block to block.
 *
 * A quantum's rows are summed in fp32 in their order, then rounded to the grid and added as integers. */
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <string.h>
#include "kernels/generic/fixed.cuh"
#include "kernels/generic/warp.cuh"
#include "kernels/ptx/cluster.cuh"
#include "kernels/ptx/math.cuh"
#include "kernels/ptx/registers.cuh"
#include "kernels/ptx/wgmma.cuh"
#include "kernels/sm90/dense_quantum.cuh"
#include "kernels/sm90/dense_shape.cuh"
#include "kernels/sm90/ring.cuh"

namespace fgmm
{
namespace
{

template <class Shape> struct DenseShared {
    alignas(1024) unsigned char means[Shape::kMeansBytes];
    alignas(1024) unsigned char tile[Shape::kStages][Shape::kTilePlace];
    alignas(8) float part[Shape::kConsumerWarps][Shape::kRows]; /* sums of p over a warp's components */
    float2 block[2][FGMM_DENSE_BLOCKS][kWarp]; /* over a block's: rows 2 lane and 2 lane + 1 */
    float2 inverse[kWarp];                     /* over all: kWhole over it */
    alignas(8) float scratch[Shape::kConsumerWarps][4][Shape::kPitch]; /* for flush */
    fgmm_dense_component component[FGMM_DENSE_COMPONENTS];
    uint64_t means_full, tile_full[Shape::kStages], tile_empty[Shape::kStages];
    uint64_t parts_full, blocks_full[2], inverse_full;
};

template <class Shape> __device__ void init_barriers(DenseShared<Shape> &shared)
{
    ptx::barrier_init(&shared.means_full, 1);
    for (int i = 0; i < Shape::kStages; i++) {
        ptx::barrier_init(&shared.tile_full[i], 1);
        ptx::barrier_init(&shared.tile_empty[i], Shape::kConsumerWarps * ptx::kWarpArrivals);
    }
    ptx::barrier_init(&shared.parts_full, Shape::kConsumerWarps * ptx::kWarpArrivals);
    ptx::barrier_init(&shared.blocks_full[0], 1);
    ptx::barrier_init(&shared.blocks_full[1], 1);
    ptx::barrier_init(&shared.inverse_full, ptx::kWarpArrivals);
    ptx::fence_barrier_init();
}

/* The tiles of a cluster, one after the other: every n-th quantum, where it has rows. */
struct TileWalk {
    const int32_t *counts;
    int quantum, quanta, step, tile = 0, rows = 0;

    __device__ TileWalk(const fgmm_dense_operand &operand, int quanta_)
        : counts(operand.counts), quantum(blockIdx.x / ptx::cluster_size()), quanta(quanta_),
          step(gridDim.x / ptx::cluster_size())
    {
        skip_empty();
    }
    __device__ __forceinline__ void skip_empty()
    {
        while (quantum < quanta && (rows = __ldg(&counts[quantum])) == 0)
            quantum += step;
    }
    __device__ __forceinline__ bool more() const { return quantum < quanta; }
    __device__ __forceinline__ bool last_of_quantum() const { return (tile + 1) * FGMM_DENSE_ROWS >= rows; }
    __device__ __forceinline__ void next()
    {
        if (!last_of_quantum()) {
            tile++;
            return;
        }
        tile = 0;
        quantum += step;
        skip_empty();
    }
};

/* ---- a warp: feeds tiles, joins sums of p ---- */

template <class Shape>
__device__ void feed_tile(DenseShared<Shape> &shared, const fgmm_dense_operand &operand, TileWalk &walk,
                          Ring &ring)
{
    if (!walk.more())
        return;
    ptx::barrier_wait(&shared.tile_empty[ring.slot], ring.phase ^ 1);
    if (threadIdx.x % kWarp == 0) {
        const int64_t number =
            static_cast<int64_t>(walk.quantum) * (FGMM_KERNEL_QUANTUM / Shape::kRows) + walk.tile;
        ptx::barrier_expect(&shared.tile_full[ring.slot], Shape::kTileBytes);
        ptx::bulk_copy(shared.tile[ring.slot],
                       static_cast<const unsigned char *>(operand.tiles) + number * Shape::kTileBytes,
                       Shape::kTileBytes, &shared.tile_full[ring.slot]);
    }
    __syncwarp();
    walk.next();
    ring.next(Shape::kStages);
}

/* log2 of a sum, which is not below 2^-126, to 2^-22. */
__device__ __forceinline__ double log_of(float sum)
{
    const int bits = __float_as_int(sum);
    return (bits >> 23) - 127 +
           static_cast<double>(ptx::log2_approx(__int_as_float((bits & 0x7fffff) | 0x3f800000)));
}

/* The log-densities of a lane's two rows, of which `left` exist. rows: |y|^2 and -middle of both. */
__device__ __forceinline__ void add_logs(Limbs &logs, float2 total, float4 rows, int left, double shift,
                                         double factor, double unit, double one)
{
    if (left > 0)
        add_limbs(logs, split((log_of(total.x) - rows.y + shift - factor * rows.x) * unit, one));
    if (left > 1)
        add_limbs(logs, split((log_of(total.y) - rows.w + shift - factor * rows.z) * unit, one));
}

template <class Shape>
__device__ void join_sums(DenseShared<Shape> &shared, const fgmm_sm90_dense &dense,
                          const fgmm_dense_operand &operand, const fgmm_stats_view &stats, int quanta)
{
    const int lane = threadIdx.x % kWarp;
    const uint32_t rank = ptx::cluster_rank(), blocks = ptx::cluster_size();
    const double shift = dense.bounds->shift, unit = stats.inverse_log_bound * stats.one,
                 factor = dense.bounds->factor / (static_cast<double>(dense.scale) * dense.scale);
    TileWalk ahead(operand, quanta), walk(operand, quanta);
    Ring fill, drain, exchange;
    Limbs logs = {0, 0};
    if (lane == 0) {
        ptx::barrier_expect(&shared.means_full, Shape::kMeansBytes);
        ptx::bulk_copy(shared.means,
                       static_cast<const unsigned char *>(dense.means) +
                           static_cast<int64_t>(rank) * Shape::kMeansBytes,
                       Shape::kMeansBytes, &shared.means_full);
    }
    for (int i = 0; i < Shape::kStages - 1; i++)
        feed_tile(shared, operand, ahead, fill);
    for (uint32_t phase = 0; walk.more(); walk.next(), phase ^= 1) {
        feed_tile(shared, operand, ahead, fill);
        ptx::barrier_wait(&shared.tile_full[drain.slot], drain.phase);
        const float4 rows =
            reinterpret_cast<const float4 *>(shared.tile[drain.slot] + Shape::kTileRows)[lane];
        drain.next(Shape::kStages);
        ptx::barrier_wait(&shared.parts_full, phase);
        float2 sum = {0, 0};
#pragma unroll
        for (int w = 0; w < Shape::kConsumerWarps; w++) {
            const float2 part = reinterpret_cast<const float2 *>(shared.part[w])[lane];
            sum.x += part.x;
            sum.y += part.y;
        }
        uint64_t *barrier = &shared.blocks_full[exchange.slot];
        if (lane == 0)
            ptx::barrier_expect(barrier, blocks * Shape::kRows * sizeof(float));
        for (uint32_t b = 0; b < blocks; b++)
            ptx::store_at(&shared.block[exchange.slot][rank][lane], sum, barrier, b);
        ptx::barrier_wait(barrier, exchange.phase);
        float2 total = {0, 0};
        for (uint32_t b = 0; b < blocks; b++) {
            const float2 part = shared.block[exchange.slot][b][lane];
            total.x += part.x;
            total.y += part.y;
        }
        exchange.next(2);
        shared.inverse[lane] = make_float2(total.x > 0 ? __fdividef(kWhole, total.x) : 0.0f,
                                           total.y > 0 ? __fdividef(kWhole, total.y) : 0.0f);
        ptx::barrier_arrive_warp(&shared.inverse_full);
        if (rank == 0)
            add_logs(logs, total, rows, walk.rows - walk.tile * Shape::kRows - 2 * lane, shift, factor, unit,
                     stats.one);
    }
    logs.high = warp_sum(logs.high);
    logs.low = warp_sum(logs.low);
    if (lane == 0 && rank == 0) {
        add_words(stats.log_high, logs.high);
        add_words(stats.log_low, logs.low);
    }
}

/* ---- a warpgroup: 64 components ---- */

typedef float DenseLogs[32]; /* of a thread: [8 rows][component][2] */

/* Begins s = l' * gain but for the terms that need no product. */
template <class Shape>
__device__ __forceinline__ void multiply(DenseLogs &s, const unsigned char *means, const unsigned char *tile)
{
    auto add = [&](int mean_part, int row_part, bool first) {
        uint64_t a = ptx::operand(means + mean_part * Shape::kHalves * Shape::kPanel);
        const uint64_t b = ptx::operand(tile + row_part * Shape::kHalves * Shape::kPanel);
        asm volatile("" : "+l"(a)); /* or operands of all steps wait in registers from tile to tile */
#pragma unroll
        for (int step = 0; step < Shape::kHalves * 4; step++) {
            const int at = step / 4 * Shape::kPanel + step % 4 * 32;
            ptx::wgmma_64x64x16<0>(s, ptx::advance(a, at), ptx::advance(b, at), !first || step > 0);
        }
    };
    add(1, 0, true); /* what is small comes first: fp32 sums lose less */
    if (Shape::kParts == 2)
        add(0, 1, false);
    add(0, 0, false);
    ptx::wgmma_commit();
}

/* p = 2^(l' - middle). rows: of the tile, 8 j + 2 (lane % 4) in [4 j]. */
__device__ __forceinline__ void exponentiate(const DenseLogs &s, DenseLogs &p, const float4 *rows,
                                             const fgmm_dense_component *component, float unit)
{
    const fgmm_dense_component c[2] = {component[0], component[8]};
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float4 row = rows[4 * j];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float a = fmaf(-c[h].factor, row.x, s[4 * j + 2 * h]) + c[h].offset;
            const float b = fmaf(-c[h].factor, row.z, s[4 * j + 2 * h + 1]) + c[h].offset;
            p[4 * j + 2 * h] = ptx::exp2_approx(fmaf(a, unit, row.y));
            p[4 * j + 2 * h + 1] = ptx::exp2_approx(fmaf(b, unit, row.w));
        }
    }
}

/* Each lane sends what the one `step` away goes on with. */
template <int left> __device__ __forceinline__ void halve(float (&sum)[8], int step)
{
    const bool upper = threadIdx.x & step;
#pragma unroll
    for (int i = 0; i < left; i++) {
        const float low = sum[i], high = sum[i + left];
        sum[i] = (upper ? high : low) + __shfl_xor_sync(kWholeWarp, upper ? low : high, step);
    }
}

/* Sums of p over a warp's components, to part[rows]. Eight lanes have other components of the same rows. */
__device__ __forceinline__ void sum_over_components(const DenseLogs &p, float *part)
{
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int at = 16 * half + i / 2 * 4 + i % 2;
            sum[i] = p[at] + p[at + 2];
        }
        halve<4>(sum, 16);
        halve<2>(sum, 8);
        halve<1>(sum, 4);
        part[half * 32 + lane / 8 * 8 + lane % 4 * 2 + lane / 4 % 2] = sum[0];
    }
}

__device__ __forceinline__ uint32_t halves_of(float a, float b)
{
    const __half2 pair = __floats2half2_rn(a, b);
    uint32_t word;
    memcpy(&word, &pair, sizeof word);
    return word;
}

/* What of a pair its halves leave out, as halves. */
__device__ __forceinline__ uint32_t rest_of(float a, float b, uint32_t word)
{
    __half2 pair;
    memcpy(&pair, &word, sizeof pair);
    const float2 held = __half22float2(pair);
    return halves_of(a - held.x, b - held.y);
}

/* Responsibilities of 16 rows as an operand, in two parts. */
struct Responsibilities {
    uint32_t high[4][4], low[4][4];
};

/* p to responsibilities, and their sums over rows. Returns how many are kept. */
template <class Shape>
__device__ __forceinline__ int respond(const DenseLogs &p, Responsibilities &r, QuantumSums<Shape> &sums,
                                       const float4 *rows, const float2 *inverse, float least)
{
    int kept = 0;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float2 whole = inverse[4 * j];
        const float4 row = rows[4 * j];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float a = p[4 * j + 2 * h] * whole.x, b = p[4 * j + 2 * h + 1] * whole.y;
            sums.n[h] += a + b;
            sums.square[h] = fmaf(a, row.x, fmaf(b, row.z, sums.square[h]));
            kept += (a >= least) + (b >= least);
            uint32_t &word = r.high[j / 2][j % 2 * 2 + h];
            word = halves_of(a, b);
            r.low[j / 2][j % 2 * 2 + h] = rest_of(a, b, word);
        }
    }
    return kept;
}

/* Begins to add responsibilities times the tile's rows. */
template <class Shape>
__device__ __forceinline__ void accumulate(float (&y)[Shape::kSums], const Responsibilities &r,
                                           const unsigned char *tile)
{
    auto add = [&](const uint32_t(&a)[4], const unsigned char *rows) {
        const uint64_t b = ptx::transposed_operand<Shape::kRows>(rows);
        if constexpr (Shape::kHalves == 2)
            ptx::wgmma_registers_64x128x16(y, a, b);
        else
            ptx::wgmma_registers_64x64x16(y, a, b);
    };
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const unsigned char *rows = tile + i * 16 * 128;
        add(r.low[i], rows);
        if constexpr (Shape::kParts == 2)
            add(r.high[i], rows + Shape::kHalves * Shape::kPanel);
        add(r.high[i], rows);
    }
    ptx::wgmma_commit();
}

template <class Shape> struct Consumer {
    DenseShared<Shape> &shared;
    const unsigned char *means; /* of this group's components */
    const fgmm_dense_component *component;
    const int lane, warp;
    const float unit, least;

    __device__ Consumer(DenseShared<Shape> &shared_, const fgmm_model_view &model,
                        const fgmm_sm90_dense &dense, int group)
        : shared(shared_), means(shared_.means + group * Shape::kGroupBytes),
          component(&shared_.component[threadIdx.x / kWarp * 16 + threadIdx.x % kWarp / 4]),
          lane(threadIdx.x % kWarp), warp(threadIdx.x / kWarp), unit(1 / dense.gain),
          least(kWhole * exp2f(-static_cast<float>(model.keep_bits)))
    {
    }
    /* The same on all lanes, which the compiler learns from the shuffle: operands stay in uniform registers.
     */
    __device__ __forceinline__ int uniform(int slot) const { return __shfl_sync(kWholeWarp, slot, 0); }
    __device__ __forceinline__ const float4 *constants(int slot) const
    {
        return reinterpret_cast<const float4 *>(shared.tile[slot] + Shape::kTileRows) + lane % 4;
    }
    /* Where the block's n-th tile is. */
    __device__ __forceinline__ int slot(unsigned n) const { return n % Shape::kStages; }
    __device__ __forceinline__ void begin(DenseLogs &s, unsigned n) const
    {
        ptx::barrier_wait(&shared.tile_full[slot(n)], n / Shape::kStages % 2);
        ptx::pin(s);
        ptx::wgmma_fence();
        multiply<Shape>(s, means, shared.tile[uniform(slot(n))]);
    }
    /* A tile's p, when its product is done, and their sums on their way. */
    __device__ __forceinline__ void offer(DenseLogs &s, DenseLogs &p, unsigned n) const
    {
        ptx::pin(s);
        exponentiate(s, p, constants(slot(n)), component, unit);
        sum_over_components(p, shared.part[warp]);
        ptx::barrier_arrive_warp(&shared.parts_full);
    }
    /* Begins a tile's sums, when those of all blocks have come. */
    __device__ __forceinline__ int answer(const DenseLogs &p, Responsibilities &r, QuantumSums<Shape> &sums,
                                          unsigned n) const
    {
        ptx::barrier_wait(&shared.inverse_full, n % 2);
        const int kept = respond(p, r, sums, constants(slot(n)), shared.inverse + lane % 4, least);
        ptx::pin(sums.y);
        ptx::wgmma_fence();
        accumulate<Shape>(sums.y, r, shared.tile[uniform(slot(n))]);
        return kept;
    }
    __device__ __forceinline__ void finish(QuantumSums<Shape> &sums, unsigned n) const
    {
        ptx::wgmma_wait();
        ptx::pin(sums.y);
        ptx::barrier_arrive_warp(&shared.tile_empty[slot(n)]);
    }
};

template <class Shape>
__device__ void sum_rows(DenseShared<Shape> &shared, const fgmm_row_view &view, const fgmm_model_view &model,
                         const fgmm_sm90_dense &dense, const fgmm_dense_operand &operand,
                         const fgmm_stats_view &stats, int quanta, int group)
{
    const Consumer<Shape> me(shared, model, dense, group);
    const int first = static_cast<int>(ptx::cluster_rank()) * FGMM_DENSE_COMPONENTS + me.warp * 16;
    TileWalk walk(operand, quanta);
    if (!walk.more())
        return;
    int kept = 0;
    QuantumSums<Shape> sums;
    DenseLogs s, p;
    ptx::barrier_wait(&shared.means_full, 0);
    me.begin(s, 0);
    ptx::wgmma_wait();
    me.offer(s, p, 0);
    for (unsigned n = 0;; n++) {
        Responsibilities r;
        const bool last = walk.last_of_quantum();
        walk.next();
        if (walk.more()) {
            me.begin(s, n + 1);
            kept += me.answer(p, r, sums, n);
            ptx::wgmma_wait_but_one();
            me.offer(s, p, n + 1);
            me.finish(sums, n); /* in each branch: no product is under way across one */
        } else {
            kept += me.answer(p, r, sums, n);
            me.finish(sums, n);
        }
        if (last && stats.sums)
            flush(sums, shared.scratch[me.warp], view, model, dense, stats, first);
        if (!walk.more())
            break;
        if (last)
            sums.clear();
    }
    kept = __reduce_add_sync(kWholeWarp, kept);
    if (me.lane == 0 && kept != 0)
        add_words(stats.pairs, kept);
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    dense_sums(fgmm_row_view rows, fgmm_model_view model, fgmm_sm90_dense dense, fgmm_dense_operand operand,
               fgmm_stats_view stats, int quanta)
{
#if FGMM_SM90_BODY
    extern __shared__ unsigned char raw[];
    unsigned char *aligned = raw + (1024 - ptx::shared_address(raw) % 1024) % 1024;
    DenseShared<Shape> &shared = *reinterpret_cast<DenseShared<Shape> *>(aligned);
    /* The same on all lanes, which the compiler learns from the shuffle. */
    const int warp = __shfl_sync(kWholeWarp, threadIdx.x / kWarp, 0);
    if (threadIdx.x == 0)
        init_barriers(shared);
    if (threadIdx.x < FGMM_DENSE_COMPONENTS)
        shared.component[threadIdx.x] =
            dense.components[ptx::cluster_rank() * FGMM_DENSE_COMPONENTS + threadIdx.x];
    ptx::cluster_sync();
    if (warp >= Shape::kConsumerWarps) {
        ptx::give_registers<Shape::kProducerRegisters>();
        if (warp == Shape::kConsumerWarps)
            join_sums(shared, dense, operand, stats, quanta);
    } else {
        ptx::take_registers<Shape::kConsumerRegisters>();
        sum_rows(shared, rows, model, dense, operand, stats, quanta, warp / Shape::kGroupWarps);
    }
    __syncwarp();
    ptx::cluster_sync(); /* other blocks may still write here */
#else
    __trap(); /* fgmm__sm90_dense_serves keeps other devices away */
#endif
}

template <class Shape>
int launch(const fgmm_row_view *rows, const fgmm_model_view *model, const fgmm_sm90_dense *dense,
           const fgmm_dense_operand *operand, const fgmm_stats_view *stats, int multiprocessors,
           fgmm_stream stream)
{
    constexpr int kBytes = sizeof(DenseShared<Shape>) + 1024;
    static_assert(kBytes <= 232448, "what a block of Hopper can have");
    const auto kernel = dense_sums<Shape>;
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (error == cudaSuccess) /* more than 8 blocks a cluster */
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (error != cudaSuccess)
        return error;
    const int quanta = (rows->rows + FGMM_KERNEL_QUANTUM - 1) / FGMM_KERNEL_QUANTUM;
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = dense->blocks;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(multiprocessors / dense->blocks * dense->blocks);
    config.blockDim = dim3(Shape::kThreads);
    config.dynamicSmemBytes = kBytes;
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    int clusters = 0; /* at a time: the multiprocessors come in groups that clusters do not cross */
    error = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
    if (error != cudaSuccess)
        return error;
    config.gridDim = dim3((clusters < quanta ? clusters : quanta) * dense->blocks);
    return cudaLaunchKernelEx(&config, kernel, *rows, *model, *dense, *operand, *stats, quanta);
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_sm90_dense_sums(const fgmm_row_view *rows, const fgmm_model_view *model,
                                 const fgmm_sm90_dense *dense, const fgmm_dense_operand *operand,
                                 const fgmm_stats_view *stats, int multiprocessors, fgmm_stream stream)
{
    if (dense->halves == 1)
        return dense->row_parts == 1
                   ? launch<DenseShape<1, 1>>(rows, model, dense, operand, stats, multiprocessors, stream)
                   : launch<DenseShape<1, 2>>(rows, model, dense, operand, stats, multiprocessors, stream);
    return dense->row_parts == 1
               ? launch<DenseShape<2, 1>>(rows, model, dense, operand, stats, multiprocessors, stream)
               : launch<DenseShape<2, 2>>(rows, model, dense, operand, stats, multiprocessors, stream);
}
