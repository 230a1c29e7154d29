/* Screening: which components can matter for a row. A block takes 128 rows and walks over all components in
 * tiles of 128; of every pair it knows bounds of the log2-density, upper and lower, that hold against fp32
 * rounding. A component stays in the row's list while its upper bound is within keep_bits of the largest
 * lower bound, so none that matters is lost; pairs.cu, sums.cu and select.cu then compute the few that stay
 * in float64.
 *
 * Whether a row's list overflows depends on the row and the model alone: tiles come in a fixed order, and a
 * tile's decision looks at sets, not at arrival. So does the order within a list. */
#include <cuda_runtime.h>
#include <float.h>
#include "kernels/generic/pair_tile.cuh"
#include "kernels/generic/warp.cuh"
#include "kernels/ptx/async_copy.cuh"
#include "kernels/ptx/math.cuh"

namespace fgmm
{
namespace
{

/* ---- the tables ---- */

/* Rounding, with e = 2^-24, u = ||F(x-m)||^2, v = sqrt(u), N = ||F m||: x - origin, m (or F and F m) and each
 * t are rounded once (for diag: t's error is below e (8 |F m| + 6 |t|) a dimension), so u is off by at most
 * 2^-21 v N + 12 e u; the sum of dim squares by (dim + 2) e u; the terms of the bounds themselves by a few e
 * u. */
constexpr double kUnit = 0x1p-24;
__host__ __device__ inline float relative_error(int dim)
{
    return static_cast<float>((dim + 32) * kUnit);
}

__device__ float4 screen_terms(double offset, double factor, double norm)
{
    if (isinf(offset))
        return make_float4(-INFINITY, -INFINITY, static_cast<float>(factor), 0.0f);
    double slack = fabs(offset) * 0x1p-22;
    return make_float4(__double2float_ru(offset + slack), __double2float_rd(offset - slack),
                       static_cast<float>(factor), __double2float_ru(norm * 0x1p-21 * 1.01));
}

/* A warp a component; components past k fill the last tile with -infinity. */
__global__ void fill_tables(fgmm_model_view model, const double *origin, const float *origin32,
                            fgmm_screen_tables tables)
{
    int k = blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    if (k >= tables.tiles * FGMM_SCREEN_TILE)
        return;
    bool diag = model.form == FGMM_FORM_DIAG, real = k < model.k;
    int64_t column = static_cast<int64_t>(k / FGMM_SCREEN_TILE) * tables.dim_padded * FGMM_SCREEN_TILE +
                     k % FGMM_SCREEN_TILE;
    double norm = 0;
    for (int d = lane; d < tables.dim_padded; d += kWarp) {
        double mean = 0, scale = 0;
        if (real && d < model.dim) {
            int64_t at = static_cast<int64_t>(k) * model.dim + d;
            scale = diag ? model.factor[at] : 1;
            mean = (model.mean[at] + (origin[d] - origin32[d])) * scale;
        }
        norm += mean * mean;
        tables.mean[column + static_cast<int64_t>(d) * FGMM_SCREEN_TILE] = static_cast<float>(mean);
        if (diag)
            tables.scale[column + static_cast<int64_t>(d) * FGMM_SCREEN_TILE] = static_cast<float>(scale);
    }
    norm = warp_sum(norm);
    if (lane == 0) {
        double factor = diag || !real ? 1 : model.factor[k];
        reinterpret_cast<float4 *>(tables.terms)[k] =
            screen_terms(real ? model.offset[k] : -INFINITY, factor, sqrt(factor * norm));
    }
}

/* ---- the lists ---- */

/* A list is owned by a half-warp: its 16 lanes agree on `count`; both halves of a warp work on rows of their
 * own in lockstep. count FGMM_DENSE_ROW: overflowed. */
__device__ __forceinline__ fgmm_candidate *list_of(fgmm_candidate *entries, int row)
{
    return entries + static_cast<int64_t>(row) * FGMM_CANDIDATES;
}

constexpr int kHalf = kWarp / 2;
constexpr int kEntriesALane = FGMM_CANDIDATES / kHalf;

__device__ __forceinline__ unsigned half_votes(bool vote)
{
    unsigned votes = __ballot_sync(kWholeWarp, vote);
    return threadIdx.x % kWarp < kHalf ? votes & 0xffffu : votes >> kHalf;
}

/* Drops entries under the threshold, keeping the order; returns how many stay. Rows with `wanted` false are
 * left alone. */
__device__ __noinline__ int compact(fgmm_candidate *entries /* [FGMM_CANDIDATES] */, int count,
                                    float threshold, bool wanted)
{
    int lane = threadIdx.x % kHalf, kept = 0;
    fgmm_candidate held[kEntriesALane];
    wanted = wanted && count <= FGMM_CANDIDATES;
#pragma unroll
    for (int e = 0; e < kEntriesALane; e++) {
        int at = e * kHalf + lane;
        held[e] = wanted && at < count ? entries[at] : fgmm_candidate{-1, -INFINITY};
    }
    __syncwarp();
#pragma unroll
    for (int e = 0; e < kEntriesALane; e++) {
        bool keep = held[e].upper >= threshold;
        unsigned votes = half_votes(keep);
        if (keep)
            entries[kept + __popc(votes & ((1u << lane) - 1))] = held[e];
        kept += __popc(votes);
    }
    __syncwarp();
    return wanted ? kept : count;
}

/* Appends this tile's candidates (upper[j] >= threshold) of the half-warp's row; compacts when they do not
 * fit, and gives the row up when they still do not. Returns the new count. */
__device__ __forceinline__ int append(fgmm_candidate *entries, int count, const PairThread &thread,
                                      const float (&upper)[PairTile::kMicro], float threshold,
                                      int first_component)
{
    int lane = threadIdx.x % kHalf, total = 0;
#pragma unroll
    for (int j = 0; j < PairTile::kMicro; j++)
        total += __popc(half_votes(upper[j] >= threshold));
    bool full = total > 0 && count <= FGMM_CANDIDATES && count + total > FGMM_CANDIDATES;
    if (__any_sync(kWholeWarp, full)) {
        count = compact(entries, count, threshold, full);
        if (full && count + total > FGMM_CANDIDATES)
            count = FGMM_DENSE_ROW;
    }
    bool open = count <= FGMM_CANDIDATES;
#pragma unroll
    for (int j = 0; j < PairTile::kMicro; j++) {
        bool keep = open && upper[j] >= threshold;
        unsigned votes = half_votes(keep);
        if (keep)
            entries[count + __popc(votes & ((1u << lane) - 1))] = {first_component + thread.column(j),
                                                                   upper[j]};
        count += __popc(votes);
    }
    __syncwarp();
    return count;
}

/* ---- the kernel ---- */

template <bool kScaled> struct ScreenShared {
    PairStage rows[PairTile::kStages];
    PairStage means[PairTile::kStages];
    PairStage scales[kScaled ? PairTile::kStages : 1];
    float best[PairTile::kSide]; /* largest lower bound of each row */
    int count[PairTile::kSide];
};

/* A stage of a table is 8 KiB in one piece: two 16-byte copies a thread. */
__device__ __forceinline__ void fetch_table(PairStage &stage, const float *table, int stage_number)
{
    constexpr int kFloats = PairTile::kDims * PairTile::kSide;
    const float *from = table + static_cast<int64_t>(stage_number) * kFloats;
    float *to = &stage.value[0][0];
#pragma unroll
    for (int i = 0; i < kFloats / (4 * PairTile::kThreads); i++) {
        int at = (i * PairTile::kThreads + threadIdx.x) * 4;
        ptx::copy_async_16(to + at, from + at);
    }
}

/* The end of a component tile: squared distances to bounds, the rows' best lower bound, then the candidates.
 */
template <bool kScaled>
__device__ __forceinline__ void end_tile(PairSums &sums, ScreenShared<kScaled> &shared,
                                         const PairThread &thread, const fgmm_screen_tables &tables, int tile,
                                         fgmm_candidate *entries, int first, float relative, float keep_bits)
{
    float lower[PairTile::kMicro]; /* [row of the thread]: the largest over its columns */
#pragma unroll
    for (int i = 0; i < PairTile::kMicro; i++)
        lower[i] = -INFINITY;
    const float4 *terms = reinterpret_cast<const float4 *>(tables.terms) + tile * FGMM_SCREEN_TILE;
#pragma unroll
    for (int j = 0; j < PairTile::kMicro; j++) {
        float4 term = __ldg(terms + thread.column(j));
#pragma unroll
        for (int i = 0; i < PairTile::kMicro; i++) {
            float u = term.z * sums[i][j];
            float error = fmaf(term.w, ptx::sqrt_approx(u), relative * u);
            lower[i] = fmaxf(lower[i], term.y - u - error);
            sums[i][j] = term.x - u + error; /* from here on: the upper bound */
        }
    }
#pragma unroll
    for (int i = 0; i < PairTile::kMicro; i++) {
        int row = thread.row(i);
        float best = shared.best[row];
        if (__any_sync(kWholeWarp, lower[i] > best)) {
#pragma unroll
            for (int step = kHalf / 2; step > 0; step /= 2)
                lower[i] = fmaxf(lower[i], __shfl_xor_sync(kWholeWarp, lower[i], step));
            best = fmaxf(best, lower[i]);
            __syncwarp();
            if (thread.across == 0)
                shared.best[row] = best;
        }
        float threshold = fmaxf(best - keep_bits, -FLT_MAX), most = sums[i][0]; /* never admits -infinity */
#pragma unroll
        for (int j = 1; j < PairTile::kMicro; j++)
            most = fmaxf(most, sums[i][j]);
        if (__any_sync(kWholeWarp, most >= threshold)) {
            int count = append(list_of(entries, first + row), shared.count[row], thread, sums[i], threshold,
                               tile * FGMM_SCREEN_TILE);
            if (thread.across == 0)
                shared.count[row] = count;
        }
    }
}

/* Leaves in each list what is within keep_bits of the final best. */
template <bool kScaled>
__device__ __forceinline__ void end_rows(ScreenShared<kScaled> &shared, const PairThread &thread, int first,
                                         int rows, const fgmm_candidate_lists &lists, int least,
                                         float keep_bits)
{
    for (int i = 0; i < PairTile::kMicro; i++) {
        int row = thread.row(i);
        int count = compact(list_of(lists.entries, first + row), shared.count[row],
                            fmaxf(shared.best[row] - keep_bits, -FLT_MAX), true);
        if (thread.across == 0 && first + row < rows)
            lists.counts[first + row] = count < least ? FGMM_DENSE_ROW : count;
    }
}

template <typename T, bool kScaled>
__global__ void __launch_bounds__(PairTile::kThreads, 2)
    screen(fgmm_row_view rows, fgmm_screen_tables tables, fgmm_candidate_lists lists, int least,
           float relative, float keep_bits, bool whole)
{
    extern __shared__ __align__(16) unsigned char raw[];
    ScreenShared<kScaled> &shared = *reinterpret_cast<ScreenShared<kScaled> *>(raw);
    PairThread thread;
    const int first = blockIdx.x * PairTile::kSide;
    const int stages_a_tile = tables.dim_padded / PairTile::kDims;
    const int stages = tables.tiles * stages_a_tile; /* below 2^31 for K = 1M and D = 4096 */

    const T *data = static_cast<const T *>(rows.data);
    /* Rows past the end repeat the last one; nobody reads their results. */
    RowLoader<T> loader(min(first + RowLoader<T>::place(), rows.rows - 1));
    auto fetch_tables = [&](int slot, int stage) {
        fetch_table(shared.means[slot], tables.mean, stage);
        if constexpr (kScaled)
            fetch_table(shared.scales[slot], tables.scale, stage);
    };
    if (threadIdx.x < PairTile::kSide) {
        shared.best[threadIdx.x] = -INFINITY;
        shared.count[threadIdx.x] = 0;
    }
    PairSums sums;
    clear(sums);
    loader.fetch(data, 0, rows.dim, whole);
    fetch_tables(0, 0);
    loader.store(shared.rows[0], rows.origin32, 0);

    int chunk = 0; /* of the tile's dimensions: the one to be loaded */
    for (int stage = 0; stage < stages; stage++) {
        const int slot = stage % PairTile::kStages, next_slot = slot ^ 1;
        ptx::copy_async_wait_all();
        __syncthreads(); /* this stage has arrived; nobody reads the other slot any more */
        chunk = chunk + 1 == stages_a_tile ? 0 : chunk + 1;
        if (stage + 1 < stages) {
            fetch_tables(next_slot, stage + 1);
            loader.fetch(data, chunk * PairTile::kDims, rows.dim, whole);
        }
        accumulate<kScaled>(sums, thread, shared.rows[slot], shared.means[slot],
                            kScaled ? &shared.scales[slot] : nullptr);
        loader.store(shared.rows[next_slot], rows.origin32, chunk * PairTile::kDims);
        if (chunk == 0) {
            end_tile(sums, shared, thread, tables, stage / stages_a_tile, lists.entries, first, relative,
                     keep_bits);
            clear(sums);
        }
    }
    __syncwarp();
    end_rows(shared, thread, first, rows.rows, lists, least, keep_bits);
}

template <typename T, bool kScaled>
int launch(const fgmm_row_view *rows, const fgmm_model_view *model, const fgmm_screen_tables *tables,
           int32_t least, const fgmm_candidate_lists *lists, fgmm_stream stream)
{
    const size_t bytes = sizeof(ScreenShared<kScaled>);
    const cudaError_t error = cudaFuncSetAttribute(
        screen<T, kScaled>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (error != cudaSuccess)
        return error;
    const int blocks = (rows->rows + PairTile::kSide - 1) / PairTile::kSide;
    screen<T, kScaled><<<blocks, PairTile::kThreads, bytes, stream>>>(
        *rows, *tables, *lists, least, relative_error(rows->dim), static_cast<float>(model->keep_bits),
        octets_are_whole<T>(rows->data, rows->dim));
    return cudaGetLastError();
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_screen_tables(const fgmm_model_view *model, const double *origin, const float *origin32,
                               const fgmm_screen_tables *tables, fgmm_stream stream)
{
    constexpr int kWarps = 8;
    const int blocks = tables->tiles * (FGMM_SCREEN_TILE / kWarps);
    fill_tables<<<blocks, kWarps * kWarp, 0, stream>>>(*model, origin, origin32, *tables);
    return cudaGetLastError();
}

int fgmm__launch_screen(const fgmm_row_view *rows, const fgmm_model_view *model,
                        const fgmm_screen_tables *tables, int32_t least, const fgmm_candidate_lists *lists,
                        fgmm_stream stream)
{
    return dispatch_rows(rows->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (sizeof(T) == sizeof(double))
            return cudaErrorInvalidValue; /* the screen is fp32 */
        else if (model->form == FGMM_FORM_DIAG)
            return launch<T, true>(rows, model, tables, least, lists, stream);
        else
            return launch<T, false>(rows, model, tables, least, lists, stream);
    });
}
