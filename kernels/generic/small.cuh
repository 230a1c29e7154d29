/* A small model in shared memory, its fp32 screen and its float64 finish, for small.cu. */
#ifndef FGMM_GENERIC_SMALL_CUH
#define FGMM_GENERIC_SMALL_CUH

#include <type_traits>
#include "kernels/generic/rows.cuh"
#include "kernels/ptx/math.cuh"

namespace fgmm
{

struct Small {
    /* sums: 64-bit ones of four a thread, for 16 components and 8 words each. With one, two blocks of 128
     * registers a thread; with more, one block of 168, or 255. */
    static constexpr int threads(int sums) { return sums == 1 || sums > 6 ? 256 : 384; }
    static constexpr int blocks(int sums) { return sums == 1 ? 2 : 1; }
    static constexpr int kFew = 16; /* components whose fp32 values are kept, of four dimensions */
    /* Rows a thread: a component's terms are read once for all of them, and they fit the registers. */
    static constexpr int rows(int dims) { return dims <= 4 ? 3 : 2; }
};

/* The model in shared memory. kDims: dimensions, padded with zeros. */
template <int kDims> struct SmallModel {
    /* In float64: the mean, the factor on the squared distance (spherical), the offset. Records of 16 bytes'
     * multiples that are not a power of two, since lanes read those of different components. */
    alignas(16) double component[FGMM_SMALL_COMPONENTS][kDims + 2];
    alignas(16) double factor[FGMM_SMALL_COMPONENTS][kDims + 2]; /* diag alone */
    alignas(16) double origin[kDims], inverse[kDims]; /* inverse: of the grid's bound, times 2^bits */
    /* In fp32, relative to the origin in fp32, so that rows need no float64 to be screened. */
    float4 linear[FGMM_SMALL_COMPONENTS][kDims / 4];
    float4 square[FGMM_SMALL_COMPONENTS][kDims / 4]; /* diag: -factor^2 */
    float2 terms[FGMM_SMALL_COMPONENTS];             /* c_k; -F_k of spherical */
    float origin32[kDims];
    float slack[3];          /* |error| <= slack[0] + slack[1] |y| + slack[2] |y|^2 */
    unsigned long long live; /* components that can be chosen */

    __device__ __forceinline__ double mean(int k, int d) const { return component[k][d]; }
    __device__ __forceinline__ double squared_factor(int k) const { return component[k][kDims]; }
    __device__ __forceinline__ double offset(int k) const { return component[k][kDims + 1]; }
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
    const int k = threadIdx.x, d_last = static_cast<int>(blockDim.x) - 1 - k; /* other threads than k < 64 */
    if (d_last < kDims) {
        const bool real = d_last < model.dim;
        m.origin[d_last] = real ? rows.origin[d_last] : 0;
        m.origin32[d_last] = real ? rows.origin32[d_last] : 0;
        m.inverse[d_last] = real ? stats.inverse_bound[d_last] * stats.one : 0;
    }
    if (threadIdx.x < 3)
        m.slack[threadIdx.x] = 0;
    if (threadIdx.x == 0)
        m.live = 0;
    __syncthreads();
    if (k >= model.k && k < Small::kFew) { /* screened with the others, and never chosen */
        m.terms[k] = {-INFINITY, 0};
        for (int q = 0; q < kDims / 4; q++)
            m.linear[k][q] = m.square[k][q] = float4{0, 0, 0, 0};
    }
    if (k < model.k) {
        double constant = model.offset[k], norm = 0, most = 0;
        m.component[k][kDims + 1] = constant;
        m.component[k][kDims] = kDiag ? 1.0 : model.factor[k];
        const bool live = !isinf(constant);
#pragma unroll
        for (int d = 0; d < kDims; d++) {
            const int at = k * model.dim + d;
            const bool real = d < model.dim;
            const double mean = real ? model.mean[at] : 0;
            const double given = kDiag ? (real ? model.factor[at] : 0) : model.factor[k];
            const double factor = kDiag ? given * given : given;
            const double from =
                real ? mean + (rows.origin[d] - rows.origin32[d]) : 0; /* the origin in fp32 */
            m.component[k][d] = mean;
            if constexpr (kDiag)
                m.factor[k][d] = given;
            constant -= factor * from * from;
            norm += 4 * factor * factor * from * from;
            most = fmax(most, factor);
            reinterpret_cast<float *>(m.linear[k])[d] = static_cast<float>(2 * factor * from);
            if constexpr (kDiag)
                reinterpret_cast<float *>(m.square[k])[d] = static_cast<float>(-factor);
        }
        m.terms[k] = {static_cast<float>(constant), static_cast<float>(-most)};
        /* A chain of fmas over 2 kDims + 2 terms, and roundings of y, b, c and F: twice over. Components that
         * nothing chooses do not count. */
        const double growth = 2 * (2 * kDims + 8) * 0x1p-24;
        if (live) {
            atomicOr(&m.live, 1ull << k);
            raise(&m.slack[0], growth * fabs(constant));
            raise(&m.slack[1], growth * sqrt(norm));
            raise(&m.slack[2], growth * most);
        }
    }
    __syncthreads();
}

/* A row as it is stored. */
template <typename T, int kDims> struct SmallQuads {
    Quad<T> quad[kDims / 4];
};

template <typename T, int kDims>
__device__ __forceinline__ SmallQuads<T, kDims> load_quads(const fgmm_row_view &rows, int row, bool whole)
{
    SmallQuads<T, kDims> result;
#pragma unroll
    for (int q = 0; q < kDims / 4; q++)
        result.quad[q] = load_quad(row_of<T>(rows, row), 4 * q, rows.dim, whole);
    return result;
}

/* The row relative to the origin; zero past the last dimension. */
template <typename T, int kDims>
__device__ __forceinline__ void exact_row(const SmallModel<kDims> &m, const SmallQuads<T, kDims> &row,
                                          double (&x)[kDims])
{
#pragma unroll
    for (int d = 0; d < kDims; d++)
        x[d] = to_double(row.quad[d / 4].value[d % 4]) - m.origin[d];
}

/* A row in fp32 with |y|^2. */
template <int kDims> struct SmallRow {
    float y[kDims], square;
};

template <typename T, int kDims>
__device__ __forceinline__ SmallRow<kDims> rounded_row(const SmallModel<kDims> &m,
                                                       const SmallQuads<T, kDims> &row)
{
    SmallRow<kDims> result;
    result.square = 0;
#pragma unroll
    for (int d = 0; d < kDims; d++) {
        result.y[d] = to_float(row.quad[d / 4].value[d % 4]) - m.origin32[d];
        result.square = fmaf(result.y[d], result.y[d], result.square);
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
        const float length = ptx::sqrt_approx(rows[i].square); /* 2.001 covers its error */
        const float slack = fmaf(m.slack[2], rows[i].square, fmaf(m.slack[1], length, m.slack[0]));
        limit[i] -= 2.001f * slack + static_cast<float>(keep_bits) * 1.00001f + 1e-6f * fabsf(limit[i]);
    }
}

/* Few components: their l_k stay in registers. Bits are set where a component is out. */
template <int kDims, int kRows, bool kDiag>
__device__ __forceinline__ void screen_few(const SmallModel<kDims> &m, double keep_bits,
                                           const SmallRow<kDims> (&rows)[kRows], uint32_t (&mask)[kRows])
{
    constexpr int kFew = Small::kFew;
    float limit[kRows], l[kFew][kRows];
#pragma unroll
    for (int i = 0; i < kRows; i++)
        limit[i] = -INFINITY;
#pragma unroll
    for (int k = 0; k < kFew; k++) {
        screen_component<kDims, kRows, kDiag>(m, k, rows, l[k]);
#pragma unroll
        for (int i = 0; i < kRows; i++)
            limit[i] = fmaxf(limit[i], l[k][i]);
    }
    lower_limits(m, keep_bits, rows, limit);
#pragma unroll
    for (int i = 0; i < kRows; i++) {
        uint32_t out = 0;
#pragma unroll
        for (int k = kFew - 1; k >= 0; k--) /* the last one becomes bit 0 */
            out = __funnelshift_l(__float_as_uint(l[k][i] - limit[i]), out, 1);
        mask[i] = ~out & 0xffff;
    }
}

/* Any number: they are computed once more. */
template <int kDims, int kRows, bool kDiag, typename Mask>
__device__ __forceinline__ void screen_many(const SmallModel<kDims> &m, const fgmm_model_view &model,
                                            const SmallRow<kDims> (&rows)[kRows], Mask (&mask)[kRows])
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
            mask[i] |= l[i] < limit[i] ? Mask{0} : Mask{1} << k;
    }
}

/* The components that can matter for each row, as bits. What is not a number stays in. */
template <int kDims, int kRows, bool kDiag, typename Mask>
__device__ __forceinline__ void screen_rows(const SmallModel<kDims> &m, const fgmm_model_view &model,
                                            const SmallRow<kDims> (&rows)[kRows], Mask (&mask)[kRows])
{
    if constexpr (kDims == 4 && std::is_same<Mask, uint32_t>::value)
        screen_few<kDims, kRows, kDiag>(m, model.keep_bits, rows, mask);
    else
        screen_many<kDims, kRows, kDiag>(m, model, rows, mask);
#pragma unroll
    for (int i = 0; i < kRows; i++)
        mask[i] &= static_cast<Mask>(m.live);
}

/* ||F(x - mean)||^2 of component k; spherical: without the factor. */
template <int kDims, bool kDiag>
__device__ __forceinline__ double distance_of(const SmallModel<kDims> &m, const double (&x)[kDims], int k)
{
    double sum = 0;
#pragma unroll
    for (int d = 0; d < kDims; d++) {
        double t = x[d] - m.mean(k, d);
        if constexpr (kDiag)
            t *= m.factor[k][d];
        sum = fma(t, t, sum);
    }
    return sum;
}

template <int kDims, bool kDiag>
__device__ __forceinline__ double value_of(const SmallModel<kDims> &m, int k, double distance)
{
    return fma(kDiag ? -1.0 : -m.squared_factor(k), distance, m.offset(k));
}

template <typename Mask> __device__ __forceinline__ int lowest(Mask mask)
{
    return sizeof mask == 4 ? __ffs(static_cast<int>(mask)) - 1 : __ffsll(static_cast<long long>(mask)) - 1;
}

/* The candidates of a row together. */
struct SmallFound {
    int best;          /* ties go to the smaller number */
    double value, sum; /* of the best; of 2^(l - value) over all */
};

template <int kDims, bool kDiag, typename Mask>
__device__ __forceinline__ SmallFound find_best(const SmallModel<kDims> &m, const double (&x)[kDims],
                                                Mask mask)
{
    SmallFound found = {-1, -INFINITY, 0};
    for (Mask left = mask; left != 0; left &= left - 1) {
        const int k = lowest(left);
        const double value = value_of<kDims, kDiag>(m, k, distance_of<kDims, kDiag>(m, x, k));
        if (found.best < 0) {
            found = {k, value, 1};
        } else if (value > found.value) {
            found = {k, value, fma(found.sum, exp2(found.value - value), 1.0)};
        } else {
            found.sum += exp2(value - found.value);
        }
    }
    return found;
}

} // namespace fgmm

#endif
