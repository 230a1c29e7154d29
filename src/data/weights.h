/* How much each row counts: a number a row, from a file, relative to their mean. This rank's share lies in
 * host memory. .npy    an array of '<f4' or '<f8' with one axis (or [rows, 1]) .fbin   u32 rows, u32 1, f32
 * weights */
#ifndef FGMM_DATA_WEIGHTS_H
#define FGMM_DATA_WEIGHTS_H

#include "comm/comm.h"
#include "fgmm/dataset.h"

typedef struct fgmm_weights fgmm_weights;

/* Local. Opens the file; a weight for each row of the dataset's range, also where the dataset is a sample of
 * it (each row has its own). FGMM_ERR_INPUT where the file holds another number. The dataset stays the
 * caller's and outlives the weights. */
fgmm_status fgmm__weights_open(const char *path, const fgmm_dataset *dataset, fgmm_weights **out);
void fgmm__weights_close(fgmm_weights *weights); /* accepts NULL */
uint64_t fgmm__weights_fingerprint(const fgmm_weights *weights);

/* Local, thread-safe. The weight of row `row` as the file has it; refuses negative ones, NaN and infinities.
 */
fgmm_status fgmm__weights_get(const fgmm_weights *weights, int64_t row, double *weight);

/* Collective: brings those of rows [begin, end) into memory. FGMM_ERR_INPUT where all weights are 0. */
fgmm_status fgmm__weights_load(fgmm_weights *weights, fgmm_comm *comm, int64_t begin, int64_t end);
/* Of the loaded rows, from row `row` on: at most 1 each. */
const double *fgmm__weights_from(const fgmm_weights *weights, int64_t row);
/* What these are to be multiplied by, so that their mean over all rows is 1; 1 where all weights are the same
 * power of two. */
double fgmm__weights_unit(const fgmm_weights *weights);

#endif
