/* The M-step of spherical, diagonal and hard components, and what the next E-step needs beside parameters.
 *
 * One kernel makes the parameters of each component from the sums of the E-step, as model/mstep.c does, then
 * its offset, centre and factor; the last block makes the next grid, as model/stats.c does, and gathers what
 * the host has to know. Parameters alone (no sums) go the same way, so that a fit that is resumed continues
 * with the same bits.
 *
 * A warp a component, a lane every 32nd dimension, four of them on their way at a time: the kernel is short,
 * and what it takes is latency. Sums over components are taken by block, then over blocks in their order, so
 * all ranks find the same. */
#include <cuda_runtime.h>
#include <float.h>
#include <math.h>
#include "kernels/generic/warp.cuh"

namespace fgmm
{
namespace
{

constexpr double kHalfLog2E = 0.72134752044448170368; /* squared Mahalanobis distance to bits */
constexpr double kLog2TwoPi = 2.65149612947231879804;

/* The sums of the E-step as numbers. */
struct Sums {
    fgmm_stats_view stats;
    double unit;            /* 2^-bits */
    double spherical_bound; /* of the old grid */
    const double *bound;    /* the same, [dim] */

    __device__ __forceinline__ double n(int k) const { return static_cast<double>(stats.n[k]) * unit; }
    __device__ __forceinline__ double s(int64_t at, int d) const
    {
        return static_cast<double>(stats.s[at]) * unit * bound[d];
    }
    __device__ __forceinline__ double q(int64_t at, double its_bound) const
    {
        const double high = static_cast<double>(stats.q_high[at]), low = static_cast<double>(stats.q_low[at]);
        return (high * unit + low * unit * unit) * its_bound;
    }
};

/* The smallest power of two that is >= v; 1 for 0, infinity for what overflowed. */
__device__ __forceinline__ double power_of_two(double v)
{
    if (!(v > 0))
        return 1;
    if (isinf(v))
        return v;
    int exponent;
    const double mantissa = frexp(v, &exponent);
    return ldexp(1.0, mantissa == 0.5 ? exponent - 1 : exponent);
}

__device__ __forceinline__ fgmm_mixture_part empty_part()
{
    return {0, 0, 0, 0, 0, 0, INFINITY, 0};
}

__device__ __forceinline__ void join(fgmm_mixture_part &sum, const fgmm_mixture_part &part)
{
    sum.spread = fmax(sum.spread, part.spread);
    sum.factor = fmax(sum.factor, part.factor);
    sum.offset = fmax(sum.offset, part.offset);
    sum.factor_logs += part.factor_logs;
    sum.live += part.live;
    sum.flagged += part.flagged;
    sum.least_log = fmin(sum.least_log, part.least_log);
    sum.most_log = fmax(sum.most_log, part.most_log);
}

__device__ fgmm_mixture_part join_warp(fgmm_mixture_part part)
{
    part.spread = warp_max(part.spread);
    part.factor = warp_max(part.factor);
    part.offset = warp_max(part.offset);
    part.factor_logs = warp_sum(part.factor_logs);
    part.live = warp_sum(part.live);
    part.flagged = warp_sum(part.flagged);
    part.least_log = -warp_max(-part.least_log);
    part.most_log = warp_max(part.most_log);
    return part;
}

/* Of the warps' parts, on thread 0. */
__device__ fgmm_mixture_part join_block(const fgmm_mixture_part &mine)
{
    __shared__ fgmm_mixture_part parts[RowWarps::kWarps];
    if (threadIdx.x % kWarp == 0)
        parts[threadIdx.x / kWarp] = mine;
    __syncthreads();
    fgmm_mixture_part sum = empty_part();
    if (threadIdx.x == 0)
        for (int w = 0; w < RowWarps::kWarps; w++)
            join(sum, parts[w]);
    return sum;
}

/* Extends a range that is not negative, and so compares as integers. Means seldom leave the range of the
 * rows. */
__device__ __forceinline__ void extend(double *most, double value)
{
    if (value > *most)
        atomicMax(reinterpret_cast<unsigned long long *>(most),
                  static_cast<unsigned long long>(__double_as_longlong(value)));
}

/* What a warp knows of its component, on all lanes. */
struct Component {
    int k;
    bool starved; /* it then keeps its old parameters */
    double weight, variance /* spherical */;
};

/* New weight, means and covariances. rows: of the E-step. */
__device__ void maximise(const fgmm_mstep_view &view, const fgmm_mixture_view &old, const Sums &sums,
                         double rows, const fgmm_mixture_view &next, Component &c)
{
    const int lane = threadIdx.x % kWarp;
    const bool diagonal = view.form == FGMM_FORM_DIAG, spherical = !diagonal && !view.hard;
    const double held = sums.n(c.k), second = spherical ? sums.q(c.k, sums.spherical_bound) : 0.0;
    const double n = held + 10 * DBL_EPSILON;
    double moved = 0;
    c.starved = held < view.starved_rows;
    c.weight = c.starved ? 0.0 : n / rows;
#pragma unroll 4
    for (int d = lane; d < view.dim; d += kWarp) {
        const int64_t at = static_cast<int64_t>(c.k) * view.dim + d;
        const double before = old.centre[at], after = c.starved ? before : sums.s(at, d) / n;
        const double delta = after - before;
        next.means[at] = after + view.origin[d];
        moved += delta * delta;
        if (diagonal) {
            const double variance = sums.q(at, sums.bound[d] * sums.bound[d]) / n - delta * delta;
            next.covariances[at] = c.starved ? old.covariances[at] : fmax(variance, 0.0) + view.reg_covar;
        }
    }
    if (spherical) {
        const double total = second / n - warp_sum(moved);
        c.variance = c.starved ? old.covariances[c.k] : fmax(total, 0.0) / view.dim + view.reg_covar;
    }
    if (lane == 0) {
        next.weights[c.k] = c.weight;
        if (spherical)
            next.covariances[c.k] = c.variance;
    }
}

/* The factors, log2 of the determinant, and a bound of ||F (x - mean)||^2 over all rows of the data's range;
 * false where a variance is not positive. All lanes. */
__device__ bool factorise(const fgmm_mstep_view &view, const fgmm_mixture_view &next, const Component &c,
                          double spherical_bound, double *factor, double *log2_det, double *distance)
{
    const int lane = threadIdx.x % kWarp;
    if (view.form != FGMM_FORM_DIAG) {
        const bool good = view.hard || (c.variance > 0 && isfinite(c.variance));
        *factor = good && !view.hard ? kHalfLog2E / c.variance : 1.0;
        *log2_det = good && !view.hard ? view.dim * log2(c.variance) : 0.0;
        *distance = *factor * spherical_bound;
        if (lane == 0)
            next.factor[c.k] = *factor;
        return good;
    }
    bool good = true;
    double logs = 0, squares = 0;
#pragma unroll 4
    for (int d = lane; d < view.dim; d += kWarp) {
        const int64_t at = static_cast<int64_t>(c.k) * view.dim + d;
        const double v = next.covariances[at];
        const bool fine = v > 0 && isfinite(v);
        const double f = fine ? sqrt(kHalfLog2E / v) : 1.0;
        const double g = f * power_of_two(view.high[d] - view.low[d]);
        next.factor[at] = f;
        logs += fine ? log2(v) : 0.0;
        squares += g * g;
        good = good && fine;
    }
    *factor = 1;
    *log2_det = warp_sum(logs);
    *distance = warp_sum(squares);
    return __all_sync(kWholeWarp, good);
}

/* What the E-step needs of a component. */
__device__ void prepare(const fgmm_mstep_view &view, const fgmm_mixture_view &next, const Component &c,
                        double spherical_bound, fgmm_mixture_part &part)
{
    double factor, log2_det, distance, spread = 0;
    const bool good = factorise(view, next, c, spherical_bound, &factor, &log2_det, &distance);
    const double offset = view.hard ? 0.0 : log2(c.weight) - 0.5 * view.dim * kLog2TwoPi - 0.5 * log2_det;
#pragma unroll 4
    for (int d = threadIdx.x % kWarp; d < view.dim; d += kWarp) {
        const int64_t at = static_cast<int64_t>(c.k) * view.dim + d;
        const double centre = next.means[at] - view.origin[d];
        next.centre[at] = centre;
        spread = fmax(spread, fabs(centre));
        extend(&view.most[d], -centre);
        extend(&view.most[view.dim + d], centre);
    }
    spread = warp_max(spread);
    if (threadIdx.x % kWarp == 0)
        next.offset[c.k] = offset;
    part.flagged += c.starved || !good ? 1 : 0;
    if (isinf(offset))
        return;
    part.spread = fmax(part.spread, spread);
    part.factor = fmax(part.factor, factor);
    part.offset = fmax(part.offset, fabs(offset));
    part.factor_logs += log2(factor);
    part.live += 1;
    part.least_log = fmin(part.least_log, fabs(offset) + distance);
    part.most_log = fmax(part.most_log, fabs(offset) + log2(static_cast<double>(view.k)) + 1);
}

/* The sum of squares of a grid's bounds, on all threads. bound(d): in one dimension. */
template <typename Bound> __device__ double sum_of_squares(int dim, Bound bound)
{
    __shared__ double squares[RowWarps::kWarps];
    double mine = 0, total = 0;
    for (int d = threadIdx.x; d < dim; d += RowWarps::kThreads) {
        const double b = bound(d);
        mine += b * b;
    }
    mine = warp_sum(mine);
    __syncthreads();
    if (threadIdx.x % kWarp == 0)
        squares[threadIdx.x / kWarp] = mine;
    __syncthreads();
    for (int w = 0; w < RowWarps::kWarps; w++)
        total += squares[w];
    return total;
}

/* Other blocks wrote it: the load bypasses this multiprocessor's cache. */
__device__ __forceinline__ fgmm_mixture_part load_part(const fgmm_mixture_part *from)
{
    fgmm_mixture_part part;
    const double *words = reinterpret_cast<const double *>(from);
    double *to = reinterpret_cast<double *>(&part);
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof part / sizeof *to); i++)
        to[i] = __ldcg(words + i);
    return part;
}

/* The last block: the grid of the data's range and the means; returns the bound of squared distances.
 * *growth: how much larger than the data's range alone it is at most, squared, in a dimension. The range is
 * made ready for the next M-step. */
__device__ double make_grid(const fgmm_mstep_view &view, const fgmm_mixture_view &next, double *growth)
{
    __shared__ int most_growth;
    if (threadIdx.x == 0)
        most_growth = 0;
    __syncthreads();
    const double total = sum_of_squares(view.dim, [&](int d) {
        const double bound = power_of_two(__ldcg(&view.most[view.dim + d]) + __ldcg(&view.most[d]));
        const double prior = power_of_two(view.high[d] - view.low[d]);
        next.bound[d] = bound;
        next.inverse_bound[d] = 1 / bound;
        view.most[d] = -view.low[d];
        view.most[view.dim + d] = view.high[d];
        if (bound > prior)
            atomicMax(&most_growth, ilogb(bound) - ilogb(prior));
        return bound;
    });
    *growth = ldexp(1.0, 2 * most_growth);
    return power_of_two(total);
}

/* The last block: what the host has to know. */
__device__ void summarise(const fgmm_mstep_view &view, const fgmm_mixture_view &next, const Sums &sums,
                          int64_t rows, fgmm_mixture_summary *out)
{
    double growth;
    const double spherical_bound = make_grid(view, next, &growth);
    fgmm_mixture_part sum = empty_part();
    for (int b = threadIdx.x; b < static_cast<int>(gridDim.x); b += RowWarps::kThreads)
        join(sum, load_part(&view.parts[b]));
    sum = join_block(join_warp(sum));
    if (threadIdx.x != 0)
        return;
    const bool summed = sums.stats.rows != NULL;
    const double least = isfinite(sum.least_log) ? growth * sum.least_log : 1.0;
    *out = {.log_high = summed ? *sums.stats.log_high : 0,
            .log_low = summed ? *sums.stats.log_low : 0,
            .rows = rows,
            .pairs = summed ? *sums.stats.pairs : 0,
            .flagged = static_cast<int64_t>(sum.flagged),
            .spherical_bound = spherical_bound,
            .log_bound = view.hard ? spherical_bound : power_of_two(fmax(sum.most_log, least)),
            .spread = sum.spread,
            .factor = sum.factor,
            .offset = sum.offset,
            .factor_logs = sum.factor_logs,
            .live = sum.live};
    if (summed)
        *sums.stats.rows = rows;
    *view.finished = 0;
}

/* sums.stats.rows NULL: parameters are given. One kernel for both, so that what it derives has the same bits.
 */
__global__ void __launch_bounds__(RowWarps::kThreads)
    mstep(fgmm_mstep_view view, fgmm_mixture_view old, Sums sums, fgmm_mixture_view next,
          fgmm_mixture_summary *out)
{
    __shared__ bool is_last;
    const bool summed = sums.stats.rows != NULL;
    const int64_t rows = !summed ? 0 : view.rows > 0 ? view.rows : *sums.stats.rows;
    const double prior = power_of_two(
        sum_of_squares(view.dim, [&](int d) { return power_of_two(view.high[d] - view.low[d]); }));
    fgmm_mixture_part part = empty_part();
    const int warp = blockIdx.x * RowWarps::kWarps + threadIdx.x / kWarp;
    for (int k = warp; k < view.k; k += gridDim.x * RowWarps::kWarps) {
        Component c = {k, false, 0, 0};
        if (summed) {
            maximise(view, old, sums, static_cast<double>(rows), next, c);
        } else {
            c.weight = next.weights[k];
            c.variance = view.hard || view.form == FGMM_FORM_DIAG ? 0.0 : next.covariances[k];
        }
        prepare(view, next, c, prior, part);
    }
    part = join_block(part);
    if (threadIdx.x == 0) {
        view.parts[blockIdx.x] = part;
        __threadfence();
        is_last = atomicAdd(view.finished, 1) == static_cast<int>(gridDim.x) - 1;
        __threadfence();
    }
    __syncthreads();
    if (is_last)
        summarise(view, next, sums, rows, out);
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_mstep(const fgmm_mstep_view *view, const fgmm_mixture_view *old,
                       const fgmm_stats_view *stats, const fgmm_mixture_view *next, fgmm_mixture_summary *out,
                       fgmm_stream stream)
{
    const int wanted = (view->k + RowWarps::kWarps - 1) / RowWarps::kWarps;
    const int blocks = wanted < FGMM_MSTEP_BLOCKS ? wanted : FGMM_MSTEP_BLOCKS;
    Sums sums = {};
    if (stats != NULL)
        sums = {*stats, 1 / stats->one, 1 / stats->inverse_spherical_bound, old->bound};
    mstep<<<blocks, RowWarps::kThreads, 0, stream>>>(*view, *old, sums, *next, out);
    return cudaGetLastError();
}
