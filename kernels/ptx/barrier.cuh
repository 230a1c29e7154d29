/* mbarriers in shared memory: arrivals of threads and of bytes that a bulk copy brings (sm_90). */
#ifndef FGMM_PTX_BARRIER_CUH
#define FGMM_PTX_BARRIER_CUH

#include <stdint.h>

namespace fgmm::ptx
{

__device__ __forceinline__ uint32_t shared_address(const void *pointer)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void barrier_init(uint64_t *barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals)
                 : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

/* How many arrivals one of barrier_arrive_warp counts for. */
#ifdef FGMM_LANES_ARRIVE
constexpr int kWarpArrivals = 32;
#else
constexpr int kWarpArrivals = 1;
#endif

/* A warp arrives: what its lanes read and wrote is done. One lane does for all of them: __syncwarp orders
 * theirs before its arrival, which releases that, too. compute-sanitizer's racecheck goes by single threads
 * and takes what the other lanes did for races; under FGMM_LANES_ARRIVE, which is for it, every lane arrives.
 */
__device__ __forceinline__ void barrier_arrive_warp(uint64_t *barrier)
{
    __syncwarp();
    if (kWarpArrivals > 1 || threadIdx.x % 32 == 0)
        barrier_arrive(barrier);
}

/* Arrives and announces `bytes` that a bulk copy will bring in this phase. */
__device__ __forceinline__ void barrier_expect(uint64_t *barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

/* Waits until the phase of the given parity is over. */
__device__ __forceinline__ void barrier_wait(uint64_t *barrier, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred over;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
                 "@!over bra.uni again;\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

/* Makes this thread's ordinary writes to shared memory visible to wgmma and to bulk copies. */
__device__ __forceinline__ void fence_async_proxy()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* The same for global memory; on both sides of the barrier that the writing and the copying thread share. */
__device__ __forceinline__ void fence_async_proxy_global()
{
    asm volatile("fence.proxy.async.global;" ::: "memory");
}

/* `bytes` (a multiple of 16) from global to shared memory, both 16-byte aligned; they arrive at the barrier.
 */
__device__ __forceinline__ void bulk_copy(void *shared, const void *global, uint32_t bytes, uint64_t *barrier)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            shared_address(shared)),
        "l"(global), "r"(bytes), "r"(shared_address(barrier))
        : "memory");
}

} // namespace fgmm::ptx

#endif
