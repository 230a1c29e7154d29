/* The register file, moved between warpgroups (sm_90a). All warps of a warpgroup; counts are multiples of 8.
 */
#ifndef FGMM_PTX_REGISTERS_CUH
#define FGMM_PTX_REGISTERS_CUH

namespace fgmm::ptx
{

/* Raises this thread's registers to kCount, waiting until there are as many. */
template <int kCount> __device__ __forceinline__ void take_registers()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

/* Gives back all beyond kCount. */
template <int kCount> __device__ __forceinline__ void give_registers()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

} // namespace fgmm::ptx

#endif
