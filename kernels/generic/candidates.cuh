/* A row's candidates, rescored in float64 by one warp. Lane e looks after candidates e and e + 32. */
#ifndef FGMM_GENERIC_CANDIDATES_CUH
#define FGMM_GENERIC_CANDIDATES_CUH

#include "kernels/generic/rows.cuh"
#include "kernels/generic/warp.cuh"

namespace fgmm
{

struct Candidates {
    int component[RowWarps::kSlots];   /* -1: none */
    double value[RowWarps::kSlots];    /* log2-density; hard: minus the squared distance; none: -infinity */
    double distance[RowWarps::kSlots]; /* squared, without the factor (spherical alone) */
};

/* ||F(x - mean)||^2 of component c, diag's factor included; on all lanes. */
template <typename T>
__device__ __forceinline__ double exact_distance(const fgmm_row_view &rows, const fgmm_model_view &model,
                                                 int row, int c)
{
    double sum = 0;
    for (int d = threadIdx.x % kWarp; d < model.dim; d += kWarp) {
        int64_t at = static_cast<int64_t>(c) * model.dim + d;
        double t = centred<T>(rows, row, d) - model.mean[at];
        if (model.form == FGMM_FORM_DIAG)
            t *= model.factor[at];
        sum = fma(t, t, sum);
    }
    return warp_sum(sum);
}

template <typename T>
__device__ __forceinline__ void rescore(Candidates &held, const fgmm_row_view &rows,
                                        const fgmm_model_view &model, int row,
                                        const fgmm_candidate *entries /* [count] */, int count)
{
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int slot = 0; slot < RowWarps::kSlots; slot++) {
        held.component[slot] = -1;
        held.value[slot] = -INFINITY;
        held.distance[slot] = 0;
        const int first = slot * kWarp, last = min(count, first + kWarp);
        for (int e = first; e < last; e++) {
            const int c = entries[e].component;
            const double distance = exact_distance<T>(rows, model, row, c);
            const double factor = model.form == FGMM_FORM_DIAG ? 1.0 : model.factor[c];
            if (lane == e - first) {
                held.component[slot] = c;
                held.value[slot] = model.offset[c] - factor * distance;
                held.distance[slot] = distance;
            }
        }
    }
}

/* The largest value, on all lanes. */
__device__ __forceinline__ double best_value(const Candidates &held)
{
    double best = held.value[0];
#pragma unroll
    for (int slot = 1; slot < RowWarps::kSlots; slot++)
        best = fmax(best, held.value[slot]);
    return warp_max(best);
}

/* The smallest component among those of value `best`, on all lanes. */
__device__ __forceinline__ int component_of(const Candidates &held, double best)
{
    int component = INT32_MAX;
#pragma unroll
    for (int slot = 0; slot < RowWarps::kSlots; slot++)
        if (held.component[slot] >= 0 && held.value[slot] == best)
            component = min(component, held.component[slot]);
    return warp_min(component);
}

/* Sum of 2^(value - best) over the candidates that are kept, on all lanes; the order is that of the list. */
__device__ __forceinline__ double mass(const Candidates &held, double best, double keep_bits)
{
    double sum = 0;
#pragma unroll
    for (int slot = 0; slot < RowWarps::kSlots; slot++)
        if (held.value[slot] >= best - keep_bits && held.component[slot] >= 0)
            sum += exp2(held.value[slot] - best);
    return warp_sum(sum);
}

} // namespace fgmm

#endif
