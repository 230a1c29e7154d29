/* A small model in shared memory, its fp32 screen and its float64 finish, for small.cu. */
#ifndef FGMM_GENERIC_SMALL_CUH
#define FGMM_GENERIC_SMALL_CUH

#include "kernels/generic/fixed.cuh"
#include "kernels/generic/rows.cuh"

namespace fgmm
{

struct Small {
    static constexpr int kThreads = 256;
    static constexpr int kWarps = kThreads / kWarp;
    static constexpr int kMostBlocks = 2; /* a multiprocessor: one screens while the other sorts or adds */
    static constexpr int kPairs = 2048;   /* at one time, 18 bytes each */
    static_assert(kPairs >= kWarp * FGMM_SMALL_COMPONENTS, "a warp's rows fit with all components");
    static constexpr int kMostStep = 4 * kThreads; /* rows at one time */
    static constexpr int kFew = 16; /* components whose fp32 values are kept, of four dimensions */
    /* Eight dimensions of second moments take the registers of both. */
    static constexpr int blocks(int dims, bool diagonal) { return diagonal && dims > 4 ? 1 : kMostBlocks; }
    /* Rows a thread: a component's terms are read once for all of them, and they fit the registers. */
    static constexpr int rows(int dims) { return dims <= 8 ? 4 : 2; }
};

/* The model in shared memory. kDims: dimensions, padded with zeros. */
template <int kDims> struct SmallModel {
    double mean[FGMM_SMALL_COMPONENTS][kDims];
    double factor[FGMM_SMALL_COMPONENTS][kDims]; /* spherical: the first one, on the squared distance */
    double offset[FGMM_SMALL_COMPONENTS];
    double origin[kDims], inverse[kDims]; /* inverse: of the grid's bound, times 2^bits */
    float4 linear[FGMM_SMALL_COMPONENTS][kDims / 4];
    float4 square[FGMM_SMALL_COMPONENTS][kDims / 4]; /* diag: -factor^2 */
    float2 terms[FGMM_SMALL_COMPONENTS];             /* c_k; -F_k of spherical */
    float slack[3];                                  /* |error| <= slack[0] + slack[1] |y| + slack[2] |y|^2 */
    unsigned long long live;                         /* components that can be chosen */
};

/* Raises a float in shared memory that is not negative. */
__device__ __forceinline__ void raise(float *most, double value)
{
    atomicMax(reinterpret_cast<int *>(most), __float_as_int(__double2float_ru(value)));
}

/* Fills the block's model, a thread a component. */
template <int kDims, bool kDiag>
__device__ void fill_model(SmallModel<kDims> &m, const fgmm_row_view &rows, const fgmm_model_view &model,
                           const fgmm_stats_view &stats)
{
    for (int d = threadIdx.x; d < kDims; d += Small::kThreads) {
        m.origin[d] = d < model.dim ? rows.origin[d] : 0;
        m.inverse[d] = d < model.dim ? stats.inverse_bound[d] * stats.one : 0;
    }
    if (threadIdx.x < 3)
        m.slack[threadIdx.x] = 0;
    if (threadIdx.x == 0)
        m.live = 0;
    __syncthreads();
    const int k = threadIdx.x;
    if (k >= model.k && k < Small::kFew) { /* screened with the others, and never chosen */
        m.terms[k] = {-INFINITY, 0};
        for (int q = 0; q < kDims / 4; q++)
            m.linear[k][q] = m.square[k][q] = float4{0, 0, 0, 0};
    }
    if (k < model.k) {
        double constant = model.offset[k], norm = 0, most = 0;
        m.offset[k] = constant;
        for (int d = 0; d < kDims; d++) {
            const int at = k * model.dim + d;
            const bool real = d < model.dim;
            const double mean = real ? model.mean[at] : 0;
            const double given = kDiag ? (real ? model.factor[at] : 0) : model.factor[k];
            const double factor = kDiag ? given * given : given;
            m.mean[k][d] = mean;
            m.factor[k][d] = given;
            constant -= factor * mean * mean;
            norm += 4 * factor * factor * mean * mean;
            most = fmax(most, factor);
            reinterpret_cast<float *>(m.linear[k])[d] = static_cast<float>(2 * factor * mean);
            if constexpr (kDiag)
                reinterpret_cast<float *>(m.square[k])[d] = static_cast<float>(-factor);
        }
        m.terms[k] = {static_cast<float>(constant), static_cast<float>(-most)};
        /* A chain of fmas over 2 kDims + 2 terms, and roundings of y, b, c and F: twice over. Components that
         * nothing chooses do not count. */
        const double growth = 2 * (2 * kDims + 8) * 0x1p-24;
        if (!isinf(m.offset[k])) {
            atomicOr(&m.live, 1ull << k);
            raise(&m.slack[0], growth * fabs(constant));
            raise(&m.slack[1], growth * sqrt(norm));
            raise(&m.slack[2], growth * most);
        }
    }
    __syncthreads();
}

/* Four consecutive elements of a row, relative to the origin. */
template <typename T>
__device__ __forceinline__ void load_four(const fgmm_row_view &rows, const double *origin, int row, int d,
                                          bool whole, double (&x)[4])
{
    const Quad<T> quad = load_quad(row_of<T>(rows, row), d, rows.dim, whole);
#pragma unroll
    for (int e = 0; e < 4; e++)
        x[e] = d + e < rows.dim ? to_double(quad.value[e]) - origin[d + e] : 0.0;
}

/* A row in fp32 with |y|^2. */
template <int kDims> struct SmallRow {
    float y[kDims], square;
};

template <typename T, int kDims>
__device__ __forceinline__ SmallRow<kDims> load_row(const fgmm_row_view &rows, const double *origin, int row,
                                                    bool whole)
{
    SmallRow<kDims> result;
    result.square = 0;
#pragma unroll
    for (int d = 0; d < kDims; d += 4) {
        double x[4];
        load_four<T>(rows, origin, row, d, whole, x);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            result.y[d + e] = static_cast<float>(x[e]);
            result.square = fmaf(result.y[d + e], result.y[d + e], result.square);
        }
    }
    return result;
}

/* l_k of kRows rows in fp32. */
template <int kDims, int kRows, bool kDiag>
__device__ __forceinline__ void screen_component(const SmallModel<kDims> &m, int k,
                                                 const SmallRow<kDims> (&rows)[kRows], float (&l)[kRows])
{
    const float2 terms = m.terms[k];
#pragma unroll
    for (int i = 0; i < kRows; i++)
        l[i] = kDiag ? terms.x : fmaf(terms.y, rows[i].square, terms.x);
#pragma unroll
    for (int q = 0; q < kDims / 4; q++) {
        const float4 b = m.linear[k][q];
        const float linear[4] = {b.x, b.y, b.z, b.w};
        float4 a = {};
        if constexpr (kDiag)
            a = m.square[k][q];
        const float square[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
            for (int i = 0; i < kRows; i++) {
                const float y = rows[i].y[4 * q + e];
                const float slope = kDiag ? fmaf(square[e], y, linear[e]) : linear[e];
                l[i] = fmaf(slope, y, l[i]);
            }
    }
}

/* Turns the best of each row into the bound below which a component does not matter. */
template <int kDims, int kRows>
__device__ __forceinline__ void lower_limits(const SmallModel<kDims> &m, double keep_bits,
                                             const SmallRow<kDims> (&rows)[kRows], float (&limit)[kRows])
{
#pragma unroll
    for (int i = 0; i < kRows; i++) {
        const float length = sqrtf(rows[i].square);
        const float slack = fmaf(m.slack[2], rows[i].square, fmaf(m.slack[1], length, m.slack[0]));
        limit[i] -= 2.001f * slack + static_cast<float>(keep_bits) * 1.00001f + 1e-6f * fabsf(limit[i]);
    }
}

/* Few components: their l_k stay in registers. */
template <int kDims, int kRows, bool kDiag>
__device__ __forceinline__ void screen_few(const SmallModel<kDims> &m, double keep_bits,
                                           const SmallRow<kDims> (&rows)[kRows], uint64_t (&mask)[kRows])
{
    float limit[kRows], l[Small::kFew][kRows];
#pragma unroll
    for (int i = 0; i < kRows; i++)
        limit[i] = -INFINITY;
#pragma unroll
    for (int k = 0; k < Small::kFew; k++) {
        screen_component<kDims, kRows, kDiag>(m, k, rows, l[k]);
#pragma unroll
        for (int i = 0; i < kRows; i++)
            limit[i] = fmaxf(limit[i], l[k][i]);
    }
    lower_limits(m, keep_bits, rows, limit);
#pragma unroll
    for (int i = 0; i < kRows; i++) {
        uint32_t bits = 0;
#pragma unroll
        for (int k = 0; k < Small::kFew; k++)
            bits |= l[k][i] < limit[i] ? 0u : 1u << k;
        mask[i] = bits;
    }
}

/* Any number: they are computed once more. */
template <int kDims, int kRows, bool kDiag>
__device__ __forceinline__ void screen_many(const SmallModel<kDims> &m, const fgmm_model_view &model,
                                            const SmallRow<kDims> (&rows)[kRows], uint64_t (&mask)[kRows])
{
    float limit[kRows], l[kRows];
#pragma unroll
    for (int i = 0; i < kRows; i++) {
        limit[i] = -INFINITY;
        mask[i] = 0;
    }
    for (int k = 0; k < model.k; k++) {
        screen_component<kDims, kRows, kDiag>(m, k, rows, l);
#pragma unroll
        for (int i = 0; i < kRows; i++)
            limit[i] = fmaxf(limit[i], l[i]);
    }
    lower_limits(m, model.keep_bits, rows, limit);
    for (int k = 0; k < model.k; k++) {
        screen_component<kDims, kRows, kDiag>(m, k, rows, l);
#pragma unroll
        for (int i = 0; i < kRows; i++)
            mask[i] |= l[i] < limit[i] ? 0ull : 1ull << k;
    }
}

/* The components that can matter for each row, as bits. What is not a number stays in. */
template <int kDims, int kRows, bool kDiag>
__device__ __forceinline__ void screen_rows(const SmallModel<kDims> &m, const fgmm_model_view &model,
                                            const SmallRow<kDims> (&rows)[kRows], uint64_t (&mask)[kRows])
{
    if (kDims == 4 && model.k <= Small::kFew)
        screen_few<kDims, kRows, kDiag>(m, model.keep_bits, rows, mask);
    else
        screen_many<kDims, kRows, kDiag>(m, model, rows, mask);
#pragma unroll
    for (int i = 0; i < kRows; i++)
        mask[i] &= m.live;
}

/* ||F(x - mean)||^2 of component k; spherical: without the factor. */
template <int kDims, bool kDiag>
__device__ __forceinline__ double distance_of(const SmallModel<kDims> &m, const double (&x)[kDims], int k)
{
    double sum = 0;
#pragma unroll
    for (int d = 0; d < kDims; d++) {
        double t = x[d] - m.mean[k][d];
        if constexpr (kDiag)
            t *= m.factor[k][d];
        sum = fma(t, t, sum);
    }
    return sum;
}

template <int kDims, bool kDiag>
__device__ __forceinline__ double value_of(const SmallModel<kDims> &m, int k, double distance)
{
    return fma(kDiag ? -1.0 : -m.factor[k][0], distance, m.offset[k]);
}

template <typename T, int kDims>
__device__ __forceinline__ void load_exact(const fgmm_row_view &rows, const double *origin, int row,
                                           bool whole, double (&x)[kDims])
{
#pragma unroll
    for (int d = 0; d < kDims; d += 4) {
        double four[4];
        load_four<T>(rows, origin, row, d, whole, four);
#pragma unroll
        for (int e = 0; e < 4; e++)
            x[d + e] = four[e];
    }
}

/* The candidates of one row in float64: calls keep(k, responsibility, distance) for each that is kept;
 * returns the row's log2-density (hard: minus the squared distance). */
template <typename T, int kDims, bool kDiag, typename Keep>
__device__ __forceinline__ double finish_row(const SmallModel<kDims> &m, const fgmm_model_view &model,
                                             const fgmm_row_view &rows, int row, bool whole, uint64_t mask,
                                             Keep keep)
{
    double x[kDims];
    load_exact<T, kDims>(rows, m.origin, row, whole, x);
    int first = __ffsll(static_cast<long long>(mask)) - 1;
    double distance = distance_of<kDims, kDiag>(m, x, first);
    double best = value_of<kDims, kDiag>(m, first, distance), sum = 1;
    for (uint64_t left = mask & (mask - 1); left != 0; left &= left - 1) {
        const int k = __ffsll(static_cast<long long>(left)) - 1;
        const double its_distance = distance_of<kDims, kDiag>(m, x, k);
        const double value = value_of<kDims, kDiag>(m, k, its_distance);
        if (value > best) { /* ties go to the smaller number */
            sum = fma(sum, exp2(best - value), 1.0);
            best = value;
            first = k;
            distance = its_distance;
        } else {
            sum += exp2(value - best);
        }
    }
    if (model.hard) {
        keep(first, 1.0, distance);
        return best;
    }
    for (uint64_t left = mask; left != 0; left &= left - 1) {
        const int k = __ffsll(static_cast<long long>(left)) - 1;
        const double its_distance = distance_of<kDims, kDiag>(m, x, k);
        const double value = value_of<kDims, kDiag>(m, k, its_distance);
        if (value >= best - model.keep_bits)
            keep(k, exp2(value - best) / sum, its_distance);
    }
    return best + log2(sum);
}

} // namespace fgmm

#endif
