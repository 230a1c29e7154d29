/* The model as the half-precision screen reads it: per tile of 128 components the means, times 2 F, in fp16;
 * the extra columns, which make each sum an upper bound; and the widths between upper and lower bounds. */
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include "kernels/generic/warp.cuh"
#include "kernels/sm90/columns.cuh"
#include "kernels/sm90/screen.h"

namespace fgmm
{
namespace
{

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

} // namespace
} // namespace fgmm

using namespace fgmm;

int64_t fgmm__sm90_record_bytes(int32_t dim)
{
    return FGMM_SM90_TILE * ((dim + 63) / 64 * 128 + FGMM_SM90_EXTRA * 2) + 16;
}

int fgmm__launch_sm90_tables(const fgmm_model_view *model, const double *origin, const float *origin32,
                             fgmm_sm90_range range, fgmm_sm90_tables *tables, fgmm_stream stream)
{
    constexpr int kWarps = 8;
    /* The units of columns.cuh: sums are bits of log2-density over `unit`. */
    const double unit = fmax(0x1p-16 * range.factor * range.spread * range.spread, 0x1p-26 * range.offset);
    tables->tiles = (model->k + FGMM_SM90_TILE - 1) / FGMM_SM90_TILE;
    tables->halves = (model->dim + 63) / 64;
    tables->scale = static_cast<float>(0x1p9 / range.spread);
    tables->unit = static_cast<float>(exp2(ceil(log2(unit))));
    tables->span = static_cast<float>(model->keep_bits / tables->unit);
    const int64_t record_bytes = fgmm__sm90_record_bytes(model->dim);
    const cudaError_t error =
        cudaMemsetAsync(tables->records, 0, static_cast<size_t>(tables->tiles) * record_bytes, stream);
    if (error != cudaSuccess)
        return error;
    fill_records<<<tables->tiles *(FGMM_SM90_TILE / kWarps), kWarps * kWarp, 0, stream>>>(
        *model, origin, origin32, *tables, range.factor, static_cast<int>(record_bytes));
    return cudaGetLastError();
}
