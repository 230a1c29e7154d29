/* From sums to candidate lists, for the screens whose sums are upper bounds: the part that keeps lists, by
 * quads of lanes, from a warpgroup's 64 x 128 sums as wgmma leaves them (ptx/wgmma.cuh). */
#ifndef FGMM_SM90_LISTS_CUH
#define FGMM_SM90_LISTS_CUH

#include <float.h>
#include "kernels/generic/traits.cuh"

namespace fgmm
{

/* What a quad of lanes knows of one of its two rows; all four agree. Sums above `threshold` are candidates;
 * widths are never zero, so equality is no loss. */
struct RowState {
    float norm; /* an upper bound of |y| */
    float sure; /* the largest lower bound so far less keep_bits */
    float
        threshold; /* `sure`, or above it since a list was full: what was left out then matters only if `sure`
                      does not come so high in the end. Infinity: the row is given up, and nothing passes */
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

/* How many candidates come to the quad's rows, in 16 bits each, and how many of them before this lane's. */
__device__ __forceinline__ uint32_t count_coming(const unsigned (&wanted)[2], uint32_t &before)
{
    const int lane = threadIdx.x % 4;
    const uint32_t mine = __popc(wanted[0]) + (__popc(wanted[1]) << 16);
    const uint32_t pair = mine + __shfl_xor_sync(kWholeWarp, mine, 1);
    const uint32_t coming = pair + __shfl_xor_sync(kWholeWarp, pair, 2);
    before = (lane & 1 ? pair - mine : 0u) + (lane & 2 ? coming - pair : 0u);
    return coming;
}

/* Makes room in lists that would overflow. Before a row has met its own component, many others are within
 * keep_bits of the best so far, and few of them stay so: the threshold is raised half of the way to the best,
 * again and again, until what is left fits; screen_rows sees in the end whether that was right. A row that
 * does not fit even so is given up. Rare. */
__device__ __forceinline__ void make_room(RowLists &lists, RowState (&row)[2], const float (&s)[64],
                                          const float (&group_most)[2][kGroupsOfColumns],
                                          unsigned (&wanted)[2], uint32_t &coming, uint32_t &before,
                                          float span, float unit)
{
    constexpr int kRaises = 5;
    float rest = span;
#pragma unroll 1
    for (int raise = 0; raise <= kRaises; raise++, rest *= 0.5f) {
        bool full[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            full[h] = half_of(lists.counts, h) + half_of(coming, h) > FGMM_CANDIDATES;
            if (full[h] && raise > 0)
                row[h].threshold = fmaxf(row[h].threshold, row[h].sure + (span - rest));
        }
        if (!__any_sync(kWholeWarp, full[0] || full[1]))
            return;
        compact<1>(lists, row, full, unit);
        const unsigned still[2] = {all_above<0>(s, group_most[0], row[0].threshold),
                                   all_above<1>(s, group_most[1], row[1].threshold)};
#pragma unroll
        for (int h = 0; h < 2; h++)
            wanted[h] = full[h] ? still[h] : wanted[h];
        coming = count_coming(wanted, before);
    }
#pragma unroll
    for (int h = 0; h < 2; h++)
        if (half_of(lists.counts, h) + half_of(coming, h) > FGMM_CANDIDATES) {
            lists.counts &= ~(0xffffu << (16 * h));
            wanted[h] = 0;
            row[h].threshold = INFINITY;
        }
    coming = count_coming(wanted, before);
}

/* Appends this tile's candidates of the quad's rows. `most`, the largest sum of this lane, stands for all
 * that it appends: an upper bound still, and no register is indexed at run time. */
__device__ __forceinline__ void append(RowLists &lists, RowState (&row)[2], const float (&s)[64],
                                       const float (&group_most)[2][kGroupsOfColumns], const float (&most)[2],
                                       int first_component, float span, float unit)
{
    const int lane = threadIdx.x % 4;
    unsigned wanted[2] = {all_above<0>(s, group_most[0], row[0].threshold),
                          all_above<1>(s, group_most[1], row[1].threshold)};
    uint32_t before; /* lanes of a quad append one after the other */
    uint32_t coming = count_coming(wanted, before);
    const uint32_t filled = lists.counts + coming + kOverflow * 0x10001u;
    if (__any_sync(kWholeWarp, filled & 0x80008000u))
        make_room(lists, row, s, group_most, wanted, coming, before, span, unit);
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

/* The largest of a lane's sums, of each row and 32 columns, and of each row. */
__device__ __forceinline__ void find_most(const float (&s)[64], float (&group_most)[2][kGroupsOfColumns],
                                          float (&most)[2])
{
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
    }
}

/* Raises what is known of the quad's rows to the largest of its lanes' lower bounds, keep_bits taken off. */
__device__ __forceinline__ void raise_thresholds(RowState (&row)[2], float (&lower)[2])
{
#pragma unroll
    for (int step = 1; step < 4; step *= 2)
#pragma unroll
        for (int h = 0; h < 2; h++)
            lower[h] = fmaxf(lower[h], __shfl_xor_sync(kWholeWarp, lower[h], step));
#pragma unroll
    for (int h = 0; h < 2; h++) {
        row[h].sure = fmaxf(row[h].sure, lower[h]);
        row[h].threshold = fmaxf(row[h].threshold, row[h].sure);
    }
}

/* Whether any lane of the warp has a candidate. */
__device__ __forceinline__ bool any_above(const RowState (&row)[2], const float (&most)[2])
{
    return __any_sync(kWholeWarp, most[0] > row[0].threshold || most[1] > row[1].threshold);
}

/* A tile's sums to candidates; width[h]: how far the sums of row h can be above the exact values, and
 * keep_bits. */
__device__ __forceinline__ void take_candidates(RowLists &lists, RowState (&row)[2], const float (&s)[64],
                                                const float (&width)[2], int first_component, float span,
                                                float unit)
{
    float group_most[2][kGroupsOfColumns], most[2];
    find_most(s, group_most, most);
    float lower[2] = {most[0] - width[0], most[1] - width[1]};
    raise_thresholds(row, lower);
    if (any_above(row, most))
        append(lists, row, s, group_most, most, first_component, span, unit);
}

/* A row before its first tile. */
__device__ __forceinline__ RowState opened(float norm, bool screened)
{
    return {norm, -FLT_MAX, screened ? -FLT_MAX : INFINITY}; /* -FLT_MAX never admits -infinity */
}

/* Leaves in the lists what is within keep_bits of the final best, and writes how many that are; rows past the
 * first `rows` have no count. A row with fewer than `least` is dense. */
__device__ __forceinline__ void close_lists(RowLists &lists, const RowState (&row)[2],
                                            int32_t *counts /* of row 0; row 1 is 8 further */, int rows,
                                            int least, float unit)
{
    compact<4>(lists, row, {true, true}, unit); /* 16 entries of a row: mostly all, in one read */
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const bool complete = row[h].threshold <= row[h].sure; /* not so for rows that were given up */
        const int count = complete ? half_of(lists.counts, h) : FGMM_DENSE_ROW;
        if (threadIdx.x % 4 == 0 && 8 * h < rows)
            counts[8 * h] = count < least ? FGMM_DENSE_ROW : count;
    }
}

} // namespace fgmm

#endif
