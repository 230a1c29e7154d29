/* The rows of a chunk that are explained no better than a limit: few, once some rows have set the limit. */
#include <cuda_runtime.h>
#include "kernels/generic/traits.cuh"

namespace fgmm
{
namespace
{

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    find_poor(const double *log_density, int32_t rows, double limit, fgmm_poor_list *list)
{
    const int row = blockIdx.x * kThreads + threadIdx.x;
    if (row >= rows || log_density[row] > limit)
        return;
    const int place = atomicAdd(&list->count, 1);
    if (place < FGMM_POOR_PLACES) {
        list->log_density[place] = log_density[row];
        list->row[place] = row;
    }
}

} // namespace
} // namespace fgmm

using namespace fgmm;

int fgmm__launch_poor(const double *log_density, int32_t rows, double limit, fgmm_poor_list *list,
                      fgmm_stream stream)
{
    const cudaError_t code = cudaMemsetAsync(&list->count, 0, sizeof list->count, stream);
    if (code != cudaSuccess)
        return code;
    find_poor<<<(rows + kThreads - 1) / kThreads, kThreads, 0, stream>>>(log_density, rows, limit, list);
    return cudaGetLastError();
}
