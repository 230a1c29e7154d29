/* The model as the screen of wide rows reads it: records of 128 or 256 components, widths, and the scales of
 * rows. All of it is made from parameters on the device, by maxima and sums of integers, so that it has the
 * same bits everywhere.
 *
 * The strength of a component says how far its log-density goes down within the means' spread: F S^2, with S
 * the largest |mean|; diagonal: the sum over dimensions of (F_d S_d)^2, with S_d the largest |mean| or
 * deviation in this dimension. Sums are in units of 2^-kBits of the largest strength, which gives all columns
 * the ranges of columns.cuh. A component of a few equal rows has a strength far above all others, and fp16
 * covers no such range: it is taken for 2^18 times the typical one, which costs its tile its lower bounds. */
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include "kernels/generic/warp.cuh"
#include "kernels/sm90/columns.cuh"
#include "kernels/sm90/terms.cuh"
#include "kernels/sm90/traits.cuh"

namespace fgmm
{
namespace
{

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr double kDeviation = 0.849; /* sqrt(log2(e) / 2): a deviation is this over the factor */

/* Bits of a row's value at the spread. Diagonal forms have a spread a dimension, and rows lie anywhere within
 * it: |y|^2 grows with the dimensions, so y is made smaller. */
int value_bits(const fgmm_sm90_wide &tables)
{
    int bits = 9;
    for (int dims = tables.squares ? tables.octets * 8 : 1; dims > 128; dims /= 4)
        bits--;
    return bits;
}

/* Bits of the largest strength in the sums: a square's column is at most 2^15, 2 F |m| at most 2^10. */
int strength_bits(const fgmm_sm90_wide &tables)
{
    return tables.squares ? 2 * value_bits(tables) : 16;
}

__device__ __forceinline__ void raise(float *to, float value)
{
    if (value > *to) /* not negative: they compare as integers */
        atomicMax(reinterpret_cast<int *>(to), __float_as_int(value));
}

__device__ __forceinline__ void raise(double *to, double value)
{
    if (value > *to)
        atomicMax(reinterpret_cast<long long *>(to), __double_as_longlong(value));
}

/* A power of two above the spread; such that its inverse is an ordinary fp32 number. */
__device__ __forceinline__ double power_above(float spread)
{
    return spread > 0 ? scalbn(1.0, min(max(ilogbf(spread) + 1, -96), 96)) : 1.0;
}

/* The number of this warp, and of all. */
__device__ __forceinline__ int warp_number()
{
    return blockIdx.x * kWarps + threadIdx.x / kWarp;
}

__device__ __forceinline__ int warps_in_grid()
{
    return gridDim.x * kWarps;
}

/* What the screen is told of origin is rounded. */
struct Means {
    const double *mean, *origin;
    const float *origin32;
    int dim;
    __device__ __forceinline__ double at(int k, int d) const
    {
        return mean[static_cast<int64_t>(k) * dim + d] + (origin[d] - origin32[d]);
    }
};

/* tables.spread (spherical: the first alone) and the largest offset. */
__global__ void __launch_bounds__(kThreads)
    measure_spread(fgmm_model_view model, Means means, fgmm_sm90_wide tables)
{
    const int lane = threadIdx.x % kWarp;
    for (int k = warp_number(); k < model.k; k += warps_in_grid()) {
        if (isinf(model.offset[k]))
            continue;
        double square = 0;
        for (int d = lane; d < model.dim; d += kWarp) {
            const double mean = fabs(means.at(k, d));
            if (tables.squares)
                raise(&tables.spread[d],
                      __double2float_ru(
                          fmax(mean, kDeviation / model.factor[static_cast<int64_t>(k) * model.dim + d])));
            square += mean * mean;
        }
        square = warp_sum(square);
        if (lane == 0) {
            raise(&tables.units->offset, fabs(model.offset[k]));
            if (!tables.squares)
                raise(&tables.spread[0], __double2float_ru(sqrt(square)));
        }
    }
}

/* On all lanes. */
__device__ double strength_of(const fgmm_model_view &model, const fgmm_sm90_wide &tables, int k)
{
    if (!tables.squares) {
        const double spread = power_above(tables.spread[0]);
        return model.factor[k] * spread * spread;
    }
    double sum = 0;
    for (int d = threadIdx.x % kWarp; d < model.dim; d += kWarp) {
        const double t =
            model.factor[static_cast<int64_t>(k) * model.dim + d] * power_above(tables.spread[d]);
        sum += t * t;
    }
    return warp_sum(sum);
}

__global__ void __launch_bounds__(kThreads) measure_strength(fgmm_model_view model, fgmm_sm90_wide tables)
{
    unsigned long long *live = reinterpret_cast<unsigned long long *>(&tables.units->live),
                       *exponents = reinterpret_cast<unsigned long long *>(&tables.units->exponents);
    for (int k = warp_number(); k < model.k; k += warps_in_grid()) {
        if (isinf(model.offset[k]))
            continue;
        const double strength = strength_of(model, tables, k);
        if (threadIdx.x % kWarp != 0)
            continue;
        raise(&tables.units->strongest, strength);
        atomicAdd(live, 1ull);
        atomicAdd(exponents, static_cast<unsigned long long>(static_cast<long long>(ilogb(strength))));
    }
}

/* One block: units, and the scales of rows. */
__global__ void __launch_bounds__(kThreads)
    settle(fgmm_sm90_wide tables, Means means, double keep_bits, int bits_of_value, int bits_of_strength)
{
    for (int d = threadIdx.x; d < tables.octets * 8; d += kThreads) {
        const bool real = d < means.dim;
        const double spread = power_above(tables.spread[tables.squares && real ? d : 0]);
        const float scale = static_cast<float>(scalbn(1.0, bits_of_value) / spread);
        tables.scale[d] = real ? scale : 0.0f;
        tables.shift[d] = real ? -scale * means.origin32[d] : 0.0f;
    }
    if (threadIdx.x != 0)
        return;
    fgmm_sm90_units &units = *tables.units;
    const double mean = units.live > 0 ? static_cast<double>(units.exponents) / units.live : 0.0;
    units.most = exp2(rint(mean) + 18);
    const double largest = units.live > 0 ? fmin(units.strongest, units.most) : 1.0;
    const double unit = fmax(scalbn(largest, -bits_of_strength), 0x1p-26 * units.offset);
    units.unit = scalbn(1.0, ilogb(unit) + 1);
    units.unit32 = static_cast<float>(units.unit);
    units.span = static_cast<float>(keep_bits / units.unit);
}

__host__ __device__ int64_t record_bytes(const fgmm_sm90_wide &tables)
{
    return static_cast<int64_t>(tables.tile) * (FGMM_SM90_EXTRA + tables.slabs * FGMM_SM90_SLAB) * 2;
}

/* Where a component's columns are. */
struct Record {
    __half *extra, *slabs;
    float *widths;
    int place, tile;
    __device__ Record(const fgmm_sm90_wide &tables, int k) : tile(tables.tile)
    {
        unsigned char *record = tables.records + k / tables.tile * record_bytes(tables);
        place = k % tables.tile;
        extra = reinterpret_cast<__half *>(record);
        slabs = reinterpret_cast<__half *>(record + tables.tile * FGMM_SM90_EXTRA * 2);
        widths = tables.widths + k / FGMM_SM90_TILE * 4;
    }
    __device__ __forceinline__ void put(int column, __half value) const
    {
        slabs[swizzled(place, column, tile)] = value;
    }
    /* All lanes. */
    __device__ __forceinline__ void put_extra(const __half (&column)[8]) const
    {
        if (threadIdx.x % kWarp != 0)
            return;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            extra[place * 8 + i] = column[i];
            extra[(tile + place) * 8 + i] = __float2half(0.0f);
        }
    }
};

/* Components past k and those with offset -infinity, which nothing chooses, have -infinity in their first
 * column and zeros elsewhere: rows are finite, so the sum is -infinity. All lanes. */
__device__ void put_nothing(const fgmm_sm90_wide &tables, const Record &record)
{
    __half column[8] = {__float2half(-INFINITY)};
    for (int i = threadIdx.x % kWarp; i < tables.slabs * FGMM_SM90_SLAB; i += kWarp)
        record.put(i, __float2half(0.0f));
    record.put_extra(column);
}

/* The columns of component k, spherical: 2 F m; returns the rest of it, on all lanes. */
__device__ Scaled put_spherical(const fgmm_model_view &model, const Means &means,
                                const fgmm_sm90_wide &tables, const Record &record, int k, double cut)
{
    const double g = 1 / tables.units->unit, s = tables.scale[0], factor = cut * model.factor[k];
    double square = 0, residual = 0;
    for (int d = threadIdx.x % kWarp; d < tables.slabs * FGMM_SM90_SLAB; d += kWarp) {
        const double mean = d < model.dim ? means.at(k, d) : 0.0, exact = 2 * factor * g / s * mean;
        const __half rounded = __double2half(exact);
        const double lost = exact - static_cast<double>(__half2float(rounded));
        record.put(d, rounded);
        square += mean * mean;
        residual += lost * lost;
    }
    square = warp_sum(square);
    residual = warp_sum(residual);
    const double excess = (1 - cut) * model.factor[k] * g;
    return {.offset = g * (model.offset[k] - factor * square),
            .magnitude = g * (fabs(model.offset[k]) + factor * square),
            .factor = factor * g / (s * s * kSquareUnit),
            .excess = excess / (s * s),
            .blind = excess * square,
            .norm = 2 * factor * g / s * sqrt(square),
            .residual = sqrt(residual),
            .keep = g * model.keep_bits,
            .squares = {}};
}

/* Diagonal: 2 F_d^2 m_d, and -F_d^2 for the squares. tau: as in terms_of. */
__device__ Scaled put_diagonal(const fgmm_model_view &model, const Means &means, const fgmm_sm90_wide &tables,
                               const Record &record, int k, double cut, double tau)
{
    const double g = 1 / tables.units->unit;
    const int columns = tables.octets * 8;
    double square = 0, norm = 0, residual = 0, b_sum = 0, b_norm = 0, b_residual = 0;
    for (int d = threadIdx.x % kWarp; d < columns; d += kWarp) {
        double mean = 0, factor = 0, s = 1;
        if (d < model.dim) {
            mean = means.at(k, d);
            factor = model.factor[static_cast<int64_t>(k) * model.dim + d];
            factor *= cut * factor;
            s = tables.scale[d];
        }
        const double a = 2 * factor * g / s * mean, b = factor * g / (s * s * kSquareScale);
        const __half rounded = __double2half(a);
        const __half lowered = __float2half_rd(__double2float_rd(b * (1 - tau)));
        const double lost = a - static_cast<double>(__half2float(rounded)),
                     b_lost = b - static_cast<double>(__half2float(lowered));
        record.put(d, rounded);
        record.put(columns + d, __hneg(lowered));
        square += factor * mean * mean;
        norm += a * a;
        residual += lost * lost;
        b_sum += b;
        b_norm += b * b;
        b_residual += b_lost * b_lost;
    }
    for (int i = 2 * columns + threadIdx.x % kWarp; i < tables.slabs * FGMM_SM90_SLAB; i += kWarp)
        record.put(i, __float2half(0.0f));
    square = warp_sum(square);
    b_norm = sqrt(warp_sum(b_norm));
    const double more = (1 - cut) / cut; /* what was cut off, over what is left */
    return {.offset = g * (model.offset[k] - square),
            .magnitude = g * (fabs(model.offset[k]) + square),
            .factor = 0,
            .excess = 0,
            .blind = more * g * square,
            .norm = sqrt(warp_sum(norm)),
            .residual = sqrt(warp_sum(residual)),
            .keep = g * model.keep_bits,
            .squares = {.norm = b_norm,
                        .sum = warp_sum(b_sum),
                        .residual = sqrt(warp_sum(b_residual)),
                        .excess = more * b_norm}};
}

/* A warp a component. A smaller factor makes the upper bound higher, so what is cut holds. */
__global__ void __launch_bounds__(kThreads)
    fill_wide(fgmm_model_view model, Means means, fgmm_sm90_wide tables)
{
    const int k = warp_number();
    const Record record(tables, k);
    if (k >= model.k || isinf(model.offset[k])) {
        put_nothing(tables, record);
        return;
    }
    const int depth = tables.slabs * FGMM_SM90_SLAB + FGMM_SM90_EXTRA;
    const double strength = strength_of(model, tables, k), most = tables.units->most;
    const double cut = strength > most ? most / strength : 1.0;
    const Terms t =
        terms_of(tables.squares ? put_diagonal(model, means, tables, record, k, cut, truncation(depth))
                                : put_spherical(model, means, tables, record, k, cut),
                 depth);
    record.put_extra(t.column);
    if (threadIdx.x % kWarp != 0)
        return;
#pragma unroll
    for (int i = 0; i < 3; i++) /* finite, as rows may be zero */
        raise(&record.widths[i], fminf(t.width[i], 0x1p100f));
}

/* Of tables: what is cleared first and measured, then what is written whole. */
struct Layout {
    int64_t units, spread, widths, measured, scale, shift, records, bytes;
};

Layout layout_of(const fgmm_sm90_wide &tables)
{
    const auto padded = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
    const int64_t dims = padded(static_cast<int64_t>(tables.octets) * 8 * sizeof(float));
    Layout l = {};
    l.spread = padded(sizeof(fgmm_sm90_units));
    l.widths = l.spread + dims;
    l.measured = l.widths + padded(static_cast<int64_t>(tables.tiles) * tables.tile / FGMM_SM90_TILE * 4 *
                                   sizeof(float));
    l.scale = l.measured;
    l.shift = l.scale + dims;
    l.records = l.shift + dims;
    l.bytes = l.records + tables.tiles * record_bytes(tables);
    return l;
}

fgmm_sm90_wide shape_of(fgmm_form form, int32_t k, int32_t dim)
{
    fgmm_sm90_wide tables = {};
    tables.squares = form == FGMM_FORM_DIAG;
    tables.octets = (dim + 7) / 8;
    tables.slabs = (tables.octets * 8 * (tables.squares ? 2 : 1) + FGMM_SM90_SLAB - 1) / FGMM_SM90_SLAB;
    tables.tile = tables.slabs <= FGMM_SM90_KEPT_SLABS ? FGMM_SM90_KEPT_TILE : FGMM_SM90_WIDE_TILE;
    tables.tiles = (k + tables.tile - 1) / tables.tile;
    return tables;
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int64_t fgmm__sm90_wide_bytes(fgmm_form form, int32_t k, int32_t dim)
{
    return layout_of(shape_of(form, k, dim)).bytes;
}

fgmm_sm90_wide fgmm__sm90_wide_place(fgmm_form form, int32_t k, int32_t dim, void *memory)
{
    fgmm_sm90_wide tables = shape_of(form, k, dim);
    const Layout l = layout_of(tables);
    unsigned char *base = static_cast<unsigned char *>(memory);
    tables.units = reinterpret_cast<fgmm_sm90_units *>(base + l.units);
    tables.spread = reinterpret_cast<float *>(base + l.spread);
    tables.widths = reinterpret_cast<float *>(base + l.widths);
    tables.scale = reinterpret_cast<float *>(base + l.scale);
    tables.shift = reinterpret_cast<float *>(base + l.shift);
    tables.records = base + l.records;
    return tables;
}

int64_t fgmm__sm90_operand_bytes(fgmm_form form, int32_t dim)
{
    const int slabs = shape_of(form, 1, dim).slabs;
    return FGMM_SM90_BLOCKS * (slabs <= FGMM_SM90_KEPT_SLABS ? WideShape<true>::operand(slabs)
                                                             : WideShape<false>::operand(slabs));
}

int fgmm__launch_sm90_wide_tables(const fgmm_model_view *model, const double *origin, const float *origin32,
                                  const fgmm_sm90_wide *tables, fgmm_stream stream)
{
    constexpr int kMostBlocks = 1024;
    const Means means = {model->mean, origin, origin32, model->dim};
    const int needed = (model->k + kWarps - 1) / kWarps, blocks = needed < kMostBlocks ? needed : kMostBlocks;
    const cudaError_t error = cudaMemsetAsync(tables->units, 0, layout_of(*tables).measured, stream);
    if (error != cudaSuccess)
        return error;
    measure_spread<<<blocks, kThreads, 0, stream>>>(*model, means, *tables);
    measure_strength<<<blocks, kThreads, 0, stream>>>(*model, *tables);
    settle<<<1, kThreads, 0, stream>>>(*tables, means, model->keep_bits, value_bits(*tables),
                                       strength_bits(*tables));
    fill_wide<<<tables->tiles *(tables->tile / kWarps), kThreads, 0, stream>>>(*model, means, *tables);
    return cudaGetLastError();
}
