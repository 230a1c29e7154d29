/* The two ways of the list tile to screen a pair, as policies: in whole numbers, exactly, or in fp16 about
 * the list's centre, with a bound of the error.
 *
 * Rounded: x' = x - c and q' = q - c are scaled by powers of two (sx: the list's longest x' becomes 1 at
 * most, sq: likewise of the block's queries), rounded to fp16 and multiplied. With n = |x'| and l = |q'|
 *     | x'.q' - product |  <=  n w + const,
 *     w = l (2^-11 + 2^-22 + (D + 16) 2^-22) + |q' - rounded q'| (1 + 2^-10),   const = l sqrt(D) 2^-25 / sx
 * : the rounding of x', the sums of the tensor cores (which truncate), the measured rounding of q', and what
 * is too small for fp16. Half the squared distance is n^2/2 + l^2/2 - x'.q'; all of it is kept in units of
 * 1 / (sx sq). The last roundings, in fp32, are covered by shrinking squares and bounds by 2^-20 or more. */
#ifndef FGMM_GENERIC_LISTS_TILE_CUH
#define FGMM_GENERIC_LISTS_TILE_CUH

#include <cuda_fp16.h>
#include "kernels/generic/rows.cuh"
#include "kernels/generic/warp.cuh"
#include "kernels/lists.h"
#include "kernels/ptx/mma.cuh"

namespace fgmm
{

struct ListTile {
    static constexpr int kThreads = 256;
    static constexpr int kWarps = kThreads / kWarp;
    static constexpr int kRows = 32; /* of a warp: an operand of 16 queries, 512 bytes of shared memory, feeds
                                        four products */
    static constexpr int kTiles = kRows / 8;       /* of a product's second operand */
    static constexpr int kSteps = 4;               /* of 32 bytes, a piece */
    static constexpr int kPieceBytes = 128;        /* of a row's operand: four steps of 32 bytes */
    static constexpr int kGranule = 16;            /* bytes: a lane reads granules t and t + 4 of a piece */
    static constexpr int kStaged = 1024;           /* pairs put aside until the item is done */
    static constexpr int kOperandBytes = 96 << 10; /* two blocks a multiprocessor */
    static constexpr int kMostOperandBytes = 192 << 10;
    static constexpr int kQueryStep = 32; /* group sizes are multiples of it */
};

/* A pair that was not ruled out, as the threads put it aside: little to do between products. */
struct StagedPair {
    uint16_t row, query; /* in the item, in the group */
    uint32_t sum;        /* its bits */
};

/* What the threads of a block share beside the operands. */
struct ListShared {
    int item, n_staged;
    uint32_t longest_query; /* bits of the length */
    float row_scale, query_scale;
    fgmm_list_group group;
    int begin, end; /* rows of the list */
    int64_t place;  /* of the list's first row */
    StagedPair staged[ListTile::kStaged];
};

__device__ __forceinline__ float power_of_two(int exponent)
{
    return __int_as_float((127 + exponent) << 23);
}

/* The least e in [-60, 60] with 2^e above the value, which is at most 2^50. */
__device__ __forceinline__ int exponent_above(uint32_t bits)
{
    return max(-60, min(60, static_cast<int>(bits >> 23) - 126));
}

/* Queries lie as the first operand of products of 16 queries by 32 bytes: what a lane wants of a step is 16
 * bytes in a row. The place, in bytes, of word w of granule p of a piece of query n. */
__device__ __forceinline__ int operand_place(int pieces, int n, int piece, int p, int w)
{
    const int row = n % 16, lane = row % 8 * 4 + p % 4, step = p / 4 * 2 + w / 2, part = w % 2 * 2 + row / 8;
    return (((n / 16 * pieces + piece) * ListTile::kSteps + step) * kWarp + lane) * 16 + part * 4;
}

/* ---- whole numbers ---- */

template <typename T> struct WholeScreen {
    using Sum = int32_t;
    static constexpr int kPieceDims = 128;
    static constexpr int kOut = 1 << 30;    /* larger than any product and half of any square */
    static constexpr int kSharedFloats = 0; /* a dimension */
    struct Hot {
        int half; /* minus half of |q|^2 - bound */
    };
    struct Cold {
        int square, visitor;
        uint32_t bound;
        float unused;
    };
    struct Row {
        int half; /* minus half of |x|^2 */
    };

    int dim_bytes; /* of a row: whole granules */

    __device__ __forceinline__ void open(const fgmm_list_view &lists, float *, const ListShared &)
    {
        dim_bytes = lists.pitch;
    }
    __device__ __forceinline__ void open_again(const ListShared &) {}

    __device__ __forceinline__ uint4 row_granule(const char *row, int granule) const
    {
        const int at = granule * ListTile::kGranule;
        return at < dim_bytes ? __ldg(reinterpret_cast<const uint4 *>(row + at)) : make_uint4(0, 0, 0, 0);
    }

    __device__ void load_queries(const fgmm_list_view &, const fgmm_list_queries &queries,
                                 const fgmm_list_plan &plan, const ListShared &shared, bool sampling,
                                 char *operands, int pieces, int padded, Hot *hot, Cold *cold)
    {
        const fgmm_list_group &group = shared.group;
        const int granules = pieces * 8, divisor = sampling ? queries.sample_lists : 1;
        for (int i = threadIdx.x; i < padded * granules; i += ListTile::kThreads) {
            const int n = i / granules, p = i % granules;
            uint4 value = make_uint4(0, 0, 0, 0);
            if (n < group.count && p * ListTile::kGranule < queries.byte_pitch) {
                const int64_t q = plan.visitors[group.first + n] / divisor;
                value = *reinterpret_cast<const uint4 *>(queries.bytes + q * queries.byte_pitch +
                                                         p * ListTile::kGranule);
            }
            const uint32_t words[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
            for (int w = 0; w < 4; w++)
                *reinterpret_cast<uint32_t *>(operands + operand_place(pieces, n, p / 8, p % 8, w)) =
                    words[w];
        }
        for (int n = threadIdx.x; n < padded; n += ListTile::kThreads) {
            hot[n].half = -kOut;
            if (n >= group.count)
                continue;
            const int visitor = plan.visitors[group.first + n], q = visitor / divisor;
            const uint32_t bound = sampling ? FGMM_LISTS_NO_BOUND : queries.bounds[q];
            const int square = queries.squares[q];
            cold[n] = {square, visitor, bound, 0};
            hot[n].half = bound == FGMM_LISTS_NO_BOUND ? kOut : -((square - static_cast<int>(bound)) >> 1);
        }
    }

    __device__ __forceinline__ Row row(const fgmm_list_view &lists, int64_t place, bool there) const
    {
        return {there ? -(__ldg(lists.squares + place) >> 1) : -kOut};
    }
    static __device__ __forceinline__ Sum start(const Row &row, const Hot &query)
    {
        return row.half + query.half;
    }
    static __device__ __forceinline__ void multiply(Sum (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                    uint32_t a3, uint32_t b0, uint32_t b1)
    {
        if constexpr (sizeof(T) == 1 && T(-1) > T(0))
            ptx::mma_u8(c, a0, a1, a2, a3, b0, b1);
        else
            ptx::mma_s8(c, a0, a1, a2, a3, b0, b1);
    }
    /* Whether the bound does not rule the pair out. */
    static __device__ __forceinline__ bool near(Sum sum, const Row &, const Hot &)
    {
        return sum >= 0;
    }
    __device__ __forceinline__ bool measure(Sum sum, const Row &row, const fgmm_list_view &lists,
                                            int64_t place, const Hot &hot, const Cold &cold, uint32_t *lower,
                                            uint32_t *upper) const
    {
        const int product = sum - start(row, hot), square = __ldg(lists.squares + place);
        *lower = *upper = static_cast<uint32_t>(square + cold.square - 2 * product);
        return *upper <= cold.bound;
    }
};

/* ---- fp16 about the centre ---- */

template <typename T> struct RoundedScreen {
    using Sum = float;
    static constexpr int kPieceDims = 64;
    static constexpr int kSharedFloats = 1;
    static constexpr float kMostLength = 1e15f;
    static constexpr int kQueryLanes =
        8; /* that load a query together: four at a time a warp, for their latency */
    struct Hot {
        float term, width; /* l^2/2 - const - bound/2 (low), w */
    };
    struct Cold {
        float low, high; /* l^2/2 less or more const */
        int visitor;
        float length;
    };
    struct Row {
        float half, length;
    };

    const float *shift; /* [dims of whole pieces], shared: -c sx */
    float row_scale, query_scale;
    int dim;

    __device__ __forceinline__ void open(const fgmm_list_view &lists, float *shared_floats,
                                         const ListShared &shared)
    {
        shift = shared_floats;
        dim = lists.dim;
        row_scale = power_of_two(-exponent_above(lists.longest[shared.group.list]));
    }
    /* To judge pairs alone, after the queries were loaded. */
    __device__ __forceinline__ void open_again(const ListShared &shared)
    {
        row_scale = shared.row_scale;
        query_scale = shared.query_scale;
    }

    __device__ __forceinline__ uint4 row_granule(const char *row, int granule) const
    {
        const int d = granule * 8;
        if (d >= dim)
            return make_uint4(0, 0, 0, 0);
        const Octet<T> octet = *reinterpret_cast<const Octet<T> *>(reinterpret_cast<const T *>(row) + d);
        const float4 low = *reinterpret_cast<const float4 *>(shift + d);
        const float4 high = *reinterpret_cast<const float4 *>(shift + d + 4);
        const float shifts[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        uint32_t words[4];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const __half2 pair =
                __floats2half2_rn(fmaf(to_float(octet.value[2 * e]), row_scale, shifts[2 * e]),
                                  fmaf(to_float(octet.value[2 * e + 1]), row_scale, shifts[2 * e + 1]));
            words[e] = *reinterpret_cast<const uint32_t *>(&pair);
        }
        return make_uint4(words[0], words[1], words[2], words[3]);
    }

    /* Over the lanes that share a query. */
    static __device__ __forceinline__ float lanes_sum(float value)
    {
#pragma unroll
        for (int step = kQueryLanes / 2; step > 0; step /= 2)
            value += __shfl_xor_sync(kWholeWarp, value, step);
        return value;
    }

    /* |q - c|, from above; 0 for no query. */
    __device__ __forceinline__ float length_of(const float *query, const float *centre, int lane) const
    {
        float square = 0;
#pragma unroll 4
        for (int d = lane; query != nullptr && d < dim; d += kQueryLanes) {
            const float t = query[d] - centre[d];
            square = fmaf(t, t, square);
        }
        return sqrtf(lanes_sum(square)) * (1 + (dim + 8) * 0x1p-23f);
    }

    __device__ void load_queries(const fgmm_list_view &lists, const fgmm_list_queries &queries,
                                 const fgmm_list_plan &plan, ListShared &shared, bool sampling,
                                 char *operands, int pieces, int padded, Hot *hot, Cold *cold)
    {
        constexpr int kAtOnce = ListTile::kThreads / kQueryLanes;
        const fgmm_list_group &group = shared.group;
        const float *centre = lists.centres + static_cast<int64_t>(group.list) * dim;
        const int lane = threadIdx.x % kQueryLanes, divisor = sampling ? queries.sample_lists : 1;
        for (int d = threadIdx.x; d < pieces * kPieceDims; d += ListTile::kThreads)
            const_cast<float *>(shift)[d] = d < dim ? -centre[d] * row_scale : 0.0f;
        for (int n0 = 0; n0 < group.count; n0 += kAtOnce) {
            const int n = n0 + threadIdx.x / kQueryLanes;
            const bool there = n < group.count;
            const int visitor = there ? plan.visitors[group.first + n] : 0;
            const float *query = queries.values + static_cast<int64_t>(visitor / divisor) * dim;
            const float length = length_of(there ? query : nullptr, centre, lane);
            if (lane == 0 && there) {
                cold[n].visitor = visitor;
                cold[n].length = length;
                if (length <= kMostLength)
                    atomicMax(&shared.longest_query, __float_as_uint(length));
            }
        }
        __syncthreads();
        query_scale = power_of_two(-exponent_above(shared.longest_query));
        if (threadIdx.x == 0) {
            shared.row_scale = row_scale;
            shared.query_scale = query_scale;
        }
        for (int n = threadIdx.x / kQueryLanes; n < padded; n += kAtOnce)
            load_query(queries, centre, n < group.count, sampling, divisor, operands, pieces, n, hot[n],
                       cold[n]);
    }

    /* The work of the lanes that share it: one query's operand and terms. there: false for the padding. */
    __device__ __forceinline__ void load_query(const fgmm_list_queries &queries, const float *centre,
                                               bool there, bool sampling, int divisor, char *operands,
                                               int pieces, int n, Hot &hot, Cold &cold)
    {
        const int lane = threadIdx.x % kQueryLanes;
        const int q = there ? cold.visitor / divisor : 0;
        const float length = there ? cold.length : 0.0f;
        const float *query = queries.values + static_cast<int64_t>(q) * dim;
        const bool held = there && length <= kMostLength;
        float error = 0;
#pragma unroll 4
        for (int d = 2 * lane; d < pieces * kPieceDims; d += 2 * kQueryLanes) {
            float value[2];
            for (int e = 0; e < 2; e++)
                value[e] = held && d + e < dim ? fmaf(query[d + e], query_scale, -centre[d + e] * query_scale)
                                               : 0.0f;
            const __half2 pair = __floats2half2_rn(value[0], value[1]);
            const float2 back = __half22float2(pair);
            error = fmaf(value[0] - back.x, value[0] - back.x, error);
            error = fmaf(value[1] - back.y, value[1] - back.y, error);
            *reinterpret_cast<__half2 *>(
                operands + operand_place(pieces, n, d / kPieceDims, d % kPieceDims / 8, d % 8 / 2)) = pair;
        }
        error = sqrtf(lanes_sum(error)) * (1 + 0x1p-10f) + length * query_scale * 0x1p-23f;
        if (lane == 0)
            set_terms(held && !sampling ? queries.bounds[q] : FGMM_LISTS_NO_BOUND, there, length, error, hot,
                      cold);
    }

    /* error: of the operand, scaled. */
    __device__ __forceinline__ void set_terms(uint32_t bound, bool there, float length, float error, Hot &hot,
                                              Cold &cold) const
    {
        const bool held = length <= kMostLength;
        const float scaled = length * query_scale, half = 0.5f * scaled * (length * row_scale);
        const float rest = scaled * sqrtf(static_cast<float>(dim)) * 1.02f * 0x1p-25f;
        cold.low = half * (1 - 0x1p-19f - (dim + 8) * 0x1p-21f) - rest;
        cold.high = held ? half * (1 + 0x1p-19f) + rest : INFINITY;
        hot.width =
            held ? (scaled * (0x1p-11f + 0x1p-22f + (dim + 16) * 1.02f * 0x1p-22f) + error * (1 + 0x1p-10f)) *
                       (1 + 0x1p-20f)
                 : 0.0f;
        if (!there)
            hot.term = INFINITY;
        else if (bound == FGMM_LISTS_NO_BOUND)
            hot.term = -INFINITY;
        else
            hot.term = cold.low - __uint_as_float(bound) * (0.5f + 0x1p-20f) * row_scale * query_scale;
    }

    __device__ __forceinline__ Row row(const fgmm_list_view &lists, int64_t place, bool there) const
    {
        if (!there)
            return {INFINITY, 0};
        const float2 norm = __ldg(reinterpret_cast<const float2 *>(lists.norms + place));
        return {norm.x * row_scale * query_scale, norm.y * row_scale};
    }
    static __device__ __forceinline__ Sum start(const Row &, const Hot &)
    {
        return 0;
    }
    static __device__ __forceinline__ void multiply(Sum (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                    uint32_t a3, uint32_t b0, uint32_t b1)
    {
        ptx::mma_f16(c, a0, a1, a2, a3, b0, b1);
    }
    /* NaN, from what fp16 or fp32 cannot hold, rules nothing out. */
    static __device__ __forceinline__ bool near(Sum sum, const Row &row, const Hot &query)
    {
        return !(fmaf(row.length, query.width, sum) - (row.half + query.term) < 0);
    }
    __device__ __forceinline__ bool measure(Sum sum, const Row &row, const fgmm_list_view &, int64_t,
                                            const Hot &hot, const Cold &cold, uint32_t *lower,
                                            uint32_t *upper) const
    {
        const float error = row.length * hot.width, unscale = 2 / row_scale / query_scale;
        const float low = (row.half + cold.low - error - sum) * unscale * (1 - 0x1p-20f);
        const float high = (row.half * (1 + 0x1p-18f) + cold.high + error - sum) * unscale * (1 + 0x1p-20f);
        *lower = low > 0 && low < INFINITY ? __float_as_uint(low) : 0;
        *upper = row.half >= 0 && high < INFINITY ? __float_as_uint(fmaxf(high, 0.0f)) : FGMM_LISTS_NO_BOUND;
        return true;
    }
};

} // namespace fgmm

#endif
