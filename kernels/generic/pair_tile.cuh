/* The fp32 pair tile (traits: PairTile): squared distances of 128 rows to 128 columns, in the difference form
 *     t = a - b; sum += t * t           or, scaled by dimension,   t = a * scale - b; sum += t * t
 * which no variance can make cancel. Rows are read in their stored type and converted on the way to shared
 * memory. */
#ifndef FGMM_GENERIC_PAIR_TILE_CUH
#define FGMM_GENERIC_PAIR_TILE_CUH

#include "kernels/generic/rows.cuh"

namespace fgmm
{

/* One stage of an operand: [dimension][row]. */
struct PairStage {
    float value[PairTile::kDims][PairTile::kSide];
};

/* The threads as a 16 x 16 grid over the tile. A half-warp has one `down`, so it owns whole rows. */
struct PairThread {
    int across, down;
    __device__ __forceinline__ PairThread()
        : across(threadIdx.x % PairTile::kLanes), down(threadIdx.x / PairTile::kLanes)
    {
    }
    /* The row (column) in the tile of this thread's accumulator row i (column j). */
    __device__ __forceinline__ int row(int i) const { return place(down, i); }
    __device__ __forceinline__ int column(int j) const { return place(across, j); }

  private:
    static __device__ __forceinline__ int place(int t, int i)
    {
        return i < 4 ? t * 4 + i : PairTile::kSide / 2 + t * 4 + i - 4;
    }
};

/* A thread's share of loading a stage of 128 rows: one row, 8 dimensions; lanes of a warp have 32 different
 * rows of one half, so the transposed stores have no bank conflict. */
template <typename T> struct RowLoader {
    int row; /* a number, not a pointer: half the registers */
    Octet<T> octet;

    explicit __device__ __forceinline__ RowLoader(int row_) : row(row_) {}
    static __device__ __forceinline__ int place() { return threadIdx.x % PairTile::kSide; }
    static __device__ __forceinline__ int half() { return threadIdx.x / PairTile::kSide * 8; }
    __device__ __forceinline__ void fetch(const T *rows /* [][dim] */, int d0, int dim, bool whole)
    {
        octet = load_octet(rows + static_cast<int64_t>(row) * dim, d0 + half(), dim, whole);
    }
    /* origin: [dim padded], or NULL for rows that are not shifted. */
    __device__ __forceinline__ void store(PairStage &stage, const float *origin, int d0) const
    {
#pragma unroll
        for (int e = 0; e < 8; e++) {
            float shift = origin != nullptr ? origin[d0 + half() + e] : 0.0f;
            stage.value[half() + e][place()] = to_float(octet.value[e]) - shift;
        }
    }
};

/* Eight consecutive values of a stage's dimension for this thread: two 16-byte reads. */
__device__ __forceinline__ void read_fragment(float (&out)[PairTile::kMicro], const float *values /* [128] */,
                                              int t)
{
    float4 low = *reinterpret_cast<const float4 *>(values + t * 4);
    float4 high = *reinterpret_cast<const float4 *>(values + PairTile::kSide / 2 + t * 4);
    out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
    out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
}

typedef float PairSums[PairTile::kMicro][PairTile::kMicro]; /* [row][column] of a thread */

__device__ __forceinline__ void clear(PairSums &sums)
{
#pragma unroll
    for (int i = 0; i < PairTile::kMicro; i++)
#pragma unroll
        for (int j = 0; j < PairTile::kMicro; j++)
            sums[i][j] = 0.0f;
}

/* Adds a stage's 16 dimensions to the sums. scale: NULL type (kScaled false) or the columns' factors. */
template <bool kScaled>
__device__ __forceinline__ void accumulate(PairSums &sums, const PairThread &thread, const PairStage &a,
                                           const PairStage &b, const PairStage *scale)
{
#pragma unroll
    for (int d = 0; d < PairTile::kDims; d++) {
        float x[PairTile::kMicro], m[PairTile::kMicro], s[PairTile::kMicro];
        read_fragment(x, a.value[d], thread.down);
        read_fragment(m, b.value[d], thread.across);
        if constexpr (kScaled)
            read_fragment(s, scale->value[d], thread.across);
#pragma unroll
        for (int i = 0; i < PairTile::kMicro; i++)
#pragma unroll
            for (int j = 0; j < PairTile::kMicro; j++) {
                float t = kScaled ? fmaf(x[i], s[j], -m[j]) : x[i] - m[j];
                sums[i][j] = fmaf(t, t, sums[i][j]);
            }
    }
}

} // namespace fgmm

#endif
