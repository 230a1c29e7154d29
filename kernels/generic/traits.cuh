/* Tile shapes of the generic kernels, in one place, with their reasons. */
#ifndef FGMM_GENERIC_TRAITS_CUH
#define FGMM_GENERIC_TRAITS_CUH

#include "kernels/kernels.h"

namespace fgmm
{

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

/* The fp32 pair tile of screen and neighbours: A rows by B columns, 256 threads as 16 x 16, each 8 x 8
 * accumulators. 8 x 8: a step of one dimension costs 4 16-byte reads of shared memory and 128 FMA-pipe
 * instructions, so shared memory is busy a quarter of the time; 4 x 4 would keep it busy half of the time, 16
 * x 8 does not fit 128 registers, which two blocks a multiprocessor (one computes while the other is at a
 * barrier) allow. 16 dimensions a stage: 8 KiB an operand, 2,000 issue slots between barriers, longer than a
 * read from L2 takes. */
struct PairTile {
    static constexpr int kThreads = 256;
    static constexpr int kSide = 128; /* rows of A, columns of B */
    static constexpr int kDims = FGMM_SCREEN_DIMS;
    static constexpr int kMicro = 8; /* accumulators a thread and side: 4 at t*4 and 4 at 64 + t*4, so that
                                        reads have no bank conflict */
    static constexpr int kLanes = kSide / kMicro;
    static constexpr int kStages = 2;
    static_assert(kLanes * kLanes == kThreads, "the threads cover the tile");
    static_assert(kLanes == kWarp / 2,
                  "a row belongs to one half-warp, which keeps its candidate list without atomics");
    static_assert(kThreads == 2 * kSide, "loading: two threads a row, 8 dimensions each");
    static_assert(kDims == 16, "loading: two threads a row, 8 dimensions each");
    static_assert(kSide == FGMM_SCREEN_TILE, "the tables are laid out in tiles of this width");
};

/* The fp64 tile of the dense path: 64 x 64, 256 threads as 16 x 16, each 4 x 4 accumulators at stride 16
 * (conflict-free 8-byte reads). Double precision runs at half the fp32 rate on sm_80 and sm_90 and needs no
 * error analysis; this path is for few rows. */
struct DenseTile {
    static constexpr int kThreads = 256;
    static constexpr int kSide = 64;
    static constexpr int kDepth = 16;
    static constexpr int kMicro = 4;
    static constexpr int kLanes = 16;
    static constexpr int kPitch = kSide + 1; /* doubles: transposed stores spread over the banks */
    static_assert(kLanes * kMicro == kSide && kLanes * kLanes == kThreads, "the threads cover the tile");
    static_assert(kDepth * kSide == 4 * kThreads, "loading: four values a thread and operand");
    static_assert(FGMM_KERNEL_QUANTUM % kSide == 0, "a quantum is whole tiles");
};

/* Whitening: 128 rows by 64 columns, eight warps of 32 x 32. A warp's step of 8 dimensions takes 32 clocks of
 * shared memory and 256 of its matrix unit, 128 for all four. 64 registers of sums: two blocks a
 * multiprocessor, one multiplies while the other waits for its rows. */
struct WhitenTile {
    static constexpr int kThreads = 256;
    static constexpr int kBlocks = 2;
    static constexpr int kRows = 128;
    static constexpr int kColumns = 64;
    static constexpr int kDepth = 16;
    static constexpr int kRowPitch = kDepth + 4, kColumnPitch = kColumns + 4; /* doubles */
    static constexpr int kFactorRows = kThreads / kColumns;                   /* that are loaded at a time */
    static constexpr int kFactorsAThread = kDepth / kFactorRows;
    static_assert(kRows * kDepth == 8 * kThreads, "loading: eight dimensions of a row a thread");
    static_assert(kRows * kColumns == kThreads / kWarp * 32 * 32, "the warps cover the tile");
};

/* Kernels with a warp a row. */
struct RowWarps {
    static constexpr int kWarps = 8;
    static constexpr int kThreads = kWarps * kWarp;
    static constexpr int kSlots = FGMM_CANDIDATES / kWarp; /* candidates a lane looks after */
    static_assert(kSlots * kWarp == FGMM_CANDIDATES, "lists fill whole warps");
};

/* Finding and sorting pairs: a block a multiprocessor, all at the same time, since they wait for each other
 * between the two. A thread has two rows of a quantum; kQuanta of them, a chunk's on 132 multiprocessors, are
 * read at once and share one atomic a component, which 1,024 components are few enough to feel. 512 threads
 * have 128 registers each, as rows with several candidates need. */
struct PairBlocks {
    static constexpr int kThreads = FGMM_KERNEL_QUANTUM / 2;
    static constexpr int kWarps = kThreads / kWarp;
    static constexpr int kQuanta = 3;
    static constexpr int kRows = 2 * kQuanta; /* a thread's */
    static constexpr int kCounts = 8192; /* most components whose counts a block keeps in shared memory */
    static constexpr int kAtOnce = 8; /* rows with several candidates: mostly few, so that lanes are in use */
};

/* Sums of sorted pairs: a warp has a stretch of them, as many as all others, in runs of 32. A chunk's 405,504
 * rows of one pair each are 2,112 stretches of 192, which flush 1.5 times each when K is 1,024. Small blocks,
 * since warps have nothing in common, of as much shared memory as a block may have without asking. */
struct SumWarps {
    static constexpr int kWarps = 2;
    static constexpr int kThreads = kWarps * kWarp;
    static constexpr int kRun = kWarp;   /* pairs; a lane looks after one */
    static constexpr int kHalf = 16;     /* pairs whose parts are joined at one time */
    static constexpr int kStretch = 224; /* pairs at most, so that shared memory has room for 16 warps; 8,192
                                            fp16 elements would still have an exact sum */
    static constexpr int kDims = 4 * kWarp;
    static constexpr int kPitch = kWarp + 1; /* doubles: reads across lanes spread over the banks */
    /* Two batches of rows on their way, 4 KiB a warp: 64 KiB a multiprocessor, where memory at 4.2 TB/s and
     * 800 ns needs 25. */
    static constexpr int kStages = 3;
    static constexpr int kBatchBytes = 2048;
    /* Blocks a multiprocessor: as many as the registers of sums and constants allow without spilling. */
    static constexpr int blocks(bool same_rows, bool diagonal)
    {
        return 2 * (2 + (same_rows ? 1 : 0) + (diagonal ? 0 : 1));
    }
};

/* Scores of full components: DenseTile with 64 items a block. Three blocks a multiprocessor: while one waits
 * for its factor, which comes from L2 in 12 pieces of 8 KiB, others multiply. */
struct FullScores {
    static constexpr int kBlocks = 3;
    /* A row with more entries is crowded: to score one takes about 2 ns, to screen a row by whole factors K *
     * 40 ps, at K = 1,024 as much as 20 entries. */
    static constexpr int kCrowded = 20;
};

/* Sums of full components: DenseTile's 4 x 4 moments a thread in two limbs are 64 registers, so two blocks a
 * multiprocessor. Up to 128 items a block: a chunk has 99 for each of 1,024 components, and 16,384 atomics of
 * a tile are then few beside 4 x 4096 x 99 float64 instructions. */
struct FullSums {
    static constexpr int kItems = 128;
    static constexpr int kBlocks = 2;
    static_assert(kItems % DenseTile::kDepth == 0, "whole stages");
};

struct FullScan {
    static constexpr int kThreads = 1024; /* one block */
};

/* Kernels over the slab: 32 rows (one a lane) by 8 warps over components. */
struct SlabTile {
    static constexpr int kRows = kWarp;
    static constexpr int kWarps = 8;
    static constexpr int kThreads = kRows * kWarps;
    static constexpr int kComponents = 64; /* a block of the responsibilities kernel */
};

} // namespace fgmm

#endif
