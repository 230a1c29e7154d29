/* A row's contributions straight to the statistics, by one warp: for the rows whose pairs find no room
 * (pairs.cu). Each contribution is rounded by itself, so the sums are those of the sorted path. */
#ifndef FGMM_GENERIC_DIRECT_CUH
#define FGMM_GENERIC_DIRECT_CUH

#include "kernels/generic/candidates.cuh"
#include "kernels/generic/fixed.cuh"
#include "kernels/generic/raw.cuh"

namespace fgmm
{

/* Adds what has one value a pair: mass and spherical moment. */
__device__ __forceinline__ void add_pair_values(const fgmm_stats_view &stats, int c, double r,
                                                double distance)
{
    add_fixed(&stats.n[c], r * stats.one);
    if (stats.moment == FGMM_KERNEL_MOMENT_SPHERICAL)
        add_fixed2(&stats.q_high[c], &stats.q_low[c],
                   r * distance * (stats.inverse_spherical_bound * stats.one), stats.one);
}

/* Adds one (row, component) pair: lanes share the dimensions. */
template <typename T>
__device__ __forceinline__ void add_pair(const fgmm_row_view &rows, const fgmm_model_view &model,
                                         const fgmm_stats_view &stats, int row, int c, double r)
{
    for (int d = threadIdx.x % kWarp; d < model.dim; d += kWarp) {
        const int64_t at = static_cast<int64_t>(c) * model.dim + d;
        const double x = to_double(row_of<T>(rows, row)[d]), inverse = stats.inverse_bound[d];
        const double scale = inverse * stats.one;
        add_fixed(&stats.s[at], r * (x - sum_origin(rows.origin[d], scale, Bits<T>::kUnit > 0)) * scale);
        if (stats.moment == FGMM_KERNEL_MOMENT_DIAG) {
            /* the centre rounded as in sums.cu, where it comes with the shift of raw elements */
            const double t =
                (x - (model.centre[at] + rows.origin[d] + Bits<T>::kShift - Bits<T>::kShift)) * inverse;
            add_fixed2(&stats.q_high[at], &stats.q_low[at], r * t * t * stats.one, stats.one);
        }
    }
}

template <typename T>
__device__ __forceinline__ void add_row(const fgmm_row_view &rows, const fgmm_model_view &model,
                                        const fgmm_stats_view &stats, int row, const Candidates &held,
                                        const double (&r)[RowWarps::kSlots])
{
#pragma unroll
    for (int slot = 0; slot < RowWarps::kSlots; slot++) {
        if (r[slot] > 0)
            add_pair_values(stats, held.component[slot], r[slot], held.distance[slot]);
        for (unsigned left = __ballot_sync(kWholeWarp, r[slot] > 0); left != 0; left &= left - 1) {
            const int lane = __ffs(left) - 1;
            const int c = __shfl_sync(kWholeWarp, held.component[slot], lane);
            const double weight = __shfl_sync(kWholeWarp, r[slot], lane);
            add_pair<T>(rows, model, stats, row, c, weight);
        }
    }
}

} // namespace fgmm

#endif
