/* Writing rows and neighbours; every output is written beside its name and renamed when whole. Local (one
 * rank). */
#ifndef FGMM_IO_WRITER_H
#define FGMM_IO_WRITER_H

#include "base/status.h"
#include "fgmm/types.h"

typedef struct fgmm_writer fgmm_writer;

/* The format follows the extension: .fvecs .bvecs .fbin .f16bin .u8bin .i8bin .npy .h5 (dataset /train).
 * FGMM_ERR_INPUT when the format cannot hold the dtype. */
fgmm_status fgmm__writer_open(const char *path, int64_t rows, int32_t dim, fgmm_dtype dtype,
                              fgmm_writer **out);
fgmm_status fgmm__writer_append(fgmm_writer *writer, const void *rows, int64_t n);
/* Flushes, fsyncs, renames. The writer is gone afterwards, whatever the status. */
fgmm_status fgmm__writer_finish(fgmm_writer *writer);
void fgmm__writer_abandon(fgmm_writer *writer); /* removes what was written; accepts NULL */

/* The dtype a format stores: *fixed = false when it takes any (npy, h5). */
fgmm_status fgmm__writer_dtype(const char *path, fgmm_dtype *dtype, int *fixed);

/* ---- a file written aside (also used for models, checkpoints, results) ---- */
/* "<path>.tmp.<pid>" for `path`; malloc'd into *out. */
fgmm_status fgmm__aside_name(const char *path, char **out);
/* fsync of the file, rename to path, fsync of the folder. On failure the file aside is removed. */
fgmm_status fgmm__aside_commit(const char *aside, const char *path);

#endif
