/* Copies from global to shared memory that run beside the arithmetic (sm_80 and later). */
#ifndef FGMM_PTX_ASYNC_COPY_CUH
#define FGMM_PTX_ASYNC_COPY_CUH

namespace fgmm::ptx
{

/* 16 bytes, both addresses multiples of 16; past the L1 cache. */
__device__ __forceinline__ void copy_async_16(void *shared, const void *global)
{
    unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}

/* This thread's copies so far have arrived. */
__device__ __forceinline__ void copy_async_wait_all()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

} // namespace fgmm::ptx

#endif
