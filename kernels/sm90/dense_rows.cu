/* Dense rows on their way to dense.cu: those that fp32 can hold, in one or two halves a value, in tiles of 64
 * that tensor cores read as they lie. Which rows these are is a function of the row and the model alone. */
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <string.h>
#include "kernels/generic/rows.cuh"
#include "kernels/generic/warp.cuh"
#include "kernels/sm90/columns.cuh"
#include "kernels/sm90/dense_shape.cuh"
#include "kernels/sm90/packed.cuh"

namespace fgmm
{
namespace
{

constexpr int kThreads = 512;
constexpr int kRowLanes = 16; /* of a row: 8 dimensions each */
constexpr int kRowsAtOnce = kThreads / kRowLanes;
constexpr int kUnder = 4; /* rows a lane has on its way */

struct Quantum {
    int row[FGMM_KERNEL_QUANTUM];      /* of the chunk */
    float square[FGMM_KERNEL_QUANTUM]; /* of the scaled row */
    float middle[FGMM_KERNEL_QUANTUM]; /* between the bounds of its largest log-density */
    bool held[FGMM_KERNEL_QUANTUM];
    int16_t place[FGMM_KERNEL_QUANTUM]; /* of the n-th row that is held */
    int before[FGMM_KERNEL_QUANTUM / kWarp];
};

/* Whether fp32 holds a row's log-densities (dense_shape.cuh), and the middle of the bounds of the largest. */
__device__ __forceinline__ bool fits(const fgmm_dense_bounds &b, float square, float scale, float *middle)
{
    const double s = scale, curve = square / (s * s), n = sqrt(curve);
    const double upper = fmin(b.most + b.slope * n + b.curve * curve, b.best + b.factor * curve);
    const double lower = -b.fall * n;
    *middle = static_cast<float>(0.5 * (upper + lower));
    return square < kMostSquare && upper - lower <= kMostApart &&
           b.size + b.slope * n + b.bend * curve <= kMostBits;
}

/* A lane's eight dimensions of a row, minus the pivot, scaled. */
template <typename T> struct Reader {
    const fgmm_row_view &rows;
    const bool whole;
    const int d0;
    float scale, shift[8];

    __device__ __forceinline__ Reader(const fgmm_row_view &rows_, const fgmm_sm90_dense &dense, bool whole_)
        : rows(rows_), whole(whole_), d0(threadIdx.x % kRowLanes * 8), scale(dense.scale)
    {
#pragma unroll
        for (int e = 0; e < 8; e++)
            shift[e] = d0 + e < rows.dim ? -scale * dense.pivot[d0 + e] : 0.0f;
    }
    __device__ __forceinline__ Packed<T> load(int row) const
    {
        const T *values = row_of<T>(rows, row);
        return whole && d0 < rows.dim ? load_packed<true>(values, d0, rows.dim)
                                      : load_packed<false>(values, d0, rows.dim);
    }
    /* Elements 2i and 2i + 1. */
    __device__ __forceinline__ float2 pair(const Packed<T> &octet, int i) const
    {
        const float2 stored = octet.pair(i);
        return make_float2(fmaf(stored.x, scale, shift[2 * i]), fmaf(stored.y, scale, shift[2 * i + 1]));
    }
};

template <typename T>
__device__ void measure(Quantum &quantum, const Reader<T> &reader, int count, const fgmm_dense_bounds &bounds)
{
    const int first = threadIdx.x / kRowLanes;
    for (int base = 0; base < count; base += kRowsAtOnce * kUnder) {
        const int i0 = base + first;
        Packed<T> octet[kUnder];
#pragma unroll
        for (int u = 0; u < kUnder; u++)
            octet[u] = reader.load(quantum.row[min(i0 + u * kRowsAtOnce, count - 1)]);
#pragma unroll
        for (int u = 0; u < kUnder; u++) {
            float square = 0;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float2 y = reader.pair(octet[u], e);
                square = fmaf(y.y, y.y, fmaf(y.x, y.x, square));
            }
#pragma unroll
            for (int step = kRowLanes / 2; step > 0; step /= 2)
                square += __shfl_xor_sync(kWholeWarp, square, step);
            const int i = i0 + u * kRowsAtOnce;
            if (threadIdx.x % kRowLanes != 0 || i >= count)
                continue;
            float middle;
            quantum.held[i] = fits(bounds, square, reader.scale, &middle);
            quantum.square[i] = square;
            quantum.middle[i] = middle;
        }
    }
}

/* Rows that are held get places, the others go back to the list; both in their order. Returns how many are
 * held. */
__device__ int part_rows(Quantum &quantum, int count, int32_t *others)
{
    const int lane = threadIdx.x % kWarp;
    for (int i = threadIdx.x; i < FGMM_KERNEL_QUANTUM; i += kThreads) {
        const unsigned votes = __ballot_sync(kWholeWarp, i < count && quantum.held[i]);
        if (lane == 0)
            quantum.before[i / kWarp] = __popc(votes);
    }
    __syncthreads();
    int held = 0;
    for (int w = 0; w < FGMM_KERNEL_QUANTUM / kWarp; w++)
        held += quantum.before[w];
    for (int i = threadIdx.x; i < FGMM_KERNEL_QUANTUM; i += kThreads) {
        const bool mine = i < count && quantum.held[i];
        int at = __popc(__ballot_sync(kWholeWarp, mine) & ((1u << lane) - 1));
        for (int w = 0; w < i / kWarp; w++)
            at += quantum.before[w];
        if (mine)
            quantum.place[at] = static_cast<int16_t>(i);
        else if (i < count)
            others[i - at] = quantum.row[i];
    }
    __syncthreads();
    return held;
}

/* A lane's eight dimensions of a row as halves, one part after the other; zeros where there is no row. */
template <typename T, int kParts>
__device__ __forceinline__ void split_octet(const Reader<T> &reader, const Packed<T> &octet, bool exists,
                                            uint32_t (&packed)[kParts][4])
{
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const float2 y = exists ? reader.pair(octet, e) : make_float2(0.0f, 0.0f);
        const __half2 high = __floats2half2_rn(y.x, y.y);
        memcpy(&packed[0][e], &high, sizeof high);
        if constexpr (kParts == 2) {
            const float2 held = __half22float2(high);
            const __half2 low = __floats2half2_rn(y.x - held.x, y.y - held.y);
            memcpy(&packed[1][e], &low, sizeof low);
        }
    }
}

template <typename T, int kParts>
__device__ void convert(const Quantum &quantum, const Reader<T> &reader, int held, int halves,
                        unsigned char *tiles)
{
    const int panel = 64 * 64; /* halves */
    const int tile_rows = kParts * halves * panel * 2, tile_bytes = tile_rows + FGMM_DENSE_ROWS * 8;
    const int rows = (held + FGMM_DENSE_ROWS - 1) / FGMM_DENSE_ROWS * FGMM_DENSE_ROWS;
    for (int n0 = threadIdx.x / kRowLanes; n0 < rows; n0 += kRowsAtOnce * kUnder) {
        Packed<T> octet[kUnder];
#pragma unroll
        for (int u = 0; u < kUnder; u++)
            octet[u] = reader.load(quantum.row[quantum.place[min(n0 + u * kRowsAtOnce, held - 1)]]);
#pragma unroll
        for (int u = 0; u < kUnder; u++) {
            const int n = n0 + u * kRowsAtOnce, in_tile = n % FGMM_DENSE_ROWS;
            if (n >= rows)
                continue;
            const bool exists = n < held;
            uint32_t packed[kParts][4];
            split_octet<T, kParts>(reader, octet[u], exists, packed);
            unsigned char *tile = tiles + static_cast<int64_t>(n / FGMM_DENSE_ROWS) * tile_bytes;
            if (reader.d0 < halves * 64)
#pragma unroll
                for (int part = 0; part < kParts; part++)
                    *reinterpret_cast<uint4 *>(reinterpret_cast<__half *>(tile) + part * halves * panel +
                                               swizzled(in_tile, reader.d0, FGMM_DENSE_ROWS)) =
                        make_uint4(packed[part][0], packed[part][1], packed[part][2], packed[part][3]);
            if (reader.d0 != 0)
                continue;
            const int i = quantum.place[min(n, held - 1)]; /* places without a row: no component is likely */
            reinterpret_cast<float2 *>(tile + tile_rows)[in_tile] =
                exists ? make_float2(quantum.square[i], -quantum.middle[i]) : make_float2(0.0f, -1e30f);
        }
    }
}

/* A block a quantum. */
template <typename T, int kParts>
__global__ void __launch_bounds__(kThreads)
    gather_rows(fgmm_row_view rows, bool whole, fgmm_sm90_dense dense, fgmm_dense_lists lists,
                fgmm_dense_operand operand, int64_t tile_bytes)
{
    __shared__ Quantum quantum;
    const int count = lists.counts[blockIdx.x];
    if (count == 0) {
        if (threadIdx.x == 0)
            operand.counts[blockIdx.x] = 0;
        return;
    }
    int32_t *list = lists.rows + static_cast<int64_t>(blockIdx.x) * FGMM_KERNEL_QUANTUM;
    for (int i = threadIdx.x; i < count; i += kThreads)
        quantum.row[i] = list[i];
    __syncthreads();
    const Reader<T> reader(rows, dense, whole);
    measure(quantum, reader, count, *dense.bounds);
    __syncthreads();
    const int held = part_rows(quantum, count, list);
    if (threadIdx.x == 0) {
        lists.counts[blockIdx.x] = lists.home_counts[blockIdx.x] = count - held;
        operand.counts[blockIdx.x] = held;
    }
    if (held > 0)
        convert<T, kParts>(quantum, reader, held, dense.halves,
                           static_cast<unsigned char *>(operand.tiles) +
                               blockIdx.x * (FGMM_KERNEL_QUANTUM / FGMM_DENSE_ROWS) * tile_bytes);
}

template <typename T, int kParts>
int launch(const fgmm_row_view *rows, const fgmm_sm90_dense *dense, const fgmm_dense_lists *lists,
           const fgmm_dense_operand *operand, fgmm_stream stream)
{
    const int quanta = (rows->rows + FGMM_KERNEL_QUANTUM - 1) / FGMM_KERNEL_QUANTUM;
    gather_rows<T, kParts><<<quanta, kThreads, 0, stream>>>(*rows, octets_are_whole<T>(rows->data, rows->dim),
                                                            *dense, *lists, *operand,
                                                            fgmm__sm90_dense_tile_bytes(kParts, rows->dim));
    return cudaGetLastError();
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int64_t fgmm__sm90_dense_tile_bytes(int32_t row_parts, int32_t dim)
{
    return static_cast<int64_t>(row_parts) * ((dim + 63) / 64) * 64 * 128 + FGMM_DENSE_ROWS * 8;
}

int fgmm__launch_sm90_dense_rows(const fgmm_row_view *rows, const fgmm_sm90_dense *dense,
                                 const fgmm_dense_lists *lists, const fgmm_dense_operand *operand,
                                 fgmm_stream stream)
{
    return dispatch_rows(rows->type, [&](auto zero) -> int {
        using T = decltype(zero);
        if constexpr (sizeof(T) == 8)
            return cudaErrorInvalidValue;
        else if constexpr (sizeof(T) == 4)
            return launch<T, 2>(rows, dense, lists, operand, stream);
        else if constexpr (sizeof(T) == 2)
            return dense->row_parts == 2 ? launch<T, 2>(rows, dense, lists, operand, stream)
                                         : launch<T, 1>(rows, dense, lists, operand, stream);
        else
            return launch<T, 1>(rows, dense, lists, operand, stream);
    });
}
