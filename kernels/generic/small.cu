/* The E-step of a small model in one pass over the rows: a few components of a few dimensions need no
 * candidate lists, no sorting in device memory and no dense path.
 *
 * A block takes 256 x kRows rows at a time. A thread screens its rows in fp32, in the expanded form
 *     l_k = c_k + b_k . y - F_k |y|^2,   b_k = 2 F_k m_k,
 * with one bound of the rounding for all components of a row, and keeps those that can be within keep_bits of
 * the best. Their float64 distances and responsibilities go to a list in shared memory that is sorted by
 * component (count, scan, place), and groups of lanes add up the components' pairs in registers.
 * Contributions are rounded to the grid one by one, so that neither the order of pairs nor the cut into steps
 * changes a bit. */
#include <cuda_runtime.h>
#include <type_traits>
#include "kernels/generic/small.cuh"
#include "kernels/generic/warp.cuh"

namespace fgmm
{
namespace
{

struct SmallPairs {
    double r[Small::kPairs], distance[Small::kPairs];
    uint16_t row[Small::kPairs];       /* of the step */
    int begin[FGMM_SMALL_COMPONENTS];  /* of a component's pairs; those of rows with a single candidate first
                                        */
    int cursor[FGMM_SMALL_COMPONENTS]; /* past the last; before, how many come from rows with one candidate */
    int several[FGMM_SMALL_COMPONENTS]; /* the same from rows with several, at most */
    int total;
    /* Rows with several candidates wait until whole warps take them up. */
    uint64_t waiting[Small::kMostStep];
    uint16_t waiting_row[Small::kMostStep];
    int n_waiting;
};

template <int kDims> struct SmallShared {
    SmallModel<kDims> model;
    SmallPairs pairs;
    Totals totals;
};
/* The block's sums follow: [k][words] in the order n, s, q high, q low. */

template <bool kDiagMoment> __device__ __forceinline__ int words_of(const fgmm_stats_view &stats, int dim)
{
    const int moments = kDiagMoment ? dim : stats.moment == FGMM_KERNEL_MOMENT_SPHERICAL ? 1 : 0;
    return 1 + dim + 2 * moments;
}

/* Counts to places. All threads. */
__device__ void scan_components(SmallPairs &pairs, int k)
{
    __syncthreads();
    if (threadIdx.x < kWarp) {
        int before = 0;
        for (int first = 0; first < k; first += kWarp) {
            const int c = first + threadIdx.x, single = c < k ? pairs.cursor[c] : 0;
            const int count = c < k ? single + pairs.several[c] : 0;
            int inclusive = count;
#pragma unroll
            for (int step = 1; step < kWarp; step *= 2) {
                const int below = __shfl_up_sync(kWholeWarp, inclusive, step);
                inclusive += threadIdx.x >= step ? below : 0;
            }
            if (c < k) {
                pairs.begin[c] = before + inclusive - count;
                pairs.cursor[c] = pairs.begin[c] + single;
            }
            before += __shfl_sync(kWholeWarp, inclusive, kWarp - 1);
        }
    }
    __syncthreads();
}

/* Sums of roundings to integers: adding 1.5 * 2^52 rounds a value of at most 2^51 and leaves it in the low
 * bits, which are added as they are; what the constants add is taken off at the end. */
constexpr double kMagic = 0x1.8p52;
constexpr unsigned long long kMagicBits = 0x4338000000000000ull;

struct Rounded {
    unsigned long long bits = 0;

    /* Returns the rounding of a * b. */
    __device__ __forceinline__ double add(double a, double b)
    {
        const double rounded = fma(a, b, kMagic);
        bits += static_cast<unsigned long long>(__double_as_longlong(rounded));
        return rounded - kMagic;
    }
    __device__ __forceinline__ int64_t sum(int count) const
    {
        return static_cast<int64_t>(bits - count * kMagicBits);
    }
};

/* A value a row or a row and dimension in two limbs, as split() cuts it. */
struct RoundedLimbs {
    Rounded high, low;

    __device__ __forceinline__ void add(double scaled, double one)
    {
        const double rounded = high.add(scaled, 1.0);
        low.add(scaled - rounded, one);
    }
};

/* Sum over `width` consecutive lanes, a power of two. */
__device__ __forceinline__ int64_t group_sum(int64_t value, int width)
{
    for (int step = width / 2; step > 0; step /= 2)
        value += __shfl_xor_sync(kWholeWarp, value, step);
    return value;
}

/* Adds the pairs of the list to the block's sums. A group of lanes has a component, or a part of one where
 * there are more groups than components. Places: begin[c] to cursor[c]. */
template <typename T, int kDims, bool kDiagMoment>
__device__ void add_pairs(const SmallModel<kDims> &m, const SmallPairs &pairs, const fgmm_row_view &rows,
                          const fgmm_model_view &model, const fgmm_stats_view &stats, int step_first,
                          bool whole, unsigned long long *sums)
{
    const int width = model.k <= Small::kWarps / 2 ? kWarp : model.k <= 2 * Small::kWarps ? 16 : 8;
    const int groups = Small::kThreads / width, parts = max(groups / model.k, 1),
              words = words_of<kDiagMoment>(stats, model.dim);
    const int group = threadIdx.x / width, lane = threadIdx.x % width, part = group % parts;
    const double scale = stats.inverse_spherical_bound * stats.one, inverse_one = 1 / stats.one;
    for (int first = 0; first < model.k; first += groups / parts) {
        const int c = first + group / parts;
        const bool mine = c < model.k && group / parts < groups / parts;
        constexpr int kMoments = kDiagMoment ? kDims : 1;
        Rounded n, s[kDims];
        RoundedLimbs q[kMoments];
        int count = 0;
        const int end = mine ? pairs.cursor[c] : 0;
        for (int i = mine ? pairs.begin[c] + part * width + lane : 0; i < end; i += parts * width) {
            const double r = pairs.r[i];
            const int row = step_first + pairs.row[i];
            count++;
            n.add(r, stats.one);
#pragma unroll
            for (int d = 0; d < kDims; d += 4) {
                double x[4];
                load_four<T>(rows, m.origin, row, d, whole, x);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    s[d + e].add(r * x[e], m.inverse[d + e]);
                    if constexpr (kDiagMoment) {
                        const double t = (x[e] - m.mean[c][d + e]) * m.inverse[d + e];
                        q[d + e].add(r * t * t * inverse_one, stats.one);
                    }
                }
            }
            if constexpr (!kDiagMoment)
                q[0].add(r * pairs.distance[i] * scale, stats.one);
        }
        unsigned long long *to = sums + c * words;
        const auto add = [&](int word, const Rounded &rounded) {
            const int64_t total = group_sum(rounded.sum(count), width);
            if (mine && lane == 0 && total != 0)
                atomicAdd(&to[word], static_cast<unsigned long long>(total));
        };
        add(0, n);
#pragma unroll
        for (int d = 0; d < kDims; d++)
            if (d < model.dim)
                add(1 + d, s[d]);
        if constexpr (kDiagMoment) {
#pragma unroll
            for (int d = 0; d < kDims; d++)
                if (d < model.dim) {
                    add(1 + model.dim + d, q[d].high);
                    add(1 + 2 * model.dim + d, q[d].low);
                }
        } else if (stats.moment == FGMM_KERNEL_MOMENT_SPHERICAL) {
            add(1 + model.dim, q[0].high);
            add(2 + model.dim, q[0].low);
        }
    }
}

/* The block's sums to the statistics. */
template <bool kDiagMoment>
__device__ void flush_sums(const unsigned long long *sums, const fgmm_model_view &model,
                           const fgmm_stats_view &stats)
{
    const int words = words_of<kDiagMoment>(stats, model.dim), dim = model.dim,
              moments = (words - 1 - dim) / 2;
    for (int i = threadIdx.x; i < model.k * words; i += Small::kThreads) {
        const int k = i / words, word = i % words;
        int64_t *to = word == 0                  ? &stats.n[k]
                      : word < 1 + dim           ? &stats.s[k * dim + word - 1]
                      : word < 1 + dim + moments ? &stats.q_high[k * moments + word - 1 - dim]
                                                 : &stats.q_low[k * moments + word - 1 - dim - moments];
        if (sums[i] != 0)
            add_words(to, static_cast<int64_t>(sums[i]));
    }
}

/* The rows of a step that are finished and added at one time. */
struct Round {
    int first_slot, slots; /* of a thread's rows */
    int first_warp, warps;

    __device__ __forceinline__ bool has(int slot) const
    {
        const int warp = threadIdx.x / kWarp;
        return slot >= first_slot && slot < first_slot + slots && warp >= first_warp &&
               warp < first_warp + warps;
    }
};

/* What a block works with. */
template <int kDims> struct SmallBlock {
    SmallShared<kDims> &shared;
    unsigned long long *sums; /* shared memory, [k][words] */
    const fgmm_row_view &rows;
    const fgmm_model_view &model;
    const fgmm_stats_view &stats;
    bool whole;
    RoundedLimbs log; /* of the thread's rows */
    int logs, kept;

    __device__ __forceinline__ void add_log(double density)
    {
        logs++;
        log.add(density * (stats.inverse_log_bound * stats.one), stats.one);
    }

    __device__ __forceinline__ int64_t row(int64_t first, int slot) const
    {
        return first + slot * Small::kThreads + threadIdx.x;
    }
};

/* The candidates of the thread's rows from row `first` on; zero past the end. */
template <typename T, int kDims, int kRows, bool kDiag>
__device__ __forceinline__ void find_candidates(const SmallBlock<kDims> &block, int64_t first,
                                                uint64_t (&mask)[kRows])
{
    SmallRow<kDims> row[kRows];
#pragma unroll
    for (int i = 0; i < kRows; i++) {
        const int64_t number = min(block.row(first, i), static_cast<int64_t>(block.rows.rows) - 1);
        row[i] =
            load_row<T, kDims>(block.rows, block.shared.model.origin, static_cast<int>(number), block.whole);
    }
    screen_rows<kDims, kRows, kDiag>(block.shared.model, block.model, row, mask);
#pragma unroll
    for (int i = 0; i < kRows; i++)
        if (block.row(first, i) >= block.rows.rows)
            mask[i] = 0;
}

/* Whether the list holds all candidates of the step. */
template <int kDims, int kRows>
__device__ __forceinline__ bool all_fit(SmallBlock<kDims> &block, const uint64_t (&mask)[kRows])
{
    int *total = &block.shared.pairs.total, candidates = 0;
#pragma unroll
    for (int i = 0; i < kRows; i++)
        candidates += __popcll(mask[i]);
    candidates = __reduce_add_sync(kWholeWarp, candidates);
    if (threadIdx.x == 0)
        *total = 0;
    __syncthreads();
    if (threadIdx.x % kWarp == 0)
        atomicAdd(total, candidates);
    __syncthreads();
    return *total <= Small::kPairs;
}

__device__ __forceinline__ void put_pair(SmallPairs &pairs, int place, int row, double r, double distance)
{
    pairs.r[place] = r;
    pairs.distance[place] = distance;
    pairs.row[place] = static_cast<uint16_t>(row);
}

/* Counts the round's candidates by component. rank: of a row's only one. */
template <int kDims, int kRows>
__device__ __forceinline__ void count_round(SmallBlock<kDims> &block, const Round &round,
                                            const uint64_t (&mask)[kRows], int (&rank)[kRows])
{
    SmallPairs &pairs = block.shared.pairs;
    for (int c = threadIdx.x; c < block.model.k; c += Small::kThreads)
        pairs.cursor[c] = pairs.several[c] = 0;
    if (threadIdx.x == 0)
        pairs.n_waiting = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kRows; i++) {
        rank[i] = -1;
        if (!round.has(i) || mask[i] == 0)
            continue;
        if ((mask[i] & (mask[i] - 1)) == 0) {
            rank[i] = atomicAdd(&pairs.cursor[__ffsll(static_cast<long long>(mask[i])) - 1], 1);
            continue;
        }
        const int place = atomicAdd(&pairs.n_waiting, 1);
        pairs.waiting[place] = mask[i];
        pairs.waiting_row[place] = static_cast<uint16_t>(i * Small::kThreads + threadIdx.x);
        for (uint64_t left = mask[i]; left != 0; left &= left - 1)
            atomicAdd(&pairs.several[__ffsll(static_cast<long long>(left)) - 1], 1);
    }
    scan_components(pairs, block.model.k);
}

/* Finishes the rows of a round and adds their pairs. */
template <typename T, int kDims, int kRows, bool kDiag, bool kDiagMoment>
__device__ __forceinline__ void finish_round(SmallBlock<kDims> &block, int64_t first, const Round &round,
                                             const uint64_t (&mask)[kRows])
{
    SmallPairs &pairs = block.shared.pairs;
    const SmallModel<kDims> &model = block.shared.model;
    const fgmm_stats_view &stats = block.stats;
    const int step_first = static_cast<int>(first);
    int rank[kRows];
    count_round<kDims, kRows>(block, round, mask, rank);
#pragma unroll
    for (int i = 0; i < kRows; i++) {
        if (rank[i] < 0)
            continue;
        const int row = i * Small::kThreads + threadIdx.x, k = __ffsll(static_cast<long long>(mask[i])) - 1;
        double x[kDims];
        load_exact<T, kDims>(block.rows, model.origin, step_first + row, block.whole, x);
        const double distance = distance_of<kDims, kDiag>(model, x, k);
        block.add_log(value_of<kDims, kDiag>(model, k, distance));
        block.kept++;
        put_pair(pairs, pairs.begin[k] + rank[i], row, 1.0, distance);
    }
    for (int i = threadIdx.x; i < pairs.n_waiting; i += Small::kThreads) {
        const int row = pairs.waiting_row[i];
        block.add_log(
            finish_row<T, kDims, kDiag>(model, block.model, block.rows, step_first + row, block.whole,
                                        pairs.waiting[i], [&](int k, double r, double distance) {
                                            block.kept++;
                                            put_pair(pairs, atomicAdd(&pairs.cursor[k], 1), row, r, distance);
                                        }));
    }
    __syncthreads();
    if (stats.sums)
        add_pairs<T, kDims, kDiagMoment>(model, pairs, block.rows, block.model, stats, step_first,
                                         block.whole, block.sums);
    __syncthreads();
}

/* Steps of kThreads * kRows rows; thread t has rows t, t + kThreads... of a step. kDiag: the form;
 * kDiagMoment: second moments by dimension. */
template <typename T, int kDims, int kRows, bool kDiag, bool kDiagMoment>
__global__ void __launch_bounds__(Small::kThreads, Small::blocks(kDims, kDiagMoment))
    estep(fgmm_row_view rows, fgmm_model_view model, fgmm_stats_view stats)
{
    extern __shared__ __align__(16) unsigned char memory[];
    SmallShared<kDims> &shared = *reinterpret_cast<SmallShared<kDims> *>(memory);
    unsigned long long *sums = reinterpret_cast<unsigned long long *>(memory + sizeof shared);
    SmallBlock<kDims> block = {shared, sums, rows, model, stats, quads_are_whole<T>(rows), {}, 0, 0};
    if (threadIdx.x == 0)
        shared.totals = {0, 0, 0};
    for (int i = threadIdx.x; i < model.k * words_of<kDiagMoment>(stats, model.dim); i += Small::kThreads)
        sums[i] = 0;
    fill_model<kDims, kDiag>(shared.model, rows, model, stats);
    constexpr int64_t kStep = Small::kThreads * kRows;
    for (int64_t first = blockIdx.x * kStep; first < rows.rows; first += gridDim.x * kStep) {
        uint64_t mask[kRows];
        find_candidates<T, kDims, kRows, kDiag>(block, first, mask);
        /* All rows at one time where the list holds them; else one a thread, of so many warps as it holds. */
        const bool fits = all_fit<kDims, kRows>(block, mask);
        const int slots = fits ? kRows : 1;
        const int warps = fits ? Small::kWarps : min(Small::kPairs / (kWarp * model.k), Small::kWarps);
        for (int slot = 0; slot < kRows; slot += slots)
            for (int warp = 0; warp < Small::kWarps; warp += warps)
                finish_round<T, kDims, kRows, kDiag, kDiagMoment>(block, first, {slot, slots, warp, warps},
                                                                  mask);
    }
    const Limbs log = {warp_sum(block.log.high.sum(block.logs)), warp_sum(block.log.low.sum(block.logs))};
    const int64_t kept = warp_sum(static_cast<int64_t>(block.kept));
    if (threadIdx.x % kWarp == 0)
        shared.totals.add(log, kept);
    __syncthreads();
    if (stats.sums)
        flush_sums<kDiagMoment>(sums, model, stats);
    if (threadIdx.x == 0)
        shared.totals.flush(stats);
}

template <typename T, int kDims, bool kDiag, bool kDiagMoment>
int launch(const fgmm_row_view *rows, const fgmm_model_view *model, const fgmm_stats_view *stats,
           int multiprocessors, fgmm_stream stream)
{
    constexpr int kRows = Small::rows(kDims);
    constexpr int kStep = Small::kThreads * kRows;
    constexpr int kMostWords = kDiagMoment ? 1 + 3 * kDims : 3 + kDims;
    constexpr int kMostBytes = sizeof(SmallShared<kDims>) + FGMM_SMALL_COMPONENTS * kMostWords * 8;
    static_assert(kMostBytes <= 99 * 1024, "what any device of compute capability 8 has");
    const auto kernel = estep<T, kDims, kRows, kDiag, kDiagMoment>;
    static const cudaError_t allowed =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostBytes);
    if (allowed != cudaSuccess)
        return allowed;
    const int steps = (rows->rows + kStep - 1) / kStep,
              most = multiprocessors * Small::blocks(kDims, kDiagMoment);
    const int blocks = steps < most ? steps : most;
    const size_t bytes = sizeof(SmallShared<kDims>) + static_cast<size_t>(model->k) * kMostWords * 8;
    kernel<<<blocks, Small::kThreads, bytes, stream>>>(*rows, *model, *stats);
    return cudaGetLastError();
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
