/* Screening with tensor cores: which components can matter for a row, from one product of half-precision rows
 * and means.
 *
 * For spherical components, l_k(x) = offset_k - F_k (|x|^2 - 2 x.m_k + |m_k|^2). All of it is one product:
 * beside its mean, times 2 F_k, a component has a few columns more that meet 1, |x|^2 and |x|, so that the
 * fp32 sum that leaves the tensor cores is an upper bound of l_k that holds against every rounding. The most
 * that an upper bound of the tile can be above its l_k is a function of |x|^2 and |x|, which gives the lower
 * bound of the tile's best. A component stays in the row's list while its upper bound is within keep_bits of
 * the largest lower bound; finish.cu and select.cu compute those few in float64. On real rows the bounds are
 * a fraction of a bit apart.
 *
 * Roles: three consumer warpgroups, each with 64 rows of the block's row tile; a warp that feeds component
 * tiles by bulk copies; three warps that convert the next row tile to fp16. */
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <float.h>
#include <string.h>
#include "kernels/generic/rows.cuh"
#include "kernels/generic/warp.cuh"
#include "kernels/ptx/math.cuh"
#include "kernels/ptx/wgmma.cuh"
#include "kernels/sm90/traits.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define FGMM_SM90_BODY 1
#else
#define FGMM_SM90_BODY 0
#pragma nv_diag_suppress 177 /* what only the body uses */
#endif

namespace fgmm
{
namespace
{

/* ---- the tables ---- */

/* Units. Rows are scaled by s = 2^9 / spread: y = s x, kept where |y|^2 < kMostSquare = 2^30, so no value of
 * a row overflows. Sums are l_k scaled by g = 2^16 / (factor spread^2), less if an offset needs it; with dim
 * <= 128 then |2 F m g / s| <= 2^8 in any dimension,  g F |m|^2 <= 2^23,  g |offset| <= 2^26,  F g / (s^2
 * kSquareUnit) <= 2^14, and all of it fits fp16, 2^20 times smaller factors included, with subnormals (which
 * wgmma computes with). */
constexpr float kMostSquare = 0x1p30f;
constexpr float kSquareUnit = 0x1p-16f; /* |y|^2 in this unit is below 2^14 */

/* Extra columns of a row and of a component:
 *   row:        kOnes[0] kOnes[1] kOnes[2]  q1   q1   q2   |y|  0 ...
 *   component:  a1       a2       a3       -f1  -f2  -f1   e    0 ...
 * q1 + q2 <= kSquareUnit |y|^2, f1 + f2 <= F: rounded down, in two parts. |y| and e are rounded up. */
__device__ constexpr float kOnes[3] = {0x1p12f, 0x1p2f, 0x1p-8f};

struct Terms {
    __half column[8];
    float width[3]; /* the sum is at most width[0] + width[1] |y|^2 + width[2] |y| above g l */
};

/* A component in the units of the sums. */
struct Scaled {
    double offset;    /* g offset - g F |m|^2 */
    double magnitude; /* the absolute values of these two, added */
    double factor;    /* g F / (s^2 kSquareUnit) */
    double excess;    /* g / s^2 times what F was cut by; |m|^2 of it in `blind` */
    double blind;
    double norm;     /* of 2 F m g / s */
    double residual; /* norm of the difference between that and its fp16 rounding */
    double keep;     /* g keep_bits */
};

/* Roundings, with n = |y|, N = c.norm, R = c.residual.
 *
 * Product: a row's value in fp16 is off by 2^-11 of itself, or 2^-25 below the normal range, and x is an fp32
 * difference, 2^-24 of itself. So the product is off by at most error * n + (N + R) * tiny, with
 * error = R (1 + 2^-10) + N (2^-11 + 2^-22).
 *
 * Sums: wgmma truncates; `depth` terms, each step at most 2^-22 of the sum of absolute terms, which is |A|
 * (and a thousandth of it, for its parts) + (N + R) (1.001 n + tiny) + F |y|^2 + E n. That is tau = depth
 * 2^-22 times each, and so a part of A's slack, of F's rounding down, and of E.
 *
 * |y|^2 is added up in fp32 from squares of fp32 values, in 12 steps: 2^-20.
 *
 * Widths are the same once more, upwards, and what the columns were rounded by. They also cover, with 2^-20
 * of each term, the fp32 operations that make a threshold of the largest sum; kMargin is for their own
 * evaluation. */
__device__ Terms terms_of(const Scaled &c, int depth)
{
    const double tau = depth * 0x1p-22, tiny = 0x1p-25 * sqrt(static_cast<double>(depth));
    const double both = c.norm + c.residual;
    Terms t = {};

    const double least = 0x1p-10; /* more than the parts of A can be off below fp16's normal range */
    const double offset =
        c.offset + 1.01 * tau * (fabs(c.offset) + least) + 2 * both * tiny + 0x1p-48 * c.magnitude;
    double rest = offset;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        t.column[i] = __double2half(rest / kOnes[i]);
        rest -= static_cast<double>(__half2float(t.column[i])) * kOnes[i];
    }
    t.column[2] = __float2half_ru(__double2float_ru(rest / kOnes[2]));
    rest -= static_cast<double>(__half2float(t.column[2])) * kOnes[2]; /* <= 0: what it was rounded up by */
    const double rounded = offset - rest;

    const double lowered = c.factor * (1 - tau - 0x1p-19);
    const __half f1 = __float2half_rd(__double2float_rd(lowered));
    const __half f2 = __float2half_rd(__double2float_rd(lowered - static_cast<double>(__half2float(f1))));
    const double low = static_cast<double>(__half2float(f2)),
                 held = static_cast<double>(__half2float(f1)) + low;
    t.column[3] = t.column[5] = __hneg(f1);
    t.column[4] = __hneg(f2);

    const double error = c.residual * (1 + 0x1p-10) + c.norm * (0x1p-11 + 0x1p-22) + 1.01 * tau * both;
    t.column[6] = __float2half_ru(__double2float_ru(error * (1 + 2 * tau)));
    const double raised = static_cast<double>(__half2float(t.column[6]));

    constexpr double kFloat = 0x1p-20, kMargin = 1.002;
    /* held * 2^-24 and raised * 2^-23: q2 and |y| below fp16's normal range. */
    const double w0 = rounded - c.offset + (tau + kFloat) * (fabs(rounded) + least) + 2 * both * tiny +
                      held * 0x1p-24 + raised * 0x1p-23 + 2 * c.blind;
    /* q1 + q2 loses 2^-20 of |y|^2, and that is known to 2^-20; the column q2 f2 is left out. */
    const double w1 =
        kSquareUnit * (c.factor * (1 + kFloat) - held * (1 - tau) * (1 - 0x1p-18) + 0x1p-10 * low) +
        2 * c.excess;
    const double w2 = error + kFloat * both + raised * (1 + 0x1p-8);
    t.width[0] = __double2float_ru(kMargin * w0 + c.keep * (1 + kFloat));
    t.width[1] = __double2float_ru(kMargin * w1);
    t.width[2] = __double2float_ru(kMargin * w2);
    return t;
}

/* Where half `column` of row `row` lies in a swizzled tile of `rows` rows, in halves. */
__host__ __device__ inline int swizzled(int row, int column, int rows)
{
    const int half = column / 64, piece = column % 64 / 8;
    return half * rows * 64 + row * 64 + ((piece ^ (row % 8)) * 8) + column % 8;
}

/* A warp a component. Components past k and those with offset -infinity, which nothing chooses, have
 * -infinity in their first column and zeros elsewhere: rows are finite, so the sum is -infinity. `most`: the
 * largest factor that is not cut. A cut factor makes the upper bound higher, so it still holds. */
__global__ void fill_records(fgmm_model_view model, const double *origin, const float *origin32,
                             fgmm_sm90_tables tables, double most, int record_bytes)
{
    const int k = blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    if (k >= tables.tiles * FGMM_SM90_TILE)
        return;
    unsigned char *record = static_cast<unsigned char *>(tables.records) +
                            static_cast<int64_t>(k / FGMM_SM90_TILE) * record_bytes;
    __half *means = reinterpret_cast<__half *>(record);
    __half *extra = means + FGMM_SM90_TILE * tables.halves * 64;
    int *widths = reinterpret_cast<int *>(extra + FGMM_SM90_TILE * FGMM_SM90_EXTRA);
    const int place = k % FGMM_SM90_TILE;
    if (k >= model.k || isinf(model.offset[k])) {
        if (lane == 0)
            extra[place * 8] = __float2half(-INFINITY); /* the rest is zero already */
        return;
    }
    const double g = 1 / static_cast<double>(tables.unit), s = tables.scale;
    const double factor = fmin(model.factor[k], most);
    double square = 0, residual = 0;
    for (int d = lane; d < model.dim; d += kWarp) {
        const double mean = model.mean[static_cast<int64_t>(k) * model.dim + d] + (origin[d] - origin32[d]);
        const double exact = 2 * factor * g / s * mean;
        const __half rounded = __double2half(exact);
        const double lost = exact - static_cast<double>(__half2float(rounded));
        means[swizzled(place, d, FGMM_SM90_TILE)] = rounded;
        square += mean * mean;
        residual += lost * lost;
    }
    square = warp_sum(square);
    residual = warp_sum(residual);
    if (lane != 0)
        return;
    const double excess = (model.factor[k] - factor) * g;
    const Terms t = terms_of({.offset = g * (model.offset[k] - factor * square),
                              .magnitude = g * (fabs(model.offset[k]) + factor * square),
                              .factor = factor * g / (s * s * kSquareUnit),
                              .excess = excess / (s * s),
                              .blind = excess * square,
                              .norm = 2 * factor * g / s * sqrt(square),
                              .residual = sqrt(residual),
                              .keep = g * model.keep_bits},
                             tables.halves * 64 + FGMM_SM90_EXTRA);
#pragma unroll
    for (int i = 0; i < 8; i++)
        extra[place * 8 + i] = t.column[i];
#pragma unroll
    for (int i = 0; i < 3; i++) /* not negative, so they compare as integers; finite, as rows may be zero */
        atomicMax(&widths[i], __float_as_int(fminf(t.width[i], 0x1p100f)));
}

/* ---- the kernel ---- */

template <class Shape> struct ScreenShared {
    alignas(1024) unsigned char record[Shape::kStages][Shape::kRecordPlace];
    alignas(1024) unsigned char rows[Shape::kRowTiles][Shape::kRowTileBytes]; /* [group]: traits.cuh */
    float square[Shape::kRowTiles][Shape::kRows]; /* |y|^2; infinity: not to be screened */
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
}

/* All threads: the second eight extra columns of rows are zero for ever. */
template <class Shape> __device__ void clear_extra(ScreenShared<Shape> &shared)
{
    constexpr int kGroupsInAll = Shape::kRowTiles * Shape::kGroups;
    for (int i = threadIdx.x; i < kGroupsInAll * Shape::kGroupRows; i += Shape::kThreads) {
        unsigned char *group = shared.rows[0] + i / Shape::kGroupRows * Shape::kGroupBytes;
        reinterpret_cast<uint4 *>(group + Shape::kGroupExtra)[Shape::kGroupRows + i % Shape::kGroupRows] =
            make_uint4(0, 0, 0, 0);
    }
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

/* Sums over kLanes lanes of kBatch values each: lane i ends with value i / (kLanes / kBatch). Each step sends
 * what the other half of the lanes goes on with, so that 16 lanes need 8 shuffles for 8 values. */
template <int kLanes, int kBatch>
__device__ __forceinline__ float scattered_sum(float (&value)[kBatch], int lane)
{
    static_assert(kLanes >= kBatch, "a lane for every value");
    int left = kBatch;
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) {
        left /= 2;
#pragma unroll
        for (int i = 0; i < left; i++) {
            const bool upper = lane & step;
            const float given = upper ? value[i] : value[i + left];
            const float kept = upper ? value[i + left] : value[i];
            value[i] = kept + __shfl_xor_sync(kWholeWarp, given, step);
        }
        if (left == 0)
            value[0] += __shfl_xor_sync(kWholeWarp, value[0], step);
    }
    return value[0];
}

/* Eight elements of a row as they are stored, in whole registers while they wait. */
template <typename T> struct Packed {
    static constexpr int kWords = sizeof(T) * 2;
    uint32_t word[kWords];
    __device__ __forceinline__ explicit Packed(const Octet<T> &octet)
    {
        memcpy(word, &octet, sizeof word);
#pragma unroll
        for (int i = 0; i < kWords; i++)
            asm("" : "+r"(word[i])); /* or the compiler takes a register an element */
    }
    __device__ __forceinline__ Octet<T> octet() const
    {
        Octet<T> octet;
        memcpy(&octet, word, sizeof word);
        return octet;
    }
    Packed() = default;
};

/* The extra columns of a row with |y|^2 = square; the row is screened if `fits`. */
__device__ __forceinline__ uint4 extra_columns(float square, bool fits)
{
    const float units = fits ? square * kSquareUnit : 0.0f;
    const float norm = fits ? ptx::sqrt_approx(square) * (1 + 0x1p-14f) : 0.0f;
    const __half q1 = __float2half_rd(units), q2 = __float2half_rd(units - __half2float(q1));
    alignas(16) const __half column[8] = {
        __float2half(kOnes[0]), __float2half(kOnes[1]), __float2half(kOnes[2]), q1, q1, q2,
        __float2half_ru(norm),  __float2half(0.0f)};
    return *reinterpret_cast<const uint4 *>(column);
}

/* 96 threads: rows of the next tile, minus origin, scaled, to fp16 in the swizzled layout; their squared
 * norms and extra columns. A row is shared by kLanes threads of 8 dimensions. kBatch rows of a thread are
 * always on their way: what is converted is read anew at once, for the next batch or the next tile. */
template <class Shape, typename T, bool kWhole>
__device__ void convert_rows(ScreenShared<Shape> &shared, const fgmm_row_view &rows, float scale,
                             int row_tiles, int thread)
{
    constexpr int kLanes = Shape::kHalves * 8, kStep = Shape::kConverters / kLanes;
    constexpr int kBatch = sizeof(T) == 4 || !kWhole ? 4 : 8; /* 32 registers at most */
    constexpr int kBatches = Shape::kRows / (kStep * kBatch);
    static_assert(kBatches * kBatch * kStep == Shape::kRows, "every thread has a row at every step");
    const int lane = thread % kLanes, d0 = lane * 8, first = thread / kLanes;
    const T *data = static_cast<const T *>(rows.data);
    float shift[8]; /* y = fma(value, scale, shift) = scale * (value - origin), rounded once */
#pragma unroll
    for (int e = 0; e < 8; e++)
        shift[e] = d0 + e < rows.dim ? -scale * rows.origin32[d0 + e] : 0.0f;
    auto load = [&](int tile, int place) {
        const int row = min(tile * Shape::kRows + place, rows.rows - 1);
        const T *values = data + static_cast<int64_t>(row) * rows.dim;
        if constexpr (kWhole) {
            Octet<T> octet = {};
            if (d0 < rows.dim)
                octet = *reinterpret_cast<const Octet<T> *>(values + d0);
            return Packed<T>(octet);
        } else {
            return Packed<T>(load_octet(values, d0, rows.dim, false));
        }
    };
    Packed<T> waiting[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; b++)
        waiting[b] = load(blockIdx.x, first + b * kStep);
    Ring ring;
    for (int t = blockIdx.x; t < row_tiles; t += gridDim.x) {
        unsigned char *tile = shared.rows[ring.slot];
        auto row_of = [&](int place) { /* its group's halves; swizzled() finds the row */
                                       return reinterpret_cast<__half *>(tile + place / Shape::kGroupRows *
                                                                                    Shape::kGroupBytes);
        };
        ptx::barrier_wait(&shared.rows_empty[ring.slot], ring.phase ^ 1);
#pragma unroll 1
        for (int batch = 0; batch < kBatches; batch++) {
            const bool last = batch + 1 == kBatches;
            const int next_tile = last ? t + gridDim.x : t;
            const int next_place = first + (last ? 0 : batch + 1) * kBatch * kStep;
            float square[kBatch];
#pragma unroll
            for (int b = 0; b < kBatch; b++) {
                const int place = first + (batch * kBatch + b) * kStep;
                const Octet<T> octet = waiting[b].octet();
                alignas(16) __half2 packed[4];
                square[b] = 0;
#pragma unroll
                for (int e = 0; e < 8; e += 2) {
                    const float y = fmaf(to_float(octet.value[e]), scale, shift[e]);
                    const float z = fmaf(to_float(octet.value[e + 1]), scale, shift[e + 1]);
                    square[b] = fmaf(y, y, fmaf(z, z, square[b]));
                    packed[e / 2] = __floats2half2_rn(y, z);
                }
                waiting[b] = load(next_tile, next_place + b * kStep);
                *reinterpret_cast<uint4 *>(row_of(place) +
                                           swizzled(place % Shape::kGroupRows, d0, Shape::kGroupRows)) =
                    *reinterpret_cast<uint4 *>(packed);
            }
            const float sum = scattered_sum<kLanes>(square, lane);
            const int mine = first + (batch * kBatch + lane / (kLanes / kBatch)) * kStep;
            const int row = mine % Shape::kGroupRows;
            const bool fits = sum < kMostSquare, owner = lane % (kLanes / kBatch) == 0;
            if (owner) {
                unsigned char *extra = reinterpret_cast<unsigned char *>(row_of(mine)) + Shape::kGroupExtra;
                reinterpret_cast<uint4 *>(extra)[row] = extra_columns(sum, fits);
                shared.square[ring.slot][mine] = fits ? sum : INFINITY;
            }
            if (__any_sync(kWholeWarp, !fits)) { /* rare: the row becomes zero, so that no sum is NaN */
                __syncwarp();
                for (int d = 0; d < kLanes * 8 && owner && !fits; d += 8)
                    *reinterpret_cast<uint4 *>(row_of(mine) + swizzled(row, d, Shape::kGroupRows)) =
                        make_uint4(0, 0, 0, 0);
            }
        }
        ptx::fence_async_proxy();
        ptx::barrier_arrive(&shared.rows_full[ring.slot]);
        ring.next(Shape::kRowTiles);
    }
}

/* What a quad of lanes knows of one of its two rows; all four agree. */
struct RowState {
    float square, norm; /* |y|^2 and an upper bound of |y| */
    float threshold;    /* the largest lower bound so far less keep_bits; infinity: the row is given up, and
                           nothing    passes. Sums above it are candidates; widths are never zero, so equality is
                           no    loss */
};

/* The lists of a quad's rows: entries in global memory, their numbers in 16 bits each, so that one shuffle
 * serves both rows. */
struct RowLists {
    fgmm_candidate *entries; /* of row 0, [FGMM_CANDIDATES]; row 1 is 8 rows further */
    uint32_t counts;
};

constexpr int kGroupsOfColumns = 4; /* of a tile: 32 columns, 8 of them a thread's */
constexpr uint32_t kOverflow =
    0x8000 - FGMM_CANDIDATES - 1; /* added to a count, sets bit 15 if the list is full */

__device__ __forceinline__ uint32_t half_of(uint32_t pair, int h)
{
    return pair >> (16 * h) & 0xffffu;
}

__device__ __forceinline__ fgmm_candidate *entries_of(const RowLists &lists, int h)
{
    return lists.entries + h * 8 * FGMM_CANDIDATES;
}

/* An entry as one 8-byte access. */
__device__ __forceinline__ void put(fgmm_candidate *entry, int component, float upper)
{
    *reinterpret_cast<int2 *>(entry) = make_int2(component, __float_as_int(upper));
}

__device__ __forceinline__ unsigned quad_votes(bool vote)
{
    return __ballot_sync(kWholeWarp, vote) >> (threadIdx.x % kWarp & ~3) & 0xfu;
}

/* Drops entries under the threshold, keeping the order, from the lists of rows h with wanted[h]. kDeep
 * entries of a lane and row are read at a time. */
template <int kDeep>
__device__ __forceinline__ void compact(RowLists &lists, const RowState (&row)[2], const bool (&wanted)[2],
                                        float unit)
{
    const int lane = threadIdx.x % 4;
    int held[2], kept[2] = {0, 0};
#pragma unroll
    for (int h = 0; h < 2; h++)
        held[h] = wanted[h] ? half_of(lists.counts, h) : 0;
    __syncwarp(); /* entries were written by any lane of the quad */
#pragma unroll 1
    for (int base = 0; __any_sync(kWholeWarp, base < max(held[0], held[1])); base += 4 * kDeep) {
        int2 entry[2][kDeep]; /* component and upper bound */
#pragma unroll
        for (int i = 0; i < kDeep; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int at = base + 4 * i + lane;
                entry[h][i] = make_int2(-1, __float_as_int(-INFINITY));
                if (at < held[h])
                    entry[h][i] = *reinterpret_cast<const int2 *>(entries_of(lists, h) + at);
            }
        __syncwarp(); /* all is read before any of it is overwritten */
#pragma unroll
        for (int i = 0; i < kDeep; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const bool keep =
                    __int_as_float(entry[h][i].y) >= row[h].threshold * unit && entry[h][i].x >= 0;
                const unsigned votes = quad_votes(keep);
                if (keep)
                    put(entries_of(lists, h) + kept[h] + __popc(votes & ((1u << lane) - 1)), entry[h][i].x,
                        __int_as_float(entry[h][i].y));
                kept[h] += __popc(votes);
            }
        __syncwarp();
    }
#pragma unroll
    for (int h = 0; h < 2; h++)
        if (wanted[h])
            lists.counts += static_cast<uint32_t>(kept[h] - held[h]) << (16 * h);
}

/* Which of a thread's 8 sums of a group are above the threshold, the first in bit 7. The sign of a difference
 * is shifted in: two instructions a value, half of them on the idle FMA pipe. */
template <int h, int group> __device__ __forceinline__ unsigned above(const float (&s)[64], float threshold)
{
    unsigned bits = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int c = 0; c < 2; c++)
            bits = __funnelshift_l(__float_as_uint(threshold - s[16 * group + 4 * i + 2 * h + c]), bits, 1);
    return bits;
}

/* All 32 of row h, the first in bit 31; groups without any in the whole warp are passed over. */
template <int h>
__device__ __forceinline__ unsigned all_above(const float (&s)[64], const float (&most)[kGroupsOfColumns],
                                              float threshold)
{
    unsigned bits = 0;
    if (__any_sync(kWholeWarp, most[0] > threshold))
        bits |= above<h, 0>(s, threshold) << 24;
    if (__any_sync(kWholeWarp, most[1] > threshold))
        bits |= above<h, 1>(s, threshold) << 16;
    if (__any_sync(kWholeWarp, most[2] > threshold))
        bits |= above<h, 2>(s, threshold) << 8;
    if (__any_sync(kWholeWarp, most[3] > threshold))
        bits |= above<h, 3>(s, threshold);
    return bits;
}

/* Makes room in lists that would overflow by what comes; a row without room is given up. Rare. */
__device__ __forceinline__ void make_room(RowLists &lists, RowState (&row)[2], unsigned (&wanted)[2],
                                          uint32_t &coming, float unit)
{
    bool full[2];
#pragma unroll
    for (int h = 0; h < 2; h++)
        full[h] = half_of(lists.counts, h) + half_of(coming, h) > FGMM_CANDIDATES;
    compact<1>(lists, row, full, unit);
#pragma unroll
    for (int h = 0; h < 2; h++)
        if (half_of(lists.counts, h) + half_of(coming, h) > FGMM_CANDIDATES) {
            lists.counts &= ~(0xffffu << (16 * h));
            coming &= ~(0xffffu << (16 * h));
            wanted[h] = 0;
            row[h].threshold = INFINITY;
        }
}

/* Appends this tile's candidates of the quad's rows. `most`, the largest sum of this lane, stands for all
 * that it appends: an upper bound still, and no register is indexed at run time. */
__device__ __forceinline__ void append(RowLists &lists, RowState (&row)[2], const float (&s)[64],
                                       const float (&group_most)[2][kGroupsOfColumns], const float (&most)[2],
                                       int first_component, float unit)
{
    const int lane = threadIdx.x % 4;
    unsigned wanted[2] = {all_above<0>(s, group_most[0], row[0].threshold),
                          all_above<1>(s, group_most[1], row[1].threshold)};
    /* lanes of a quad append one after the other */
    const uint32_t mine = __popc(wanted[0]) + (__popc(wanted[1]) << 16);
    const uint32_t pair = mine + __shfl_xor_sync(kWholeWarp, mine, 1);
    uint32_t coming = pair + __shfl_xor_sync(kWholeWarp, pair, 2);
    const uint32_t before = (lane & 1 ? pair - mine : 0u) + (lane & 2 ? coming - pair : 0u);
    const uint32_t filled = lists.counts + coming + kOverflow * 0x10001u;
    if (__any_sync(kWholeWarp, filled & 0x80008000u))
        make_room(lists, row, wanted, coming, unit);
    const uint32_t place = lists.counts + before;
    lists.counts += coming;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        fgmm_candidate *at = entries_of(lists, h) + half_of(place, h);
        const float upper = most[h] * unit;
        for (unsigned left = wanted[h]; left != 0;) {
            const int bit = __clz(left); /* 2j + c: column 8j + 2 lane + c */
            left &= ~(0x80000000u >> bit);
            put(at++, first_component + 4 * bit - 3 * (bit & 1) + 2 * lane, upper);
        }
    }
}

/* A tile's sums to candidates; width[h]: how far the sums of row h can be above the exact values, and
 * keep_bits. */
__device__ __forceinline__ void take_candidates(RowLists &lists, RowState (&row)[2], const float (&s)[64],
                                                const float (&width)[2], int first_component, float unit)
{
    float group_most[2][kGroupsOfColumns], most[2], all[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int g = 0; g < kGroupsOfColumns; g++) {
            float m[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                m[i] = fmaxf(s[16 * g + 4 * i + 2 * h], s[16 * g + 4 * i + 2 * h + 1]);
            group_most[h][g] = fmaxf(fmaxf(m[0], m[1]), fmaxf(m[2], m[3]));
        }
        most[h] = fmaxf(fmaxf(group_most[h][0], group_most[h][1]), fmaxf(group_most[h][2], group_most[h][3]));
        all[h] = most[h];
    }
#pragma unroll
    for (int step = 1; step < 4; step *= 2)
#pragma unroll
        for (int h = 0; h < 2; h++)
            all[h] = fmaxf(all[h], __shfl_xor_sync(kWholeWarp, all[h], step));
#pragma unroll
    for (int h = 0; h < 2; h++)
        row[h].threshold = fmaxf(row[h].threshold, all[h] - width[h]);
    if (__any_sync(kWholeWarp, most[0] > row[0].threshold || most[1] > row[1].threshold))
        append(lists, row, s, group_most, most, first_component, unit);
}

/* A warpgroup: the products of its 64 rows with every component tile. */
template <class Shape>
__device__ void screen_rows(ScreenShared<Shape> &shared, const fgmm_row_view &rows,
                            const fgmm_sm90_tables &tables, const fgmm_candidate_lists &lists, int row_tiles,
                            int least, int group)
{
    const int thread = threadIdx.x % Shape::kWarpgroup, lane = thread % kWarp;
    const int first = group * Shape::kGroupRows + thread / kWarp * 16 +
                      lane / 4; /* in the row tile; the other row is 8 below */
    Ring row_ring, ring;
    float s[64];
    for (int t = blockIdx.x; t < row_tiles; t += gridDim.x) {
        ptx::barrier_wait(&shared.rows_full[row_ring.slot], row_ring.phase);
        const unsigned char *tile_rows = shared.rows[row_ring.slot] + group * Shape::kGroupBytes;
        const uint64_t mine = ptx::operand(tile_rows);
        const uint64_t mine_extra = ptx::plain_operand<Shape::kGroupRows>(tile_rows + Shape::kGroupExtra);
        const int number = t * Shape::kRows + first;
        RowLists list = {lists.entries + static_cast<int64_t>(number) * FGMM_CANDIDATES, 0};
        RowState row[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float square = shared.square[row_ring.slot][first + 8 * h];
            const bool screened = number + 8 * h < rows.rows && square < INFINITY;
            row[h] = {screened ? square : 0.0f, screened ? ptx::sqrt_approx(square) * (1 + 0x1p-14f) : 0.0f,
                      screened ? -FLT_MAX : INFINITY}; /* -FLT_MAX never admits -infinity */
        }
#pragma unroll 1
        for (int tile = 0; tile < tables.tiles; tile++) {
            ptx::barrier_wait(&shared.record_full[ring.slot], ring.phase);
            const unsigned char *record = shared.record[ring.slot];
            const uint64_t means = ptx::operand(record);
            ptx::pin(s);
            ptx::wgmma_fence();
#pragma unroll
            for (int step = 0; step < Shape::kHalves * 4; step++)
                ptx::wgmma_64x128x16(
                    s, ptx::advance(mine, step / 4 * Shape::kGroupRows * 128 + step % 4 * 32),
                    ptx::advance(means, step / 4 * Shape::kColumns * 128 + step % 4 * 32), step > 0);
            ptx::wgmma_64x128x16(s, mine_extra,
                                 ptx::plain_operand<Shape::kColumns>(record + Shape::kRecordExtra), 1);
            ptx::wgmma_commit();
            const float4 widths = *reinterpret_cast<const float4 *>(record + Shape::kRecordWidths);
            float width[2];
#pragma unroll
            for (int h = 0; h < 2; h++)
                width[h] = fmaf(widths.z, row[h].norm, fmaf(widths.y, row[h].square, widths.x));
            ptx::wgmma_wait();
            ptx::pin(s);
            __syncwarp(); /* widths are read on all lanes: the record may go */
            if (lane == 0)
                ptx::barrier_arrive(&shared.record_empty[ring.slot]);
            ring.next(Shape::kStages);
            take_candidates(list, row, s, width, tile * FGMM_SM90_TILE, tables.unit);
        }
        if (lane == 0)
            ptx::barrier_arrive(&shared.rows_empty[row_ring.slot]);
        row_ring.next(Shape::kRowTiles);
        compact<4>(list, row, {true, true}, tables.unit); /* 16 entries of a row: mostly all, in one read */
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int count = row[h].threshold < INFINITY ? half_of(list.counts, h) : FGMM_DENSE_ROW;
            if (lane % 4 == 0 && number + 8 * h < rows.rows)
                lists.counts[number + 8 * h] = count < least ? FGMM_DENSE_ROW : count;
        }
    }
}

template <class Shape, typename T>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    screen(fgmm_row_view rows, fgmm_sm90_tables tables, fgmm_candidate_lists lists, int row_tiles, int least,
           bool whole)
{
#if FGMM_SM90_BODY
    extern __shared__ unsigned char raw[];
    unsigned char *aligned = raw + (1024 - ptx::shared_address(raw) % 1024) % 1024;
    ScreenShared<Shape> &shared = *reinterpret_cast<ScreenShared<Shape> *>(aligned);
    /* The same on all lanes, which the compiler learns from the shuffle: operands stay in uniform registers.
     */
    const int group = __shfl_sync(kWholeWarp, threadIdx.x / Shape::kWarpgroup, 0);
    if (threadIdx.x == 0)
        init_barriers(shared);
    clear_extra(shared);
    ptx::fence_async_proxy();
    __syncthreads();
    if (group == Shape::kGroups) {
        const int thread = threadIdx.x % Shape::kWarpgroup;
        if (thread >= kWarp && whole)
            convert_rows<Shape, T, true>(shared, rows, tables.scale, row_tiles, thread - kWarp);
        else if (thread >= kWarp)
            convert_rows<Shape, T, false>(shared, rows, tables.scale, row_tiles, thread - kWarp);
        else if (thread == 0)
            feed_records(shared, tables, row_tiles);
    } else {
        screen_rows(shared, rows, tables, lists, row_tiles, least, group);
    }
#else
    __trap(); /* fgmm__sm90_serves keeps other devices away */
#endif
}

template <class Shape, typename T>
int launch(const fgmm_row_view *rows, const fgmm_sm90_tables *tables, int32_t least,
           const fgmm_candidate_lists *lists, int multiprocessors, fgmm_stream stream)
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
    screen<Shape, T>
        <<<blocks, Shape::kThreads, bytes, stream>>>(*rows, *tables, *lists, row_tiles, least, whole);
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
    return FGMM_SM90_TILE * ((dim + 63) / 64 * 128 + FGMM_SM90_EXTRA * 2) + 16;
}

int fgmm__launch_sm90_tables(const fgmm_model_view *model, const double *origin, const float *origin32,
                             fgmm_sm90_range range, fgmm_sm90_tables *tables, fgmm_stream stream)
{
    constexpr int kWarps = 8;
    /* The units that `Units` above speaks of: sums are bits of log2-density over `unit`. */
    const double unit = fmax(0x1p-16 * range.factor * range.spread * range.spread, 0x1p-26 * range.offset);
    tables->tiles = (model->k + FGMM_SM90_TILE - 1) / FGMM_SM90_TILE;
    tables->halves = (model->dim + 63) / 64;
    tables->scale = static_cast<float>(0x1p9 / range.spread);
    tables->unit = static_cast<float>(exp2(ceil(log2(unit))));
    const int64_t record_bytes = fgmm__sm90_record_bytes(model->dim);
    const cudaError_t error =
        cudaMemsetAsync(tables->records, 0, static_cast<size_t>(tables->tiles) * record_bytes, stream);
    if (error != cudaSuccess)
        return error;
    fill_records<<<tables->tiles *(FGMM_SM90_TILE / kWarps), kWarps * kWarp, 0, stream>>>(
        *model, origin, origin32, *tables, range.factor, static_cast<int>(record_bytes));
    return cudaGetLastError();
}

int fgmm__launch_sm90_screen(const fgmm_row_view *rows, const fgmm_sm90_tables *tables, int32_t least,
                             const fgmm_candidate_lists *lists, int multiprocessors, fgmm_stream stream)
{
    return dispatch_rows(rows->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (sizeof(T) == sizeof(double))
            return cudaErrorInvalidValue;
        else if (tables->halves == 1)
            return launch<ScreenShape<1>, T>(rows, tables, least, lists, multiprocessors, stream);
        else
            return launch<ScreenShape<2>, T>(rows, tables, least, lists, multiprocessors, stream);
    });
}
