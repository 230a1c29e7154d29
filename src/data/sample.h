/* Seeded samples of a dataset: one row drawn in each of `count` equal strata, hence distinct and in row
 * order. */
#ifndef FGMM_DATA_SAMPLE_H
#define FGMM_DATA_SAMPLE_H

#include "comm/comm.h"
#include "fgmm/dataset.h"

/* The global number of row i of a sample of `count` among n_rows. Local. */
int64_t fgmm__sample_row(int64_t n_rows, uint64_t seed, uint32_t purpose, int64_t i, int64_t count);

/* Collective: each rank reads the rows of its own partition; all get the whole sample. purpose: FGMM_RNG_...
 * count <= rows. rows_out: [count] global row numbers; data_out: [count][dim] float; both malloc'd for the
 * caller, either may be NULL. The same on any number of ranks. Refuses NaN and infinities like
 * fgmm__shard_load. */
fgmm_status fgmm__sample_rows(const fgmm_dataset *dataset, fgmm_comm *comm, uint64_t seed, uint32_t purpose,
                              int64_t count, int64_t **rows_out, float **data_out);
/* Collective: named rows instead of drawn ones ([count] ascending or not), gathered to all. */
fgmm_status fgmm__gather_rows(const fgmm_dataset *dataset, fgmm_comm *comm, const int64_t *rows,
                              int64_t count, float *out);

#endif
