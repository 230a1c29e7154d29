/* How rows are dealt to ranks: contiguous shards whose borders lie between quanta of 1,024 global rows. */
#ifndef FGMM_DATA_PARTITION_H
#define FGMM_DATA_PARTITION_H

#include <stdint.h>

enum {
    FGMM_QUANTUM = 1024, /* rows; the unit of work whose sums do not depend on ranks, tiles or threads */
    FGMM_BLOCK = 256     /* rows; the unit of a CPU thread's work inside a quantum */
};

/* First global row of `rank`'s shard; rank == size gives `rows`. Shards differ by at most one quantum. */
static inline int64_t fgmm__partition_begin(int64_t rows, int rank, int size)
{
    int64_t quanta = (rows + FGMM_QUANTUM - 1) / FGMM_QUANTUM;
    int64_t begin = quanta / size * rank + (quanta % size * rank) / size;
    begin *= FGMM_QUANTUM;
    return begin < rows ? begin : rows;
}

#endif
