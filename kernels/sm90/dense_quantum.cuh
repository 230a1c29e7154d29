/* A quantum's sums over dense rows, in a warpgroup's registers, and how they reach the statistics. */
#ifndef FGMM_SM90_DENSE_QUANTUM_CUH
#define FGMM_SM90_DENSE_QUANTUM_CUH

#include "kernels/generic/fixed.cuh"
#include "kernels/generic/warp.cuh"
#include "kernels/sm90/dense_shape.cuh"

namespace fgmm
{

/* A thread's part of a quantum's sums: of components lane / 4 and lane / 4 + 8 of its warp's 16. */
template <class Shape> struct QuantumSums {
    float y[Shape::kSums]; /* [8 dimensions][component][2]: of responsibility times row */
    float n[2], square[2]; /* of this thread's rows: responsibilities, times |y|^2 */

    __device__ __forceinline__ QuantumSums() { clear(); }
    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < Shape::kSums; i++)
            y[i] = 0;
        n[0] = n[1] = square[0] = square[1] = 0;
    }
};

/* Rounds a quantum's sums to the grid. They go through shared memory, four components at a time, so
 * that a lane has dimensions lane, lane + 32 and so on, and 32 atomics are 8 sectors. first: of the warp's 16
 * components. */
template <class Shape>
__device__ __forceinline__ void flush(const QuantumSums<Shape> &sums, float (&scratch)[4][Shape::kPitch],
                                      const fgmm_row_view &rows, const fgmm_model_view &model,
                                      const fgmm_sm90_dense &dense, const fgmm_stats_view &stats, int first)
{
    constexpr int kDims = Shape::kHalves * 64 / kWarp; /* of a lane */
    int lane = threadIdx.x % kWarp;
    asm volatile("" : "+r"(lane)); /* or addresses are computed once for all, and kept */
    const double per_row = 1 / (static_cast<double>(kWhole) * dense.scale),
                 per_square = per_row / dense.scale;
    double further[kDims], unit[kDims];
#pragma unroll
    for (int e = 0; e < kDims; e++) {
        const int d = min(lane + e * kWarp, rows.dim - 1);
        further[e] = rows.origin[d] - dense.pivot[d];
        unit[e] = stats.inverse_bound[d] * stats.one;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float n = sums.n[h], square = sums.square[h];
#pragma unroll
        for (int step = 1; step <= 2; step *= 2) {
            n += __shfl_xor_sync(kWholeWarp, n, step);
            square += __shfl_xor_sync(kWholeWarp, square, step);
        }
#pragma unroll 1
        for (int part = 0; part < 2; part++) {
            double mean[4][kDims]; /* on its way together: it comes from L2 */
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int e = 0; e < kDims; e++) {
                    const int k = min(first + 8 * h + 4 * part + i, model.k - 1),
                              d = min(lane + e * kWarp, rows.dim - 1);
                    mean[i][e] = __ldg(&model.mean[static_cast<int64_t>(k) * rows.dim + d]) + further[e];
                }
            __syncwarp();
            if (lane / 16 == part)
#pragma unroll
                for (int j = 0; j < Shape::kSums / 4; j++)
                    *reinterpret_cast<float2 *>(&scratch[lane / 4 % 4][8 * j + lane % 4 * 2]) =
                        make_float2(sums.y[4 * j + 2 * h], sums.y[4 * j + 2 * h + 1]);
            __syncwarp();
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int k = first + 8 * h + 4 * part + i;
                const double weight = __shfl_sync(kWholeWarp, n, 16 * part + 4 * i) * (1.0 / kWhole),
                             squares = __shfl_sync(kWholeWarp, square, 16 * part + 4 * i);
                if (k >= model.k)
                    continue;
                double second = 0; /* of sum r |x - m|^2: what is not sum r |x'|^2 */
#pragma unroll
                for (int e = 0; e < kDims; e++) {
                    const int d = lane + e * kWarp;
                    if (d >= rows.dim)
                        continue;
                    const int64_t at = static_cast<int64_t>(k) * rows.dim + d;
                    const double sum = scratch[i][d] * per_row;
                    second += mean[i][e] * (weight * mean[i][e] - 2 * sum);
                    add_fixed(&stats.s[at], (sum - weight * further[e]) * unit[e]);
                }
                second = warp_sum(second) + squares * per_square;
                if (lane != 0)
                    continue;
                add_fixed(&stats.n[k], weight * stats.one);
                if (stats.moment == FGMM_KERNEL_MOMENT_SPHERICAL)
                    add_fixed2(&stats.q_high[k], &stats.q_low[k],
                               second * (stats.inverse_spherical_bound * stats.one), stats.one);
            }
        }
    }
}

} // namespace fgmm

#endif
