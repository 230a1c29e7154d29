/* Tile shapes of the Hopper kernels, in one place, with their reasons. */
#ifndef FGMM_SM90_TRAITS_CUH
#define FGMM_SM90_TRAITS_CUH

#include "kernels/generic/traits.cuh"
#include "kernels/sm90/screen.h"

/* Kernels have a body where the target has wgmma (sm_90a). */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define FGMM_SM90_BODY 1
#else
#define FGMM_SM90_BODY 0
#pragma nv_diag_suppress 177 /* functions that only bodies call */
#endif

namespace fgmm
{

/* The half-precision screen. A block keeps a tile of rows in shared memory and streams all components past
 * it. kGroups consumer warpgroups of 64 rows, one set of 64 x 128 sums each (64 registers a thread): while
 * one reduces its sums the tensor cores work for the others, so no warpgroup needs two sets and wgmma is
 * never in flight across a branch (ptxas would serialise it). Rows of a block share each component tile:
 * traffic from L2 is K * (dim + 16) * 2 bytes a kRows rows. kHalves: dimensions in units of 64 (one 128-byte
 * swizzled row). */
template <int kHalves_> struct ScreenShape {
    static constexpr int kHalves = kHalves_;
    static constexpr int kGroups = 3;
    static constexpr int kGroupRows = 64;
    static constexpr int kRows = kGroups * kGroupRows;
    static constexpr int kColumns = FGMM_SM90_TILE;
    static constexpr int kWarpgroup = 128;
    static constexpr int kThreads = (kGroups + 1) * kWarpgroup;
    static constexpr int kGroupWarps = kWarpgroup / kWarp;
    static_assert(kGroups + 1 == kGroupWarps, "the producers: a converter a group, a warp that feeds tiles");
    /* Two tiles of rows: the next one is converted while this one is screened. */
    static constexpr int kRowTiles = 2;
    static constexpr int kStages = kHalves == 1 ? 4 : 3; /* component tiles in flight */
    /* Four warpgroups with 128 registers a thread are the whole file, and enough for all roles. */
    static_assert(kThreads * 128 == 65536, "one block a multiprocessor");
    static constexpr int kHalfBytes = 128;                  /* of a row in one half */
    static constexpr int kExtraBytes = FGMM_SM90_EXTRA * 2; /* of a row's extra columns */
    static constexpr int kRowBytes = kHalfBytes * kHalves + kExtraBytes;
    /* A warpgroup's rows, [half][64][64] and [2][64][8]; and a component tile, [half][128][64] and
     * [2][128][8], then the widths. Only the tile's real bytes cross from L2; its place is rounded up. */
    static constexpr int kGroupExtra = kGroupRows * kHalfBytes * kHalves;
    static constexpr int kGroupBytes = kGroupRows * kRowBytes;
    static constexpr int kRowTileBytes = kGroups * kGroupBytes;
    static constexpr int kRecordExtra = kColumns * kHalfBytes * kHalves;
    static constexpr int kRecordWidths = kColumns * kRowBytes;
    static constexpr int kRecordBytes = kRecordWidths + 16;
    static constexpr int kRecordPlace = (kRecordBytes + 1023) / 1024 * 1024;
    static constexpr float kMostSquare = 0x1p30f; /* |y|^2 of a row that is screened: columns.cuh */
    static_assert(kColumns == 128 && FGMM_SM90_EXTRA == 16, "wgmma is m64n128k16");
    static_assert(kGroupBytes % 1024 == 0, "operands start on the swizzle's period");
};

} // namespace fgmm

#endif
