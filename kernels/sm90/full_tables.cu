/* Full components as their screen reads them (full_screen.cu): a number c and vectors a_j with
 *     c I + sum_j a_j a_j' <= P = U U'.
 * Both are found in fp32 and hold rigorously.
 *
 * c: the smallest eigenvalue of P is at least 1 / |X|^2, X = U^-1, and |X| is bounded by squaring X X' three
 * times and taking a Frobenius norm: at most 128^(1/32) too large. That X is the inverse is checked.
 *
 * a_j = U b_j: for orthonormal b_j, sum_j (a_j.t)^2 = |B' U' t|^2 <= |U' t|^2 whatever the b_j are. A few
 * steps of subspace iteration turn them to where U' is large, the narrow directions. How orthonormal they
 * came out is measured.
 *
 * P = (1 - theta) P + theta P, and each part gets one of the two bounds. */
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include "kernels/sm90/full_columns.cuh"

namespace fgmm
{
namespace
{

constexpr int kVectors = FullTables::kVectors;
constexpr int kWarps = FullTables::kThreads / kWarp;

/* Vectors of `dim` values, a row the values of all at one place. */
typedef float Row[FGMM_FULL_COLUMNS];

/* A component as its block works on it: matrices of `dim` rows of `pitch` floats (odd, so that both rows and
 * columns spread over the banks). */
struct Work {
    int dim, pitch;
    float *factor, *inverse, *power; /* U over `unit`; scratch, scratch */
    Row *vectors, *images;           /* [dim] */
    Row *partial;                    /* [2][dim] */
    double *sums;                    /* [kWarps] */
};

__device__ Work work_of(void *raw, int dim)
{
    Work work = {dim, dim | 1};
    work.vectors = static_cast<Row *>(raw);
    work.images = work.vectors + dim;
    work.partial = work.images + dim;
    work.sums = reinterpret_cast<double *>(work.partial + 2 * dim);
    work.factor = reinterpret_cast<float *>(work.sums + kWarps);
    work.inverse = work.factor + dim * work.pitch;
    work.power = work.inverse + dim * work.pitch;
    return work;
}

size_t work_bytes(int dim)
{
    return static_cast<size_t>(dim) * 4 * sizeof(Row) + kWarps * sizeof(double) +
           static_cast<size_t>(3 * dim * (dim | 1)) * sizeof(float);
}

/* Sum over the block, on all threads, in a fixed order. */
__device__ double block_sum(double value, const Work &work)
{
    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % kWarp == 0)
        work.sums[threadIdx.x / kWarp] = value;
    __syncthreads();
    double sum = 0;
    for (int w = 0; w < kWarps; w++)
        sum += work.sums[w];
    return sum;
}

__device__ double norm(const float *matrix, const Work &work)
{
    double sum = 0;
    for (int i = threadIdx.x / kWarp; i < work.dim; i += kWarps) {
        float row = 0;
        for (int j = threadIdx.x % kWarp; j < work.dim; j += kWarp)
            row = fmaf(matrix[i * work.pitch + j], matrix[i * work.pitch + j], row);
        sum += row;
    }
    return sqrt(block_sum(sum, work));
}

/* U over a power of two, which is returned: its largest value comes near 1. */
__device__ double load_factor(const double *factor, const Work &work)
{
    double sum = 0;
    for (int at = threadIdx.x; at < work.dim * work.dim; at += FullTables::kThreads)
        sum += factor[at] * factor[at];
    const double unit = exp2(rint(log2(sqrt(block_sum(sum, work)))));
    for (int at = threadIdx.x; at < work.dim * work.dim; at += FullTables::kThreads)
        work.factor[at / work.dim * work.pitch + at % work.dim] = static_cast<float>(factor[at] / unit);
    __syncthreads();
    return unit;
}

/* ---- c ---- */

/* X = U^-1, a thread a column; its column of I - U X is returned as a sum of squares. */
__device__ float invert(const Work &work)
{
    const int j = threadIdx.x, dim = work.dim, pitch = work.pitch;
    const float *u = work.factor;
    float *x = work.inverse;
    float residual = 0;
    if (j < dim) {
        for (int i = dim - 1; i >= 0; i--) {
            float sum = i == j ? 1.0f : 0.0f;
#pragma unroll 4
            for (int m = i + 1; m < dim; m++)
                sum = fmaf(-u[i * pitch + m], x[m * pitch + j], sum);
            x[i * pitch + j] = i <= j ? sum / u[i * pitch + i] : 0.0f;
        }
        for (int i = 0; i < dim; i++) {
            float sum = i == j ? 1.0f : 0.0f;
#pragma unroll 4
            for (int m = i; m < dim; m++)
                sum = fmaf(-u[i * pitch + m], x[m * pitch + j], sum);
            residual = fmaf(sum, sum, residual);
        }
    }
    __syncthreads();
    return residual;
}

/* to = scale * a a' */
__device__ void multiply_transposed(float *to, const float *a, float scale, const Work &work)
{
    constexpr int kSide = FullTables::kSide, kMicro = FullTables::kMicro;
    const int across = threadIdx.x % kSide, down = threadIdx.x / kSide, dim = work.dim, pitch = work.pitch;
    float sum[kMicro][kMicro] = {};
    int row[kMicro], column[kMicro]; /* those past the end repeat the last one */
#pragma unroll
    for (int i = 0; i < kMicro; i++) {
        row[i] = min(down + kSide * i, dim - 1) * pitch;
        column[i] = min(across + kSide * i, dim - 1) * pitch;
    }
    for (int m = 0; m < dim; m++) {
        float u[kMicro], v[kMicro];
#pragma unroll
        for (int i = 0; i < kMicro; i++) {
            u[i] = a[row[i] + m];
            v[i] = a[column[i] + m];
        }
#pragma unroll
        for (int i = 0; i < kMicro; i++)
#pragma unroll
            for (int j = 0; j < kMicro; j++)
                sum[i][j] = fmaf(u[i], v[j], sum[i][j]);
    }
#pragma unroll
    for (int i = 0; i < kMicro; i++)
#pragma unroll
        for (int j = 0; j < kMicro; j++)
            if (down + kSide * i < dim && across + kSide * j < dim)
                to[row[i] + across + kSide * j] = scale * sum[i][j];
    __syncthreads();
}

/* A lower bound of the smallest eigenvalue of P over unit^2; 0 where fp32 does not find one.
 *
 * Let N_0 = X, N_i+1 = N_i N_i' / f_i^2 with f_i the Frobenius norm of N_i. Then |N_i|^2 = f_i^2 |N_i+1|, and
 * the last one's norm is at most its f. A product's rounding is at most dim 2^-24 of f_i^2, which is 1, and
 * |N_i+1| is at least 1 / dim: 2^-10 of it. Five such errors, under square roots, are less than the 2^-6 that
 * is added. */
__device__ double smallest_eigenvalue(const Work &work)
{
    double f[FullTables::kSquarings + 2];
    const double residual = sqrt(block_sum(invert(work), work));
    f[0] = norm(work.inverse, work);
    const double off = 1.01 * residual + 2e-5 * norm(work.factor, work) * f[0];
    if (!(off < 0.25))
        return 0;
    float *from = work.inverse, *to = work.power;
#pragma unroll
    for (int i = 0; i <= FullTables::kSquarings; i++) {
        multiply_transposed(to, from, static_cast<float>(1 / (f[i] * f[i])), work);
        f[i + 1] = norm(to, work);
        float *const other = from;
        from = to;
        to = other;
    }
    double bound = f[FullTables::kSquarings + 1];
#pragma unroll
    for (int i = FullTables::kSquarings; i >= 0; i--)
        bound = f[i] * sqrt(bound);
    const double least = (1 - off) / (bound * (1 + 0x1p-6));
    return least > 0 ? least * least : 0; /* a NaN gives 0 */
}

/* ---- the vectors ---- */

/* images = U' vectors, or U vectors with kTransposed = false: two threads a row, each with half of a sum. */
template <bool kTransposed> __device__ void apply(Row *to, const Row *from, const Work &work)
{
    const int place = threadIdx.x % FGMM_FULL_MAX_DIM, half = threadIdx.x / FGMM_FULL_MAX_DIM;
    float sum[kVectors] = {};
    if (place < work.dim) {
        const int begin = kTransposed ? half : place + half, end = kTransposed ? place + 1 : work.dim;
        for (int i = begin; i < end; i += 2) {
            const float u = work.factor[kTransposed ? i * work.pitch + place : place * work.pitch + i];
#pragma unroll
            for (int v = 0; v < kVectors; v++)
                sum[v] = fmaf(u, from[i][v], sum[v]);
        }
#pragma unroll
        for (int v = 0; v < kVectors; v++)
            work.partial[half * work.dim + place][v] = sum[v];
    }
    __syncthreads();
    for (int at = threadIdx.x; at < work.dim * kVectors; at += FullTables::kThreads)
        to[at / kVectors][at % kVectors] = work.partial[at / kVectors][at % kVectors] +
                                           work.partial[work.dim + at / kVectors][at % kVectors];
    __syncthreads();
}

/* The first warp: Gram and Schmidt's orthonormalisation; vectors that vanish stay zero. */
__device__ void orthonormalise(Row *vectors, const Work &work)
{
    constexpr int kRows = FGMM_FULL_MAX_DIM / kWarp;
    const int lane = threadIdx.x % kWarp;
    if (threadIdx.x < kWarp) {
        float x[kVectors][kRows];
#pragma unroll
        for (int v = 0; v < kVectors; v++)
#pragma unroll
            for (int r = 0; r < kRows; r++)
                x[v][r] = lane + kWarp * r < work.dim ? vectors[lane + kWarp * r][v] : 0.0f;
#pragma unroll
        for (int v = 0; v < kVectors; v++) {
            float square = 0;
#pragma unroll
            for (int r = 0; r < kRows; r++)
                square = fmaf(x[v][r], x[v][r], square);
            square = warp_sum(square);
            const float scale = square > 0x1p-60f ? rsqrtf(square) : 0.0f;
#pragma unroll
            for (int r = 0; r < kRows; r++)
                x[v][r] *= scale;
#pragma unroll
            for (int w = v + 1; w < kVectors; w++) {
                float dot = 0;
#pragma unroll
                for (int r = 0; r < kRows; r++)
                    dot = fmaf(x[v][r], x[w][r], dot);
                dot = warp_sum(dot);
#pragma unroll
                for (int r = 0; r < kRows; r++)
                    x[w][r] = fmaf(-dot, x[v][r], x[w][r]);
            }
        }
#pragma unroll
        for (int v = 0; v < kVectors; v++)
#pragma unroll
            for (int r = 0; r < kRows; r++)
                if (lane + kWarp * r < work.dim)
                    vectors[lane + kWarp * r][v] = x[v][r];
    }
    __syncthreads();
}

/* At least the largest eigenvalue of B'B: the largest sum of absolute values in a row of it. On the first
 * warp's lanes. */
__device__ double largest_gram(const Row *vectors, const Work &work)
{
    const int lane = threadIdx.x % kWarp;
    double most = 0;
    for (int v = 0; v < kVectors; v++) {
        double row = 0;
        for (int w = 0; w < kVectors; w++) {
            double dot = 0;
            for (int i = lane; i < work.dim; i += kWarp)
                dot += static_cast<double>(vectors[i][v]) * vectors[i][w];
            row += fabs(warp_sum(dot));
        }
        most = fmax(most, row);
    }
    return most;
}

/* Fills `vectors` with the a_j over unit; returns what their squares are to be divided by (block-wide). */
__device__ double find_vectors(const Work &work)
{
    for (int at = threadIdx.x; at < work.dim * kVectors; at += FullTables::kThreads) {
        const uint32_t bits = (at + 1u) * 2654435761u; /* any start does */
        work.vectors[at / kVectors][at % kVectors] =
            static_cast<float>((bits ^ bits >> 15) & 0xffff) * 0x1p-16f - 0.5f;
    }
    __syncthreads();
    for (int i = 0; i < FullTables::kIterations; i++) {
        apply<true>(work.images, work.vectors, work);
        orthonormalise(work.images, work);
        if (i + 1 == FullTables::kIterations)
            orthonormalise(work.images, work);
        apply<false>(work.vectors, work.images, work);
    }
    if (threadIdx.x < kWarp) {
        const double gram = largest_gram(work.images, work);
        if (threadIdx.x == 0)
            work.sums[0] = gram;
    }
    __syncthreads();
    const double gram = work.sums[0];
    __syncthreads();
    return fmax(gram, 1.0);
}

/* ---- the records ---- */

/* What both records of a component need. */
struct Component {
    const double *means; /* relative to the origin */
    const double *origin;
    const float *origin32;
    int dim, depth; /* of the product */
    double unit;    /* of the factor */
    double size;    /* of the factor over unit: its Frobenius norm */
    double mean_square, reach, scale, offset;

    /* Relative to the origin in fp32, which rows are. */
    __device__ __forceinline__ double mean(int i) const { return means[i] + (origin[i] - origin32[i]); }
    __device__ __forceinline__ Parts parts() const
    {
        Parts p = {};
        p.gram = 1;
        p.unit = unit;
        p.offset = offset;
        p.mean_square = mean_square;
        p.scale = scale;
        p.linear.scale = 1;
        return p;
    }
};

/* A column that stands for value.(x - m), by a warp. */
template <typename F, typename P>
__device__ Column write_factor_column(const Component &c, int last, double most, double blur, __half *extra,
                                      F value, P put)
{
    double shift = 0;
    for (int i = threadIdx.x % kWarp; i < last; i += kWarp)
        shift += value(i) * c.mean(i);
    return write_column(last, c.depth, most, blur, warp_sum(shift) * c.scale, c.reach, extra, value, put);
}

/* The block: seven vectors and the mean. */
__device__ void write_narrow(const Component &c, const Work &work, double eigenvalue, double gram,
                             unsigned char *record, int halves, int place, float4 *constants)
{
    __shared__ Column columns[FGMM_FULL_COLUMNS];
    static_assert(kWarps == FGMM_FULL_COLUMNS, "a warp a column");
    constexpr int kRows = FGMM_FULL_TILE * FGMM_FULL_COLUMNS;
    const int j = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const int row = 8 * (4 * (place / 4) + j / 2) + 2 * (place % 4) + j % 2; /* traits.cuh: FullShape */
    __half *factors = reinterpret_cast<__half *>(record), *extra = factors + kRows * halves * 64 + row * 8;
    const auto put = [&](int i, __half value) { factors[swizzled(row, i, kRows)] = value; };
    double squares = 0, most = 0, most_mean = 0; /* every warp for itself */
    for (int i = lane; i < c.dim; i += kWarp) {
        for (int v = 0; v < kVectors; v++) {
            squares += static_cast<double>(work.vectors[i][v]) * work.vectors[i][v];
            most = fmax(most, fabs(static_cast<double>(work.vectors[i][v])));
        }
        most_mean = fmax(most_mean, fabs(c.mean(i)));
    }
    squares = warp_sum(squares);
    most = warp_max(most);
    most_mean = warp_max(most_mean);
    const auto vector = [&](int i) { return static_cast<double>(work.vectors[i][j]); };
    const auto mean = [&](int i) { return c.mean(i); };
    const Column column = j < kVectors
                              ? write_factor_column(c, c.dim, most, 0x1p-16 * c.size, extra, vector, put)
                              : write_column(c.dim, c.depth, most_mean, 0, 0, 0, extra, mean, put);
    if (lane == 0)
        columns[j] = column;
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    Parts p = c.parts();
    for (int v = 0; v < kVectors; v++) {
        p.slope2 += columns[v].slope * columns[v].slope;
        p.constant2 += columns[v].constant * columns[v].constant;
    }
    p.gram = gram;
    p.eigenvalue = eigenvalue;
    /* Whichever bound is likely to be the larger one gets most of P. */
    p.theta = eigenvalue == 0 ? 0.0 : 2 * eigenvalue * c.dim > squares ? 0.875 : 0.125;
    p.linear = columns[kVectors];
    *constants = constants_of(p, columns[0].scale);
}

/* The block: the factor, a warp every eighth column. */
template <class Shape>
__device__ void write_whole(const Component &c, const Work &work, unsigned char *record)
{
    __half *factors = reinterpret_cast<__half *>(record),
           *rest = reinterpret_cast<__half *>(record + Shape::kRecordRest),
           *extra = reinterpret_cast<__half *>(record + Shape::kRecordExtra);
    float most = 0;
    for (int i = threadIdx.x % kWarp; i < c.dim; i += kWarp)
        for (int j = i; j < c.dim; j++)
            most = fmaxf(most, fabsf(work.factor[i * work.pitch + j]));
    const double largest = warp_max(static_cast<double>(most));
    double slope2 = 0, constant2 = 0, column_scale = 1;
    for (int j = threadIdx.x / kWarp; j < c.dim; j += kWarps) {
        const auto put = [&](int i, __half value) {
            __half *half = i < 64 ? factors + swizzled(j, i, Shape::kColumns)
                                  : rest + swizzled(j - 64, i - 64, 64); /* i <= j */
            *half = value;
        };
        const Column column = write_factor_column(
            c, j + 1, largest, 0x1p-23 * c.size, extra + j * 8,
            [&](int i) { return static_cast<double>(work.factor[i * work.pitch + j]); }, put);
        slope2 += column.slope * column.slope;
        constant2 += column.constant * column.constant;
        column_scale = column.scale;
    }
    const bool one = threadIdx.x % kWarp == 0;
    slope2 = block_sum(one ? slope2 : 0.0, work);
    constant2 = block_sum(one ? constant2 : 0.0, work);
    if (threadIdx.x != 0)
        return;
    Parts p = c.parts();
    p.slope2 = slope2;
    p.constant2 = constant2;
    *reinterpret_cast<float4 *>(record + Shape::kRecordConstants) = constants_of(p, column_scale);
}

template <int kHalves>
__global__ void __launch_bounds__(FullTables::kThreads, 1)
    fill_records(fgmm_model_view model, const double *origin, const float *origin32, fgmm_full_tables tables)
{
    typedef FullShape<kHalves> Narrow;
    typedef WholeShape<kHalves> Whole;
    extern __shared__ __align__(16) unsigned char raw[];
    const int k = blockIdx.x, dim = model.dim, place = k % FGMM_FULL_TILE;
    unsigned char *record = static_cast<unsigned char *>(tables.records) +
                            static_cast<int64_t>(k / FGMM_FULL_TILE) * Narrow::kRecordBytes;
    unsigned char *whole =
        static_cast<unsigned char *>(tables.wholes) + static_cast<int64_t>(k) * Whole::kRecordBytes;
    float4 *constants = reinterpret_cast<float4 *>(record + Narrow::kRecordConstants) + place;
    if (k >= model.k || isinf(model.offset[k])) { /* nothing chooses it */
        if (threadIdx.x == 0)
            *constants = make_float4(0, 0, 0, -INFINITY);
        if (threadIdx.x == 0 && k < model.k)
            *reinterpret_cast<float4 *>(whole + Whole::kRecordConstants) = make_float4(0, 0, 0, -INFINITY);
        return;
    }
    const Work work = work_of(raw, dim);
    Component c = {model.mean + static_cast<int64_t>(k) * dim, origin, origin32, dim,
                   kHalves * 64 + FGMM_SM90_EXTRA};
    c.unit = load_factor(model.factor + static_cast<int64_t>(k) * dim * dim, work);
    c.size = norm(work.factor, work);
    for (int i = threadIdx.x % kWarp; i < dim; i += kWarp) /* every warp for itself */
        c.mean_square += c.mean(i) * c.mean(i);
    c.mean_square = warp_sum(c.mean_square);
    c.scale = tables.scale;
    c.reach = c.scale * sqrt(c.mean_square);
    c.offset = model.offset[k];
    write_whole<Whole>(c, work, whole);
    const double eigenvalue = smallest_eigenvalue(work);
    const double gram = find_vectors(work) * (1 + 0x1p-20);
    write_narrow(c, work, eigenvalue, gram, record, kHalves, place, constants);
}

template <int kHalves>
int launch(const fgmm_model_view *model, const double *origin, const float *origin32,
           const fgmm_full_tables *tables, fgmm_stream stream)
{
    const size_t shared = work_bytes(model->dim);
    cudaError_t error = cudaMemsetAsync(
        tables->records, 0, static_cast<size_t>(tables->tiles) * FullShape<kHalves>::kRecordBytes, stream);
    if (error == cudaSuccess)
        error = cudaMemsetAsync(tables->wholes, 0,
                                static_cast<size_t>(tables->k) * WholeShape<kHalves>::kRecordBytes, stream);
    if (error == cudaSuccess)
        error = cudaFuncSetAttribute(fill_records<kHalves>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(shared));
    if (error != cudaSuccess)
        return error;
    fill_records<kHalves><<<tables->tiles * FGMM_FULL_TILE, FullTables::kThreads, shared, stream>>>(
        *model, origin, origin32, *tables);
    return cudaGetLastError();
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int64_t fgmm__full_record_bytes(int32_t dim)
{
    return dim > 64 ? FullShape<2>::kRecordBytes : FullShape<1>::kRecordBytes;
}

int64_t fgmm__full_whole_bytes(int32_t dim)
{
    return dim > 64 ? WholeShape<2>::kRecordBytes : WholeShape<1>::kRecordBytes;
}

int fgmm__launch_full_tables(const fgmm_model_view *model, const double *origin, const float *origin32,
                             double spread, fgmm_full_tables *tables, fgmm_stream stream)
{
    tables->k = model->k;
    tables->tiles = (model->k + FGMM_FULL_TILE - 1) / FGMM_FULL_TILE;
    tables->halves = (model->dim + 63) / 64;
    tables->scale = static_cast<float>(0x1p9 / spread);
    return (tables->halves == 1 ? launch<1> : launch<2>)(model, origin, origin32, tables, stream);
}
