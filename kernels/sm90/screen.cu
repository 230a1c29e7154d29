/* Screening with tensor cores: which components can matter for a row, from one product of half-precision rows
 * and means.
 *
 * For spherical components, l_k(x) = offset_k - F_k (|x|^2 - 2 x.m_k + |m_k|^2). The product x.m_k is taken
 * on fp16 roundings of x and m_k with fp32 sums, all else in fp32, and each pair gets an upper and a lower
 * bound of l_k that hold against every rounding. A component stays in the row's list while its upper bound is
 * within keep_bits of the largest lower bound; finish.cu and select.cu compute those few in float64. On real
 * rows the bounds are a fraction of a bit apart.
 *
 * Roles: three consumer warpgroups, each with 64 rows of the block's row tile; a warp that feeds component
 * tiles by bulk copies; three warps that convert the next row tile to fp16. */
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <float.h>
#include "kernels/generic/rows.cuh"
#include "kernels/generic/warp.cuh"
#include "kernels/ptx/math.cuh"
#include "kernels/ptx/wgmma.cuh"
#include "kernels/sm90/traits.cuh"

namespace fgmm
{
namespace
{

/* ---- the tables ---- */

/* A component's terms, [FGMM_SM90_TERMS][128] in a record:
 *   upper = kOffset + kProduct * (scaled x . scaled m) - kSquare * |x|^2 + kError * |x|
 * and of the tile's components together, kWidths: the most that upper - lower can be is
 *   widths[0] + widths[1] * |x|^2 + widths[2] * |x|. */
enum Term { kOffset, kProduct, kSquare, kError, kWidths };

/* Roundings. x and m to fp16: 2^-11 of each factor, so 2^-10 |x||m| of the product (and 2^-25 absolute a
 * value below fp16's normal range, scale taken off); fp32 sums of dim <= 128 products, truncated: dim 2^-23
 * |x||m|; |x|^2 in fp32 and the three operations that join the terms: 2^-16 |x|^2 F and 2^-20 (|offset| + F
 * |m|^2) are generous. */
struct Terms {
    float value[kWidths];
    float width[3];
};

__device__ Terms terms_of(double offset, double factor, double norm, double scale, int dim)
{
    if (isinf(offset))
        return {{-INFINITY, 0, 0, 0}, {0, 0, 0}};
    const double tiny = 0x1p-25 / scale * sqrt(static_cast<double>(dim));
    const double square = factor * norm * norm;
    const double slack = (fabs(offset) + square) * 0x1p-20 + 2 * factor * tiny * norm;
    const double error = 2 * factor * (norm * (0x1p-10 + 0x1p-14) + 2 * tiny);
    return {{__double2float_ru(offset - square + slack), static_cast<float>(2 * factor / (scale * scale)),
             __double2float_rd(factor * (1 - 0x1p-16)), __double2float_ru(error)},
            {__double2float_ru(2 * slack), __double2float_ru(factor * 0x1p-15 * 1.01),
             __double2float_ru(2 * error * 1.01)}};
}

/* Where half `column` of row `row` lies in a swizzled tile of `rows` rows, in halves. */
__host__ __device__ inline int swizzled(int row, int column, int rows)
{
    const int half = column / 64, piece = column % 64 / 8;
    return half * rows * 64 + row * 64 + ((piece ^ (row % 8)) * 8) + column % 8;
}

/* A warp a component; components past k fill the last record with -infinity. */
__global__ void fill_records(fgmm_model_view model, const double *origin, const float *origin32,
                             fgmm_sm90_tables tables, int record_bytes)
{
    const int k = blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    if (k >= tables.tiles * FGMM_SM90_TILE)
        return;
    unsigned char *record = static_cast<unsigned char *>(tables.records) +
                            static_cast<int64_t>(k / FGMM_SM90_TILE) * record_bytes;
    __half *means = reinterpret_cast<__half *>(record);
    float *terms = reinterpret_cast<float *>(record + FGMM_SM90_TILE * tables.halves * 128);
    const int place = k % FGMM_SM90_TILE;
    const bool real = k < model.k;
    double norm = 0;
    for (int d = lane; d < tables.halves * 64; d += kWarp) {
        double mean = 0;
        if (real && d < model.dim)
            mean = model.mean[static_cast<int64_t>(k) * model.dim + d] + (origin[d] - origin32[d]);
        norm += mean * mean;
        means[swizzled(place, d, FGMM_SM90_TILE)] = __double2half(mean * tables.scale);
    }
    norm = sqrt(warp_sum(norm));
    if (lane == 0) {
        const Terms t = terms_of(real ? model.offset[k] : -INFINITY, real ? model.factor[k] : 1, norm,
                                 tables.scale, model.dim);
#pragma unroll
        for (int i = 0; i < kWidths; i++)
            terms[i * FGMM_SM90_TILE + place] = t.value[i];
#pragma unroll
        for (int i = 0; i < 3; i++) /* none is negative, so they compare as integers */
            atomicMax(reinterpret_cast<int *>(terms + kWidths * FGMM_SM90_TILE + i),
                      __float_as_int(t.width[i]));
    }
}

/* ---- the kernel ---- */

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define FGMM_SM90_BODY 1
#else
#define FGMM_SM90_BODY 0
#pragma nv_diag_suppress 177 /* functions that only the body calls */
#endif

template <class Shape> struct ScreenShared {
    alignas(1024) unsigned char record[Shape::kStages][Shape::kRecordBytes];
    alignas(1024) unsigned char rows[Shape::kRowTiles][Shape::kRowTileBytes]; /* [group][half][64][64] fp16 */
    float square[Shape::kRowTiles][Shape::kRows]; /* |x|^2, not scaled; infinity: not to be screened */
    int count[Shape::kRows];                      /* of candidates; FGMM_DENSE_ROW: more than a list holds */
    uint64_t record_full[Shape::kStages], record_empty[Shape::kStages];
    uint64_t rows_full[Shape::kRowTiles], rows_empty[Shape::kRowTiles];
};

/* Position in a ring of slots: slot number and the parity of its current phase. */
struct Ring {
    int slot = 0;
    uint32_t phase = 0;
    __device__ __forceinline__ void next(int slots)
    {
        if (++slot == slots) {
            slot = 0;
            phase ^= 1;
        }
    }
};

template <class Shape> __device__ void init_barriers(ScreenShared<Shape> &shared)
{
    constexpr int kConsumerWarps = Shape::kGroups * 4;
    for (int i = 0; i < Shape::kStages; i++) {
        ptx::barrier_init(&shared.record_full[i], 1);
        ptx::barrier_init(&shared.record_empty[i], kConsumerWarps);
    }
    for (int i = 0; i < Shape::kRowTiles; i++) {
        ptx::barrier_init(&shared.rows_full[i], Shape::kConverters);
        ptx::barrier_init(&shared.rows_empty[i], kConsumerWarps);
    }
    ptx::fence_async_proxy();
}

/* One thread: all component tiles, again for each row tile of the block. */
template <class Shape>
__device__ void feed_records(ScreenShared<Shape> &shared, const fgmm_sm90_tables &tables, int row_tiles)
{
    const unsigned char *records = static_cast<const unsigned char *>(tables.records);
    Ring ring;
    for (int t = blockIdx.x; t < row_tiles; t += gridDim.x)
        for (int tile = 0; tile < tables.tiles; tile++) {
            ptx::barrier_wait(&shared.record_empty[ring.slot], ring.phase ^ 1);
            ptx::barrier_expect(&shared.record_full[ring.slot], Shape::kRecordBytes);
            ptx::bulk_copy(shared.record[ring.slot],
                           records + static_cast<int64_t>(tile) * Shape::kRecordBytes, Shape::kRecordBytes,
                           &shared.record_full[ring.slot]);
            ring.next(Shape::kStages);
        }
}

/* 96 threads: rows of the next tile, minus origin, scaled, to fp16 in the swizzled layout; and their squared
 * norms. A row is shared by kLanes threads of 8 dimensions. kBatch rows are read before the first is
 * converted, to have reads in flight. */
template <class Shape, typename T>
__device__ void convert_rows(ScreenShared<Shape> &shared, const fgmm_row_view &rows, float scale,
                             int row_tiles, bool whole, int thread)
{
    constexpr int kLanes = Shape::kHalves * 8, kStep = Shape::kConverters / kLanes, kBatch = 4;
    const int lane = thread % kLanes, d0 = lane * 8;
    const T *data = static_cast<const T *>(rows.data);
    float origin[8];
#pragma unroll
    for (int e = 0; e < 8; e++)
        origin[e] = d0 + e < rows.dim ? rows.origin32[d0 + e] : 0.0f;
    Ring ring;
    for (int t = blockIdx.x; t < row_tiles; t += gridDim.x) {
        ptx::barrier_wait(&shared.rows_empty[ring.slot], ring.phase ^ 1);
        for (int r0 = thread / kLanes; r0 < Shape::kRows; r0 += kStep * kBatch) {
            Octet<T> octet[kBatch];
#pragma unroll
            for (int b = 0; b < kBatch; b++) {
                const int row = min(t * Shape::kRows + min(r0 + b * kStep, Shape::kRows - 1), rows.rows - 1);
                octet[b] = load_octet(data + static_cast<int64_t>(row) * rows.dim, d0, rows.dim, whole);
            }
#pragma unroll
            for (int b = 0; b < kBatch; b++) {
                const int place = r0 + b * kStep;
                const bool inside = place < Shape::kRows;
                alignas(16) __half2 packed[4];
                float square = 0, most = 0;
#pragma unroll
                for (int e = 0; e < 8; e += 2) {
                    const float x = d0 + e < rows.dim ? to_float(octet[b].value[e]) - origin[e] : 0.0f;
                    const float y =
                        d0 + e + 1 < rows.dim ? to_float(octet[b].value[e + 1]) - origin[e + 1] : 0.0f;
                    square = fmaf(x, x, fmaf(y, y, square));
                    most = fmaxf(most, fmaxf(fabsf(x), fabsf(y)));
                    packed[e / 2] = __floats2half2_rn(x * scale, y * scale);
                }
                if (inside) {
                    const int group = place / Shape::kGroupRows, row = place % Shape::kGroupRows;
                    __half *tile =
                        reinterpret_cast<__half *>(shared.rows[ring.slot] + group * Shape::kGroupBytes);
                    *reinterpret_cast<uint4 *>(tile + swizzled(row, d0, Shape::kGroupRows)) =
                        *reinterpret_cast<uint4 *>(packed);
                }
                square =
                    most * scale < 0x1p15f ? square : INFINITY; /* an outlier that fp16 cannot hold: dense */
#pragma unroll
                for (int step = kLanes / 2; step > 0; step /= 2)
                    square += __shfl_xor_sync(kWholeWarp, square, step);
                if (inside && lane == 0)
                    shared.square[ring.slot][place] = square;
            }
        }
        ptx::fence_async_proxy();
        ptx::barrier_arrive(&shared.rows_full[ring.slot]);
        ring.next(Shape::kRowTiles);
    }
}

/* What a quad of lanes knows of one of its two rows; all four agree. */
struct RowState {
    float square, norm; /* |x|^2 and an upper bound of |x| */
    float best; /* largest lower bound so far; infinity: the row is not screened, and nothing passes */
};

/* The list of a row: entries in global memory, their number in shared memory, where it is needed rarely. */
struct RowList {
    fgmm_candidate *entries; /* [FGMM_CANDIDATES] */
    int *count;
};

__device__ __forceinline__ float quad_max(float value)
{
    value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, 1));
    return fmaxf(value, __shfl_xor_sync(kWholeWarp, value, 2));
}

__device__ __forceinline__ unsigned quad_votes(bool vote)
{
    return __ballot_sync(kWholeWarp, vote) >> (threadIdx.x % kWarp & ~3) & 0xfu;
}

/* Drops entries under the threshold, keeping the order; returns how many stay. All lanes of the warp call it;
 * `wanted` is the quad's. */
__device__ __forceinline__ int compact(const RowList &list, int count, float threshold, bool wanted)
{
    const int lane = threadIdx.x % 4, held = wanted && count <= FGMM_CANDIDATES ? count : 0;
    int kept = 0;
#pragma unroll 1
    for (int base = 0; __any_sync(kWholeWarp, base < held); base += 4) {
        fgmm_candidate entry = {-1, -INFINITY};
        if (base + lane < held)
            entry = list.entries[base + lane];
        const bool keep = entry.upper >= threshold;
        const unsigned votes = quad_votes(keep);
        __syncwarp();
        if (keep)
            list.entries[kept + __popc(votes & ((1u << lane) - 1))] = entry;
        kept += __popc(votes);
        __syncwarp();
    }
    return held > 0 ? kept : count;
}

/* Appends this tile's candidates of the quad's row h. `most`, the largest upper bound of this lane, stands
 * for all that it appends: an upper bound still, and no register is indexed at run time. What does not fit:
 * the row is given up. */
template <int h>
__device__ __forceinline__ void append(const RowList &list, const float (&s)[64], float most, float threshold,
                                       int first_component)
{
    const int lane = threadIdx.x % 4;
    unsigned wanted = 0; /* bit 2j + c: column 8j + 2 lane + c */
#pragma unroll
    for (int j = 0; j < 16; j++) {
        wanted |= s[4 * j + 2 * h] >= threshold ? 1u << (2 * j) : 0u;
        wanted |= s[4 * j + 2 * h + 1] >= threshold ? 2u << (2 * j) : 0u;
    }
    const int mine = __popc(wanted);
    const int pair = mine + __shfl_xor_sync(kWholeWarp, mine, 1);
    const int total = pair + __shfl_xor_sync(kWholeWarp, pair, 2);
    int count = *list.count;
    const bool full = total > 0 && count <= FGMM_CANDIDATES && count + total > FGMM_CANDIDATES;
    if (__any_sync(kWholeWarp, full)) {
        count = compact(list, count, threshold, full);
        if (full && count + total > FGMM_CANDIDATES)
            count = FGMM_DENSE_ROW;
    }
    const bool open = count <= FGMM_CANDIDATES;
    /* lanes of a quad append one after the other */
    fgmm_candidate *at = list.entries + count + (lane & 1 ? pair - mine : 0) + (lane & 2 ? total - pair : 0);
    for (unsigned left = open ? wanted : 0u; left != 0; left &= left - 1) {
        const int bit = __ffs(left) - 1;
        *at++ = {first_component + 8 * (bit / 2) + 2 * lane + bit % 2, most};
    }
    __syncwarp();
    if (lane == 0)
        *list.count = open ? count + total : count;
    __syncwarp();
}

/* Products to upper bounds, in place; most[h]: the largest of row h in this thread. */
__device__ __forceinline__ void bound(float (&s)[64], const float *terms, const RowState (&row)[2],
                                      float (&most)[2])
{
    const int lane = threadIdx.x % 4;
    most[0] = most[1] = -INFINITY;
#pragma unroll
    for (int j = 0; j < 16; j++) {
        const int column = 8 * j + 2 * lane;
        const float2 offset = *reinterpret_cast<const float2 *>(terms + kOffset * FGMM_SM90_TILE + column);
        const float2 product = *reinterpret_cast<const float2 *>(terms + kProduct * FGMM_SM90_TILE + column);
        const float2 square = *reinterpret_cast<const float2 *>(terms + kSquare * FGMM_SM90_TILE + column);
        const float2 error = *reinterpret_cast<const float2 *>(terms + kError * FGMM_SM90_TILE + column);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float &a = s[4 * j + 2 * h], &b = s[4 * j + 2 * h + 1];
            a = fmaf(error.x, row[h].norm, fmaf(-square.x, row[h].square, fmaf(product.x, a, offset.x)));
            b = fmaf(error.y, row[h].norm, fmaf(-square.y, row[h].square, fmaf(product.y, b, offset.y)));
            most[h] = fmaxf(most[h], fmaxf(a, b));
        }
    }
}

template <int h>
__device__ __forceinline__ void take_candidates(RowState &row, const RowList &list, const float (&s)[64],
                                                float most, const float *terms, int tile, float keep_bits)
{
    const float *widths = terms + kWidths * FGMM_SM90_TILE;
    const float width = fmaf(widths[2], row.norm, fmaf(widths[1], row.square, widths[0]));
    row.best = fmaxf(row.best, quad_max(most) - width);
    const float threshold = fmaxf(row.best - keep_bits, -FLT_MAX); /* never admits -infinity */
    if (__any_sync(kWholeWarp, most >= threshold))
        append<h>(list, s, most, threshold, tile * FGMM_SM90_TILE);
}

/* A warpgroup: the products of its 64 rows with every component tile. */
template <class Shape>
__device__ void screen_rows(ScreenShared<Shape> &shared, const fgmm_row_view &rows,
                            const fgmm_sm90_tables &tables, const fgmm_candidate_lists &lists, int row_tiles,
                            int least, float keep_bits, int group)
{
    const int thread = threadIdx.x % Shape::kWarpgroup, lane = thread % kWarp;
    const int first = group * Shape::kGroupRows + thread / kWarp * 16 +
                      lane / 4; /* in the row tile; the other row is 8 below */
    Ring row_ring, ring;
    float s[64];
    for (int t = blockIdx.x; t < row_tiles; t += gridDim.x) {
        ptx::barrier_wait(&shared.rows_full[row_ring.slot], row_ring.phase);
        const unsigned char *mine = shared.rows[row_ring.slot] + group * Shape::kGroupBytes;
        const int number = t * Shape::kRows + first;
        auto list = [&](int h) -> RowList {
            return {lists.entries + static_cast<int64_t>(number + 8 * h) * FGMM_CANDIDATES,
                    &shared.count[first + 8 * h]};
        };
        RowState row[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float square = shared.square[row_ring.slot][first + 8 * h];
            const bool screened = number + 8 * h < rows.rows && square < INFINITY;
            row[h] = {screened ? square : 0.0f, screened ? ptx::sqrt_approx(square) * (1 + 0x1p-14f) : 0.0f,
                      screened ? -INFINITY : INFINITY};
            if (lane % 4 == 0)
                shared.count[first + 8 * h] = screened ? 0 : FGMM_DENSE_ROW;
        }
        __syncwarp();
#pragma unroll 1
        for (int tile = 0; tile < tables.tiles; tile++) {
            ptx::barrier_wait(&shared.record_full[ring.slot], ring.phase);
            const unsigned char *record = shared.record[ring.slot];
            ptx::pin(s);
            ptx::wgmma_fence();
#pragma unroll
            for (int step = 0; step < Shape::kHalves * 4; step++)
                ptx::wgmma_64x128x16(
                    s, ptx::operand(mine + step / 4 * Shape::kGroupRows * 128 + step % 4 * 32),
                    ptx::operand(record + step / 4 * Shape::kColumns * 128 + step % 4 * 32), step > 0);
            ptx::wgmma_commit();
            ptx::wgmma_wait();
            ptx::pin(s);
            const float *terms = reinterpret_cast<const float *>(record + Shape::kMeansBytes);
            float most[2];
            bound(s, terms, row, most);
            take_candidates<0>(row[0], list(0), s, most[0], terms, tile, keep_bits);
            take_candidates<1>(row[1], list(1), s, most[1], terms, tile, keep_bits);
            if (lane == 0)
                ptx::barrier_arrive(&shared.record_empty[ring.slot]);
            ring.next(Shape::kStages);
        }
        if (lane == 0)
            ptx::barrier_arrive(&shared.rows_empty[row_ring.slot]);
        row_ring.next(Shape::kRowTiles);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int count =
                compact(list(h), *list(h).count, fmaxf(row[h].best - keep_bits, -FLT_MAX), true);
            if (lane % 4 == 0 && number + 8 * h < rows.rows)
                lists.counts[number + 8 * h] = count < least ? FGMM_DENSE_ROW : count;
        }
        __syncwarp();
    }
}

template <class Shape, typename T>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    screen(fgmm_row_view rows, fgmm_sm90_tables tables, fgmm_candidate_lists lists, int row_tiles, int least,
           float keep_bits, bool whole)
{
#if FGMM_SM90_BODY
    extern __shared__ unsigned char raw[];
    unsigned char *aligned = raw + (1024 - ptx::shared_address(raw) % 1024) % 1024;
    ScreenShared<Shape> &shared = *reinterpret_cast<ScreenShared<Shape> *>(aligned);
    const int group = threadIdx.x / Shape::kWarpgroup;
    if (threadIdx.x == 0)
        init_barriers(shared);
    __syncthreads();
    if (group == Shape::kGroups) {
        ptx::give_registers<Shape::kProducerRegisters>();
        const int thread = threadIdx.x % Shape::kWarpgroup;
        if (thread >= kWarp)
            convert_rows<Shape, T>(shared, rows, tables.scale, row_tiles, whole, thread - kWarp);
        else if (thread == 0)
            feed_records(shared, tables, row_tiles);
    } else {
        ptx::take_registers<Shape::kConsumerRegisters>();
        screen_rows(shared, rows, tables, lists, row_tiles, least, keep_bits, group);
    }
#else
    __trap(); /* fgmm__sm90_serves keeps other devices away */
#endif
}

template <class Shape, typename T>
int launch(const fgmm_row_view *rows, const fgmm_model_view *model, const fgmm_sm90_tables *tables,
           int32_t least, const fgmm_candidate_lists *lists, int multiprocessors, fgmm_stream stream)
{
    const int bytes = static_cast<int>(sizeof(ScreenShared<Shape>)) + 1024;
    static_assert(sizeof(ScreenShared<Shape>) + 1024 <= 232448, "what a block of Hopper can have");
    const cudaError_t error =
        cudaFuncSetAttribute(screen<Shape, T>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess)
        return error;
    const int row_tiles = (rows->rows + Shape::kRows - 1) / Shape::kRows;
    const int blocks = row_tiles < multiprocessors ? row_tiles : multiprocessors;
    const bool whole = octets_are_whole<T>(rows->data, rows->dim);
    screen<Shape, T><<<blocks, Shape::kThreads, bytes, stream>>>(*rows, *tables, *lists, row_tiles, least,
                                                                 static_cast<float>(model->keep_bits), whole);
    return cudaGetLastError();
}

} // namespace
} // namespace fgmm

using namespace fgmm;

bool fgmm__sm90_serves(fgmm_form form, int32_t k, int32_t dim)
{
    return form == FGMM_FORM_SPHERICAL && dim > 32 && dim <= FGMM_SM90_MAX_DIM && k >= 256;
}

int64_t fgmm__sm90_record_bytes(int32_t dim)
{
    return FGMM_SM90_TILE * ((dim + 63) / 64 * 128 + FGMM_SM90_TERMS * 4);
}

int fgmm__launch_sm90_tables(const fgmm_model_view *model, const double *origin, const float *origin32,
                             double spread, fgmm_sm90_tables *tables, fgmm_stream stream)
{
    constexpr int kWarps = 8;
    tables->tiles = (model->k + FGMM_SM90_TILE - 1) / FGMM_SM90_TILE;
    tables->halves = (model->dim + 63) / 64;
    tables->scale = static_cast<float>(0x1p12 / spread);
    const cudaError_t error = cudaMemsetAsync(
        tables->records, 0, static_cast<size_t>(tables->tiles) * fgmm__sm90_record_bytes(model->dim), stream);
    if (error != cudaSuccess)
        return error;
    fill_records<<<tables->tiles *(FGMM_SM90_TILE / kWarps), kWarps * kWarp, 0, stream>>>(
        *model, origin, origin32, *tables, static_cast<int>(fgmm__sm90_record_bytes(model->dim)));
    return cudaGetLastError();
}

int fgmm__launch_sm90_screen(const fgmm_row_view *rows, const fgmm_model_view *model,
                             const fgmm_sm90_tables *tables, int32_t least, const fgmm_candidate_lists *lists,
                             int multiprocessors, fgmm_stream stream)
{
    return dispatch_rows(rows->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (sizeof(T) == sizeof(double))
            return cudaErrorInvalidValue;
        else if (tables->halves == 1)
            return launch<ScreenShape<1>, T>(rows, model, tables, least, lists, multiprocessors, stream);
        else
            return launch<ScreenShape<2>, T>(rows, model, tables, least, lists, multiprocessors, stream);
    });
}
