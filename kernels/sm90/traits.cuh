/* Tile shapes of the Hopper kernels, in one place, with their reasons. */
#ifndef FGMM_SM90_TRAITS_CUH
#define FGMM_SM90_TRAITS_CUH

#include "kernels/generic/traits.cuh"
#include "kernels/sm90/full_screen.h"
#include "kernels/sm90/screen.h"
#include "kernels/sm90/wide.h"

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
 * one reduces its sums the tensor cores work for the others, in turns, so no warpgroup needs two sets and
 * wgmma is never in flight across a branch (ptxas would serialise it). Rows of a block share each component
 * tile: traffic from L2 is K * (dim + 16) * 2 bytes a kRows rows. kHalves: dimensions in units of 64 (one
 * 128-byte swizzled row). */
template <int kHalves_> struct ScreenShape {
    static constexpr int kHalves = kHalves_;
    static constexpr int kGroups = 4;
    static constexpr int kGroupRows = 64;
    static constexpr int kRows = kGroups * kGroupRows;
    static constexpr int kColumns = FGMM_SM90_TILE;
    static constexpr int kWarpgroup = 128;
    static constexpr int kGroupWarps = kWarpgroup / kWarp;
    static constexpr int kConsumerWarps = kGroups * kGroupWarps;
    static constexpr int kConverters = 3; /* warps that convert rows; one more feeds component tiles */
    static constexpr int kThreads = (kConsumerWarps + kConverters + 1) * kWarp;
    /* Two tiles of rows: the next one is converted while this one is screened. */
    static constexpr int kRowTiles = 2;
    static constexpr int kStages = kHalves == 1 ? 4 : 2; /* component tiles in flight */
    /* 96 registers a thread at the start; 64 sums and the lists need a few more. */
    static constexpr int kProducerRegisters = 64, kConsumerRegisters = 104;
    static_assert((kGroups * kConsumerRegisters + kProducerRegisters) * kWarpgroup <= kThreads * 96 &&
                      kThreads == (kGroups + 1) * kWarpgroup,
                  "what producers give is enough");
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
    static_assert(kColumns == 128 && FGMM_SM90_EXTRA == 16, "wgmma is m64n128k16");
    static_assert(kGroupBytes % 1024 == 0, "operands start on the swizzle's period");
};

/* The screen of wide rows: a product in slabs of 64 columns, which come by bulk copies from L2. A cluster of
 * two blocks has the same components and different rows; each fetches half of the components for both.
 *
 * Where rows have many slabs, both operands pass by. Two consumer warpgroups of 64 rows by 256 components
 * have 128 sums a thread, as many as leave room for the lists, so a byte from L2 serves as many
 * multiplications as it can: a slab of 128 x 256 takes 1,024 clocks of the tensor cores, and L2 delivers some
 * 40 to 50 KiB in that time to a block.
 *
 * kKept: where they have few, a tile of rows stays in shared memory while all components pass by, so a slab
 * brings half of the bytes. Such rows are multiplied nearly as fast as they are converted, so more warps
 * convert; with 128 components at a time a thread has 64 sums, which leaves them the registers. Measured
 * (diagonal, 128 dimensions, K = 1024, f16, 405,504 rows): three converters 419 us, seven 410; three groups
 * of 64 rows, or groups that multiply in turn, are no faster. */
template <bool kKept_> struct WideShape {
    static constexpr bool kKept = kKept_;
    static constexpr int kGroups = 2;
    static constexpr int kGroupRows = 64;
    static constexpr int kRows = kGroups * kGroupRows;
    static constexpr int kColumns = kKept ? FGMM_SM90_KEPT_TILE : FGMM_SM90_WIDE_TILE;
    static constexpr int kHalves = kColumns / 128; /* sets of 64 sums of a thread */
    static constexpr int kWarpgroup = 128;
    static constexpr int kProducerGroups = kKept ? 2 : 1;
    static constexpr int kThreads = (kGroups + kProducerGroups) * kWarpgroup;
    static constexpr int kGroupWarps = kWarpgroup / kWarp;
    static constexpr int kCluster = 2;
    static constexpr int kPairRows = kCluster * kRows;
    static constexpr int kSlabs = kKept ? FGMM_SM90_KEPT_SLABS : 1; /* of rows, in a place */
    static constexpr int kStages = kKept ? 9 : 4;                   /* slabs on their way: 144 or 192 KiB */
    /* Two tiles of converted rows a block, in memory that stays in L2 for the most part: the next one is made
     * while this one is multiplied. */
    static constexpr int kRowTiles = 2;
    static constexpr int kConverters = kProducerGroups * kGroupWarps - 1;
    /* At entry each thread has 65536 registers / kThreads; the producers give some to the consumers. */
    static constexpr int kProducerRegisters = kKept ? 104 : 88, kConsumerRegisters = kKept ? 152 : 208;
    static_assert(kProducerGroups * kProducerRegisters + kGroups * kConsumerRegisters <= 65536 / kWarpgroup,
                  "one block's registers");
    static constexpr int kRowSlab = kRows * FGMM_SM90_SLAB * 2, kRowExtra = kRows * FGMM_SM90_EXTRA * 2;
    static constexpr int kColumnSlab = kColumns * FGMM_SM90_SLAB * 2,
                         kColumnExtra = kColumns * FGMM_SM90_EXTRA * 2;
    static constexpr int kGroupSlab = kRowSlab / kGroups;
    static_assert(FGMM_SM90_EXTRA == 16, "a step of wgmma");
    static_assert(kGroupSlab % 1024 == 0 && kColumnSlab / kCluster % 1024 == 0,
                  "operands start on the swizzle's period");
    /* Bytes of a converted tile of rows, of a block's room for them, and of a record, with so many slabs. */
    static constexpr int64_t row_tile(int slabs)
    {
        return kRowExtra + static_cast<int64_t>(slabs) * kRowSlab;
    }
    static constexpr int64_t operand(int slabs) { return kRowTiles * row_tile(slabs); }
    static constexpr int64_t record(int slabs)
    {
        return kColumnExtra + static_cast<int64_t>(slabs) * kColumnSlab;
    }
};

/* The screen for full components: 16 components of 8 columns a tile, so a tile is again 128 columns. The sums
 * of a tile cost 64 multiplications and 40 instructions more a thread and need no exchange between lanes:
 * column j of component 4 g + q is column 8 (4 g + j / 2) + 2 q + j % 2 of the tile, and all eight end in the
 * lanes with lane % 4 = q. So four warpgroups of 64 rows (two issue slots of three are free, and the traffic
 * from L2, K * 8 * (dim + 16) * 2 bytes a kRows rows, is what is scarce), and rows converted beforehand, once
 * for all passes over a chunk. */
template <int kHalves_> struct FullShape {
    static constexpr int kHalves = kHalves_;
    static constexpr int kGroups = 4;
    static constexpr int kGroupRows = 64;
    static constexpr int kRows = kGroups * kGroupRows;
    static constexpr int kTileColumns = FGMM_FULL_TILE * FGMM_FULL_COLUMNS;
    static constexpr int kWarpgroup = 128;
    static constexpr int kGroupWarps = kWarpgroup / kWarp;
    static constexpr int kThreads = kGroups * kWarpgroup + 2 * kWarp; /* feeders: of tiles, of rows */
    static constexpr int kConvertThreads = 256;
    static constexpr int kStages = 4;                              /* component tiles in flight */
    static constexpr int kGroupBytes = kGroupRows * 128 * kHalves; /* [half][64][64] */
    /* A component tile: [half][128][64] and [2][128][8] halves, then four fp32 constants a component. */
    static constexpr int kRecordExtra = kTileColumns * 128 * kHalves;
    static constexpr int kRecordConstants = kRecordExtra + kTileColumns * FGMM_SM90_EXTRA * 2;
    static constexpr int kRecordBytes = kRecordConstants + FGMM_FULL_TILE * 16;
    static constexpr int kRecordPlace = (kRecordBytes + 1023) / 1024 * 1024;
    static constexpr float kMostSquare = 0x1p30f; /* |y|^2 of a row that is screened: columns.cuh */
    static_assert(kTileColumns == 128 && FGMM_SM90_EXTRA == 16, "wgmma is m64n128k16");
    static_assert(kRows == FGMM_FULL_ROW_GROUP, "rows are padded to whole tiles");
};

/* The screen by whole factors: a tile is one component, of as many columns as there are dimensions, padded.
 * Traffic from L2 is K * 28 KiB a kRows rows, and takes as long as the product. */
template <int kHalves_> struct WholeShape : FullShape<kHalves_> {
    static constexpr int kColumns = kHalves_ * 64;
    static constexpr int kSums = kColumns / 2; /* of a thread */
    static constexpr int kStages = 5;
    /* [columns][64 dimensions], [64 columns][64 further dimensions] where there are 128, [2][columns][8]
     * halves, four fp32 constants. */
    static constexpr int kRecordRest = kColumns * 128;
    static constexpr int kRecordExtra = kRecordRest + (kHalves_ - 1) * 64 * 128;
    static constexpr int kRecordConstants = kRecordExtra + kColumns * FGMM_SM90_EXTRA * 2;
    static constexpr int kRecordBytes = kRecordConstants + 16;
    static constexpr int kRecordPlace = (kRecordBytes + 1023) / 1024 * 1024;
};

/* Their tables: a block a component. Three matrices in fp32 fill the multiprocessor. */
struct FullTables {
    static constexpr int kThreads = 256;
    static constexpr int kSide = 16;       /* threads as 16 x 16 */
    static constexpr int kMicro = 8;       /* a product's values a thread and side */
    static constexpr int kIterations = 12; /* of the narrow directions; they need not converge */
    static constexpr int kSquarings = 3;
    static constexpr int kVectors = FGMM_FULL_COLUMNS - 1;
    static_assert(kSide * kMicro >= FGMM_FULL_MAX_DIM, "the threads cover a matrix");
    static_assert(kThreads == 2 * FGMM_FULL_MAX_DIM, "two threads a row of vectors");
};

} // namespace fgmm

#endif
