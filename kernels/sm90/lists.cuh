/* From sums to candidate lists, for the screens whose sums are upper bounds: the part that keeps lists, by
 * quads of lanes, from a warpgroup's 64 x 128 sums as wgmma leaves them (ptx/wgmma.cuh).
 *
 * While components pass by, a lane notes what may matter in records of its own, one for a row and a tile:
 * which of its 32 columns are above the threshold, and the largest of them. When all have passed and the
 * threshold is final, records become the list of candidates (kernels.h). */
#ifndef FGMM_SM90_LISTS_CUH
#define FGMM_SM90_LISTS_CUH

#include <float.h>
#include "kernels/generic/traits.cuh"
#include "kernels/ptx/store.cuh"

namespace fgmm
{

/* What a lane knows of one of its two rows. Sums above `threshold` are candidates; widths are never zero, so
 * equality is no loss. */
struct RowState {
    float norm;      /* an upper bound of |y| */
    float sure;      /* the largest lower bound of the quad so far, less keep_bits */
    float threshold; /* `sure`, or above it since the lane's places were full: what was left out then matters
                        only if `sure` does not come so high in the end. Infinity: the row is given up, and
                        nothing passes */
};

/* Where the records of a quad's rows are: in the places of their lists, record i of a lane in place 4i +
 * lane. A lane counts its own, in 16 bits a row. */
struct RowLists {
    fgmm_candidate *entries; /* of all rows */
    int32_t row;             /* the first of the quad's; the other is 8 rows further */
    uint32_t counts;
};

constexpr int kGroupsOfColumns = 4; /* of a tile: 32 columns, 8 of them a thread's */
constexpr int kLaneRecords = 8;

__device__ __forceinline__ int count_of(const RowLists &lists, int h)
{
    return lists.counts >> (16 * h) & 0xffffu;
}

/* A record: the columns, and the largest sum rounded up to 19 bits beside the tile's number. */
typedef uint2 Record;
constexpr int kUpperBits = 19;
static_assert((1 << 20) / 128 <= 1 << (32 - kUpperBits), "tiles of 2^20 components have numbers of 13 bits");

__device__ __forceinline__ Record record_of(unsigned columns, int tile, float most)
{
    const uint32_t bits = __float_as_uint(most) + (most < 0 ? 0u : (1u << (32 - kUpperBits)) - 1);
    return {columns, bits >> (32 - kUpperBits) | static_cast<uint32_t>(tile) << kUpperBits};
}

__device__ __forceinline__ float upper_of(Record record)
{
    return __uint_as_float(record.y << (32 - kUpperBits));
}

__device__ __forceinline__ Record *place_of(const RowLists &lists, int h, int i)
{
    return reinterpret_cast<Record *>(lists.entries) +
           ((lists.row + 8 * h) * FGMM_CANDIDATES + 4 * i + static_cast<int>(threadIdx.x % 4));
}
static_assert(static_cast<int64_t>(FGMM_CHUNK_ROWS + 1024) * FGMM_CANDIDATES < INT32_MAX, "32 bits do");
static_assert(sizeof(Record) == sizeof(fgmm_candidate), "they share places");

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
    bool any[kGroupsOfColumns];
#pragma unroll
    for (int g = 0; g < kGroupsOfColumns; g++)
        any[g] = __any_sync(kWholeWarp, most[g] > threshold);
    unsigned bits = 0;
    if (any[0])
        bits |= above<h, 0>(s, threshold) << 24;
    if (any[1])
        bits |= above<h, 1>(s, threshold) << 16;
    if (any[2])
        bits |= above<h, 2>(s, threshold) << 8;
    if (any[3])
        bits |= above<h, 3>(s, threshold);
    return bits;
}

/* Room in a lane's full places for one record more, whose largest sum is `most`. Before a row has met its own
 * component, many others are within keep_bits of the best so far, and few of them stay so: what has fallen
 * under the threshold goes; then the threshold is raised half of the way to the best, again and again, until
 * there is room. close_lists sees in the end whether that was right. A row without room even so is given up.
 * Rare. */
__device__ __forceinline__ void make_room(RowLists &lists, RowState &row, int h, float span)
{
    constexpr int kRaises = 5, kAtATime = 4;
    float rest = span;
#pragma unroll 1
    for (int raise = 0; raise <= kRaises && count_of(lists, h) == kLaneRecords; raise++, rest *= 0.5f) {
        if (raise > 0)
            row.threshold = fmaxf(row.threshold, row.sure + (span - rest));
        int kept = 0;
#pragma unroll 1
        for (int base = 0; base < kLaneRecords; base += kAtATime) { /* what waits for memory waits together */
            Record record[kAtATime];
#pragma unroll
            for (int i = 0; i < kAtATime; i++)
                record[i] = *place_of(lists, h, base + i);
#pragma unroll
            for (int i = 0; i < kAtATime; i++)
                if (upper_of(record[i]) >= row.threshold)
                    *place_of(lists, h, kept++) = record[i];
        }
        lists.counts -= static_cast<uint32_t>(kLaneRecords - kept) << (16 * h);
    }
    if (count_of(lists, h) == kLaneRecords)
        row.threshold = INFINITY;
}

/* Notes this tile's candidates of the quad's rows. */
__device__ __forceinline__ void append(RowLists &lists, RowState (&row)[2], const float (&s)[64],
                                       const float (&group_most)[2][kGroupsOfColumns], const float (&most)[2],
                                       int tile, float span)
{
    const unsigned columns[2] = {all_above<0>(s, group_most[0], row[0].threshold),
                                 all_above<1>(s, group_most[1], row[1].threshold)};
    const uint32_t full = lists.counts & kLaneRecords * 0x10001u;
    if (__any_sync(kWholeWarp, full != 0)) {
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (columns[h] != 0 && count_of(lists, h) == kLaneRecords)
                make_room(lists, row[h], h, span);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const bool noted = columns[h] != 0 && most[h] > row[h].threshold;
        ptx::store_if(noted, place_of(lists, h, count_of(lists, h)), record_of(columns[h], tile, most[h]));
        lists.counts += noted ? 1u << (16 * h) : 0;
    }
}

/* A tile's sums to records; width[h]: how far the sums of row h can be above the exact values, and keep_bits.
 */
__device__ __forceinline__ void take_candidates(RowLists &lists, RowState (&row)[2], const float (&s)[64],
                                                const float (&width)[2], int tile, float span)
{
    float group_most[2][kGroupsOfColumns], most[2];
    find_most(s, group_most, most);
    float lower[2] = {most[0] - width[0], most[1] - width[1]};
    raise_thresholds(row, lower);
    if (any_above(row, most))
        append(lists, row, s, group_most, most, tile, span);
}

/* A row before its first tile. */
__device__ __forceinline__ RowState opened(float norm, bool screened)
{
    return {norm, -FLT_MAX, screened ? -FLT_MAX : INFINITY}; /* -FLT_MAX never admits -infinity */
}

/* Sum over the lanes of a quad; `before`: of those before this one. */
__device__ __forceinline__ int quad_sum(int value, int *before)
{
    const int lane = threadIdx.x % 4;
    const int pair = value + __shfl_xor_sync(kWholeWarp, value, 1);
    const int sum = pair + __shfl_xor_sync(kWholeWarp, pair, 2);
    *before = (lane & 1 ? pair - value : 0) + (lane & 2 ? sum - pair : 0);
    return sum;
}

/* What a lane holds of one row. */
struct LaneRecords {
    Record record[kLaneRecords];
    int held;
};
constexpr int kRecordsAtATime = 4;

/* Records are looked at a few at a time, where any lane has one of them. */
__device__ __forceinline__ bool few_begin(int i)
{
    return i % kRecordsAtATime == 0;
}

/* Reads a lane's records of row h; those that it does not have are empty. */
__device__ __forceinline__ void read_records(const RowLists &lists, int h, LaneRecords &lane)
{
    lane.held = count_of(lists, h);
#pragma unroll
    for (int i = 0; i < kLaneRecords; i++)
        lane.record[i] = {0, 0};
#pragma unroll
    for (int i = 0; i < kLaneRecords; i++) {
        if (few_begin(i) && !__any_sync(kWholeWarp, lane.held > i))
            break;
        if (i < lane.held)
            lane.record[i] = *place_of(lists, h, i);
    }
}

/* A lane's records of row h to candidates, when all of the quad have been read. Returns how many the row has:
 * FGMM_DENSE_ROW if they do not fit or the row was given up. unit: bits of log2-density that 1 of the sums
 * stands for. */
__device__ __forceinline__ int expand(const RowLists &lists, LaneRecords &lane, const RowState &row, int h,
                                      float unit)
{
    int mine = 0, before;
#pragma unroll
    for (int i = 0; i < kLaneRecords; i++) {
        if (few_begin(i) && !__any_sync(kWholeWarp, lane.held > i))
            break;
        if (!(upper_of(lane.record[i]) >= row.threshold))
            lane.record[i].x = 0;
        mine += __popc(lane.record[i].x);
    }
    const int count = quad_sum(mine, &before);
    const bool complete = row.threshold <= row.sure;
    int incomplete;
    if (quad_sum(!complete, &incomplete) + (count > FGMM_CANDIDATES) != 0)
        return FGMM_DENSE_ROW;
    fgmm_candidate *at = lists.entries + (lists.row + 8 * h) * FGMM_CANDIDATES + before;
#pragma unroll
    for (int i = 0; i < kLaneRecords; i++) {
        if (few_begin(i) && lane.held <= i)
            break;
        for (unsigned left = lane.record[i].x; left != 0;) {
            const int bit = __clz(left); /* 2j + c: column 8j + 2 lane + c */
            left &= ~(0x80000000u >> bit);
            const int tile = static_cast<int>(lane.record[i].y >> kUpperBits), place = threadIdx.x % 4;
            *reinterpret_cast<int2 *>(at++) = make_int2(tile * 128 + 4 * bit - 3 * (bit & 1) + 2 * place,
                                                        __float_as_int(upper_of(lane.record[i]) * unit));
        }
    }
    return count;
}

/* Turns records into lists and writes the counts; rows past the first `rows` have none. A row with fewer than
 * `least` candidates is dense. Both rows' records are on their way together. */
__device__ __forceinline__ void close_lists(const RowLists &lists, const RowState (&row)[2], int32_t *counts,
                                            int rows, int least, float unit)
{
    LaneRecords lane[2];
#pragma unroll
    for (int h = 0; h < 2; h++)
        read_records(lists, h, lane[h]);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int count = expand(lists, lane[h], row[h], h, unit), number = lists.row + 8 * h;
        if (threadIdx.x % 4 == 0 && number < rows)
            counts[number] = count < least ? FGMM_DENSE_ROW : count;
    }
}

} // namespace fgmm

#endif
