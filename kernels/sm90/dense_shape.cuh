/* Tile shapes of the dense rows' kernels, with their reasons. */
#ifndef FGMM_SM90_DENSE_SHAPE_CUH
#define FGMM_SM90_DENSE_SHAPE_CUH

#include "kernels/sm90/dense.h"
#include "kernels/sm90/traits.cuh"

namespace fgmm
{

/* A cluster's blocks divide the components, 128 each, whose means stay in shared memory and whose sums stay
 * in registers; tiles of 64 rows pass through all blocks, so nothing is computed twice. Two warpgroups of 64
 * components. Of a thread's registers 64 are sums, 32 log-densities that tensor cores are adding up, 32 those
 * of the tile before, which waits for the other blocks, 32 responsibilities on their way into the sums:
 * tensor cores always have the next product. (256 components a block would halve what comes from L2, and
 * leave no room for a second tile.) */
template <int kHalves_, int kParts_> struct DenseShape {
    static constexpr int kHalves = kHalves_; /* of 64 dimensions */
    static constexpr int kParts = kParts_;   /* of a row's values; those of means are two */
    static constexpr int kGroups = 2;
    static constexpr int kGroupComponents = 64;
    static constexpr int kRows = FGMM_DENSE_ROWS;
    static constexpr int kGroupWarps = 4;
    static constexpr int kConsumerWarps = kGroups * kGroupWarps;
    static constexpr int kThreads = (kGroups + 1) * kGroupWarps * kWarp;
    /* At entry each thread has 168 registers, 65536 / 384; the producers give some to the consumers. */
    static constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
    static_assert(kProducerRegisters + kGroups * kConsumerRegisters <= 3 * 168, "one block's registers");
    static constexpr int kSums = kHalves * 32;      /* of a thread: 64 components by all dimensions */
    static constexpr int kPitch = kHalves * 64 + 8; /* floats: four rows in different banks */
    static constexpr int kPanel = 64 * 128;         /* bytes of 64 rows by 64 dimensions */
    static constexpr int kGroupBytes = 2 * kHalves * kPanel;
    static constexpr int kMeansBytes = kGroups * kGroupBytes;
    /* [part][half][64][64] halves; a float2 a row. */
    static constexpr int kTileRows = kParts * kHalves * kPanel;
    static constexpr int kTileBytes = kTileRows + kRows * 8;
    static constexpr int kTilePlace = kTileRows + 1024;
    static constexpr int kStages = 4; /* tiles: one waits, one is multiplied, two are on their way */
    static_assert(kGroups * kGroupComponents == FGMM_DENSE_COMPONENTS, "the groups cover a block");
    static_assert(FGMM_KERNEL_QUANTUM % kRows == 0 && kRows == 64, "a quantum is whole tiles");
};

/* Responsibilities in units of 2^-14, so that their parts stay above fp16's least values. */
constexpr float kWhole = 0x1p14f;

/* Responsibilities are p over the sum of all p = 2^(l - middle), with `middle` between the bounds of a row's
 * largest log-density. These may be 184 bits apart: p is then below 2^93, and what fp32 cannot hold is more
 * than 30 bits below the row's largest. */
constexpr double kMostApart = 184;
/* No term of a log-density may be larger, in bits: fp32 sums are then good to about 10^-5. */
constexpr double kMostBits = 256;

} // namespace fgmm

#endif
