/* Launches with more said than a grid: early (programmatic dependent launch: blocks may come to the
 * multiprocessors while the kernel before them in the stream is still at work, so that a launch takes no time
 * of its own; older devices launch after that kernel, as always) and together (all blocks run at the same
 * time, so that they may wait for each other). */
#ifndef FGMM_PTX_LAUNCH_CUH
#define FGMM_PTX_LAUNCH_CUH

#include <cuda_runtime.h>

namespace fgmm
{

/* First of all in a kernel launched early: what the kernels before it wrote is there now. */
__device__ __forceinline__ void wait_for_kernels_before()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The next kernel of the stream may come, if it is launched early. */
__device__ __forceinline__ void let_next_kernel_come()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <typename... Parameters, typename... Arguments>
inline cudaError_t launch_with(const cudaLaunchAttribute *attribute /* or NULL */,
                               void (*kernel)(Parameters...), int blocks, int threads, cudaStream_t stream,
                               const Arguments &...arguments)
{
    cudaLaunchAttribute copy = {};
    cudaLaunchConfig_t config = {};
    if (attribute != nullptr)
        copy = *attribute;
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(threads);
    config.stream = stream;
    config.attrs = &copy;
    config.numAttrs = attribute != nullptr;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <typename... Parameters, typename... Arguments>
inline cudaError_t launch_early(void (*kernel)(Parameters...), int blocks, int threads, cudaStream_t stream,
                                const Arguments &...arguments)
{
    int device = 0, major = 0;
    cudaError_t code = cudaGetDevice(&device);
    if (code == cudaSuccess)
        code = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (code != cudaSuccess)
        return code;
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    return launch_with(major >= 9 ? &early : nullptr, kernel, blocks, threads, stream, arguments...);
}

template <typename... Parameters, typename... Arguments>
inline cudaError_t launch_together(void (*kernel)(Parameters...), int blocks, int threads,
                                   cudaStream_t stream, const Arguments &...arguments)
{
    cudaLaunchAttribute together = {};
    together.id = cudaLaunchAttributeCooperative;
    together.val.cooperative = 1;
    return launch_with(&together, kernel, blocks, threads, stream, arguments...);
}

} // namespace fgmm

#endif
