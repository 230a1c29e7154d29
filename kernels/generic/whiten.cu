/* Tied covariances: y = (x - origin) U turns every distance into a spherical one. A block makes 64 rows by 64
 * columns of y in float64, and rounds a copy for the screen. */
#include <cuda_runtime.h>
#include "kernels/generic/dense_tile.cuh"

namespace fgmm
{
namespace
{

/* Grid: (row tiles, column tiles). across: columns of y, down: rows. */
template <typename T>
__global__ void __launch_bounds__(DenseTile::kThreads)
    whiten(fgmm_row_view rows, const double *factor /* [dim][dim] */, double *exact,
           float *rounded /* [rows][dim] */)
{
    __shared__ DenseStage x, u; /* [dimension][row], [dimension][column] */
    const int r0 = blockIdx.x * DenseTile::kSide, j0 = blockIdx.y * DenseTile::kSide, dim = rows.dim;
    const DenseThread thread;
    DenseSums y;
    clear(y);
    for (int i0 = 0; i0 < min(j0 + DenseTile::kSide, dim); i0 += DenseTile::kDepth) {
        __syncthreads();
#pragma unroll
        for (int step = 0; step < DenseTile::kMicro; step++) {
            const int i = threadIdx.x % DenseTile::kDepth,
                      r = threadIdx.x / DenseTile::kDepth + step * DenseTile::kLanes;
            const bool inside = r0 + r < rows.rows && i0 + i < dim;
            x.value[i][r] = inside ? centred<T>(rows, r0 + r, i0 + i) : 0.0;
        }
#pragma unroll
        for (int step = 0; step < DenseTile::kMicro; step++) {
            const int j = threadIdx.x % DenseTile::kSide,
                      i = threadIdx.x / DenseTile::kSide + step * DenseTile::kMicro;
            const bool inside = i0 + i < dim && j0 + j < dim;
            u.value[i][j] = inside ? factor[static_cast<int64_t>(i0 + i) * dim + j0 + j] : 0.0;
        }
        __syncthreads();
        fold(y, thread, u, x, [](double sum, double a, double b, int, int, int) { return fma(a, b, sum); });
    }
#pragma unroll
    for (int down = 0; down < DenseTile::kMicro; down++)
#pragma unroll
        for (int across = 0; across < DenseTile::kMicro; across++) {
            const int r = r0 + thread.j(down), j = j0 + thread.i(across);
            if (r >= rows.rows || j >= dim)
                continue;
            const int64_t at = static_cast<int64_t>(r) * dim + j;
            exact[at] = y[across][down];
            if (rounded != nullptr)
                rounded[at] = static_cast<float>(y[across][down]);
        }
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_whiten(const fgmm_row_view *rows, const double *factor, double *exact, float *rounded,
                        fgmm_stream stream)
{
    const dim3 grid((rows->rows + DenseTile::kSide - 1) / DenseTile::kSide,
                    (rows->dim + DenseTile::kSide - 1) / DenseTile::kSide);
    return dispatch_rows(rows->type, [&](auto zero) -> int {
        whiten<decltype(zero)><<<grid, DenseTile::kThreads, 0, stream>>>(*rows, factor, exact, rounded);
        return cudaGetLastError();
    });
}
