/* Tile shapes of the Hopper kernels, in one place, with their reasons. */
#ifndef FGMM_SM90_TRAITS_CUH
#define FGMM_SM90_TRAITS_CUH

#include "kernels/generic/traits.cuh"
#include "kernels/sm90/screen.h"

namespace fgmm
{

/* The half-precision screen. A block keeps a tile of rows in shared memory and streams all components past
 * it. kGroups consumer warpgroups of 64 rows, one set of 64 x 128 sums each (64 registers a thread): while
 * one reduces its sums the tensor cores work for the others, so no warpgroup needs two sets and wgmma is
 * never in flight across a branch (ptxas would serialise it). Rows of a block share each component tile:
 * traffic from L2 is K * dim * 2 bytes a kRows rows. kHalves: dimensions in units of 64 (one 128-byte
 * swizzled row). */
template <int kHalves_> struct ScreenShape {
    static constexpr int kHalves = kHalves_;
    static constexpr int kGroups = 3;
    static constexpr int kGroupRows = 64;
    static constexpr int kRows = kGroups * kGroupRows;
    static constexpr int kColumns = FGMM_SM90_TILE;
    static constexpr int kWarpgroup = 128;
    static constexpr int kThreads = (kGroups + 1) * kWarpgroup;
    static constexpr int kConverters =
        96; /* the producer warpgroup less the warp that feeds component tiles */
    /* Two tiles of rows: the next one is converted while this one is screened. */
    static constexpr int kRowTiles = 2;
    static constexpr int kStages = kHalves == 1 ? 4 : 3; /* component tiles in flight */
    /* Four warpgroups start with 128 registers a thread, the whole file; what the producers give, the
     * consumers take. (Four consumers would start with 96 a thread, and could not get the 112 they need
     * without spills.) */
    static constexpr int kConsumerRegisters = 144, kProducerRegisters = 80;
    static_assert(kGroups * kConsumerRegisters + kProducerRegisters <=
                      (kGroups + 1) * (65536 / (kGroups + 1) / kWarpgroup),
                  "or the consumers wait for ever");
    static constexpr int kHalfBytes = 128; /* of a row in one half */
    static constexpr int kGroupBytes =
        kGroupRows * kHalfBytes * kHalves; /* a warpgroup's rows: [half][64][64] */
    static constexpr int kMeansBytes =
        kColumns * kHalfBytes * kHalves; /* a component tile: [half][128][64] */
    static constexpr int kRecordBytes = kMeansBytes + kColumns * FGMM_SM90_TERMS * 4;
    static constexpr int kRowTileBytes = kGroups * kGroupBytes;
    static_assert(kColumns == 128, "wgmma is m64n128k16");
    static_assert(kRecordBytes % 1024 == 0, "records start on the swizzle's period");
};

} // namespace fgmm

#endif
