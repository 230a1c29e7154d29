/* The sums of a chunk's sparse rows, from pairs sorted by component.
 *
 * A warp has a run of 32 pairs. Lanes share the dimensions, four each, and keep a component's sums in
 * registers while the run stays with it: one atomic a component and dimension of a run, where a pair by
 * itself would take one. A row's only candidate has responsibility 1 and comes here without its distance,
 * which is taken on the way: each lane leaves its part of it in shared memory, and at the end lane i joins
 * the parts of pair i.
 *
 * Contributions are rounded to the grid one by one: adding 1.5 * 2^52 rounds to an integer (the grid's values
 * are at most 2^50) and leaves it in the low bits, which are summed as they are; what the constants add to
 * the sum is taken off when it is flushed. */
#include <cuda_runtime.h>
#include <string.h>
#include <type_traits>
#include "kernels/generic/candidates.cuh"
#include "kernels/generic/fixed.cuh"

namespace fgmm
{
namespace
{

constexpr double kMagic = 0x1.8p52;
constexpr unsigned long long kMagicBits = 0x4338000000000000ull;

/* A warp's own. */
struct SumShared {
    double partials[SumWarps::kRun][SumWarps::kPitch]; /* [pair][lane] */
    int64_t places[SumWarps::kDims];                   /* for flushes */
};

/* A run: lane i looks after pair i, i < n. */
struct Run {
    int n;
    fgmm_pair pair; /* component -1 past the end */
    double r, distance;
    uint32_t quads; /* where the row begins, in quads (rows in whole quads alone) */
    bool alone;     /* the distance is still to be taken */
};

__device__ __forceinline__ Run load_run(const fgmm_pair_view &work, int first, int total, int dim)
{
    const int lane = threadIdx.x % kWarp;
    Run run = {min(total - first, SumWarps::kRun), {0, -1, 0, -1}, 0, 0, 0, false};
    if (lane >= run.n)
        return run;
    run.pair = work.sorted[first + lane];
    run.quads = static_cast<uint32_t>(run.pair.row) * static_cast<uint32_t>(dim / 4);
    run.alone = run.pair.weight < 0;
    run.r = 1;
    if (!run.alone) {
        const fgmm_pair_weight weight = work.weights[run.pair.weight];
        run.r = weight.r;
        run.distance = weight.distance;
    }
    return run;
}

/* Sums of roundings, [4] dimensions of a lane. */
struct Roundings {
    unsigned long long value[4] = {0, 0, 0, 0};

    /* Returns the rounding of a * b, b a power of two. */
    __device__ __forceinline__ double add(int e, double a, double b)
    {
        const double rounded = fma(a, b, kMagic);
        value[e] += static_cast<unsigned long long>(__double_as_longlong(rounded));
        return rounded - kMagic;
    }
    /* Adds the sums of 128 dimensions from d0 on. Lanes change places first: 32 atomics next to each other
     * are eight memory sectors, those of a lane's own dimensions would be 32. */
    __device__ __forceinline__ void flush(int64_t *to /* [dim] */, int d0, int dim, int count,
                                          int64_t (&places)[SumWarps::kDims]) const
    {
        const int lane = threadIdx.x % kWarp;
        __syncwarp();
#pragma unroll
        for (int e = 0; e < 4; e++)
            places[lane * 4 + e] = static_cast<int64_t>(value[e] - count * kMagicBits);
        __syncwarp();
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int place = e * kWarp + lane;
            const int64_t sum = places[place];
            if (d0 + place < dim && sum != 0)
                add_words(&to[d0 + place], sum);
        }
    }
};

/* Four elements of a row as they are stored, in whole registers while they are on their way: as elements, the
 * compiler would take them apart, and so wait for them, where they are loaded. */
template <typename T> struct alignas(alignof(Quad<T>)) Stored {
    uint32_t word[sizeof(T)];

    __device__ __forceinline__ Quad<T> quad() const
    {
        Quad<T> quad;
        memcpy(&quad, word, sizeof quad);
        return quad;
    }
};

/* Some rows of a run, on their way while others are added. */
template <typename M, typename T, bool kWhole> struct Batch {
    static constexpr bool kSame = std::is_same<M, T>::value;          /* one set of rows serves both ends */
    static constexpr int kRows = !kSame ? 2 : sizeof(T) == 4 ? 4 : 8; /* 16 registers a lane at most */
    Stored<M> metric[kRows];
    Stored<T> original[kRows]; /* unused where kSame */

    /* Of the row that the pair of lane `owner` names. kWhole is known at compile time, so that loads do not
     * wait for each other. */
    template <typename E>
    static __device__ __forceinline__ Stored<E> load(const Run &run, const fgmm_row_view &rows, int owner,
                                                     int d)
    {
        if constexpr (kWhole) {
            const uint32_t quads = __shfl_sync(kWholeWarp, run.quads, owner) + d / 4;
            return d < rows.dim ? static_cast<const Stored<E> *>(rows.data)[quads] : Stored<E>{};
        } else {
            const int row = __shfl_sync(kWholeWarp, run.pair.row, owner);
            const Quad<E> quad = load_quad(row_of<E>(rows, row), d, rows.dim, false);
            Stored<E> stored;
            memcpy(stored.word, &quad, sizeof stored);
            return stored;
        }
    }

    /* Pairs i.. of the run, the last one again past the end. */
    __device__ __forceinline__ void fetch(const Run &run, const fgmm_row_view &metric_rows,
                                          const fgmm_row_view &original_rows, int i, int last, int d)
    {
#pragma unroll
        for (int j = 0; j < kRows; j++) {
            const int owner = min(i + j, last);
            metric[j] = load<M>(run, metric_rows, owner, d);
            if constexpr (!kSame)
                original[j] = load<T>(run, original_rows, owner, d);
        }
    }
};

/* What stays the same for 128 dimensions. */
struct Columns {
    int d; /* the lane's first */
    Quad<double> metric_origin, origin, scale /* inverse bound * one */;
};

__device__ __forceinline__ Columns load_columns(const fgmm_row_view &metric, const fgmm_row_view &original,
                                                const fgmm_stats_view &stats, int d)
{
    const int dim = metric.dim;
    const bool aligned = dim % 4 == 0;
    Columns columns = {d, load_quad(metric.origin, d, dim, aligned),
                       load_quad(original.origin, d, dim, aligned),
                       load_quad(stats.inverse_bound, d, dim, aligned)};
#pragma unroll
    for (int e = 0; e < 4; e++)
        columns.scale.value[e] *= stats.one;
    return columns;
}

/* Adds pairs first..last of the run, all of component c, in the lane's dimensions. */
template <typename M, typename T, bool kDiagonal, bool kWhole>
__device__ __forceinline__ void add_component(const Run &run, const Columns &columns,
                                              const fgmm_row_view &metric, const fgmm_row_view &original,
                                              const fgmm_model_view &model, const fgmm_stats_view &stats,
                                              SumShared &shared, int first, int last, int c)
{
    typedef Batch<M, T, kWhole> Rows;
    const int lane = threadIdx.x % kWarp, d = columns.d, dim = model.dim;
    const int64_t at = static_cast<int64_t>(c) * dim;
    const bool scaled = model.form == FGMM_FORM_DIAG, aligned = dim % 4 == 0,
               whole_rows = d < SumWarps::kDims;
    const double inverse_one = 1 / stats.one;
    Rows next;
    next.fetch(run, metric, original, first, last, d);
    const Quad<double> mean = load_quad(model.mean + at, d, dim, aligned);
    Quad<double> centre = mean;
    if constexpr (!Rows::kSame && kDiagonal)
        centre = load_quad(model.centre + at, d, dim, aligned);
    Roundings s, high, low;
    int count = 0;
    for (int i = first; i <= last; i += Rows::kRows) {
        const Rows now = next;
        if (i + Rows::kRows <= last)
            next.fetch(run, metric, original, i + Rows::kRows, last, d);
        count += Rows::kRows;
        Quad<double> factor = {}; /* again for each batch: kept, it would cost eight registers */
        if (scaled)
            factor = load_quad(model.factor + at, d, dim, aligned);
#pragma unroll
        for (int j = 0; j < Rows::kRows; j++) {
            const bool real = i + j <= last;
            const int place = min(i + j, last);
            const Quad<double> y = centred(now.metric[j].quad(), columns.metric_origin);
            const double before = whole_rows ? 0.0 : shared.partials[place][lane];
            const double sum = add_squares(before, y, mean, scaled, factor);
            if (real)
                shared.partials[place][lane] = sum;
            if (!stats.sums)
                continue;
            Quad<double> x = y;
            if constexpr (!Rows::kSame)
                x = centred(now.original[j].quad(), columns.origin);
            const double weight = __shfl_sync(kWholeWarp, run.r, place), r = real ? weight : 0.0;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s.add(e, r * x.value[e], columns.scale.value[e]);
                if constexpr (kDiagonal) {
                    /* ((x - centre) / bound)^2 with the powers of two set apart: the same roundings */
                    const double t = (x.value[e] - centre.value[e]) * columns.scale.value[e];
                    const double square = r * t * t;
                    const double rounded = high.add(e, square, inverse_one);
                    low.add(e, fma(square, inverse_one, -rounded), stats.one);
                }
            }
        }
    }
    if (!stats.sums)
        return;
    const int d0 = d - lane * 4;
    s.flush(stats.s + at, d0, dim, count, shared.places);
    if constexpr (kDiagonal) {
        high.flush(stats.q_high + at, d0, dim, count, shared.places);
        low.flush(stats.q_low + at, d0, dim, count, shared.places);
    }
}

/* The sum of a pair's parts, joined as warp_sum joins them. */
__device__ __forceinline__ double join_parts(const double *parts /* [32] */)
{
    double sum[kWarp / 2];
#pragma unroll
    for (int i = 0; i < kWarp / 2; i++)
        sum[i] = parts[i] + parts[i + kWarp / 2];
#pragma unroll
    for (int step = kWarp / 4; step > 0; step /= 2)
#pragma unroll
        for (int i = 0; i < kWarp / 4; i++)
            if (i < step)
                sum[i] += sum[i + step];
    return sum[0];
}

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

/* What has one value a pair: masses and spherical moments. The last lane of a component adds its sums. */
__device__ __forceinline__ void add_scalars(const Run &run, const fgmm_stats_view &stats)
{
    const unsigned alike = __match_any_sync(kWholeWarp, run.pair.component);
    const int first = __ffs(alike) - 1, c = run.pair.component;
    const bool adds = threadIdx.x % kWarp == kWarp - 1 - __clz(alike) && c >= 0;
    const int64_t n = sum_from(__double2ll_rn(run.r * stats.one), first);
    if (adds)
        add_words(&stats.n[c], n);
    if (stats.moment != FGMM_KERNEL_MOMENT_SPHERICAL)
        return;
    const Limbs limbs = split(run.r * run.distance * (stats.inverse_spherical_bound * stats.one), stats.one);
    const int64_t high = sum_from(limbs.high, first), low = sum_from(limbs.low, first);
    if (adds) {
        add_words(&stats.q_high[c], high);
        add_words(&stats.q_low[c], low);
    }
}

/* M: element type of the rows that distances are taken of; T: of the original rows. kDiagonal: second moments
 * by dimension. kWhole: both are read in whole quads, whose numbers have 32 bits. */
template <typename M, typename T, bool kDiagonal, bool kWhole>
__global__ void __launch_bounds__(SumWarps::kThreads, SumWarps::blocks(std::is_same<M, T>::value, kDiagonal))
    add_sorted(fgmm_row_view metric, fgmm_row_view original, fgmm_model_view model, fgmm_pair_view work,
               fgmm_stats_view stats)
{
    __shared__ SumShared shared[SumWarps::kWarps];
    __shared__ Totals totals;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, total = work.state->total;
    if (threadIdx.x == 0)
        totals = {0, 0, 0};
    __syncthreads();
    Limbs log = {0, 0};
    for (int first = (blockIdx.x * SumWarps::kWarps + warp) * SumWarps::kRun; first < total;
         first += gridDim.x * SumWarps::kWarps * SumWarps::kRun) {
        Run run = load_run(work, first, total, model.dim);
        for (int d0 = 0; d0 < model.dim; d0 += SumWarps::kDims) {
            const Columns columns = load_columns(metric, original, stats, d0 + lane * 4);
            for (int i = 0, pairs; i < run.n; i += pairs) {
                const int c = __shfl_sync(kWholeWarp, run.pair.component, i);
                pairs = __popc(__ballot_sync(kWholeWarp, run.pair.component == c));
                add_component<M, T, kDiagonal, kWhole>(run, columns, metric, original, model, stats,
                                                       shared[warp], i, i + pairs - 1, c);
            }
        }
        __syncwarp();
        if (run.alone) {
            run.distance = join_parts(shared[warp].partials[lane]);
            const double density = value_at(model, run.pair.component, run.distance);
            add_limbs(log, split(density * (stats.inverse_log_bound * stats.one), stats.one));
        }
        __syncwarp();
        if (stats.sums)
            add_scalars(run, stats);
    }
    log = {warp_sum(log.high), warp_sum(log.low)};
    if (lane == 0)
        totals.add(log, 0);
    __syncthreads();
    if (threadIdx.x == 0)
        totals.flush(stats);
}

template <typename M, typename T>
int launch(const fgmm_row_view *metric, const fgmm_row_view *original, const fgmm_model_view *model,
           const fgmm_pair_view *work, const fgmm_stats_view *stats, fgmm_stream stream)
{
    constexpr int kPairs = SumWarps::kWarps * SumWarps::kRun;
    const int blocks = (metric->rows + kPairs - 1) / kPairs;
    const bool diagonal = stats->sums && stats->moment == FGMM_KERNEL_MOMENT_DIAG;
    const bool whole = quads_are_whole<M>(*metric) && quads_are_whole<T>(*original) &&
                       static_cast<int64_t>(metric->rows) * metric->dim / 4 <= UINT32_MAX;
    const auto kernel = diagonal ? (whole ? add_sorted<M, T, true, true> : add_sorted<M, T, true, false>)
                                 : (whole ? add_sorted<M, T, false, true> : add_sorted<M, T, false, false>);
    kernel<<<blocks, SumWarps::kThreads, 0, stream>>>(*metric, *original, *model, *work, *stats);
    return cudaGetLastError();
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_sums(const fgmm_row_view *metric, const fgmm_row_view *original,
                      const fgmm_model_view *model, const fgmm_pair_view *work, const fgmm_stats_view *stats,
                      fgmm_stream stream)
{
    return dispatch_rows(original->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (std::is_same<T, double>::value)
            return cudaErrorInvalidValue; /* stored rows are never float64 */
        else if (metric->type == FGMM_ROWS_F64)
            return launch<double, T>(metric, original, model, work, stats, stream);
        else
            return launch<T, T>(metric, original, model, work, stats, stream);
    });
}
