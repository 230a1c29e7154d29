/* Rows with several candidates, as many at one time as have at most 32 of them together: lane i looks after
 * candidate i. So what is done once a candidate or once a row (exponentials, logarithms, atomics) is done for
 * many at a time. */
#ifndef FGMM_GENERIC_SEVERAL_CUH
#define FGMM_GENERIC_SEVERAL_CUH

#include "kernels/generic/direct.cuh"

namespace fgmm
{

/* Candidates of whole rows; a row's are next to each other. */
struct Group {
    int items;          /* in lanes 0.. */
    int row, component; /* of the lane's candidate; lanes past the items have the last one's */
    int first, last;    /* lanes that have the row's candidates */
    double value;       /* log2-density; hard: minus the squared distance */
    double distance;    /* squared, without the factor (spherical alone) */
    double r;           /* responsibility; 0: dropped */
    int kept;           /* of the row */
    bool real;          /* the lane has a candidate */
};

/* The next group of the warp's rows. row, count: of the lane's row, count 0: it has none; end: sum of the
 * counts up to this lane; from: sum of the counts of the rows that have been taken. Each has at most 32. */
__device__ __forceinline__ Group next_group(const fgmm_candidate_lists &lists, int row, int count, int end,
                                            int from)
{
    Group group = {};
    const int lane = threadIdx.x % kWarp;
    const unsigned fit = __ballot_sync(kWholeWarp, end > from && end - from <= kWarp);
    group.items = __shfl_sync(kWholeWarp, end, kWarp - 1 - __clz(fit)) - from;
    group.real = lane < group.items;
    const int item = from + min(lane, group.items - 1);
    int owner = 0; /* how many rows end before the item or at it */
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2)
        owner += __shfl_sync(kWholeWarp, end, owner + step - 1) <= item ? step : 0;
    const int its_count = __shfl_sync(kWholeWarp, count, owner);
    group.first = __shfl_sync(kWholeWarp, end, owner) - its_count - from;
    group.last = group.first + its_count - 1;
    group.row = __shfl_sync(kWholeWarp, row, owner);
    group.component =
        lists.entries[static_cast<int64_t>(group.row) * FGMM_CANDIDATES + (item - from - group.first)]
            .component;
    return group;
}

/* Folds the row's values, one a lane, in an order that depends on their places in the row alone; on all of
 * its lanes. */
template <typename V, typename Fold>
__device__ __forceinline__ V fold_row(const Group &group, V value, Fold fold)
{
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
        const V below = __shfl_up_sync(kWholeWarp, value, step);
        if (lane - step >= group.first)
            value = fold(value, below);
    }
    return __shfl_sync(kWholeWarp, value, group.last);
}

/* The lane's part of ||F(x - mean)||^2. */
template <typename M>
__device__ __forceinline__ double distance_part(const fgmm_row_view &rows, const fgmm_model_view &model,
                                                int row, int c)
{
    const int dim = model.dim;
    const bool scaled = model.form == FGMM_FORM_DIAG, aligned = dim % 4 == 0;
    const bool whole = quads_are_whole<M>(rows);
    const int64_t at = static_cast<int64_t>(c) * dim;
    double sum = 0;
    for (int d = threadIdx.x % kWarp * 4; d < dim; d += kWarp * 4) {
        const Stored<M> stored = load_stored(row_of<M>(rows, row), d, dim, whole);
        const Quad<double> origin = load_quad(rows.origin, d, dim, aligned);
        const Quad<double> mean = load_quad(model.mean + at, d, dim, aligned);
        Quad<double> factor = {};
        if (scaled)
            factor = load_quad(model.factor + at, d, dim, aligned);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            double t =
                minus_shifted<M>(Bits<M>::raw(stored, e), mean.value[e] + origin.value[e] + Bits<M>::kShift);
            if (scaled)
                t *= factor.value[e];
            sum = fma(t, t, sum);
        }
    }
    return sum;
}

/* Of the sums over all lanes of parts[0..3], that of parts[2 * (lane / 16) + lane / 8 % 2]. */
__device__ __forceinline__ double sum_of_four(const double (&parts)[4])
{
    const int lane = threadIdx.x % kWarp;
    const bool upper = lane & 16, odd = lane & 8;
    const double low =
        (upper ? parts[2] : parts[0]) + __shfl_xor_sync(kWholeWarp, upper ? parts[0] : parts[2], 16);
    const double high =
        (upper ? parts[3] : parts[1]) + __shfl_xor_sync(kWholeWarp, upper ? parts[1] : parts[3], 16);
    double sum = (odd ? high : low) + __shfl_xor_sync(kWholeWarp, odd ? low : high, 8);
#pragma unroll
    for (int step = 4; step > 0; step /= 2)
        sum += __shfl_xor_sync(kWholeWarp, sum, step);
    return sum;
}

/* Distances and values of all candidates. Four are on their way at a time. */
template <typename M>
__device__ __forceinline__ void score(Group &group, const fgmm_row_view &rows, const fgmm_model_view &model)
{
    const int lane = threadIdx.x % kWarp;
    for (int item = 0; item < group.items; item += 4) {
        double parts[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int owner = min(item + i, group.items - 1);
            parts[i] = distance_part<M>(rows, model, __shfl_sync(kWholeWarp, group.row, owner),
                                        __shfl_sync(kWholeWarp, group.component, owner));
        }
        const int mine = (lane - item) & 3;
        const double sum = __shfl_sync(kWholeWarp, sum_of_four(parts), (mine >> 1) * 16 + (mine & 1) * 8);
        if (lane >= item && lane < item + 4)
            group.distance = sum;
    }
    group.value = value_at(model, group.component, group.distance);
}

/* Responsibilities from values; returns the row's log2-density. */
__device__ __forceinline__ double weigh(Group &group, const fgmm_model_view &model)
{
    const unsigned row_lanes = (kWholeWarp >> (kWarp - 1 - group.last)) & (kWholeWarp << group.first);
    const double best = fold_row(group, group.value, [](double a, double b) { return fmax(a, b); });
    bool kept = group.value >= best - model.keep_bits;
    if (model.hard) {
        const int first = fold_row(group, group.value == best ? group.component : INT32_MAX,
                                   [](int a, int b) { return min(a, b); });
        kept = group.component == first;
    }
    group.kept = __popc(__ballot_sync(kWholeWarp, kept && group.real) & row_lanes);
    group.r = kept && group.real ? 1.0 : 0.0;
    if (!__any_sync(kWholeWarp, group.kept > 1))
        return best;
    const double mass = kept ? exp2(group.value - best) : 0.0;
    const double sum = fold_row(group, mass, [](double a, double b) { return a + b; });
    group.r = group.real ? mass / sum : 0.0;
    return best + log2(sum);
}

/* Adds the candidates of rows with more than one responsibility straight to the statistics. */
template <typename T>
__device__ __noinline__ void add_group(const fgmm_row_view &original, const fgmm_model_view &model,
                                       const fgmm_stats_view &stats, const Group &group)
{
    const bool adds = group.r > 0 && group.kept > 1;
    if (adds)
        add_pair_values(stats, group.component, group.r, group.distance);
    for (unsigned left = __ballot_sync(kWholeWarp, adds); left != 0; left &= left - 1) {
        const int lane = __ffs(left) - 1;
        add_pair<T>(original, model, stats, __shfl_sync(kWholeWarp, group.row, lane),
                    __shfl_sync(kWholeWarp, group.component, lane), __shfl_sync(kWholeWarp, group.r, lane));
    }
}

} // namespace fgmm

#endif
