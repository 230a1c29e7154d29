/* How broad a spherical mixture is (breadth.h), from eight pairs a component. */
#include <cuda_runtime.h>
#include "kernels/breadth.h"
#include "kernels/generic/warp.cuh"

namespace fgmm
{
namespace
{

constexpr int kPairLanes = kWarp / FGMM_BREADTH_PARTNERS;

/* A warp a component, four lanes a partner; the last block adds up what the blocks found, in their order. */
__global__ void __launch_bounds__(RowWarps::kThreads)
    breadth(fgmm_mstep_view view, fgmm_mixture_view mixture, double keep_bits, fgmm_mixture_summary *out)
{
    __shared__ double of_warp[RowWarps::kWarps];
    __shared__ bool is_last;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int k = blockIdx.x * RowWarps::kWarps + warp;
    double share = 0;
    if (k < view.k) {
        const int partner = fgmm__breadth_partner(k, lane / kPairLanes, view.k);
        const double *a = mixture.centre + static_cast<int64_t>(k) * view.dim,
                     *b = mixture.centre + static_cast<int64_t>(partner) * view.dim;
        double square = 0;
#pragma unroll 8
        for (int d = lane % kPairLanes; d < view.dim; d += kPairLanes) {
            const double t = a[d] - b[d];
            square += t * t;
        }
        for (int step = kPairLanes / 2; step > 0; step /= 2)
            square += __shfl_xor_sync(kWholeWarp, square, step);
        const double factor[2] = {mixture.factor[k], mixture.factor[partner]},
                     offset[2] = {mixture.offset[k], mixture.offset[partner]};
        share = fgmm__breadth_share(factor, offset, square, view.dim, keep_bits);
        share = warp_sum(lane % kPairLanes == 0 ? share : 0.0);
    }
    if (lane == 0)
        of_warp[warp] = share;
    __syncthreads();
    if (threadIdx.x == 0) {
        double sum = 0;
        for (int w = 0; w < RowWarps::kWarps; w++)
            sum += of_warp[w];
        view.parts[blockIdx.x].live = sum;
        __threadfence();
        is_last = atomicAdd(view.finished, 1) == static_cast<int>(gridDim.x) - 1;
        __threadfence();
    }
    __syncthreads();
    if (!is_last || warp != 0)
        return;
    double sum = 0;
    for (int b = lane; b < static_cast<int>(gridDim.x); b += kWarp)
        sum += __ldcg(&view.parts[b].live);
    sum = warp_sum(sum);
    if (lane == 0) {
        out->breadth = sum / FGMM_BREADTH_PARTNERS;
        *view.finished = 0;
    }
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_breadth(const fgmm_mstep_view *view, const fgmm_mixture_view *mixture, double keep_bits,
                         fgmm_mixture_summary *out, fgmm_stream stream)
{
    const int blocks = (view->k + RowWarps::kWarps - 1) / RowWarps::kWarps;
    if (blocks > FGMM_MSTEP_BLOCKS)
        return cudaErrorInvalidValue;
    breadth<<<blocks, RowWarps::kThreads, 0, stream>>>(*view, *mixture, keep_bits, out);
    return cudaGetLastError();
}
