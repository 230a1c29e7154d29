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

/* A warp a component; K <= 16 is one block, whose parts then need not pass through memory. */
struct MStep {
    static constexpr int kWarps = 16;
    static constexpr int kThreads = kWarps * kWarp;
    /* A lane reads so many dimensions at one time. */
    static constexpr int dims(bool diagonal) { return diagonal ? 2 : 4; }
};

constexpr double kHalfLog2E = 0.72134752044448170368; /* squared Mahalanobis distance to bits */
constexpr double kLog2TwoPi = 2.65149612947231879804;

/* The sums of the E-step, and the grid that they are numbers on. */
struct Sums {
    fgmm_stats_view stats;
    double unit;            /* 2^-bits */
    double spherical_bound; /* of the old grid */
    const double *bound;    /* the same, [dim] */

    __device__ __forceinline__ double n(int k) const { return static_cast<double>(stats.n[k]) * unit; }
    __device__ __forceinline__ double q(int64_t high, int64_t low, double its_bound) const
    {
        return (static_cast<double>(high) * unit + static_cast<double>(low) * unit * unit) * its_bound;
    }
};

/* The smallest power of two that is >= v; 1 for 0, infinity for what overflowed. */
__device__ __forceinline__ double power_of_two(double v)
{
    constexpr long long kMantissa = (1ll << 52) - 1;
    if (!(v > 0))
        return 1;
    if (v < 0x1p-1022) {
        int exponent;
        const double mantissa = frexp(v, &exponent);
        return ldexp(1.0, mantissa == 0.5 ? exponent - 1 : exponent);
    }
    return __longlong_as_double((__double_as_longlong(v) + kMantissa) & ~kMantissa);
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

/* Of the warps' parts, on the first warp. */
__device__ fgmm_mixture_part join_block(const fgmm_mixture_part &mine)
{
    __shared__ fgmm_mixture_part parts[MStep::kWarps];
    static_assert(MStep::kWarps <= kWarp, "a lane a part");
    if (threadIdx.x % kWarp == 0)
        parts[threadIdx.x / kWarp] = mine;
    __syncthreads();
    return join_warp(threadIdx.x < MStep::kWarps ? parts[threadIdx.x] : empty_part());
}

/* Extends a range that is not negative, and so compares as integers. Means seldom leave the range of the
 * rows, which is what `most` held a while ago. */
__device__ __forceinline__ void extend(double *most, double before, double value)
{
    if (value > before)
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

/* What there is of a component in a dimension. All of it is read before anything is written, so that reads of
 * several dimensions are on their way at one time. */
struct Given {
    int64_t s, q_high, q_low;
    double bound, centre, variance, origin, mean, low, high, least, most;
};

template <bool kDiagonal>
__device__ __forceinline__ Given read_dimension(const fgmm_mstep_view &view, const fgmm_mixture_view &old,
                                                const Sums &sums, const fgmm_mixture_view &next, bool summed,
                                                int k, int d)
{
    const int64_t at = static_cast<int64_t>(k) * view.dim + d;
    Given given = {};
    given.origin = view.origin[d];
    given.least = view.most[d];
    given.most = view.most[view.dim + d];
    if (summed) {
        given.s = sums.stats.s[at];
        given.bound = sums.bound[d];
        given.centre = old.centre[at];
    } else {
        given.mean = next.means[at];
    }
    if (!kDiagonal)
        return given;
    given.low = view.low[d];
    given.high = view.high[d];
    given.variance = summed ? old.covariances[at] : next.covariances[at];
    given.q_high = summed ? sums.stats.q_high[at] : 0;
    given.q_low = summed ? sums.stats.q_low[at] : 0;
    return given;
}

/* New mean and, of diagonal forms, variance in dimension d, or those given; the centre, and the factor of
 * diagonal forms. */
template <bool kDiagonal>
__device__ __forceinline__ void add_dimension(const fgmm_mstep_view &view, const Sums &sums,
                                              const fgmm_mixture_view &next, const Size &size,
                                              const Given &given, int k, int d, Dimensions &found)
{
    const int64_t at = static_cast<int64_t>(k) * view.dim + d;
    double mean = given.mean, variance = given.variance;
    if (size.summed) {
        const double s = static_cast<double>(given.s) * sums.unit * given.bound;
        const double after = size.starved ? given.centre : s / size.n, delta = after - given.centre;
        mean = after + given.origin;
        next.means[at] = mean;
        found.moved += delta * delta;
        if (kDiagonal) {
            const double second =
                sums.q(given.q_high, given.q_low, given.bound * given.bound) / size.n - delta * delta;
            variance = size.starved ? given.variance : fmax(second, 0.0) + view.reg_covar;
            next.covariances[at] = variance;
        }
    }
    const double centre = mean - given.origin;
    next.centre[at] = centre;
    found.spread = fmax(found.spread, fabs(centre));
    extend(&view.most[d], given.least, -centre);
    extend(&view.most[view.dim + d], given.most, centre);
    if (!kDiagonal)
        return;
    const bool fine = variance > 0 && isfinite(variance);
    const double factor = fine ? sqrt(kHalfLog2E / variance) : 1.0;
    const double reach = factor * power_of_two(given.high - given.low);
    next.factor[at] = factor;
    found.logs += fine ? log2(variance) : 0.0;
    found.squares += reach * reach;
    found.good = found.good && fine;
}

template <bool kDiagonal>
__device__ __forceinline__ Dimensions make_dimensions(const fgmm_mstep_view &view,
                                                      const fgmm_mixture_view &old, const Sums &sums,
                                                      const fgmm_mixture_view &next, const Size &size, int k)
{
    constexpr int kDims = MStep::dims(kDiagonal);
    Dimensions found;
    for (int first = threadIdx.x % kWarp; first < view.dim; first += kDims * kWarp) {
        Given given[kDims];
#pragma unroll
        for (int i = 0; i < kDims; i++)
            if (first + i * kWarp < view.dim)
                given[i] =
                    read_dimension<kDiagonal>(view, old, sums, next, size.summed, k, first + i * kWarp);
#pragma unroll
        for (int i = 0; i < kDims; i++)
            if (first + i * kWarp < view.dim)
                add_dimension<kDiagonal>(view, sums, next, size, given[i], k, first + i * kWarp, found);
    }
    found.sum(kDiagonal);
    return found;
}

/* Logarithms of four numbers, each by a lane of its own: one is hundreds of cycles. */
struct Logs {
    double weight, variance, factor, components;
};

__device__ __forceinline__ Logs take_logs(double weight, double variance, double factor, double components)
{
    const int lane = threadIdx.x % 4;
    const double log = log2(lane == 0 ? weight : lane == 1 ? variance : lane == 2 ? factor : components);
    return {__shfl_sync(kWholeWarp, log, 0), __shfl_sync(kWholeWarp, log, 1), __shfl_sync(kWholeWarp, log, 2),
            __shfl_sync(kWholeWarp, log, 3)};
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
    const double total =
        sums.q(sums.stats.q_high[k], sums.stats.q_low[k], sums.spherical_bound) / size.n - moved;
    return fmax(total, 0.0) / view.dim + view.reg_covar;
}

/* All of component k. rows: of the E-step. */
template <bool kDiagonal>
__device__ void make_component(const fgmm_mstep_view &view, const fgmm_mixture_view &old, const Sums &sums,
                               double rows, const fgmm_mixture_view &next, int k, fgmm_mixture_part &part)
{
    const bool spherical = !kDiagonal && !view.hard;
    const Size size = size_of(view, sums, k);
    Dimensions found = make_dimensions<kDiagonal>(view, old, sums, next, size, k);
    const double weight = !size.summed ? next.weights[k] : size.starved ? 0.0 : size.n / rows;
    double factor = 1, distance = kDiagonal ? found.squares : view.range_bound, variance = 1;
    if (spherical) {
        variance = spherical_variance(view, old, sums, next, size, k, found.moved);
        found.good = variance > 0 && isfinite(variance);
        factor = found.good ? kHalfLog2E / variance : 1.0;
        distance *= factor;
    }
    const Logs logs = take_logs(weight, variance, factor, view.k);
    if (spherical)
        found.logs = found.good ? view.dim * logs.variance : 0.0;
    const double offset = view.hard ? 0.0 : logs.weight - 0.5 * view.dim * kLog2TwoPi - 0.5 * found.logs;
    __syncwarp(); /* all lanes have read what is given */
    if (threadIdx.x % kWarp == 0) {
        next.weights[k] = weight;
        next.offset[k] = offset;
        if (!kDiagonal)
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
    part.factor_logs += logs.factor;
    part.live += 1;
    part.least_log = fmin(part.least_log, fabs(offset) + distance);
    part.most_log = fmax(part.most_log, fabs(offset) + logs.components + 1);
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
    __shared__ double parts[2][MStep::kWarps];
    double squares = 0, largest = 1;
    for (int d = threadIdx.x; d < view.dim; d += MStep::kThreads) {
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
    for (int w = 0; w < MStep::kWarps; w++) {
        squares += parts[0][w];
        largest = fmax(largest, parts[1][w]);
    }
    *growth = largest * largest;
    return power_of_two(squares);
}

/* Of all blocks, on the first warp of the last one; whether this is it. finished: how many there are. */
__device__ bool join_blocks(const fgmm_mstep_view &view, fgmm_mixture_part &part)
{
    __shared__ bool is_last;
    if (gridDim.x == 1)
        return true;
    if (threadIdx.x == 0) {
        view.parts[blockIdx.x] = part;
        __threadfence();
        is_last = atomicAdd(view.finished, 1) == static_cast<int>(gridDim.x) - 1;
        __threadfence();
    }
    __syncthreads();
    if (!is_last)
        return false;
    part = empty_part();
    for (int b = threadIdx.x; b < static_cast<int>(gridDim.x); b += MStep::kThreads)
        join(part, load_part(&view.parts[b]));
    part = join_block(join_warp(part));
    return true;
}

/* The last block: what the host has to know. sum: on thread 0. */
__device__ void summarise(const fgmm_mstep_view &view, const fgmm_mixture_view &next, const Sums &sums,
                          int64_t rows, const fgmm_mixture_part &sum, fgmm_mixture_summary *out)
{
    double growth;
    const double spherical_bound = make_grid(view, next, &growth);
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

__device__ __forceinline__ void clear(const fgmm_mstep_view &view)
{
    uint4 *to = static_cast<uint4 *>(view.clear);
    const int64_t step = static_cast<int64_t>(gridDim.x) * MStep::kThreads;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * MStep::kThreads + threadIdx.x;
         i < view.clear_bytes / static_cast<int64_t>(sizeof *to); i += step)
        to[i] = uint4{};
}

/* sums.stats.rows NULL: parameters are given. One kernel for both, so that what it derives has the same bits.
 */
template <bool kDiagonal>
__global__ void __launch_bounds__(MStep::kThreads)
    mstep(fgmm_mstep_view view, fgmm_mixture_view old, Sums sums, fgmm_mixture_view next,
          fgmm_mixture_summary *out)
{
    const bool summed = sums.stats.rows != NULL;
    const int64_t rows = !summed ? 0 : view.rows > 0 ? view.rows : *sums.stats.rows;
    fgmm_mixture_part part = empty_part();
    const int warp = blockIdx.x * MStep::kWarps + threadIdx.x / kWarp;
    for (int k = warp; k < view.k; k += gridDim.x * MStep::kWarps)
        make_component<kDiagonal>(view, old, sums, static_cast<double>(rows), next, k, part);
    clear(view);
    part = join_block(part);
    if (join_blocks(view, part))
        summarise(view, next, sums, rows, part, out);
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_mstep(const fgmm_mstep_view *view, const fgmm_mixture_view *old,
                       const fgmm_stats_view *stats, const fgmm_mixture_view *next, fgmm_mixture_summary *out,
                       fgmm_stream stream)
{
    const auto kernel = view->form == FGMM_FORM_DIAG ? mstep<true> : mstep<false>;
    const int wanted = (view->k + MStep::kWarps - 1) / MStep::kWarps;
    const int blocks = wanted < FGMM_MSTEP_BLOCKS ? wanted : FGMM_MSTEP_BLOCKS;
    Sums sums = {};
    if (stats != NULL)
        sums = {*stats, 1 / stats->one, 1 / stats->inverse_spherical_bound, old->bound};
    kernel<<<blocks, MStep::kThreads, 0, stream>>>(*view, *old, sums, *next, out);
    return cudaGetLastError();
}
