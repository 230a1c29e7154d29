/* Distances of 64 rows to one full component, in float64. */
#ifndef FGMM_GENERIC_FULL_TILE_CUH
#define FGMM_GENERIC_FULL_TILE_CUH

#include "kernels/generic/dense_tile.cuh"

namespace fgmm
{

struct FullStages {
    DenseStage t, u; /* x - mean, transposed; the factor */
};

/* Sum of squares of y = (x - mean) U for rows r0.. of a list, by tiles of 64 columns of U, which is upper
 * triangular; thread i < 64 of the block returns that of row r0 + i. A row's sum does not depend on its place
 * in the list. */
template <typename T, class Rows>
__device__ __forceinline__ double full_squares(FullStages &stages, const fgmm_row_view &metric,
                                               const fgmm_model_view &model, const Rows &list, int k, int r0)
{
    DenseStage &t = stages.t, &u = stages.u;
    const int dim = model.dim;
    const DenseThread thread;
    const double *mean = model.mean + static_cast<int64_t>(k) * dim;
    const double *factor = model.factor + static_cast<int64_t>(k) * dim * dim;
    double squares[DenseTile::kMicro] = {}; /* [row of the thread] */
    for (int j0 = 0; j0 < dim; j0 += DenseTile::kSide) {
        DenseSums y;
        clear(y);
        for (int i0 = 0; i0 < min(j0 + DenseTile::kSide, dim); i0 += DenseTile::kDepth) {
            __syncthreads();
            load_rows<T>(t, metric, list, r0, i0);
            const int i = i0 + threadIdx.x % DenseTile::kDepth; /* this thread's dimension of t */
            const double m = i < dim ? mean[i] : 0.0;
#pragma unroll
            for (int step = 0; step < DenseTile::kMicro; step++)
                t.value[threadIdx.x % DenseTile::kDepth]
                       [threadIdx.x / DenseTile::kDepth + step * DenseTile::kLanes] -= m;
#pragma unroll
            for (int step = 0; step < DenseTile::kMicro; step++) {
                const int j = threadIdx.x % DenseTile::kSide,
                          ii = threadIdx.x / DenseTile::kSide + step * DenseTile::kMicro;
                const bool inside = i0 + ii < dim && j0 + j < dim;
                u.value[ii][j] = inside ? factor[static_cast<int64_t>(i0 + ii) * dim + j0 + j] : 0.0;
            }
            __syncthreads();
            fold(y, thread, t, u,
                 [](double sum, double a, double b, int, int, int) { return fma(a, b, sum); });
        }
#pragma unroll
        for (int i = 0; i < DenseTile::kMicro; i++)
#pragma unroll
            for (int j = 0; j < DenseTile::kMicro; j++)
                squares[i] = fma(y[i][j], y[i][j], squares[i]);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < DenseTile::kMicro; i++)
        t.value[thread.down][thread.i(i)] = squares[i];
    __syncthreads();
    double sum = 0;
    if (threadIdx.x < DenseTile::kSide)
        for (int down = 0; down < DenseTile::kLanes; down++)
            sum += t.value[down][threadIdx.x];
    return sum;
}

} // namespace fgmm

#endif
