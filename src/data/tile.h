/* A tile: whole quanta of consecutive rows, in the memory of the backend that computes. */
#ifndef FGMM_DATA_TILE_H
#define FGMM_DATA_TILE_H

#include <stdbool.h>
#include <stdint.h>
#include "fgmm/types.h"

typedef struct {
    int64_t begin; /* global number of the first row; a multiple of FGMM_QUANTUM */
    int64_t rows;  /* 0: the pass is over. A multiple of FGMM_QUANTUM but at the end of the data */
    int32_t dim;
    fgmm_dtype dtype;
    bool lasting; /* the data stay as they are until the next pass begins, not until the next tile only */
    const void
        *data; /* [rows][dim] row-major: device memory under the CUDA backend, host memory under the CPU's */
    const double
        *weights; /* [rows] host memory, 0 to 1; NULL: each row counts as one. E-steps of the CPU alone */
} fgmm_tile;

#endif
