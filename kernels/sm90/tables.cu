/* The model as the half-precision screen reads it: per tile of 128 components the means, times 2 F, in fp16;
 * the extra columns, which make each sum an upper bound; and the widths between upper and lower bounds. */
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include "kernels/generic/warp.cuh"
#include "kernels/sm90/columns.cuh"
#include "kernels/sm90/screen.h"
#include "kernels/sm90/terms.cuh"

namespace fgmm
{
namespace
{

/* A warp a place. Places without a component and those with offset -infinity, which nothing chooses, have
 * -infinity in their first column and zeros elsewhere: rows are finite, so the sum is -infinity. `most`: the
 * largest factor that is not cut. A cut factor makes the upper bound higher, so it still holds. */
__global__ void fill_records(fgmm_model_view model, const double *origin, const float *origin32,
                             fgmm_sm90_tables tables, double most, int record_bytes)
{
    const int at = blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    if (at >= tables.tiles * FGMM_SM90_TILE)
        return;
    const int k = tables.order == nullptr ? at : tables.order[at];
    unsigned char *record = static_cast<unsigned char *>(tables.records) +
                            static_cast<int64_t>(at / FGMM_SM90_TILE) * record_bytes;
    __half *means = reinterpret_cast<__half *>(record);
    __half *extra = means + FGMM_SM90_TILE * tables.halves * 64;
    int *widths = reinterpret_cast<int *>(extra + FGMM_SM90_TILE * FGMM_SM90_EXTRA);
    const int place = at % FGMM_SM90_TILE;
    if (k < 0 || k >= model.k || isinf(model.offset[k])) {
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

static int32_t full_tiles(int32_t k)
{
    return (k + FGMM_SM90_TILE - 1) / FGMM_SM90_TILE;
}

int32_t fgmm__sm90_most_tiles(int32_t k)
{
    return full_tiles(k) + (full_tiles(k) < FGMM_SM90_MAX_TILES ? 1 : 0);
}

int fgmm__launch_sm90_tables(const fgmm_model_view *model, const double *origin, const float *origin32,
                             fgmm_sm90_range range, fgmm_sm90_tables *tables, fgmm_stream stream)
{
    constexpr int kWarps = 8;
    /* The units of columns.cuh: sums are bits of log2-density over `unit`. */
    const double unit = fmax(0x1p-16 * range.factor * range.spread * range.spread, 0x1p-26 * range.offset);
    tables->tiles = range.cut ? fgmm__sm90_most_tiles(model->k) : full_tiles(model->k);
    if (tables->tiles == full_tiles(model->k))
        tables->order = NULL;
    tables->halves = (model->dim + 63) / 64;
    tables->scale = static_cast<float>(0x1p9 / range.spread);
    tables->unit = static_cast<float>(exp2(ceil(log2(unit))));
    tables->span = static_cast<float>(model->keep_bits / tables->unit);
    const int64_t record_bytes = fgmm__sm90_record_bytes(model->dim);
    const cudaError_t error =
        cudaMemsetAsync(tables->records, 0, static_cast<size_t>(tables->tiles) * record_bytes, stream);
    if (error != cudaSuccess)
        return error;
    if (tables->order != NULL) {
        const int code = fgmm__launch_sm90_order(model, range.factor, tables, stream);
        if (code != 0)
            return code;
    }
    fill_records<<<tables->tiles *(FGMM_SM90_TILE / kWarps), kWarps * kWarp, 0, stream>>>(
        *model, origin, origin32, *tables, range.factor, static_cast<int>(record_bytes));
    return cudaGetLastError();
}
