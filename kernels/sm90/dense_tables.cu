/* The model as dense.cu reads it: means in two halves, constants of components, and the bounds that say which
 * rows fp32 can hold. */
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include "kernels/generic/rows.cuh"
#include "kernels/generic/warp.cuh"
#include "kernels/sm90/columns.cuh"
#include "kernels/sm90/dense_shape.cuh"

namespace fgmm
{
namespace
{

constexpr int kWarps = 16, kPartComponents = 64;

/* Where squared lengths are taken from: for rows that one half holds as they are, a point that keeps them so.
 */
enum class Pivot { Origin, Zero, Whole };

__device__ float pivot_of(Pivot kind, double origin, float origin32)
{
    if (kind == Pivot::Origin)
        return origin32;
    return kind == Pivot::Zero ? 0.0f : static_cast<float>(fmin(fmax(rint(origin), -128.0), 255.0));
}

/* A warp a component, a block 64 of them. */
__global__ void __launch_bounds__(kWarps *kWarp)
    fill_means(fgmm_model_view model, const double *origin, const float *origin32, Pivot kind,
               fgmm_sm90_dense dense)
{
    constexpr int kLaneDims = FGMM_SM90_MAX_DIM / kWarp;
    __shared__ fgmm_dense_part sums[kWarps];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    __half *group = static_cast<__half *>(dense.means) +
                    static_cast<int64_t>(blockIdx.x) * 2 * dense.halves * kPartComponents * 64;
    double by_dim[kLaneDims] = {};
    fgmm_dense_part sum = {};
    for (int place = warp; place < kPartComponents; place += kWarps) {
        const int k = blockIdx.x * kPartComponents + place;
        const bool live = k < model.k && !isinf(model.offset[k]);
        const double factor = live ? model.factor[k] : 0.0;
        double square = 0, largest = 0;
#pragma unroll
        for (int i = 0; i < kLaneDims; i++) {
            const int d = lane + i * kWarp;
            if (d >= dense.halves * 64)
                continue;
            const float pivot = d < model.dim ? pivot_of(kind, origin[d], origin32[d]) : 0.0f;
            const double mean = live && d < model.dim ? model.mean[static_cast<int64_t>(k) * model.dim + d] +
                                                            (origin[d] - pivot)
                                                      : 0.0;
            const double value = 2 * factor * mean * (static_cast<double>(dense.gain) / dense.scale);
            const __half high = __double2half(value),
                         low = __double2half(value - static_cast<double>(__half2float(high)));
            const int at = swizzled(place, d, kPartComponents);
            group[at] = high;
            group[dense.halves * kPartComponents * 64 + at] = low;
            square += mean * mean;
            by_dim[i] += 2 * factor * mean;
            largest = fmax(largest, fabs(value));
            if (blockIdx.x == 0 && place == 0)
                dense.pivot[d] = pivot;
        }
        square = warp_sum(square);
        const double offset = live ? model.offset[k] - factor * square : -INFINITY;
        if (lane == 0) {
            dense.at_pivot[k] = offset;
            dense.factors[k] = factor;
        }
        sum.live += live ? 1.0 : 0.0;
        sum.factor += factor;
        sum.offset += live ? offset : 0.0;
        sum.slope = fmax(sum.slope, 2 * factor * sqrt(square));
        sum.largest = fmax(sum.largest, warp_max(largest));
    }
    if (lane == 0)
        sums[warp] = sum;
#pragma unroll
    for (int i = 0; i < kLaneDims; i++)
        sums[warp].mean[lane + i * kWarp] = by_dim[i];
    __syncthreads();
    fgmm_dense_part &part = dense.parts[blockIdx.x];
    if (threadIdx.x < FGMM_SM90_MAX_DIM) {
        double mean = 0;
        for (int w = 0; w < kWarps; w++)
            mean += sums[w].mean[threadIdx.x];
        part.mean[threadIdx.x] = mean;
    }
    if (threadIdx.x != 0)
        return;
    for (int w = 1; w < kWarps; w++) {
        sum.live += sums[w].live;
        sum.factor += sums[w].factor;
        sum.offset += sums[w].offset;
        sum.slope = fmax(sum.slope, sums[w].slope);
        sum.largest = fmax(sum.largest, sums[w].largest);
    }
    part.live = sum.live, part.factor = sum.factor, part.offset = sum.offset;
    part.slope = sum.slope, part.largest = sum.largest;
}

constexpr int kFinishThreads = FGMM_SM90_MAX_DIM;

/* What `join` finds of a warp's values, of all warps, repeated over the lanes. */
template <class Join> __device__ double join_warps(double value, Join join)
{
    constexpr int kFinishWarps = kFinishThreads / kWarp;
    __shared__ double of_warp[kFinishWarps];
    value = join(value);
    __syncthreads(); /* the one before is read */
    if (threadIdx.x % kWarp == 0)
        of_warp[threadIdx.x / kWarp] = value;
    __syncthreads();
    return of_warp[threadIdx.x % kFinishWarps];
}

/* Of the block's threads; the same on all of them. */
__device__ double block_sum(double value)
{
    constexpr int kRepeats = kWarp / (kFinishThreads / kWarp);
    return warp_sum(join_warps(value, [](double v) { return warp_sum(v); })) / kRepeats;
}

__device__ double block_max(double value)
{
    return warp_max(join_warps(value, [](double v) { return warp_max(v); }));
}

/* One block: what is common to all components, then their constants relative to it. */
__global__ void __launch_bounds__(kFinishThreads) finish_tables(fgmm_model_view model, fgmm_sm90_dense dense)
{
    double live = 0, factor = 0, offset = 0, slope = 0, largest = 0, mean = 0;
#pragma unroll 8
    for (int part = 0; part < dense.blocks * (FGMM_DENSE_COMPONENTS / kPartComponents); part++) {
        live += dense.parts[part].live;
        factor += dense.parts[part].factor;
        offset += dense.parts[part].offset;
        slope = fmax(slope, dense.parts[part].slope);
        largest = fmax(largest, dense.parts[part].largest);
        mean += dense.parts[part].mean[threadIdx.x];
    }
    factor /= live, offset /= live, mean /= live;
    const double fall = sqrt(block_sum(mean * mean));
    double most = -INFINITY, best = -INFINITY, size = 0, curve = -INFINITY, bend = 0;
    for (int k = threadIdx.x; k < dense.blocks * FGMM_DENSE_COMPONENTS; k += kFinishThreads) {
        const double own = dense.at_pivot[k] - offset, further = dense.factors[k] - factor;
        if (isinf(dense.at_pivot[k])) { /* no row makes this one likely */
            dense.components[k] = {-1e30f, 0.0f};
            continue;
        }
        dense.components[k] = {
            static_cast<float>(own * dense.gain),
            static_cast<float>(further * dense.gain / (static_cast<double>(dense.scale) * dense.scale))};
        most = fmax(most, own);
        size = fmax(size, fabs(own));
        best = fmax(best, model.offset[k] - offset);
        curve = fmax(curve, -further);
        bend = fmax(bend, fabs(further));
    }
    most = block_max(most), best = block_max(best), size = block_max(size);
    curve = block_max(curve), bend = block_max(bend);
    if (threadIdx.x == 0) {
        const bool held = live > 0 && largest < 60000; /* fp16 does */
        *dense.bounds = {.factor = factor,
                         .shift = offset,
                         .most = most,
                         .slope = slope,
                         .curve = curve,
                         .best = best,
                         .fall = fall,
                         .size = held ? size : INFINITY,
                         .bend = bend};
    }
}

template <typename T> T *take(unsigned char **from, size_t count)
{
    T *taken = reinterpret_cast<T *>(*from);
    *from += (count * sizeof(T) + 1023) / 1024 * 1024;
    return taken;
}

/* bytes: how many there are in all. */
fgmm_sm90_dense place(int32_t k, int32_t dim, void *memory, int64_t *bytes)
{
    fgmm_sm90_dense dense = {};
    unsigned char *at = static_cast<unsigned char *>(memory);
    dense.blocks = (k + FGMM_DENSE_COMPONENTS - 1) / FGMM_DENSE_COMPONENTS;
    dense.halves = (dim + 63) / 64;
    const size_t components = static_cast<size_t>(dense.blocks) * FGMM_DENSE_COMPONENTS;
    dense.means = take<__half>(&at, components * 2 * dense.halves * 64);
    dense.components = take<fgmm_dense_component>(&at, components);
    dense.at_pivot = take<double>(&at, components);
    dense.factors = take<double>(&at, components);
    dense.pivot = take<float>(&at, FGMM_SM90_MAX_DIM);
    dense.bounds = take<fgmm_dense_bounds>(&at, 1);
    dense.parts = take<fgmm_dense_part>(&at, components / kPartComponents);
    *bytes = at - static_cast<unsigned char *>(memory);
    return dense;
}

/* The largest power of two that is not above v, within what fp32 multiplies safely. */
float power_below(double v)
{
    return static_cast<float>(exp2(fmin(fmax(floor(log2(v)), -100.0), 100.0)));
}

} // namespace
} // namespace fgmm

using namespace fgmm;

bool fgmm__sm90_dense_serves(const fgmm_model_view *model, fgmm_sm90_screen screen)
{
    return screen == FGMM_SM90_NARROW && !model->hard &&
           model->k <= FGMM_DENSE_BLOCKS * FGMM_DENSE_COMPONENTS;
}

int64_t fgmm__sm90_dense_bytes(int32_t k, int32_t dim)
{
    int64_t bytes;
    place(k, dim, nullptr, &bytes);
    return bytes;
}

fgmm_sm90_dense fgmm__sm90_dense_place(int32_t k, int32_t dim, void *memory)
{
    int64_t bytes;
    return place(k, dim, memory, &bytes);
}

int fgmm__launch_sm90_dense_tables(const fgmm_model_view *model, const fgmm_row_view *rows,
                                   fgmm_sm90_range range, double origin_most, fgmm_sm90_dense *dense,
                                   fgmm_stream stream)
{
    const bool whole = rows->type == FGMM_ROWS_U8 || rows->type == FGMM_ROWS_I8;
    const bool near = rows->type == FGMM_ROWS_F16 && origin_most <= range.spread;
    const Pivot kind = whole ? Pivot::Whole : near ? Pivot::Zero : Pivot::Origin;
    const double reach = kind == Pivot::Origin ? range.spread : 2 * range.spread + (whole ? 0.5 : 0.0);
    dense->row_parts = kind == Pivot::Origin ? 2 : 1;
    dense->scale = kind == Pivot::Origin ? power_below(0x1p9 / range.spread) : 1.0f;
    dense->gain = power_below(0x1p14 * dense->scale / (2 * range.factor * reach));
    const int parts = dense->blocks * FGMM_DENSE_COMPONENTS / kPartComponents;
    fill_means<<<parts, kWarps * kWarp, 0, stream>>>(*model, rows->origin, rows->origin32, kind, *dense);
    finish_tables<<<1, kFinishThreads, 0, stream>>>(*model, *dense);
    return cudaGetLastError();
}
