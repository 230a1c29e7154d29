/* Clusters: blocks that see each other's shared memory (sm_90). */
#ifndef FGMM_PTX_CLUSTER_CUH
#define FGMM_PTX_CLUSTER_CUH

#include <stdint.h>
#include "kernels/ptx/barrier.cuh"

namespace fgmm::ptx
{

/* This block's number in its cluster. */
__device__ __forceinline__ uint32_t cluster_rank()
{
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* All threads of the cluster: what each wrote to shared memory before, all see after. */
__device__ __forceinline__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

/* Makes initialised barriers known to the other blocks and to bulk copies, before cluster_sync. */
__device__ __forceinline__ void fence_barrier_init()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* Arrives at the same barrier of block `rank` of the cluster. It orders what this thread has waited for, such
 * as reads by wgmma, and no writes of its own: releasing those to the cluster would cost a fence each time.
 */
__device__ __forceinline__ void barrier_arrive_at(uint64_t *barrier, uint32_t rank)
{
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(rank)
                 : "memory");
}

/* Blocks of this cluster. */
__device__ __forceinline__ uint32_t cluster_size()
{
    uint32_t size;
    asm volatile("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(size));
    return size;
}

/* Writes to the same place in block `rank` of the cluster; 8 bytes arrive at that block's own barrier. */
__device__ __forceinline__ void store_at(float2 *place, float2 value, uint64_t *barrier, uint32_t rank)
{
    asm volatile("{\n"
                 ".reg .b32 there, signal;\n"
                 "mapa.shared::cluster.u32 there, %0, %4;\n"
                 "mapa.shared::cluster.u32 signal, %1, %4;\n"
                 "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [there], {%2, %3}, [signal];\n"
                 "}" ::"r"(shared_address(place)),
                 "r"(shared_address(barrier)), "f"(value.x), "f"(value.y), "r"(rank)
                 : "memory");
}

/* As bulk_copy, to the same place in each block of the cluster that has a bit in `blocks`; arrives at each
 * block's own barrier. */
__device__ __forceinline__ void bulk_copy_to(void *shared, const void *global, uint32_t bytes,
                                             uint64_t *barrier, uint16_t blocks)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
                 "[%1], %2, [%3], %4;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(bytes), "r"(shared_address(barrier)), "h"(blocks)
                 : "memory");
}

} // namespace fgmm::ptx

#endif
