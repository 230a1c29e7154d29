/* Stores that a condition guards without a branch. */
#ifndef FGMM_PTX_STORE_CUH
#define FGMM_PTX_STORE_CUH

#include <stdint.h>

namespace fgmm::ptx
{

/* *to = value where `condition`; global memory, 8-byte aligned. */
__device__ __forceinline__ void store_if(bool condition, uint2 *to, uint2 value)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.u32 p, %0, 0;\n"
                 "@p st.global.v2.b32 [%1], {%2, %3};\n"
                 "}" ::"r"(static_cast<uint32_t>(condition)),
                 "l"(to), "r"(value.x), "r"(value.y)
                 : "memory");
}

} // namespace fgmm::ptx

#endif
