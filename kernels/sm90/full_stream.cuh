/* What the screens for full components share: rows that stay in shared memory while records of components
 * stream past them. Shape: traits.cuh. */
#ifndef FGMM_SM90_FULL_STREAM_CUH
#define FGMM_SM90_FULL_STREAM_CUH

#include <cuda_fp16.h>
#include <float.h>
#include "kernels/generic/full_items.cuh"
#include "kernels/ptx/wgmma.cuh"
#include "kernels/sm90/columns.cuh"
#include "kernels/sm90/full_screen.h"
#include "kernels/sm90/ring.cuh"
#include "kernels/sm90/traits.cuh"

namespace fgmm
{

template <class Shape> struct FullShared {
    alignas(1024) unsigned char record[Shape::kStages][Shape::kRecordPlace];
    alignas(1024) unsigned char rows[Shape::kGroups][Shape::kGroupBytes];
    alignas(16) __half ones[2][Shape::kGroupRows][8]; /* the rows' extra columns, the same for all */
    uint64_t record_full[Shape::kStages], record_empty[Shape::kStages];
    uint64_t rows_full[Shape::kGroups], rows_empty[Shape::kGroups];
};

template <class Shape> __device__ void prepare(FullShared<Shape> &shared)
{
    if (threadIdx.x == 0) {
        for (int i = 0; i < Shape::kStages; i++) {
            ptx::barrier_init(&shared.record_full[i], 1);
            ptx::barrier_init(&shared.record_empty[i],
                              Shape::kGroups * Shape::kGroupWarps * ptx::kWarpArrivals);
        }
        for (int group = 0; group < Shape::kGroups; group++) {
            ptx::barrier_init(&shared.rows_full[group], 1);
            ptx::barrier_init(&shared.rows_empty[group], Shape::kGroupWarps * ptx::kWarpArrivals);
        }
    }
    for (int i = threadIdx.x; i < 2 * Shape::kGroupRows * 8; i += Shape::kThreads) {
        const int column = i / (Shape::kGroupRows * 8) * 8 + i % 8;
        (&shared.ones[0][0][0])[i] = __float2half(column < 3 ? kFullOnes[column] : 0.0f);
    }
    ptx::fence_async_proxy();
    __syncthreads();
}

/* What a block has at a time: a row tile by a range of component tiles. kShared: where there are fewer row
 * tiles than blocks, several blocks share one. */
template <bool kShared> struct FullUnits {
    int row_tiles, tiles, slices, count;

    __device__ __forceinline__ FullUnits(int row_tiles_, int tiles_) : row_tiles(row_tiles_), tiles(tiles_)
    {
        slices = 1;
        if (kShared && row_tiles > 0)
            slices = max(1, min(tiles, static_cast<int>(gridDim.x) / row_tiles));
        count = row_tiles * slices;
    }
    __device__ __forceinline__ int row_tile(int unit) const { return kShared ? unit % row_tiles : unit; }
    __device__ __forceinline__ int begin(int unit) const { return kShared ? place(unit / row_tiles) : 0; }
    __device__ __forceinline__ int end(int unit) const
    {
        return kShared ? place(unit / row_tiles + 1) : tiles;
    }
    __device__ __forceinline__ int place(int slice) const
    {
        return static_cast<int>(static_cast<int64_t>(tiles) * slice / slices);
    }
};

/* One thread: the component tiles of the block's units. */
template <class Shape, class Units>
__device__ void feed_records(FullShared<Shape> &shared, const void *records, const Units &units)
{
    Ring ring;
    for (int unit = blockIdx.x; unit < units.count; unit += gridDim.x)
        for (int tile = units.begin(unit); tile < units.end(unit); tile++) {
            ptx::barrier_wait(&shared.record_empty[ring.slot], ring.phase ^ 1);
            ptx::barrier_expect(&shared.record_full[ring.slot], Shape::kRecordBytes);
            ptx::bulk_copy(shared.record[ring.slot],
                           static_cast<const unsigned char *>(records) +
                               static_cast<int64_t>(tile) * Shape::kRecordBytes,
                           Shape::kRecordBytes, &shared.record_full[ring.slot]);
            ring.next(Shape::kStages);
        }
}

/* One thread: each group's rows as soon as it is through with those before. */
template <class Shape, class Units>
__device__ void feed_rows(FullShared<Shape> &shared, const fgmm_full_rows &from, const Units &units)
{
    uint32_t phase = 0;
    for (int unit = blockIdx.x; unit < units.count; unit += gridDim.x, phase ^= 1)
        for (int group = 0; group < Shape::kGroups; group++) {
            ptx::barrier_wait(&shared.rows_empty[group], phase ^ 1);
            ptx::barrier_expect(&shared.rows_full[group], Shape::kGroupBytes);
            ptx::bulk_copy(shared.rows[group],
                           static_cast<const unsigned char *>(from.halves) +
                               static_cast<int64_t>(units.row_tile(unit) * Shape::kGroups + group) *
                                   Shape::kGroupBytes,
                           Shape::kGroupBytes, &shared.rows_full[group]);
        }
}

/* A thread's rows of a row tile: two, eight apart. Their squares are |y|^2, and 0 where that is infinity:
 * such a row is not to be screened. What is needed rarely is read again, which saves registers. */
struct FullPlaces {
    int first, rows; /* among the rows that are screened, and how many those are */
    float square[2];

    __device__ __forceinline__ FullPlaces(const fgmm_full_rows &from, int first_, int rows_)
        : first(first_), rows(rows_)
    {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float measured = from.square[first + 8 * h];
            square[h] = measured < INFINITY ? measured : 0.0f;
        }
    }
    __device__ __forceinline__ int place(int h) const
    {
        return first + 8 * h;
    }
    __device__ __forceinline__ bool real(int h) const
    {
        return place(h) < rows;
    }
};

/* Components that reach the threshold of their open row. Few do. */
struct FindOthers {
    float threshold[2];

    __device__ __forceinline__ void begin(const fgmm_full_pairs &pairs, const FullPlaces &at)
    {
#pragma unroll
        for (int h = 0; h < 2; h++)
            threshold[h] = at.real(h) ? fmaxf(pairs.threshold[pairs.open[at.place(h)]], -FLT_MAX) : INFINITY;
    }
    template <int h>
    __device__ __forceinline__ void add(const fgmm_full_pairs &pairs, const FullPlaces &at, float value,
                                        int k)
    {
        if (value < threshold[h])
            return;
        const int row = pairs.open[at.place(h)];
        if (pairs.lists.entries[item_of(row, 0)].component == k)
            return;
        const int place = atomicAdd(&pairs.lists.counts[row], 1);
        if (place < FGMM_CANDIDATES)
            pairs.lists.entries[item_of(row, place)] = {k, value};
    }
    __device__ __forceinline__ void end(const fgmm_full_pairs &, const fgmm_full_rows &, const FullPlaces &)
    {
    }
};

} // namespace fgmm

#endif
