/* Tied covariances: y = (x - origin) U turns every distance into a spherical one. A block makes 128 rows by
 * 64 columns of y by float64 matrix instructions, and rounds a copy for the screen. */
#include <cuda_runtime.h>
#include "kernels/generic/rows.cuh"
#include "kernels/ptx/mma.cuh"

namespace fgmm
{
namespace
{

/* [row][dimension] and [dimension][column]: with these pitches the 16 lanes of an access have 16 banks. */
struct Stage {
    alignas(16) double x[WhitenTile::kRows][WhitenTile::kRowPitch];
    double u[WhitenTile::kDepth][WhitenTile::kColumnPitch];
};

/* What a thread brings to the stage: eight dimensions of a row, and a column of some of the factor's rows. */
template <typename T> struct Coming {
    Octet<T> x;
    double u[WhitenTile::kFactorsAThread];

    __device__ __forceinline__ void fetch(const fgmm_row_view &rows, bool whole, const double *factor, int r0,
                                          int j0, int i0)
    {
        const int row = min(r0 + static_cast<int>(threadIdx.x) / 2, rows.rows - 1), dim = rows.dim;
        x = load_octet(row_of<T>(rows, row), i0 + threadIdx.x % 2 * 8, dim, whole);
        const int j = j0 + threadIdx.x % WhitenTile::kColumns;
#pragma unroll
        for (int step = 0; step < WhitenTile::kFactorsAThread; step++) {
            const int i = i0 + threadIdx.x / WhitenTile::kColumns + step * WhitenTile::kFactorRows;
            u[step] = i < dim && j < dim ? factor[static_cast<int64_t>(i) * dim + j] : 0.0;
        }
    }
    /* Past the end x is finite and u zero. */
    __device__ __forceinline__ void put(Stage &stage, const double *origin, int dim, int i0) const
    {
        const int row = threadIdx.x / 2, d = threadIdx.x % 2 * 8;
#pragma unroll
        for (int e = 0; e < 8; e += 2) {
            double2 pair;
            pair.x = to_double(x.value[e]) - (i0 + d + e < dim ? origin[i0 + d + e] : 0.0);
            pair.y = to_double(x.value[e + 1]) - (i0 + d + e + 1 < dim ? origin[i0 + d + e + 1] : 0.0);
            *reinterpret_cast<double2 *>(&stage.x[row][d + e]) = pair;
        }
#pragma unroll
        for (int step = 0; step < WhitenTile::kFactorsAThread; step++)
            stage.u[threadIdx.x / WhitenTile::kColumns + step * WhitenTile::kFactorRows]
                   [threadIdx.x % WhitenTile::kColumns] = u[step];
    }
};

/* A warp's part of the tile: 2 x 4 products of 16 rows by 8 columns. */
struct WarpSums {
    double value[2][4][4] = {};
    int row, column; /* of the tile */

    __device__ __forceinline__ WarpSums()
        : row(threadIdx.x / kWarp % 4 * 32), column(threadIdx.x / kWarp / 4 * 32)
    {
    }
    __device__ __forceinline__ void add(const Stage &stage)
    {
        const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
#pragma unroll 1
        for (int depth = 0; depth < WhitenTile::kDepth; depth += 8) {
            double b[4][2];
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    b[j][i] = stage.u[depth + 4 * i + t][column + 8 * j + g];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const double *low = &stage.x[row + 16 * i + g][depth + t],
                             *high = &stage.x[row + 16 * i + g + 8][depth + t];
#pragma unroll
                for (int j = 0; j < 4; j++)
                    ptx::mma_f64(value[i][j], low[0], high[0], low[4], high[4], b[j][0], b[j][1]);
            }
        }
    }
    /* Two columns of two rows a product. */
    __device__ __forceinline__ void store(int r0, int j0, int rows, int dim, double *exact,
                                          float *rounded) const
    {
        const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const int r = r0 + row + 16 * i + g + 8 * h, c = j0 + column + 8 * j + 2 * t;
                    if (r < rows)
                        store_pair(static_cast<int64_t>(r) * dim + c, dim - c, value[i][j][2 * h],
                                   value[i][j][2 * h + 1], exact, rounded);
                }
    }

  private:
    /* left: columns from the first of the two to the end. */
    static __device__ __forceinline__ void store_pair(int64_t at, int left, double first, double second,
                                                      double *exact, float *rounded)
    {
        if (left >= 2 && at % 2 == 0) {
            *reinterpret_cast<double2 *>(exact + at) = make_double2(first, second);
            if (rounded != nullptr)
                *reinterpret_cast<float2 *>(rounded + at) =
                    make_float2(static_cast<float>(first), static_cast<float>(second));
            return;
        }
        for (int i = 0; i < min(left, 2); i++) {
            exact[at + i] = i == 0 ? first : second;
            if (rounded != nullptr)
                rounded[at + i] = static_cast<float>(i == 0 ? first : second);
        }
    }
};

/* Grid: (column tiles, row tiles), so that the tiles of the same rows run at the same time. */
template <typename T>
__global__ void __launch_bounds__(WhitenTile::kThreads, WhitenTile::kBlocks)
    whiten(fgmm_row_view rows, bool whole, const double *factor /* [dim][dim] */, double *exact,
           float *rounded /* [rows][dim] */)
{
    __shared__ Stage stage;
    const int r0 = blockIdx.y * WhitenTile::kRows, j0 = blockIdx.x * WhitenTile::kColumns, dim = rows.dim;
    const int depths = min(j0 + WhitenTile::kColumns, dim);
    WarpSums sums;
    Coming<T> coming;
    coming.fetch(rows, whole, factor, r0, j0, 0);
    for (int i0 = 0; i0 < depths; i0 += WhitenTile::kDepth) {
        __syncthreads();
        coming.put(stage, rows.origin, dim, i0);
        __syncthreads();
        if (i0 + WhitenTile::kDepth < depths)
            coming.fetch(rows, whole, factor, r0, j0, i0 + WhitenTile::kDepth);
        sums.add(stage);
    }
    sums.store(r0, j0, rows.rows, dim, exact, rounded);
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_whiten(const fgmm_row_view *rows, const double *factor, double *exact, float *rounded,
                        fgmm_stream stream)
{
    const dim3 grid((rows->dim + WhitenTile::kColumns - 1) / WhitenTile::kColumns,
                    (rows->rows + WhitenTile::kRows - 1) / WhitenTile::kRows);
    return dispatch_rows(rows->type, [&](auto zero) -> int {
        using T = decltype(zero);
        whiten<T><<<grid, WhitenTile::kThreads, 0, stream>>>(
            *rows, octets_are_whole<T>(rows->data, rows->dim), factor, exact, rounded);
        return cudaGetLastError();
    });
}
