/* The end of a sparse E-step: a warp a row rescores the row's candidates in float64, normalises them, and
 * adds each contribution to the statistics, rounded to the fixed-point grid by itself: no order matters. */
#include <cuda_runtime.h>
#include "kernels/generic/candidates.cuh"
#include "kernels/generic/fixed.cuh"

namespace fgmm
{
namespace
{

/* Responsibilities of a lane's candidates (0: dropped), from values; returns the row's log2-density. */
__device__ double responsibilities(const Candidates &held, const fgmm_model_view &model,
                                   double (&r)[RowWarps::kSlots])
{
    const double best = best_value(held);
    if (model.hard) {
        const int component = component_of(held, best);
#pragma unroll
        for (int slot = 0; slot < RowWarps::kSlots; slot++)
            r[slot] = held.component[slot] == component ? 1.0 : 0.0;
        return best;
    }
    const double sum = mass(held, best, model.keep_bits);
#pragma unroll
    for (int slot = 0; slot < RowWarps::kSlots; slot++)
        r[slot] = held.component[slot] >= 0 && held.value[slot] >= best - model.keep_bits
                      ? exp2(held.value[slot] - best) / sum
                      : 0.0;
    return best + log2(sum);
}

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

/* A block's sums of what has one word for all rows. */
struct Totals {
    unsigned long long log_high, log_low, pairs;
};

/* M: element type of the rows that distances are taken of; T: of the original rows. */
template <typename M, typename T>
__global__ void __launch_bounds__(RowWarps::kThreads)
    finish(fgmm_row_view metric, fgmm_row_view original, fgmm_model_view model, fgmm_candidate_lists lists,
           fgmm_stats_view stats)
{
    __shared__ Totals totals;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    if (threadIdx.x == 0)
        totals = {0, 0, 0};
    __syncthreads();
    Limbs log = {0, 0};
    int pairs = 0;
    for (int i = 0; i < RowWarps::kRowsAWarp; i++) {
        const int row = blockIdx.x * RowWarps::kRows + i * RowWarps::kWarps + warp;
        if (row >= metric.rows)
            break;
        const int count = lists.counts[row];
        if (count > FGMM_CANDIDATES)
            continue; /* dense */
        Candidates held;
        double r[RowWarps::kSlots];
        rescore<M>(held, metric, model, row, lists.entries + static_cast<int64_t>(row) * FGMM_CANDIDATES,
                   count);
        const double density = responsibilities(held, model, r);
        const Limbs limbs = split(density * (stats.inverse_log_bound * stats.one), stats.one);
        log.high += limbs.high;
        log.low += limbs.low;
#pragma unroll
        for (int slot = 0; slot < RowWarps::kSlots; slot++)
            pairs += __popc(__ballot_sync(kWholeWarp, r[slot] > 0));
        if (stats.sums)
            add_row<T>(original, model, stats, row, held, r);
    }
    if (lane == 0) {
        atomicAdd(&totals.log_high, static_cast<unsigned long long>(log.high));
        atomicAdd(&totals.log_low, static_cast<unsigned long long>(log.low));
        atomicAdd(&totals.pairs, static_cast<unsigned long long>(pairs));
    }
    __syncthreads();
    if (threadIdx.x == 0 && totals.pairs != 0) {
        add_words(stats.log_high, static_cast<int64_t>(totals.log_high));
        add_words(stats.log_low, static_cast<int64_t>(totals.log_low));
        add_words(stats.pairs, static_cast<int64_t>(totals.pairs));
    }
}

template <typename M, typename T>
int launch(const fgmm_row_view *metric, const fgmm_row_view *original, const fgmm_model_view *model,
           const fgmm_candidate_lists *lists, const fgmm_stats_view *stats, fgmm_stream stream)
{
    const int blocks = (metric->rows + RowWarps::kRows - 1) / RowWarps::kRows;
    finish<M, T><<<blocks, RowWarps::kThreads, 0, stream>>>(*metric, *original, *model, *lists, *stats);
    return cudaGetLastError();
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_finish(const fgmm_row_view *metric, const fgmm_row_view *original,
                        const fgmm_model_view *model, const fgmm_candidate_lists *lists,
                        const fgmm_stats_view *stats, fgmm_stream stream)
{
    return dispatch_rows(original->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if (metric->type == FGMM_ROWS_F64)
            return launch<double, T>(metric, original, model, lists, stats, stream);
        return launch<T, T>(metric, original, model, lists, stats, stream);
    });
}
