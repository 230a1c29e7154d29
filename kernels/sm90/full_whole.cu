/* The second screen for full components, of rows for which the first leaves many candidates: the whole
 * product y = U'(x - m) in fp16, so that |y|^2 is known but for rounding. A tile is one component. U is upper
 * triangular: of 128 dimensions, the second 64 do not meet the first 64 columns.
 *
 * Roles as in full_screen.cu. */
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include "kernels/generic/warp.cuh"
#include "kernels/sm90/full_stream.cuh"

namespace fgmm
{
namespace
{

/* s: the rows of `mine` times a component. */
template <class Shape>
__device__ __forceinline__ void multiply(float (&s)[Shape::kSums], uint64_t mine, uint64_t ones,
                                         const unsigned char *record)
{
    const uint64_t factor = ptx::operand(record),
                   extra = ptx::plain_operand<Shape::kColumns>(record + Shape::kRecordExtra);
#pragma unroll
    for (int step = 0; step < 4; step++)
        ptx::wgmma_64x64x16<0>(s, ptx::advance(mine, step * 32), ptx::advance(factor, step * 32), step > 0);
    ptx::wgmma_64x64x16<0>(s, ones, extra, 1);
    if constexpr (Shape::kHalves == 2) {
        const uint64_t mine_rest = ptx::advance(mine, Shape::kGroupRows * 128),
                       second = ptx::advance(factor, 64 * 128),
                       rest = ptx::operand(record + Shape::kRecordRest);
#pragma unroll
        for (int step = 0; step < 4; step++)
            ptx::wgmma_64x64x16<32>(s, ptx::advance(mine, step * 32), ptx::advance(second, step * 32),
                                    step > 0);
#pragma unroll
        for (int step = 0; step < 4; step++)
            ptx::wgmma_64x64x16<32>(s, ptx::advance(mine_rest, step * 32), ptx::advance(rest, step * 32), 1);
        ptx::wgmma_64x64x16<32>(s, ones, ptx::advance(extra, 64 * 16), 1);
    }
}

/* Sum of squares of row h over all columns, on the quad's lanes. */
template <int h, int n> __device__ __forceinline__ float square_of(const float (&s)[n])
{
    float sum[2] = {0, 0};
#pragma unroll
    for (int i = 2 * h; i < n; i += 4)
#pragma unroll
        for (int c = 0; c < 2; c++)
            sum[c] = fmaf(s[i + c], s[i + c], sum[c]);
    float both = sum[0] + sum[1];
    both += __shfl_xor_sync(kWholeWarp, both, 1);
    return both + __shfl_xor_sync(kWholeWarp, both, 2);
}

/* A warpgroup: the products of its 64 rows with every component. */
template <class Shape>
__device__ void screen_rows(FullShared<Shape> &shared, const fgmm_full_tables &tables,
                            const fgmm_full_rows &from, const fgmm_full_pairs &pairs, int rows,
                            const FullUnits<true> &units, int group)
{
    const int thread = threadIdx.x % Shape::kWarpgroup, lane = thread % kWarp;
    const int first = group * Shape::kGroupRows + thread / kWarp * 16 + lane / 4;
    const uint64_t mine = ptx::operand(shared.rows[group]);
    const uint64_t ones = ptx::plain_operand<Shape::kGroupRows>(shared.ones);
    uint32_t phase = 0;
    Ring ring;
    FindOthers find;
    float s[Shape::kSums];
    for (int unit = blockIdx.x; unit < units.count; unit += gridDim.x, phase ^= 1) {
        const FullPlaces at(from, units.row_tile(unit) * Shape::kRows + first, rows);
        const int end = units.end(unit);
        find.begin(pairs, at);
        ptx::barrier_wait(&shared.rows_full[group], phase);
#pragma unroll 1
        for (int k = units.begin(unit); k < end; k++) {
            ptx::barrier_wait(&shared.record_full[ring.slot], ring.phase);
            const unsigned char *record = shared.record[ring.slot];
            ptx::pin(s);
            ptx::wgmma_fence();
            multiply<Shape>(s, mine, ones, record);
            ptx::wgmma_commit();
            const float4 c = *reinterpret_cast<const float4 *>(record + Shape::kRecordConstants);
            ptx::wgmma_wait();
            ptx::pin(s);
            ptx::barrier_arrive_warp(&shared.record_empty[ring.slot]); /* constants are read on all lanes */
            ring.next(Shape::kStages);
            const float square[2] = {square_of<0>(s), square_of<1>(s)};
            if (lane % 4 == 0) {
                find.add<0>(pairs, at, fmaf(-c.x, square[0], fmaf(-c.z, at.square[0], c.w)), k);
                find.add<1>(pairs, at, fmaf(-c.x, square[1], fmaf(-c.z, at.square[1], c.w)), k);
            }
        }
        ptx::barrier_arrive_warp(&shared.rows_empty[group]);
    }
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    screen(fgmm_full_tables tables, fgmm_full_rows from, fgmm_full_pairs pairs)
{
#if FGMM_SM90_BODY
    extern __shared__ unsigned char raw[];
    unsigned char *aligned = raw + (1024 - ptx::shared_address(raw) % 1024) % 1024;
    FullShared<Shape> &shared = *reinterpret_cast<FullShared<Shape> *>(aligned);
    /* The same on all lanes, which the compiler learns from the shuffle: operands stay in uniform registers.
     */
    const int role = __shfl_sync(kWholeWarp, threadIdx.x / kWarp, 0), group = role / Shape::kGroupWarps;
    const int rows = *pairs.n_open, row_tiles = (rows + Shape::kRows - 1) / Shape::kRows;
    const FullUnits<true> units(row_tiles, tables.k);
    prepare(shared);
    if (group < Shape::kGroups)
        screen_rows<Shape>(shared, tables, from, pairs, rows, units, group);
    else if (threadIdx.x % kWarp == 0 && role == Shape::kGroups * Shape::kGroupWarps)
        feed_records(shared, tables.wholes, units);
    else if (threadIdx.x % kWarp == 0)
        feed_rows(shared, from, units);
#else
    __trap(); /* fgmm__sm90_serves is asked on Hopper alone */
#endif
}

template <int kHalves>
int launch(const fgmm_full_tables *tables, const fgmm_full_rows *rows, const fgmm_full_pairs *pairs,
           int multiprocessors, fgmm_stream stream)
{
    typedef WholeShape<kHalves> Shape;
    constexpr int kBytes = static_cast<int>(sizeof(FullShared<Shape>)) + 1024;
    static_assert(kBytes <= 232448, "what a block of Hopper can have");
    const cudaError_t error =
        cudaFuncSetAttribute(screen<Shape>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (error != cudaSuccess)
        return error;
    screen<Shape><<<multiprocessors, Shape::kThreads, kBytes, stream>>>(*tables, *rows, *pairs);
    return cudaGetLastError();
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_full_whole(const fgmm_full_tables *tables, const fgmm_full_rows *rows,
                            const fgmm_full_pairs *pairs, int multiprocessors, fgmm_stream stream)
{
    return (tables->halves == 1 ? launch<1> : launch<2>)(tables, rows, pairs, multiprocessors, stream);
}
