/* Items of full components (kernels.h: fgmm_full_pairs) in the order of components, cut into tasks: a block
 * takes some items of one component. */
#ifndef FGMM_GENERIC_FULL_ITEMS_CUH
#define FGMM_GENERIC_FULL_ITEMS_CUH

#include "kernels/generic/traits.cuh"

namespace fgmm
{

__device__ __forceinline__ int64_t item_of(int row, int place)
{
    return static_cast<int64_t>(row) * FGMM_CANDIDATES + place;
}

/* Items of one component: sorted[first], ..., sorted[first + count - 1]. */
struct FullTask {
    int component, first, count;
};

/* Tasks of at most `most` items. Component c has the numbers from start(c) / most + c on, where start(c) is
 * its first place in `sorted`: enough for its items, and one more. So tasks need no list. */
__device__ __forceinline__ int first_task(const fgmm_full_pairs &pairs, int c, int most)
{
    return (c > 0 ? pairs.ends[c - 1] : 0) / most + c;
}

__device__ __forceinline__ int task_count(const fgmm_full_pairs &pairs, int most)
{
    return pairs.ends[pairs.k - 1] / most + pairs.k;
}

/* The same on all lanes of a warp: each step looks at 32 components. */
__device__ __forceinline__ FullTask find_task(const fgmm_full_pairs &pairs, int number, int most)
{
    const int lane = threadIdx.x % kWarp;
    int low = 0, width = pairs.k; /* the component is in [low, low + width) */
    while (width > 1) {
        const int step = (width + kWarp - 1) / kWarp, at = low + lane * step;
        const bool reached = at < low + width && first_task(pairs, at, most) <= number;
        const int steps = __popc(__ballot_sync(kWholeWarp, reached)) - 1; /* lane 0 always is */
        low += steps * step;
        width = min(step, width - steps * step);
    }
    const int begin = (low > 0 ? pairs.ends[low - 1] : 0) + (number - first_task(pairs, low, most)) * most;
    return {low, begin, max(0, min(most, pairs.ends[low] - begin))};
}

/* A task's items as a list of rows. */
struct ItemRows {
    const int32_t *items; /* [count] */
    int count;
    __device__ __forceinline__ int row(int i) const { return items[i] / FGMM_CANDIDATES; }
};

/* Blocks that walk over all tasks of a chunk: about as many as there are tasks when each row has one item. */
inline int task_blocks(const fgmm_full_pairs &pairs, int rows, int most)
{
    const int components = pairs.k < rows ? pairs.k : rows;
    return rows / most + components;
}

} // namespace fgmm

#endif
