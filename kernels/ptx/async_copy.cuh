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

/* The same of the first `bytes` (0 to 16); zeros follow. */
__device__ __forceinline__ void copy_async_16(void *shared, const void *global, int bytes)
{
    unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes)
                 : "memory");
}

/* This thread's copies since the last call are a group. */
__device__ __forceinline__ void copy_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* All of this thread's groups but the latest kLater have arrived. */
template <int kLater> __device__ __forceinline__ void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(kLater) : "memory");
}

/* This thread's copies so far have arrived. */
__device__ __forceinline__ void copy_async_wait_all()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

} // namespace fgmm::ptx

#endif
