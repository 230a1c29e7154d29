/* Screening full components with tensor cores: upper bounds of l_k(x) = offset_k - |U_k'(x - m_k)|^2.
 *
 * A full product would take D columns a component. Eight do: with P = U U', full_tables.cu finds c and seven
 * vectors a_j such that  c I + sum_j a_j a_j' <= P  in the sense of quadratic forms, the a_j near the
 * directions in which the component is narrow. So
 *     l_k(x) <= offset_k - c |x - m_k|^2 - sum_j (a_j.(x - m_k))^2,
 * where seven columns of the product give a_j.(x - m_k) and one gives x.m_k. What fp16 and the tensor cores
 * round is part of the constants of a component, which the sums of a thread meet as
 *     beta + alpha linear - gamma |x|^2 - weight (sum of seven squares).
 * Narrow directions decide: where a component is a hundred times narrower than the distance to its
 * neighbours, seven of them put the bound thousands of bits below; where it is as wide in all directions, c
 * is nearly exact.
 *
 * `best` keeps for each row the component of the largest bound, and the largest of the other bounds.
 * `candidates` goes over the rows for which that does not settle the matter, once more.
 *
 * Roles: four consumer warpgroups of 64 rows; a warp that feeds component tiles, and one that feeds rows,
 * which convert_rows has made beforehand. */
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <limits.h>
#include "kernels/generic/warp.cuh"
#include "kernels/ptx/wgmma.cuh"
#include "kernels/sm90/columns.cuh"
#include "kernels/sm90/full_stream.cuh"
#include "kernels/sm90/traits.cuh"

namespace fgmm
{
namespace
{

/* The bound of a thread's component of group g of a tile (traits.cuh: FullShape) for its row h. */
template <int h>
__device__ __forceinline__ float bound(const float (&s)[64], int g, const float4 &c, float square)
{
    const float *v = s + 16 * g + 2 * h; /* columns 2u and 2u + 1 at 4u */
    float sum = v[0] * v[0];
    sum = fmaf(v[1], v[1], sum);
#pragma unroll
    for (int u = 1; u < 3; u++) {
        sum = fmaf(v[4 * u], v[4 * u], sum);
        sum = fmaf(v[4 * u + 1], v[4 * u + 1], sum);
    }
    sum = fmaf(v[12], v[12], sum);
    return fmaf(-c.x, sum, fmaf(c.y, v[13], fmaf(-c.z, square, c.w)));
}

/* What a thread knows of one of its rows in the first pass. */
struct Best {
    float bound = -INFINITY, runner_up = -INFINITY;
    int component = INT_MAX; /* none */

    __device__ __forceinline__ void add(float value, int k)
    {
        runner_up = fmaxf(runner_up, fminf(value, bound));
        component = value > bound ? k : component;
        bound = fmaxf(value, bound);
    }
    /* Of lanes that saw other components. */
    __device__ __forceinline__ void join(int step)
    {
        const float its_bound = __shfl_xor_sync(kWholeWarp, bound, step),
                    its_runner_up = __shfl_xor_sync(kWholeWarp, runner_up, step);
        const int its = __shfl_xor_sync(kWholeWarp, component, step);
        runner_up = fmaxf(fmaxf(runner_up, its_runner_up), fminf(bound, its_bound));
        component = its_bound > bound || (its_bound == bound && its < component) ? its : component;
        bound = fmaxf(bound, its_bound);
    }
};

/* The first pass: lists of one entry. A row is a place of the operand: all rows are there, in order. */
struct FindBest {
    Best row[2];

    __device__ __forceinline__ void begin(const fgmm_full_pairs &, const FullPlaces &)
    {
        row[0] = row[1] = Best();
    }
    template <int h>
    __device__ __forceinline__ void add(const fgmm_full_pairs &, const FullPlaces &, float value, int k)
    {
        row[h].add(value, k);
    }
    __device__ __forceinline__ void end(const fgmm_full_pairs &pairs, const fgmm_full_rows &from,
                                        const FullPlaces &at)
    {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            row[h].join(1);
            row[h].join(2);
            if (threadIdx.x % 4 != 0 || !at.real(h))
                continue;
            const int place = at.place(h);
            const bool screened = from.square[place] < INFINITY && row[h].component != INT_MAX;
            pairs.lists.entries[item_of(place, 0)] = {screened ? row[h].component : 0, row[h].bound};
            pairs.lists.counts[place] = screened ? 1 : FGMM_DENSE_ROW;
            pairs.runner_up[place] = row[h].runner_up;
        }
    }
};

/* A warpgroup: the products of its 64 rows with every component tile. */
template <class Shape, class Find>
__device__ void screen_rows(FullShared<Shape> &shared, const fgmm_full_tables &tables,
                            const fgmm_full_rows &from, const fgmm_full_pairs &pairs, int rows,
                            const FullUnits<false> &units, int group)
{
    const int thread = threadIdx.x % Shape::kWarpgroup, lane = thread % kWarp;
    const int first = group * Shape::kGroupRows + thread / kWarp * 16 + lane / 4;
    const uint64_t mine = ptx::operand(shared.rows[group]);
    const uint64_t ones = ptx::plain_operand<Shape::kGroupRows>(shared.ones);
    uint32_t phase = 0;
    Ring ring;
    Find find;
    float s[64];
    for (int unit = blockIdx.x; unit < units.count; unit += gridDim.x, phase ^= 1) {
        const FullPlaces at(from, units.row_tile(unit) * Shape::kRows + first, rows);
        const int end = units.end(unit);
        find.begin(pairs, at);
        ptx::barrier_wait(&shared.rows_full[group], phase);
#pragma unroll 1
        for (int tile = units.begin(unit); tile < end; tile++) {
            ptx::barrier_wait(&shared.record_full[ring.slot], ring.phase);
            const unsigned char *record = shared.record[ring.slot];
            const uint64_t factors = ptx::operand(record);
            ptx::pin(s);
            ptx::wgmma_fence();
#pragma unroll
            for (int step = 0; step < Shape::kHalves * 4; step++)
                ptx::wgmma_64x128x16(
                    s, ptx::advance(mine, step / 4 * Shape::kGroupRows * 128 + step % 4 * 32),
                    ptx::advance(factors, step / 4 * Shape::kTileColumns * 128 + step % 4 * 32), step > 0);
            ptx::wgmma_64x128x16(s, ones,
                                 ptx::plain_operand<Shape::kTileColumns>(record + Shape::kRecordExtra), 1);
            ptx::wgmma_commit();
            float4 constants[4]; /* of the thread's components */
#pragma unroll
            for (int g = 0; g < 4; g++)
                constants[g] =
                    reinterpret_cast<const float4 *>(record + Shape::kRecordConstants)[4 * g + lane % 4];
            ptx::wgmma_wait();
            ptx::pin(s);
            ptx::barrier_arrive_warp(&shared.record_empty[ring.slot]); /* constants are read on all lanes */
            ring.next(Shape::kStages);
            const int k = tile * FGMM_FULL_TILE + lane % 4;
#pragma unroll
            for (int g = 0; g < 4; g++) {
                find.template add<0>(pairs, at, bound<0>(s, g, constants[g], at.square[0]), k + 4 * g);
                find.template add<1>(pairs, at, bound<1>(s, g, constants[g], at.square[1]), k + 4 * g);
            }
        }
        ptx::barrier_arrive_warp(&shared.rows_empty[group]);
        find.end(pairs, from, at);
    }
}

/* n_open: how many rows there are; NULL: `rows` of them. */
template <class Shape, class Find>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    screen(fgmm_full_tables tables, fgmm_full_rows from, fgmm_full_pairs pairs, int rows,
           const int32_t *n_open)
{
#if FGMM_SM90_BODY
    extern __shared__ unsigned char raw[];
    unsigned char *aligned = raw + (1024 - ptx::shared_address(raw) % 1024) % 1024;
    FullShared<Shape> &shared = *reinterpret_cast<FullShared<Shape> *>(aligned);
    /* The same on all lanes, which the compiler learns from the shuffle: operands stay in uniform registers.
     */
    const int role = __shfl_sync(kWholeWarp, threadIdx.x / kWarp, 0), group = role / Shape::kGroupWarps;
    const int count = n_open != nullptr ? *n_open : rows,
              row_tiles = (count + Shape::kRows - 1) / Shape::kRows;
    const FullUnits<false> units(row_tiles, tables.tiles);
    prepare(shared);
    if (group < Shape::kGroups)
        screen_rows<Shape, Find>(shared, tables, from, pairs, count, units, group);
    else if (threadIdx.x % kWarp == 0 && role == Shape::kGroups * Shape::kGroupWarps)
        feed_records(shared, tables.records, units);
    else if (threadIdx.x % kWarp == 0)
        feed_rows(shared, from, units);
#else
    __trap(); /* fgmm__sm90_serves is asked on Hopper alone */
#endif
}

template <int kHalves, class Find>
int launch(const fgmm_full_tables *tables, const fgmm_full_rows *rows, const fgmm_full_pairs *pairs,
           int count, const int32_t *n_open, int multiprocessors, fgmm_stream stream)
{
    typedef FullShape<kHalves> Shape;
    constexpr int kBytes = static_cast<int>(sizeof(FullShared<Shape>)) + 1024;
    static_assert(kBytes <= 232448, "what a block of Hopper can have");
    const cudaError_t error =
        cudaFuncSetAttribute(screen<Shape, Find>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (error != cudaSuccess)
        return error;
    const int row_tiles = (count + Shape::kRows - 1) / Shape::kRows;
    const int blocks = row_tiles < multiprocessors ? row_tiles : multiprocessors;
    screen<Shape, Find><<<blocks, Shape::kThreads, kBytes, stream>>>(*tables, *rows, *pairs, count, n_open);
    return cudaGetLastError();
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_full_best(const fgmm_full_tables *tables, const fgmm_full_rows *rows, int32_t count,
                           const fgmm_full_pairs *pairs, int multiprocessors, fgmm_stream stream)
{
    const auto kernel = tables->halves == 1 ? launch<1, FindBest> : launch<2, FindBest>;
    return kernel(tables, rows, pairs, count, nullptr, multiprocessors, stream);
}

int fgmm__launch_full_candidates(const fgmm_full_tables *tables, const fgmm_full_rows *rows, int32_t count,
                                 const fgmm_full_pairs *pairs, int multiprocessors, fgmm_stream stream)
{
    const auto kernel = tables->halves == 1 ? launch<1, FindOthers> : launch<2, FindOthers>;
    return kernel(tables, rows, pairs, count, pairs->n_open, multiprocessors, stream);
}
