/* The user's own ids of rows: row i of the data bears the file's i-th number. Local.
 *   .npy      an array of '<i8' with one axis (or [rows, 1])
 *   .i64bin   u32 rows, u32 1, then the ids as i64: .fbin's layout for whole numbers. Little-endian;
 *             2^32 rows and more need .npy */
#ifndef FGMM_IO_IDS_H
#define FGMM_IO_IDS_H

#include <stdint.h>
#include "base/status.h"

typedef struct fgmm_ids fgmm_ids;

/* FGMM_ERR_INPUT where the file does not hold an id for each of `rows` rows. */
fgmm_status fgmm__ids_open(const char *path, int64_t rows, fgmm_ids **out);
void fgmm__ids_close(fgmm_ids *ids); /* accepts NULL */
/* Ids of rows [begin, end). A negative one is refused: -1 stands for no row in results. */
fgmm_status fgmm__ids_read(const fgmm_ids *ids, int64_t begin, int64_t end, int64_t *out);

#endif
