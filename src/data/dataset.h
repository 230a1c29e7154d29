/* What the library alone needs of a dataset beside fgmm/dataset.h. */
#ifndef FGMM_DATA_DATASET_H
#define FGMM_DATA_DATASET_H

#include "base/status.h"
#include "fgmm/dataset.h"

/* xxh3 over the fingerprints of all sources, the row range and the metric: tells whether two runs read the
 * same data. */
uint64_t fgmm__dataset_fingerprint(const fgmm_dataset *dataset);
/* The file that holds global row `row`, and the row's number in it (for messages). */
const char *fgmm__dataset_locate(const fgmm_dataset *dataset, int64_t row, int64_t *row_in_file);
/* The rows of the range, of which a sample was drawn (else: all rows), and which of them row `row` is. */
int64_t fgmm__dataset_range(const fgmm_dataset *dataset);
int64_t fgmm__dataset_drawn(const fgmm_dataset *dataset, int64_t row);
/* Refuses NaN and infinities in rows [begin, begin+n) just read: FGMM_ERR_INPUT "FILE: row R holds a NaN
 * (column C)". */
fgmm_status fgmm__dataset_check_finite(const fgmm_dataset *dataset, int64_t begin, int64_t n,
                                       const void *rows);

#endif
