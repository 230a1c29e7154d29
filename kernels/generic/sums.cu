/* The sums of a chunk's sparse rows, from pairs sorted by component.
 *
 * A warp has a stretch of the sorted pairs, and lanes share the dimensions, four each. Rows come through a
 * ring in shared memory, some batches ahead, and a component's sums stay in registers while the stretch stays
 * with it. A row's only candidate (a sole pair) has responsibility 1 and comes here without its distance,
 * which is taken on the way: each lane leaves its part of it in shared memory, and after 16 pairs lanes join
 * the parts, so that in the end lane i has the distance of pair i of a run of 32.
 *
 * Contributions are rounded to the grid one by one: adding 1.5 * 2^52 rounds to an integer (the grid's values
 * are at most 2^50) and leaves it in the low bits, which are summed as they are; what the constants add to
 * the sum is taken off when it is flushed. Where the grid is finer than the unit of the stored type, whole
 * elements are on it: sole pairs are summed as they are stored, exactly, to the same words. */
#include <cuda_runtime.h>
#include <algorithm>
#include "kernels/generic/candidates.cuh"
#include "kernels/generic/fixed.cuh"
#include "kernels/generic/sum_rows.cuh"
#include "kernels/ptx/launch.cuh"

namespace fgmm
{
namespace
{

constexpr double kMagic = 0x1.8p52;
constexpr unsigned long long kMagicBits = 0x4338000000000000ull;

/* A warp's own. */
template <typename M, typename T> struct SumShared {
    alignas(16) Ring<M, T> ring;
    double parts[SumWarps::kHalf][SumWarps::kPitch]; /* of distances: [pair][lane] */
    double distances[SumWarps::kStretch];      /* of the dimensions so far, where there are more than 128 */
    int64_t places[SumWarps::kDims];           /* for flushes */
    int64_t n[kWarp], high[kWarp], low[kWarp]; /* masses and spherical moments of the component, by lane */
};

/* Pairs next to each other: lane i looks after pair i, i < n. The other lanes have the last pair once more,
 * whose row may be read. */
struct Run {
    int n, component, row;
    int weight; /* as in fgmm_pair; negative: a sole pair */
};

__device__ __forceinline__ Run load_run(const fgmm_pair_view &work, int first, int last)
{
    const int n = min(last - first, SumWarps::kRun);
    const fgmm_pair pair = work.sorted[first + min(static_cast<int>(threadIdx.x % kWarp), n - 1)];
    return {n, pair.component, pair.row, pair.weight};
}

/* Which pairs of the run begin another component than the pair before them; c: of the pair before the run. */
__device__ __forceinline__ unsigned find_starts(const Run &run, int c)
{
    const int lane = threadIdx.x % kWarp, before = __shfl_up_sync(kWholeWarp, run.component, 1);
    return __ballot_sync(kWholeWarp, lane < run.n && run.component != (lane == 0 ? c : before));
}

/* The grid in a lane's dimensions. */
struct Grid {
    Quad<double> origin; /* of the sums (fixed.cuh) */
    Quad<double> scale;  /* inverse bound * one */
};

template <typename T>
__device__ __forceinline__ Grid load_grid(const fgmm_row_view &original, const fgmm_stats_view &stats, int d)
{
    const int dim = original.dim;
    const bool aligned = dim % 4 == 0;
    Grid grid = {load_quad(original.origin, d, dim, aligned),
                 load_quad(stats.inverse_bound, d, dim, aligned)};
#pragma unroll
    for (int e = 0; e < 4; e++) {
        grid.scale.value[e] *= stats.one;
        grid.origin.value[e] = sum_origin(grid.origin.value[e], grid.scale.value[e], Bits<T>::kUnit > 0);
    }
    return grid;
}

/* Whether whole elements of the warp's dimensions are on the grid, and sums of a stretch of them fit. */
template <typename T> __device__ __forceinline__ bool is_exact(const Grid &grid, int d, int dim)
{
    bool exact = Bits<T>::kUnit > 0;
#pragma unroll
    for (int e = 0; e < 4; e++)
        if (d + e < dim)
            exact = exact && grid.scale.value[e] * Bits<T>::kUnit >= 1 &&
                    fabs(grid.origin.value[e] * grid.scale.value[e]) <= 0x1p52;
    return __all_sync(kWholeWarp, exact);
}

/* Sums of roundings, [4] dimensions of a lane. */
struct Roundings {
    unsigned long long value[4];

    /* Returns the rounding of a * b, b a power of two. */
    __device__ __forceinline__ double add(int e, double a, double b)
    {
        const double rounded = fma(a, b, kMagic);
        value[e] += static_cast<unsigned long long>(__double_as_longlong(rounded));
        return rounded - kMagic;
    }
    __device__ __forceinline__ int64_t words(int e, int count) const
    {
        return static_cast<int64_t>(value[e] - count * kMagicBits);
    }
};

/* Adds a lane's four words to those of the warp's 128 dimensions, of which `dims` are there. Lanes change
 * places first: 32 atomics next to each other are eight memory sectors, those of a lane's own dimensions
 * would be 32. */
__device__ __forceinline__ void flush(int64_t *to, const int64_t (&words)[4], int dims, int64_t *places)
{
    const int lane = threadIdx.x % kWarp;
    __syncwarp();
#pragma unroll
    for (int e = 0; e < 4; e++)
        places[lane * 4 + e] = words[e];
    __syncwarp();
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const int place = e * kWarp + lane;
        if (place < dims && places[place] != 0)
            add_words(&to[place], places[place]);
    }
}

/* What has one value a pair: masses and spherical moments. */
struct Scalars {
    int64_t n, high, low;
};

/* The component that the stretch is at, in the warp's 128 dimensions. */
struct Component {
    int c;               /* -1: none yet */
    Quad<double> mean;   /* plus the origin of the rows that distances are taken of, and their shift */
    Quad<double> centre; /* the same for the original rows, for diagonal moments */
    Quad<double> raw;    /* sums of raw elements */
    Roundings s, high, low;
    int raws, rounded; /* rows in these sums */
};

/* The sum over the lanes from `first` to this one. */
__device__ __forceinline__ int64_t sum_from(int64_t value, int first)
{
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
        const int64_t below = __shfl_up_sync(kWholeWarp, value, step);
        value += lane - step >= first ? below : 0;
    }
    return value;
}

__device__ __forceinline__ void add_scalars(const fgmm_stats_view &stats, int c, const Scalars &sums)
{
    add_words(&stats.n[c], sums.n);
    if (stats.moment != FGMM_KERNEL_MOMENT_SPHERICAL)
        return;
    add_words(&stats.q_high[c], sums.high);
    add_words(&stats.q_low[c], sums.low);
}

/* M: element type of the rows that distances are taken of; T: of the original rows. kDiagonal: second moments
 * by dimension. kWhole: both are read in pieces of 16 bytes. */
template <typename M, typename T, bool kDiagonal, bool kWhole> struct Adder {
    typedef Ring<M, T> Rows;
    static constexpr bool kSame = Rows::kSame;
    static constexpr bool kRaw =
        Bits<T>::kUnit > 0 && !kDiagonal; /* most rows are added as they are stored */

    const fgmm_row_view &metric, &original;
    const fgmm_model_view &model;
    const fgmm_stats_view &stats;
    SumShared<M, T> &shared;
    int lane, d;  /* the lane's first dimension */
    bool scaled;  /* by a factor a dimension */
    bool exact;   /* sole rows may be added as they are stored */
    Grid grid;    /* kept where every row needs it */
    Limbs log;    /* of the lane's pairs */
    Component at; /* where the stretch is */

    /* Forgets the component and goes on with the dimensions from d0. */
    __device__ __forceinline__ void open_dims(int d0)
    {
        d = d0 + lane * 4;
        at.c = -1;
        const Grid found = load_grid<T>(original, stats, d);
        exact = kRaw && !scaled && is_exact<T>(found, d, model.dim);
        if constexpr (!kRaw)
            grid = found;
    }

    __device__ __forceinline__ Grid grid_again() const
    {
        if constexpr (kRaw)
            return load_grid<T>(original, stats, d);
        else
            return grid;
    }

    __device__ __forceinline__ void open_component(int c)
    {
        const int dim = model.dim;
        const int64_t first = static_cast<int64_t>(c) * dim;
        const bool aligned = dim % 4 == 0;
        at = {};
        at.c = c;
        shared.n[lane] = shared.high[lane] = shared.low[lane] = 0;
        const Quad<double> mean = load_quad(model.mean + first, d, dim, aligned);
        const Quad<double> origin = load_quad(metric.origin, d, dim, aligned);
#pragma unroll
        for (int e = 0; e < 4; e++)
            at.mean.value[e] = mean.value[e] + origin.value[e] + Bits<M>::kShift;
        if constexpr (kDiagonal && !kSame) {
            const Quad<double> centre = load_quad(model.centre + first, d, dim, aligned);
            const Quad<double> its_origin = load_quad(original.origin, d, dim, aligned);
#pragma unroll
            for (int e = 0; e < 4; e++)
                at.centre.value[e] = centre.value[e] + its_origin.value[e] + Bits<T>::kShift;
        }
    }

    __device__ __forceinline__ void close_component()
    {
        if (at.c < 0 || !stats.sums)
            return;
        const int dims = model.dim - (d - lane * 4);
        const int64_t first = static_cast<int64_t>(at.c) * model.dim + (d - lane * 4);
        int64_t words[4];
#pragma unroll
        for (int e = 0; e < 4; e++)
            words[e] = at.s.words(e, at.rounded);
        if (kRaw && exact) {
            const Grid its_grid = grid_again();
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const double scale = its_grid.scale.value[e];
                const double sum = minus_shifted<T>(at.raw.value[e], at.raws * Bits<T>::kShift);
                words[e] +=
                    __double2ll_rn(sum * scale) - at.raws * __double2ll_rn(its_grid.origin.value[e] * scale);
            }
        }
        flush(stats.s + first, words, dims, shared.places);
        if constexpr (kDiagonal) {
#pragma unroll
            for (int e = 0; e < 4; e++)
                words[e] = at.high.words(e, at.rounded);
            flush(stats.q_high + first, words, dims, shared.places);
#pragma unroll
            for (int e = 0; e < 4; e++)
                words[e] = at.low.words(e, at.rounded);
            flush(stats.q_low + first, words, dims, shared.places);
        }
        const Scalars sums = {warp_sum(shared.n[lane]), warp_sum(shared.high[lane]),
                              warp_sum(shared.low[lane])};
        if (sums.n != 0 && lane == 0)
            add_scalars(stats, at.c, sums);
    }

    /* The lane's part of the distance of the run's pair `place`. */
    template <bool kScaled>
    __device__ __forceinline__ void add_distance(const Quad<double> &raw, const Quad<double> &factor,
                                                 int place)
    {
        double sum = 0;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            double t = minus_shifted<M>(raw.value[e], at.mean.value[e]);
            if (kScaled)
                t *= factor.value[e];
            sum = fma(t, t, sum);
        }
        shared.parts[place % SumWarps::kHalf][lane] = sum;
    }

    template <typename E> static __device__ __forceinline__ Quad<double> raw_quad(const Stored<E> &stored)
    {
        Quad<double> raw;
#pragma unroll
        for (int e = 0; e < 4; e++)
            raw.value[e] = Bits<E>::raw(stored, e);
        return raw;
    }

    /* A sole row as it is stored. */
    __device__ __forceinline__ void add_stored(const Stored<M> &metric_row, const Stored<T> &original_row,
                                               int place)
    {
        const Quad<double> y = raw_quad(metric_row);
        add_distance<false>(y, {}, place);
        Quad<double> x = y;
        if constexpr (!kSame)
            x = raw_quad(original_row);
#pragma unroll
        for (int e = 0; e < 4; e++)
            at.raw.value[e] += x.value[e];
    }

    __device__ __forceinline__ void add_moments(int e, double x, double r, double scale)
    {
        /* ((x - centre) / bound)^2 with the powers of two set apart: the same roundings */
        const double t = minus_shifted<T>(x, kSame ? at.mean.value[e] : at.centre.value[e]) * scale;
        const double square = r * t * t, inverse_one = 1 / stats.one;
        const double rounded = at.high.add(e, square, inverse_one);
        at.low.add(e, fma(square, inverse_one, -rounded), stats.one);
    }

    /* Any row of the run. */
    __device__ __forceinline__ void add_row(const Stored<M> &metric_row, const Stored<T> &original_row,
                                            int place, double r, bool sole, const Quad<double> &factor)
    {
        const Quad<double> y = raw_quad(metric_row);
        if (sole && scaled)
            add_distance<true>(y, factor, place);
        else if (sole)
            add_distance<false>(y, factor, place);
        if (!stats.sums)
            return;
        const Grid its_grid = grid_again();
        Quad<double> x = y;
        if constexpr (!kSame)
            x = raw_quad(original_row);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            at.s.add(e, r * minus<T>(x.value[e], its_grid.origin.value[e]), its_grid.scale.value[e]);
            if constexpr (kDiagonal)
                add_moments(e, x.value[e], r, its_grid.scale.value[e]);
        }
        at.rounded++;
    }

    __device__ __forceinline__ Quad<double> load_factor() const
    {
        Quad<double> factor = {};
        if (scaled)
            factor = load_quad(model.factor + static_cast<int64_t>(at.c) * model.dim, d, model.dim,
                               model.dim % 4 == 0);
        return factor;
    }

    /* Adds the pairs from `base` on, whose rows have come to `stage`. r: of the lane's pair; starts, soles:
     * bits of the run's pairs. */
    __device__ __forceinline__ void add_batch(const Run &run, int stage, int base, double r, unsigned starts,
                                              unsigned soles)
    {
        constexpr unsigned kAll = (1u << Rows::kRows) - 1;
        const int count = min(Rows::kRows, run.n - base);
        const unsigned begins = starts >> base & kAll, sole = soles >> base & kAll;
        if (begins == 0 && count == Rows::kRows && sole == kAll && (exact || !kRaw)) {
            Stored<M> metric_rows[Rows::kRows]; /* all at once: a read would not pass the writing of a part */
            Stored<T> original_rows[Rows::kRows];
#pragma unroll
            for (int j = 0; j < Rows::kRows; j++) {
                metric_rows[j] = shared.ring.metric[stage][j][lane];
                if constexpr (!kSame)
                    original_rows[j] = shared.ring.other[stage][j][lane];
            }
            if constexpr (kRaw) {
#pragma unroll
                for (int j = 0; j < Rows::kRows; j++)
                    add_stored(metric_rows[j], original_rows[j], base + j);
                at.raws += Rows::kRows;
            } else {
                const Quad<double> factor = load_factor();
#pragma unroll
                for (int j = 0; j < Rows::kRows; j++)
                    add_row(metric_rows[j], original_rows[j], base + j, 1, true, factor);
            }
            return;
        }
#pragma unroll 1
        for (int j = 0; j < count; j++) {
            if (begins >> j & 1) {
                close_component();
                open_component(__shfl_sync(kWholeWarp, run.component, base + j));
            }
            const Stored<M> metric_row = shared.ring.metric[stage][j][lane];
            const Stored<T> original_row = shared.ring.original(stage, j);
            if (kRaw && exact && sole >> j & 1) {
                add_stored(metric_row, original_row, base + j);
                at.raws++;
            } else {
                add_row(metric_row, original_row, base + j, __shfl_sync(kWholeWarp, r, base + j),
                        sole >> j & 1, load_factor());
            }
        }
    }

    /* What has one value a pair. whole: all of the run's pairs are of the component that the stretch is at.
     */
    __device__ __forceinline__ void add_values(const Run &run, double r, double distance, bool whole)
    {
        const bool mine = lane < run.n;
        if (mine && run.weight < 0)
            add_limbs(log,
                      split(value_at(model, run.component, distance) * (stats.inverse_log_bound * stats.one),
                            stats.one));
        if (!stats.sums)
            return;
        Scalars scalars = {};
        if (mine) {
            const Limbs limbs = split(r * distance * (stats.inverse_spherical_bound * stats.one), stats.one);
            scalars = {__double2ll_rn(r * stats.one), limbs.high, limbs.low};
        }
        if (whole) {
            shared.n[lane] += scalars.n;
            shared.high[lane] += scalars.high;
            shared.low[lane] += scalars.low;
            return;
        }
        const unsigned alike = __match_any_sync(kWholeWarp, mine ? run.component : -1);
        const int first = __ffs(alike) - 1;
        const Scalars sums = {sum_from(scalars.n, first), sum_from(scalars.high, first),
                              sum_from(scalars.low, first)};
        if (mine && lane == kWarp - 1 - __clz(alike)) /* the last lane of a component */
            add_scalars(stats, run.component, sums);
    }

    /* Joins the parts of 16 pairs of the run, the first or the second, for the lanes that look after them. */
    __device__ __forceinline__ void join_parts(int number, double &distance)
    {
        __syncwarp();
        const double *parts = &shared.parts[lane % SumWarps::kHalf][lane / SumWarps::kHalf * SumWarps::kHalf];
        double sum[4] = {0, 0, 0, 0};
#pragma unroll
        for (int i = 0; i < SumWarps::kHalf; i++)
            sum[i % 4] += parts[i];
        double joined = (sum[0] + sum[1]) + (sum[2] + sum[3]);
#pragma unroll
        for (int step = SumWarps::kHalf; step < kWarp; step *= 2)
            joined += __shfl_xor_sync(kWholeWarp, joined, step);
        if (lane / SumWarps::kHalf == number)
            distance = joined;
        __syncwarp();
    }

    /* All pairs of a run have been added in these dimensions; number: of the run in the stretch. */
    __device__ __forceinline__ void end_run(const fgmm_pair_view &work, const Run &run, int number, double r,
                                            double distance, bool whole, bool last_dims)
    {
        if (model.dim > SumWarps::kDims) {
            double &sum = shared.distances[number * kWarp + lane];
            distance += d - lane * 4 > 0 ? sum : 0.0;
            sum = distance;
        }
        if (!last_dims)
            return;
        if (run.weight >= 0)
            distance = work.weights[run.weight].distance;
        add_values(run, r, distance, whole);
    }

    /* Starts copying a batch: the rows that lanes next.. of `row` name. */
    __device__ __forceinline__ void fetch_batch(int stage, int row, int next)
    {
        fetch<kWhole>(shared.ring.metric[stage], metric, row, next, d - lane * 4);
        if constexpr (!kSame)
            fetch<kWhole>(shared.ring.other[stage], original, row, next, d - lane * 4);
    }

    /* Pairs first.. of `work.sorted` to last, in the lane's dimensions. */
    __device__ __forceinline__ void walk(const fgmm_pair_view &work, int first, int last, bool last_dims)
    {
        constexpr int kAhead = SumWarps::kStages - 1; /* batches on their way */
        static_assert(kAhead * Rows::kRows < SumWarps::kRun, "the next run has time to come");
        Run run = load_run(work, first, last);
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
            fetch_batch(i, run.row, i * Rows::kRows);
            ptx::copy_async_commit();
        }
        int stage = 0;
        for (int begin = first; begin < last; begin += SumWarps::kRun) {
            Run next = run;
            if (begin + SumWarps::kRun < last)
                next = load_run(work, begin + SumWarps::kRun, last);
            const unsigned starts = find_starts(run, at.c), soles = __ballot_sync(kWholeWarp, run.weight < 0);
            const double r = run.weight < 0 ? 1.0 : work.weights[run.weight].r;
            double distance = 0;
            for (int base = 0; base < run.n; base += Rows::kRows) {
                __syncwarp(); /* all lanes are done with the stage that is filled again */
                const int ahead = base + kAhead * Rows::kRows;
                if (begin + ahead < last)
                    fetch_batch(stage == 0 ? kAhead : stage - 1, ahead < SumWarps::kRun ? run.row : next.row,
                                ahead % SumWarps::kRun);
                ptx::copy_async_commit();
                ptx::copy_async_wait<kAhead>();
                __syncwarp();
                add_batch(run, stage, base, r, starts, soles);
                stage = stage == kAhead ? 0 : stage + 1;
                const int end = base + Rows::kRows;
                if (end % SumWarps::kHalf == 0 || end >= run.n)
                    join_parts(base / SumWarps::kHalf, distance);
            }
            end_run(work, run, (begin - first) / SumWarps::kRun, r, distance, (starts & ~1u) == 0, last_dims);
            run = next;
        }
        ptx::copy_async_wait<0>(); /* a stretch may be shorter than what is fetched ahead */
        __syncwarp();
        close_component();
    }
};

/* Pairs of a stretch: all warps have as many, a multiple of eight. */
__device__ __forceinline__ int stretch_length(int total, int warps)
{
    const int turns = max(1, (total + warps * SumWarps::kStretch - 1) / (warps * SumWarps::kStretch));
    return ((total + warps * turns - 1) / (warps * turns) + 7) / 8 * 8;
}

template <typename M, typename T, bool kDiagonal, bool kWhole>
__global__ void __launch_bounds__(SumWarps::kThreads, SumWarps::blocks(std::is_same<M, T>::value, kDiagonal))
    add_sorted(fgmm_row_view metric, fgmm_row_view original, fgmm_model_view model, fgmm_pair_view work,
               fgmm_stats_view stats)
{
    __shared__ SumShared<M, T> shared[SumWarps::kWarps];
    __shared__ Totals totals;
    wait_for_kernels_before();
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, total = work.state->total;
    const int warps = gridDim.x * SumWarps::kWarps, length = stretch_length(total, warps);
    if (threadIdx.x == 0)
        totals = {0, 0, 0};
    if (blockIdx.x == 0 && threadIdx.x == 0)
        work.state->sorting = 0;
    __syncthreads();
    Adder<M, T, kDiagonal, kWhole> adder = {metric,       original, model, stats,
                                            shared[warp], lane,     0,     model.form == FGMM_FORM_DIAG,
                                            false,        {},       {},    {}};
    for (int first = (blockIdx.x * SumWarps::kWarps + warp) * length; first < total;
         first += warps * length) {
        for (int d0 = 0; d0 < model.dim; d0 += SumWarps::kDims) {
            adder.open_dims(d0);
            adder.walk(work, first, min(first + length, total), d0 + SumWarps::kDims >= model.dim);
        }
    }
    const Limbs log = {warp_sum(adder.log.high), warp_sum(adder.log.low)};
    if (lane == 0)
        totals.add(log, 0);
    __syncthreads();
    if (threadIdx.x == 0)
        totals.flush(stats);
}

template <typename M, typename T>
int launch(const fgmm_row_view *metric, const fgmm_row_view *original, const fgmm_model_view *model,
           const fgmm_pair_view *work, const fgmm_stats_view *stats, int multiprocessors, fgmm_stream stream)
{
    constexpr int kLeast = 8 * SumWarps::kWarps; /* pairs a block */
    const bool diagonal = stats->sums && stats->moment == FGMM_KERNEL_MOMENT_DIAG;
    const bool whole = pieces_are_whole<M>(*metric) && pieces_are_whole<T>(*original);
    const int blocks = std::min((metric->rows + kLeast - 1) / kLeast,
                                multiprocessors * SumWarps::blocks(std::is_same<M, T>::value, diagonal));
    const auto kernel = diagonal ? (whole ? add_sorted<M, T, true, true> : add_sorted<M, T, true, false>)
                                 : (whole ? add_sorted<M, T, false, true> : add_sorted<M, T, false, false>);
    return launch_early(kernel, blocks, SumWarps::kThreads, stream, *metric, *original, *model, *work,
                        *stats);
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_sums(const fgmm_row_view *metric, const fgmm_row_view *original,
                      const fgmm_model_view *model, const fgmm_pair_view *work, const fgmm_stats_view *stats,
                      int multiprocessors, fgmm_stream stream)
{
    return dispatch_rows(original->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (std::is_same<T, double>::value)
            return cudaErrorInvalidValue; /* stored rows are never float64 */
        else if (metric->type == FGMM_ROWS_F64)
            return launch<double, T>(metric, original, model, work, stats, multiprocessors, stream);
        else
            return launch<T, T>(metric, original, model, work, stats, multiprocessors, stream);
    });
}
