/* A dataset: one or several sources (files, folders, globs, lists, synth: specs) read as one array of rows.
 */
#ifndef FGMM_DATASET_H
#define FGMM_DATASET_H

#include "fgmm/status.h"
#include "fgmm/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fgmm_dataset fgmm_dataset;

typedef struct {
    int64_t row_begin, row_end; /* --rows A:B of the concatenated array; row_end < 0: to the end */
    fgmm_metric metric;  /* FGMM_COSINE: rows are returned as f32 of unit length (a zero row stays zero) */
    int dot_as_l2;       /* 1: files that say they are for the inner product are taken under FGMM_L2, too: for
                            fitting      and assigning, which know no inner product */
    int64_t sample_rows; /* > 0: so many of the rows in the range instead, one from each of as many equal
                            parts, in row order */
    uint64_t sample_seed;
} fgmm_dataset_options;

/* Local: every rank opens the same sources by itself. `sources` are file names, folders, quoted globs,
 * "@LIST" or "synth:..." specs; order as given, folders and globs sorted by name. Checks each file's size
 * against its header, and that dimension and dtype agree among files (FGMM_ERR_INPUT naming the file
 * otherwise). `options` may be NULL for all rows and L2. */
fgmm_status fgmm_dataset_open(const char *const *sources, int n_sources, const fgmm_dataset_options *options,
                              fgmm_dataset **out);
void fgmm_dataset_close(fgmm_dataset *dataset); /* accepts NULL */

int64_t fgmm_dataset_rows(const fgmm_dataset *dataset);
int32_t fgmm_dataset_dim(const fgmm_dataset *dataset);
fgmm_dtype fgmm_dataset_dtype(const fgmm_dataset *dataset); /* of the rows returned: f32 under cosine */
fgmm_metric fgmm_dataset_metric(const fgmm_dataset *dataset);
const char *fgmm_dataset_name(const fgmm_dataset *dataset); /* the sources as given, joined by ", " */

/* Reads global rows [begin, end) into `rows` ([end-begin][dim] of the dataset's dtype, host memory,
 * row-major). Local, thread-safe. A short read is FGMM_ERR_RUNTIME. */
fgmm_status fgmm_dataset_read(const fgmm_dataset *dataset, int64_t begin, int64_t end, void *rows);

#ifdef __cplusplus
}
#endif
#endif
