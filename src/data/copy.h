/* Rows of a dataset written to a file, in their own element type or another. */
#ifndef FGMM_DATA_COPY_H
#define FGMM_DATA_COPY_H

#include "comm/comm.h"
#include "fgmm/dataset.h"

/* Collective: rank 0 writes, the others wait. rows: ascending row numbers ([count], needed on rank 0), NULL:
 * all. The format follows the extension of `path`; FGMM_ERR_INPUT when it cannot hold the type, for NaN and
 * infinities, and for values that overflow f16. Integers saturate, with a warning that says how many did. */
fgmm_status fgmm__copy_rows(fgmm_comm *comm, const fgmm_dataset *dataset, const int64_t *rows, int64_t count,
                            fgmm_dtype dtype, const char *path);

#endif
