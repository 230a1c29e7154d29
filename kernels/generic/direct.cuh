/* A row's contributions straight to the statistics, by one warp: for the rows whose pairs find no room
 * (pairs.cu). Each contribution is rounded by itself, so the sums are those of the sorted path. */
#ifndef FGMM_GENERIC_DIRECT_CUH
#define FGMM_GENERIC_DIRECT_CUH

#include "kernels/generic/candidates.cuh"
#include "kernels/generic/fixed.cuh"

namespace fgmm
{

/* Adds one (row, component) pair: lanes share the dimensions. */
template <typename T>
__device__ __forceinline__ void add_pair(const fgmm_row_view &rows, const fgmm_model_view &model,
                                         const fgmm_stats_view &stats, int row, int c, double r)
{
    for (int d = threadIdx.x % kWarp; d < model.dim; d += kWarp) {
        const int64_t at = static_cast<int64_t>(c) * model.dim + d;
        const double x = centred<T>(rows, row, d), inverse = stats.inverse_bound[d];
        add_fixed(&stats.s[at], r * x * (inverse * stats.one));
        if (stats.moment == FGMM_KERNEL_MOMENT_DIAG) {
            const double t = (x - model.centre[at]) * inverse;
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
        if (r[slot] > 0) {
            const int c = held.component[slot];
            add_fixed(&stats.n[c], r[slot] * stats.one);
            if (stats.moment == FGMM_KERNEL_MOMENT_SPHERICAL)
                add_fixed2(&stats.q_high[c], &stats.q_low[c],
                           r[slot] * held.distance[slot] * (stats.inverse_spherical_bound * stats.one),
                           stats.one);
        }
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
