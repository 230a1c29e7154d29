/* The E-step of a small model in one pass over the rows: a few components of a few dimensions need no
 * candidate lists, no sorting and no dense path.
 *
 * Warps work apart; what they share is the model. A thread screens its rows in fp32, in the expanded form
 *     l_k = c_k + b_k . y - F_k |y|^2,   b_k = 2 F_k m_k,
 * with one bound of the rounding for all components of a row, and keeps those that can be within keep_bits of
 * the best. Rows with a single one get their float64 distances at once, and their contributions go to the
 * warp's sums (small_sums.cuh). Rows with two, or with more, wait until 32 of a kind have come together.
 * Contributions are rounded to the grid one by one, so that neither the order of pairs nor the cut into steps
 * changes a bit. */
#include <cuda_runtime.h>
#include <type_traits>
#include "kernels/generic/small.cuh"
#include "kernels/generic/small_sums.cuh"
#include "kernels/generic/warp.cuh"

namespace fgmm
{
namespace
{

template <int kDimensions, bool kDiagForm, bool kDiagMoments, int kGroups> struct SmallKind {
    static constexpr int kDims = kDimensions;
    static constexpr bool kDiag = kDiagForm;
    static constexpr bool kDiagMoment = kDiagMoments; /* second moments by dimension */
    static constexpr int kRows = Small::rows(kDims);  /* a thread and step */
    using Shape = SmallShape<kDims, kDiagMoment, kGroups>;
    static constexpr int kThreads = Small::threads(Shape::kTiles * kGroups);
    static constexpr int kBlocks = Small::blocks(Shape::kTiles * kGroups);
    static constexpr int kAtOnce = kBlocks > 1 ? kRows : 1; /* of them added to the sums at one time */
    using Mask = std::conditional_t<kGroups <= 2, uint32_t, uint64_t>; /* of candidates */
};

/* Rows of a warp that wait until 32 have come together. */
template <typename Kind> struct SmallQueue {
    static constexpr int kPlaces = kWarp * (Kind::kRows + 1); /* less than a warp's left, and a step's */
    typename Kind::Mask mask[kPlaces];                        /* candidates */
    int row[kPlaces];
};

template <typename Kind> struct SmallQueues {
    SmallQueue<Kind> two, many; /* rows with two candidates, and with more */
};

template <typename Kind> struct SmallShared {
    SmallModel<Kind::kDims> model;
    SmallStage stages[Kind::kThreads / kWarp][Kind::kAtOnce];
    SmallQueues<Kind> queues[Kind::kThreads / kWarp];
    Totals totals;
    unsigned long long sums[Kind::Shape::kSums];
};

/* The warp's rows of a step: row `first` + 32 slot + lane. */
template <typename T, typename Kind> struct SmallStep {
    SmallQuads<T, Kind::kDims> row[Kind::kRows];

    __device__ __forceinline__ void load(const fgmm_row_view &rows, int64_t first, bool whole)
    {
#pragma unroll
        for (int i = 0; i < Kind::kRows; i++) {
            const int64_t number = first + i * kWarp + threadIdx.x % kWarp,
                          last = static_cast<int64_t>(rows.rows) - 1;
            row[i] = load_quads<T, Kind::kDims>(rows, static_cast<int>(min(number, last)), whole);
        }
    }
};

/* A warp at work. */
template <typename T, typename Kind> struct SmallWarp {
    static constexpr int kDims = Kind::kDims, kRows = Kind::kRows, kAtOnce = Kind::kAtOnce;
    static constexpr bool kDiag = Kind::kDiag;
    using Mask = typename Kind::Mask;
    using Sums = SmallSums<typename Kind::Shape>;
    using Words = typename Sums::Words;

    const SmallModel<kDims> &m;
    SmallStage *stages; /* [kAtOnce] */
    SmallQueues<Kind> &queues;
    const fgmm_row_view &rows;
    const fgmm_model_view &model;
    const fgmm_stats_view &stats;
    bool whole, fine;
    int n_two = 0, n_many = 0; /* rows in the queues */
    int kept = 0;              /* pairs of this lane */
    RoundedLimbs log = {};
    Sums sums = {};

    /* The candidates of the step's rows; none past the end. */
    __device__ __forceinline__ void screen(const SmallStep<T, Kind> &step, int64_t first,
                                           Mask (&mask)[kRows]) const
    {
        SmallRow<kDims> rounded[kRows];
#pragma unroll
        for (int i = 0; i < kRows; i++)
            rounded[i] = rounded_row<T, kDims>(m, step.row[i]);
        screen_rows<kDims, kRows, kDiag>(m, model, rounded, mask);
#pragma unroll
        for (int i = 0; i < kRows; i++)
            if (first + i * kWarp + threadIdx.x % kWarp >= rows.rows)
                mask[i] = 0;
    }

    /* Lanes without a row add 0. */
    __device__ __forceinline__ void add_log(double density)
    {
        log.add(density * (stats.inverse_log_bound * stats.one), stats.one);
    }

    /* What a pair adds to the sums of component k. Where a lane has no pair it must be numbers all the same:
     * they are multiplied by zero. */
    __device__ __forceinline__ void contribute(const double (&x)[kDims], int k, double r, double distance,
                                               Words &word) const
    {
        word[0] = rounded_product(r, stats.one);
#pragma unroll
        for (int d = 0; d < kDims; d++)
            word[1 + d] = rounded_product(r * x[d], m.inverse[d]);
        if constexpr (Kind::kDiagMoment) {
            const double inverse_one = 1 / stats.one;
#pragma unroll
            for (int d = 0; d < kDims; d++) {
                const double t = (x[d] - m.mean(k, d)) * m.inverse[d];
                add_moment(r * t * t * inverse_one, d, word);
            }
        } else {
            add_moment(r * distance * (stats.inverse_spherical_bound * stats.one), 0, word);
        }
    }
    __device__ __forceinline__ void add_moment(double scaled, int moment, Words &word) const
    {
        const double high = rounded_product(scaled, 1.0);
        word[1 + kDims + moment] = high;
        word[1 + kDims + Kind::Shape::kMoments + moment] = rounded_product(scaled - high, stats.one);
    }

    /* Puts the lanes' rows that are `mine` behind the n of a queue. */
    __device__ __forceinline__ void enqueue(SmallQueue<Kind> &queue, int &n, bool mine, Mask mask,
                                            int64_t row)
    {
        const unsigned all = __ballot_sync(kWholeWarp, mine);
        if (mine) {
            const int place = n + __popc(all & ((1u << threadIdx.x % kWarp) - 1));
            queue.mask[place] = mask;
            queue.row[place] = static_cast<int>(row);
        }
        n += __popc(all);
    }

    /* Takes up to a warp of the rows in a queue; lanes past its end get row 0 without candidates. */
    __device__ __forceinline__ Mask dequeue(const SmallQueue<Kind> &queue, int &n, double (&x)[kDims])
    {
        const int count = min(n, kWarp), place = n - count + threadIdx.x % kWarp;
        const bool mine = threadIdx.x % kWarp < count;
        n -= count;
        __syncwarp();
        const Mask mask = mine ? queue.mask[place] : Mask{0};
        exact_row(m, load_quads<T, kDims>(rows, mine ? queue.row[place] : 0, whole), x);
        __syncwarp();
        return mask;
    }

    /* kAtOnce of a lane's rows, those that have a single candidate. */
    __device__ __forceinline__ void finish_single(const SmallQuads<T, kDims> *row, const Mask *mask)
    {
        bool single[kAtOnce], any = false;
#pragma unroll
        for (int i = 0; i < kAtOnce; i++) {
            single[i] = mask[i] != 0 && (mask[i] & (mask[i] - 1)) == 0;
            any = any || single[i];
        }
        if (!__any_sync(kWholeWarp, any))
            return;
        Words word[kAtOnce];
        int component[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; i++) {
            const int k = single[i] ? lowest(mask[i]) : 0;
            double x[kDims];
            exact_row(m, row[i], x);
            const double distance = distance_of<kDims, kDiag>(m, x, k);
            add_log(single[i] ? value_of<kDims, kDiag>(m, k, distance) : 0.0);
            kept += single[i];
            contribute(x, k, 1.0, distance, word[i]);
            component[i] = single[i] ? k : kNoComponent;
        }
        if (stats.sums)
            sums.template add<kAtOnce>(stages, word, component, model.k, fine);
    }

    /* A step's rows: those with one candidate; the others are put into the queues. */
    __device__ __forceinline__ void finish(const SmallStep<T, Kind> &step, int64_t first,
                                           const Mask (&mask)[kRows])
    {
#pragma unroll
        for (int i = 0; i < kRows; i++) {
            const Mask second = mask[i] & (mask[i] - 1), third = second & (second - 1);
            const int64_t row = first + i * kWarp + threadIdx.x % kWarp;
            enqueue(queues.two, n_two, second != 0 && third == 0, mask[i], row);
            if (__any_sync(kWholeWarp, third != 0))
                enqueue(queues.many, n_many, third != 0, mask[i], row);
        }
#pragma unroll
        for (int i = 0; i < kRows; i += kAtOnce)
            finish_single(&step.row[i], &mask[i]);
    }

    /* Up to a warp of rows with two candidates. */
    __device__ __forceinline__ void finish_two()
    {
        double x[kDims], distance[2], value[2];
        const Mask mask = dequeue(queues.two, n_two, x), rest = mask & (mask - 1);
        const bool mine = mask != 0;
        const int k[2] = {mine ? lowest(mask) : 0, mine ? lowest(rest) : 0};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            distance[i] = distance_of<kDims, kDiag>(m, x, k[i]);
            value[i] = value_of<kDims, kDiag>(m, k[i], distance[i]);
        }
        const int best = value[1] > value[0]; /* ties go to the smaller number */
        const double difference = best ? value[0] - value[1] : value[1] - value[0];
        const double rest_of_mass = model.hard ? 0.0 : exp2(difference), sum = 1 + rest_of_mass;
        const double density = best ? value[1] : value[0];
        const bool both = !model.hard && difference >= -model.keep_bits;
        add_log(mine ? density + log2(sum) : 0.0);
        kept += mine ? 1 + both : 0;
        if (!stats.sums)
            return;
        Words word[2];
        int component[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const bool keep = mine && (i == best || both);
            contribute(x, k[i], keep ? (i == best ? 1.0 : rest_of_mass) / sum : 0.0, distance[i], word[i]);
            component[i] = keep ? k[i] : kNoComponent;
        }
        if constexpr (kAtOnce >= 2) {
            sums.template add<2>(stages, word, component, model.k, fine);
        } else {
#pragma unroll
            for (int i = 0; i < 2; i++)
                sums.template add<1>(stages, &word[i], &component[i], model.k, fine);
        }
    }

    /* Up to a warp of rows with any number of candidates. */
    __device__ __forceinline__ void finish_many()
    {
        double x[kDims];
        Mask left = dequeue(queues.many, n_many, x);
        const SmallFound found = find_best<kDims, kDiag>(m, x, left);
        add_log(left == 0 ? 0.0 : model.hard ? found.value : found.value + log2(found.sum));
        if (model.hard && left != 0)
            left = Mask{1} << found.best;
        for (; __any_sync(kWholeWarp, left != 0); left &= left - 1) {
            const int k = left != 0 ? lowest(left) : 0;
            const double distance = distance_of<kDims, kDiag>(m, x, k);
            const double value = value_of<kDims, kDiag>(m, k, distance);
            const bool keep = left != 0 && value >= found.value - model.keep_bits;
            kept += keep;
            if (!stats.sums)
                continue;
            const double r = !keep ? 0.0 : model.hard ? 1.0 : exp2(value - found.value) / found.sum;
            const int component = keep ? k : kNoComponent;
            Words word;
            contribute(x, k, r, distance, word);
            sums.template add<1>(stages, &word, &component, model.k, fine);
        }
    }
};

/* The block's sums to the statistics. */
template <typename Kind>
__device__ void flush_sums(const unsigned long long *sums, const fgmm_model_view &model,
                           const fgmm_stats_view &stats)
{
    using Shape = typename Kind::Shape;
    const bool second = Kind::kDiagMoment || stats.moment == FGMM_KERNEL_MOMENT_SPHERICAL;
    for (int i = threadIdx.x; i < model.k * Shape::kPitch; i += Kind::kThreads) {
        const int k = i / Shape::kPitch, word = i % Shape::kPitch, d = word - 1;
        const int high = d - Kind::kDims, low = high - Shape::kMoments;
        const int64_t value = static_cast<int64_t>(sums[i]);
        const int moments = Kind::kDiagMoment ? model.dim : 1;
        if (value == 0 || word >= Shape::kWords)
            continue;
        if (word == 0)
            add_words(&stats.n[k], value);
        else if (d < Kind::kDims && d < model.dim)
            add_words(&stats.s[k * model.dim + d], value);
        else if (second && high >= 0 && high < moments)
            add_words(&stats.q_high[k * moments + high], value);
        else if (second && low >= 0 && low < moments)
            add_words(&stats.q_low[k * moments + low], value);
    }
}

template <typename T, typename Kind>
__global__ void __launch_bounds__(Kind::kThreads, Kind::kBlocks)
    estep(fgmm_row_view rows, fgmm_model_view model, fgmm_stats_view stats)
{
    extern __shared__ __align__(16) unsigned char memory[];
    SmallShared<Kind> &shared = *reinterpret_cast<SmallShared<Kind> *>(memory);
    constexpr int kStep = kWarp * Kind::kRows; /* rows of a warp */
    const int warp = threadIdx.x / kWarp;
    const int64_t stride = static_cast<int64_t>(gridDim.x) * (Kind::kThreads / kWarp) * kStep;
    const bool whole = quads_are_whole<T>(rows);
    int64_t first = (static_cast<int64_t>(warp) * gridDim.x + blockIdx.x) * kStep;
    SmallStep<T, Kind> step;
    step.load(rows, first, whole); /* on their way while the model is made ready */
    if (threadIdx.x == 0)
        shared.totals = {0, 0, 0};
    for (int i = threadIdx.x; i < Kind::Shape::kSums; i += Kind::kThreads)
        shared.sums[i] = 0;
    fill_model<Kind::kDims, Kind::kDiag>(shared.model, rows, model, stats);
    SmallWarp<T, Kind> work = {shared.model, shared.stages[warp], shared.queues[warp], rows, model, stats,
                               whole,        stats.one > 0x1p46};
    for (;; first += stride) {
        const bool last = first >= rows.rows;
        if (!last) {
            typename Kind::Mask mask[Kind::kRows];
            SmallStep<T, Kind> next;
            work.screen(step, first, mask);
            next.load(rows, first + stride, whole);
            work.finish(step, first, mask);
            step = next;
        }
        while (work.n_two >= (last ? 1 : kWarp))
            work.finish_two();
        while (work.n_many >= (last ? 1 : kWarp))
            work.finish_many();
        if (last)
            break;
    }
    work.sums.flush(shared.sums);
    const Limbs mine = work.log.sum();
    const Limbs log = {warp_sum(mine.high), warp_sum(mine.low)};
    const int64_t kept = warp_sum(static_cast<int64_t>(work.kept));
    if (threadIdx.x % kWarp == 0)
        shared.totals.add(log, kept);
    __syncthreads();
    if (stats.sums)
        flush_sums<Kind>(shared.sums, model, stats);
    if (threadIdx.x == 0)
        shared.totals.flush(stats);
}

template <typename T, typename Kind>
int launch(const fgmm_row_view *rows, const fgmm_model_view *model, const fgmm_stats_view *stats,
           int multiprocessors, fgmm_stream stream)
{
    constexpr int kStep = Kind::kThreads * Kind::kRows;
    constexpr int kBytes = sizeof(SmallShared<Kind>);
    static_assert(kBytes <= 99 * 1024, "what any device of compute capability 8 has");
    const auto kernel = estep<T, Kind>;
    static const cudaError_t allowed =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (allowed != cudaSuccess)
        return allowed;
    static const int resident = [&] {
        int blocks = 1;
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, Kind::kThreads, kBytes);
        return blocks;
    }();
    const int steps = (rows->rows + kStep - 1) / kStep, most = multiprocessors * resident;
    const int blocks = steps < most ? steps : most;
    kernel<<<blocks, Kind::kThreads, kBytes, stream>>>(*rows, *model, *stats);
    return cudaGetLastError();
}

template <typename T, int kDims, bool kDiag, bool kDiagMoment>
int launch(const fgmm_row_view *rows, const fgmm_model_view *model, const fgmm_stats_view *stats,
           int multiprocessors, fgmm_stream stream)
{
    if (model->k <= 16)
        return launch<T, SmallKind<kDims, kDiag, kDiagMoment, 1>>(rows, model, stats, multiprocessors,
                                                                  stream);
    return launch<T, SmallKind<kDims, kDiag, kDiagMoment, FGMM_SMALL_COMPONENTS / 16>>(
        rows, model, stats, multiprocessors, stream);
}
template <typename T>
int launch(const fgmm_row_view *rows, const fgmm_model_view *model, const fgmm_stats_view *stats,
           int multiprocessors, fgmm_stream stream)
{
    const bool diagonal = model->form == FGMM_FORM_DIAG;
    const bool by_dimension = diagonal || stats->moment == FGMM_KERNEL_MOMENT_DIAG;
    if (diagonal)
        return model->dim <= 4 ? launch<T, 4, true, true>(rows, model, stats, multiprocessors, stream)
                               : launch<T, 8, true, true>(rows, model, stats, multiprocessors, stream);
    if (by_dimension)
        return model->dim <= 4 ? launch<T, 4, false, true>(rows, model, stats, multiprocessors, stream)
                               : launch<T, 8, false, true>(rows, model, stats, multiprocessors, stream);
    if (model->dim <= 8)
        return model->dim <= 4 ? launch<T, 4, false, false>(rows, model, stats, multiprocessors, stream)
                               : launch<T, 8, false, false>(rows, model, stats, multiprocessors, stream);
    return launch<T, 16, false, false>(rows, model, stats, multiprocessors, stream);
}

} // namespace
} // namespace fgmm

using namespace fgmm;

bool fgmm__small_serves(fgmm_form form, int32_t moment, int32_t k, int32_t dim)
{
    const bool by_dimension = form == FGMM_FORM_DIAG || moment == FGMM_KERNEL_MOMENT_DIAG;
    return form != FGMM_FORM_FULL && moment != FGMM_KERNEL_MOMENT_FULL && k <= FGMM_SMALL_COMPONENTS &&
           dim <= (by_dimension ? 8 : 16);
}

int fgmm__launch_small(const fgmm_row_view *rows, const fgmm_model_view *model, const fgmm_stats_view *stats,
                       int multiprocessors, fgmm_stream stream)
{
    return dispatch_rows(rows->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (std::is_same<T, double>::value)
            return cudaErrorInvalidValue; /* stored rows are never float64 */
        else
            return launch<T>(rows, model, stats, multiprocessors, stream);
    });
}
