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

/* Adds the squares of four dimensions of F(x - mean) to a lane's sum; x is relative to the origin. */
__device__ __forceinline__ double add_squares(double sum, const Quad<double> &x, const Quad<double> &mean,
                                              bool scaled, const Quad<double> &factor)
{
#pragma unroll
    for (int e = 0; e < 4; e++) {
        double t = x.value[e] - mean.value[e];
        if (scaled)
            t *= factor.value[e];
        sum = fma(t, t, sum);
    }
    return sum;
}

template <typename T>
__device__ __forceinline__ Quad<double> centred(const Quad<T> &stored, const Quad<double> &origin)
{
    Quad<double> x;
#pragma unroll
    for (int e = 0; e < 4; e++)
        x.value[e] = to_double(stored.value[e]) - origin.value[e];
    return x;
}

/* ||F(x - mean)||^2 of component c, diag's factor included; on all lanes. */
template <typename T>
__device__ __forceinline__ double exact_distance(const fgmm_row_view &rows, const fgmm_model_view &model,
                                                 int row, int c)
{
    const int dim = model.dim;
    const bool scaled = model.form == FGMM_FORM_DIAG, aligned = dim % 4 == 0;
    const bool whole = quads_are_whole<T>(rows);
    const int64_t at = static_cast<int64_t>(c) * dim;
    double sum = 0;
    for (int d = threadIdx.x % kWarp * 4; d < dim; d += kWarp * 4) {
        const Quad<T> stored = load_quad(row_of<T>(rows, row), d, dim, whole);
        const Quad<double> origin = load_quad(rows.origin, d, dim, aligned);
        const Quad<double> mean = load_quad(model.mean + at, d, dim, aligned);
        Quad<double> factor = {};
        if (scaled)
            factor = load_quad(model.factor + at, d, dim, aligned);
        sum = add_squares(sum, centred(stored, origin), mean, scaled, factor);
    }
    return warp_sum(sum);
}

/* The log2-density of component c at a squared distance; hard: minus the distance. */
__device__ __forceinline__ double value_at(const fgmm_model_view &model, int c, double distance)
{
    return fma(model.form == FGMM_FORM_DIAG ? -1.0 : -model.factor[c], distance, model.offset[c]);
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
            if (lane == e - first) {
                held.component[slot] = c;
                held.value[slot] = value_at(model, c, distance);
                held.distance[slot] = distance;
            }
        }
    }
}

/* Values that were computed before, of a list whose order may differ from run to run. */
__device__ __forceinline__ void take_values(Candidates &held, const fgmm_candidate *entries /* [count] */,
                                            const double *values /* [count] */, int count)
{
#pragma unroll
    for (int slot = 0; slot < RowWarps::kSlots; slot++) {
        const int e = slot * kWarp + threadIdx.x % kWarp;
        held.component[slot] = e < count ? entries[e].component : -1;
        held.value[slot] = e < count ? values[e] : -INFINITY;
        held.distance[slot] = 0;
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

/* The same for lists in any order: terms, at most 1, are added as integers in units of 2^-56. */
__device__ __forceinline__ double mass_in_any_order(const Candidates &held, double best, double keep_bits)
{
    int64_t sum = 0;
#pragma unroll
    for (int slot = 0; slot < RowWarps::kSlots; slot++)
        if (held.value[slot] >= best - keep_bits && held.component[slot] >= 0)
            sum += __double2ll_rn(exp2(held.value[slot] - best) * 0x1p56);
    return static_cast<double>(warp_sum(sum)) * 0x1p-56;
}

} // namespace fgmm

#endif
