/* Which rows a block of the wide screen works on. */
#ifndef FGMM_SM90_WALK_CUH
#define FGMM_SM90_WALK_CUH

#include "kernels/ptx/cluster.cuh"
#include "kernels/sm90/traits.cuh"

namespace fgmm
{

/* What all roles walk over: pairs of tiles of rows, one pair a cluster at a time. */
template <class Shape> struct Walk {
    int pair, pairs, step;
    uint32_t rank; /* of this block in its cluster: it has tile `rank` of the pair */
    __device__ explicit Walk(int rows)
        : pair(blockIdx.x / Shape::kCluster), pairs((rows + Shape::kPairRows - 1) / Shape::kPairRows),
          step(gridDim.x / Shape::kCluster), rank(ptx::cluster_rank())
    {
    }
    __device__ bool more() const { return pair < pairs; }
    __device__ void next() { pair += step; }
    __device__ int first_row() const { return (pair * Shape::kCluster + rank) * Shape::kRows; }
};

} // namespace fgmm

#endif
