/* Triangular factors as they cross from the host: half of a square. */
#include <cuda_runtime.h>
#include "kernels/generic/traits.cuh"

namespace fgmm
{
namespace
{

/* A block a row of a matrix. */
__global__ void unpack(const double *packed, double *full, int dim)
{
    const int64_t k = blockIdx.x / dim, triangle = static_cast<int64_t>(dim) * (dim + 1) / 2;
    const int i = blockIdx.x % dim;
    const double *from = packed + k * triangle + static_cast<int64_t>(i) * (2 * dim - i - 1) / 2;
    double *to = full + (k * dim + i) * dim;
    for (int j = threadIdx.x; j < dim; j += blockDim.x)
        to[j] = j < i ? 0.0 : from[j];
}

} // namespace
} // namespace fgmm

int fgmm__launch_unpack(const double *packed, double *full, int32_t k, int32_t dim, fgmm_stream stream)
{
    fgmm::unpack<<<static_cast<unsigned>(k) * static_cast<unsigned>(dim), 128, 0, stream>>>(packed, full,
                                                                                            dim);
    return cudaGetLastError();
}
