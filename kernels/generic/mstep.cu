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

/* What a lane finds of a component's dimensions; what a warp knows, on all lanes, after sum(). */
struct Dimensions {
    double moved = 0, logs = 0, squares = 0, spread = 0;
    bool good = true; /* variances are positive */

    __device__ __forceinline__ void sum(bool diagonal)
    {
        if (diagonal) {
            logs = warp_sum(logs);
            squares = warp_sum(squares);
        } else {
            moved = warp_sum(moved);
        }
        spread = warp_max(spread);
        good = __all_sync(kWholeWarp, good);
    }
};

/* A component's size. */
struct Size {
    bool summed;  /* there are sums; else parameters are given */
    bool starved; /* it keeps its old parameters */
    double n;
};

__device__ __forceinline__ Size size_of(const fgmm_mstep_view &view, const Sums &sums, int k)
{
    if (sums.stats.rows == NULL)
        return {false, false, 0};
    const double held = sums.n(k);
    return {true, held < view.starved_rows, held + 10 * DBL_EPSILON};
}

/* New mean and, of diagonal forms, variance in dimension d, or those given; the centre, and the factor of
 * diagonal forms. */
__device__ __forceinline__ void add_dimension(const fgmm_mstep_view &view, const fgmm_mixture_view &old,
                                              const Sums &sums, const fgmm_mixture_view &next,
                                              const Size &size, int k, int d, Dimensions &found)
{
    const int64_t at = static_cast<int64_t>(k) * view.dim + d;
    const bool diagonal = view.form == FGMM_FORM_DIAG;
    double mean, variance = 0;
    if (size.summed) {
        const double before = old.centre[at], after = size.starved ? before : sums.s(at, d) / size.n;
        const double delta = after - before;
        mean = after + view.origin[d];
        next.means[at] = mean;
        found.moved += delta * delta;
        if (diagonal) {
            const double second = sums.q(at, sums.bound[d] * sums.bound[d]) / size.n - delta * delta;
            variance = size.starved ? old.covariances[at] : fmax(second, 0.0) + view.reg_covar;
            next.covariances[at] = variance;
        }
    } else {
        mean = next.means[at];
        variance = diagonal ? next.covariances[at] : 0.0;
    }
    const double centre = mean - view.origin[d];
    next.centre[at] = centre;
    found.spread = fmax(found.spread, fabs(centre));
    extend(&view.most[d], -centre);
    extend(&view.most[view.dim + d], centre);
    if (!diagonal)
        return;
    const bool fine = variance > 0 && isfinite(variance);
    const double factor = fine ? sqrt(kHalfLog2E / variance) : 1.0;
    const double reach = factor * power_of_two(view.high[d] - view.low[d]);
    next.factor[at] = factor;
    found.logs += fine ? log2(variance) : 0.0;
    found.squares += reach * reach;
    found.good = found.good && fine;
}

/* The variance of a spherical component: new, or as given. */
__device__ __forceinline__ double spherical_variance(const fgmm_mstep_view &view,
                                                     const fgmm_mixture_view &old, const Sums &sums,
                                                     const fgmm_mixture_view &next, const Size &size, int k,
                                                     double moved)
{
    if (!size.summed)
        return next.covariances[k];
    if (size.starved)
        return old.covariances[k];
    const double total = sums.q(k, sums.spherical_bound) / size.n - moved;
    return fmax(total, 0.0) / view.dim + view.reg_covar;
}

/* All of component k. rows: of the E-step. */
__device__ void make_component(const fgmm_mstep_view &view, const fgmm_mixture_view &old, const Sums &sums,
                               double rows, const fgmm_mixture_view &next, int k, fgmm_mixture_part &part)
{
    const bool diagonal = view.form == FGMM_FORM_DIAG, spherical = !diagonal && !view.hard;
    const Size size = size_of(view, sums, k);
    Dimensions found;
#pragma unroll 4
    for (int d = threadIdx.x % kWarp; d < view.dim; d += kWarp)
        add_dimension(view, old, sums, next, size, k, d, found);
    found.sum(diagonal);
    const double weight = !size.summed ? next.weights[k] : size.starved ? 0.0 : size.n / rows;
    double factor = 1, distance = diagonal ? found.squares : view.range_bound, variance = 0;
    if (spherical) {
        variance = spherical_variance(view, old, sums, next, size, k, found.moved);
        found.good = variance > 0 && isfinite(variance);
        factor = found.good ? kHalfLog2E / variance : 1.0;
        found.logs = found.good ? view.dim * log2(variance) : 0.0;
        distance *= factor;
    }
    const double offset = view.hard ? 0.0 : log2(weight) - 0.5 * view.dim * kLog2TwoPi - 0.5 * found.logs;
    __syncwarp(); /* all lanes have read what is given */
    if (threadIdx.x % kWarp == 0) {
        next.weights[k] = weight;
        next.offset[k] = offset;
        if (!diagonal)
            next.factor[k] = factor;
        if (spherical)
            next.covariances[k] = variance;
    }
    part.flagged += size.starved || !found.good ? 1 : 0;
    if (isinf(offset))
        return;
    part.spread = fmax(part.spread, found.spread);
    part.factor = fmax(part.factor, factor);
    part.offset = fmax(part.offset, fabs(offset));
    part.factor_logs += log2(factor);
    part.live += 1;
    part.least_log = fmin(part.least_log, fabs(offset) + distance);
    part.most_log = fmax(part.most_log, fabs(offset) + log2(static_cast<double>(view.k)) + 1);
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
    __shared__ double parts[2][RowWarps::kWarps];
    double squares = 0, largest = 1;
    for (int d = threadIdx.x; d < view.dim; d += RowWarps::kThreads) {
        const double bound = power_of_two(__ldcg(&view.most[view.dim + d]) + __ldcg(&view.most[d]));
        next.bound[d] = bound;
        next.inverse_bound[d] = 1 / bound;
        view.most[d] = -view.low[d];
        view.most[view.dim + d] = view.high[d];
        squares += bound * bound;
        largest = fmax(largest, bound / power_of_two(view.high[d] - view.low[d]));
    }
    squares = warp_sum(squares);
    largest = warp_max(largest);
    if (threadIdx.x % kWarp == 0) {
        parts[0][threadIdx.x / kWarp] = squares;
        parts[1][threadIdx.x / kWarp] = largest;
    }
    __syncthreads();
    squares = 0;
    for (int w = 0; w < RowWarps::kWarps; w++) {
        squares += parts[0][w];
        largest = fmax(largest, parts[1][w]);
    }
    *growth = largest * largest;
    return power_of_two(squares);
}

/* The last block: what the host has to know. */
__device__ void summarise(const fgmm_mstep_view &view, const fgmm_mixture_view &next, const Sums &sums,
                          int64_t rows, fgmm_mixture_summary *out)
{
    fgmm_mixture_part sum = empty_part();
    for (int b = threadIdx.x; b < static_cast<int>(gridDim.x); b += RowWarps::kThreads)
        join(sum, load_part(&view.parts[b]));
    double growth;
    const double spherical_bound = make_grid(view, next, &growth);
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
    fgmm_mixture_part part = empty_part();
    const int warp = blockIdx.x * RowWarps::kWarps + threadIdx.x / kWarp;
    for (int k = warp; k < view.k; k += gridDim.x * RowWarps::kWarps)
        make_component(view, old, sums, static_cast<double>(rows), next, k, part);
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
