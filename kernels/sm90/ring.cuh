/* A ring of slots in shared memory, filled by one role and emptied by another, each with a barrier. */
#ifndef FGMM_SM90_RING_CUH
#define FGMM_SM90_RING_CUH

#include <stdint.h>

namespace fgmm
{

/* Position in a ring of slots: slot number and the parity of its current phase. */
struct Ring {
    int slot = 0;
    uint32_t phase = 0;
    __device__ __forceinline__ void next(int slots)
    {
        if (++slot == slots) {
            slot = 0;
            phase ^= 1;
        }
    }
};

} // namespace fgmm

#endif
