/* Places of components in the screen's records where some factors are cut: a cut factor costs its tile its
 * lower bounds, so those components get tiles of their own, behind the others. The screen knows places alone;
 * its lists are renumbered. */
#include <cuda_runtime.h>
#include "kernels/generic/warp.cuh"
#include "kernels/sm90/screen.h"

namespace fgmm
{
namespace
{

struct Order {
    static constexpr int kThreads =
        1024; /* one block: what it takes is little beside a screen of all components */
    static constexpr int kWarps = kThreads / kWarp;
    static_assert(kWarps == kWarp, "a lane a warp");
};

__global__ void __launch_bounds__(Order::kThreads)
    place_components(fgmm_model_view model, double most, int32_t *order, int places)
{
    __shared__ int before_warp[Order::kWarps], usual_of_all;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const auto is_cut = [&](int k) { return model.factor[k] > most && !isinf(model.offset[k]); };
    int usual = 0;
    for (int k = threadIdx.x; k < model.k; k += Order::kThreads)
        usual += !is_cut(k);
    for (int place = threadIdx.x; place < places; place += Order::kThreads)
        order[place] = -1;
    if (threadIdx.x == 0)
        usual_of_all = 0;
    __syncthreads();
    usual = warp_sum(usual);
    if (lane == 0)
        atomicAdd(&usual_of_all, usual);
    __syncthreads();
    const int first_cut = (usual_of_all + FGMM_SM90_TILE - 1) / FGMM_SM90_TILE * FGMM_SM90_TILE;
    int before = 0; /* usual ones */
    for (int base = 0; base < model.k; base += Order::kThreads) {
        const int k = base + static_cast<int>(threadIdx.x);
        const bool mine = k < model.k && !is_cut(k);
        const unsigned votes = __ballot_sync(kWholeWarp, mine);
        if (lane == 0)
            before_warp[warp] = __popc(votes);
        __syncthreads();
        const int count = before_warp[lane];
        const int of_warps = warp_sum(lane < warp ? count : 0);
        const int before_k = before + of_warps + __popc(votes & ((1u << lane) - 1));
        if (k < model.k)
            order[mine ? before_k : first_cut + k - before_k] = k;
        before += warp_sum(count);
        __syncthreads();
    }
}

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    renumber(fgmm_candidate_lists lists, int rows, const int32_t *order)
{
    const int row = blockIdx.x * kThreads + threadIdx.x;
    const int count = row < rows ? lists.counts[row] : 0;
    fgmm_candidate *entries = lists.entries + static_cast<int64_t>(row) * FGMM_CANDIDATES;
    for (int i = 0; i < count && count <= FGMM_CANDIDATES; i++) /* a dense row's count is larger */
        entries[i].component = order[entries[i].component];
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_sm90_order(const fgmm_model_view *model, double most, const fgmm_sm90_tables *tables,
                            fgmm_stream stream)
{
    place_components<<<1, Order::kThreads, 0, stream>>>(*model, most, tables->order,
                                                        tables->tiles * FGMM_SM90_TILE);
    return cudaGetLastError();
}

int fgmm__launch_sm90_renumber(const fgmm_candidate_lists *lists, int32_t rows,
                               const fgmm_sm90_tables *tables, fgmm_stream stream)
{
    renumber<<<(rows + kThreads - 1) / kThreads, kThreads, 0, stream>>>(*lists, rows, tables->order);
    return cudaGetLastError();
}
