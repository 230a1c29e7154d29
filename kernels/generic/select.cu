/* The end of a sparse assignment: a warp a row rescores the row's candidates in float64 and writes the `top`
 * most likely, ties to the smaller number. The screen made rows with fewer than `top` candidates dense. */
#include <cuda_runtime.h>
#include "kernels/generic/candidates.cuh"

namespace fgmm
{
namespace
{

template <typename M>
__global__ void __launch_bounds__(RowWarps::kThreads)
    select(fgmm_row_view metric, fgmm_model_view model, fgmm_candidate_lists lists, const double *values,
           fgmm_assignment_view out)
{
    const int lane = threadIdx.x % kWarp, row = blockIdx.x * RowWarps::kWarps + threadIdx.x / kWarp;
    if (row >= metric.rows)
        return;
    const int count = lists.counts[row];
    if (count > FGMM_CANDIDATES)
        return; /* dense */
    Candidates held;
    const int64_t list = static_cast<int64_t>(row) * FGMM_CANDIDATES;
    double sum = 1;
    if (values != nullptr)
        take_values(held, lists.entries + list, values + list, count);
    else
        rescore<M>(held, metric, model, row, lists.entries + list, count);
    const double best = best_value(held);
    if (values != nullptr)
        sum = mass_in_any_order(held, best, model.keep_bits);
    else if (!model.hard)
        sum = mass(held, best, model.keep_bits);
    if (lane == 0)
        out.log_density[row] = model.hard ? best : best + log2(sum);
    for (int place = 0; place < out.top; place++) {
        const double value = best_value(held);
        const int component = component_of(held, value);
        const bool none = component == INT32_MAX; /* place >= k */
        if (lane == 0) {
            const int64_t at = static_cast<int64_t>(row) * out.top + place;
            const double r = model.hard ? (place == 0 ? 1.0 : 0.0) : exp2(value - best) / sum;
            out.labels[at] = none ? -1 : component;
            out.responsibilities[at] = none ? 0.0f : static_cast<float>(r);
        }
#pragma unroll
        for (int slot = 0; slot < RowWarps::kSlots; slot++)
            if (held.component[slot] == component) {
                held.component[slot] = -1;
                held.value[slot] = -INFINITY;
            }
    }
}

template <typename M>
int launch(const fgmm_row_view *metric, const fgmm_model_view *model, const fgmm_candidate_lists *lists,
           const double *values, const fgmm_assignment_view *out, fgmm_stream stream)
{
    const int blocks = (metric->rows + RowWarps::kWarps - 1) / RowWarps::kWarps;
    select<M><<<blocks, RowWarps::kThreads, 0, stream>>>(*metric, *model, *lists, values, *out);
    return cudaGetLastError();
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_select(const fgmm_row_view *metric, const fgmm_model_view *model,
                        const fgmm_candidate_lists *lists, const double *values,
                        const fgmm_assignment_view *out, fgmm_stream stream)
{
    return dispatch_rows(metric->type, [&](auto zero) -> int {
        return launch<decltype(zero)>(metric, model, lists, values, out, stream);
    });
}
