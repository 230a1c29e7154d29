/* The fp64 tile of the dense path (traits: DenseTile) and the rows it works on. */
#ifndef FGMM_GENERIC_DENSE_TILE_CUH
#define FGMM_GENERIC_DENSE_TILE_CUH

#include "kernels/generic/rows.cuh"

namespace fgmm
{

/* One operand of a step: [depth][row or column]. */
struct DenseStage {
    double value[DenseTile::kDepth][DenseTile::kPitch];
};

typedef double DenseSums[DenseTile::kMicro][DenseTile::kMicro]; /* [across + 16 i][down + 16 j] of a thread */

struct DenseThread {
    int across, down;
    __device__ __forceinline__ DenseThread()
        : across(threadIdx.x % DenseTile::kLanes), down(threadIdx.x / DenseTile::kLanes)
    {
    }
    __device__ __forceinline__ int i(int step) const { return across + DenseTile::kLanes * step; }
    __device__ __forceinline__ int j(int step) const { return down + DenseTile::kLanes * step; }
};

__device__ __forceinline__ void clear(DenseSums &sums)
{
#pragma unroll
    for (int i = 0; i < DenseTile::kMicro; i++)
#pragma unroll
        for (int j = 0; j < DenseTile::kMicro; j++)
            sums[i][j] = 0.0;
}

/* sums[i][j] += step(a[i], b[j]) for each of the stage's 16 depths, in their order; f(sum, a, b, i, j) gives
 * the new sum. */
template <typename F>
__device__ __forceinline__ void fold(DenseSums &sums, const DenseThread &thread, const DenseStage &a,
                                     const DenseStage &b, F f)
{
#pragma unroll 4
    for (int depth = 0; depth < DenseTile::kDepth; depth++) {
        double u[DenseTile::kMicro], v[DenseTile::kMicro];
#pragma unroll
        for (int step = 0; step < DenseTile::kMicro; step++) {
            u[step] = a.value[depth][thread.i(step)];
            v[step] = b.value[depth][thread.j(step)];
        }
#pragma unroll
        for (int i = 0; i < DenseTile::kMicro; i++)
#pragma unroll
            for (int j = 0; j < DenseTile::kMicro; j++)
                sums[i][j] = f(sums[i][j], u[i], v[j], depth, i, j);
    }
}

/* The dense rows of one quantum of the group, as a block sees them. */
struct DenseRows {
    const int32_t *rows; /* [count]: numbers in the chunk, ascending */
    int count;
    int slot; /* of the quantum in the group */

    __device__ __forceinline__ DenseRows(const fgmm_dense_group &group, int slot_) : slot(slot_)
    {
        int quantum = group.quantum[slot];
        rows = group.lists.rows + static_cast<int64_t>(quantum) * FGMM_KERNEL_QUANTUM;
        count = group.lists.counts[quantum];
    }
    __device__ __forceinline__ int row(int i) const { return rows[i]; }
    /* Column of the slab of component k (counted from k_begin): [1024] rows. */
    __device__ __forceinline__ double *column(const fgmm_dense_group &group, int k) const
    {
        return group.slab + (static_cast<int64_t>(slot) * group.k_count + k) * FGMM_KERNEL_QUANTUM;
    }
    /* This quantum's part of a [quanta][1024] array. */
    __device__ __forceinline__ int64_t place(int row) const
    {
        return static_cast<int64_t>(slot) * FGMM_KERNEL_QUANTUM + row;
    }
};

/* Loads [64 rows of a list from r0][16 dimensions from d0], transposed: a half-warp reads 16 dimensions of a
 * row. Zeros outside. Rows: count and row(i), as DenseRows has them. */
template <typename T, class Rows>
__device__ __forceinline__ void load_rows(DenseStage &stage, const fgmm_row_view &view, const Rows &list,
                                          int r0, int d0)
{
    const int d = threadIdx.x % DenseTile::kDepth;
#pragma unroll
    for (int step = 0; step < DenseTile::kMicro; step++) {
        const int r = threadIdx.x / DenseTile::kDepth + step * DenseTile::kLanes;
        const bool inside = r0 + r < list.count && d0 + d < view.dim;
        stage.value[d][r] = inside ? centred<T>(view, list.row(r0 + r), d0 + d) : 0.0;
    }
}

/* The same of a row-major matrix [rows][columns] of doubles. */
__device__ __forceinline__ void load_matrix(DenseStage &stage, const double *matrix, int rows, int columns,
                                            int r0, int c0)
{
    const int c = threadIdx.x % DenseTile::kDepth;
#pragma unroll
    for (int step = 0; step < DenseTile::kMicro; step++) {
        const int r = threadIdx.x / DenseTile::kDepth + step * DenseTile::kLanes;
        const bool inside = r0 + r < rows && c0 + c < columns;
        stage.value[c][r] = inside ? matrix[static_cast<int64_t>(r0 + r) * columns + c0 + c] : 0.0;
    }
}

} // namespace fgmm

#endif
