/* HDF5 with its habits kept in one place: a lock (the library is not thread-safe), errors as statuses,
 * attributes, whole datasets, and the 512-byte user block that holds length and hash of the file. HDF5 types
 * stay inside io/, model/model_file.c, checkpoint/, ivf/index_file.c and ivf/stage.c. */
#ifndef FGMM_IO_H5_H
#define FGMM_IO_H5_H

#include <hdf5.h>
#include <stdbool.h>
#include "base/status.h"
#include "comm/comm.h"
#include "fgmm/types.h"

void fgmm__h5_lock(void); /* recursive */
void fgmm__h5_unlock(void);
void fgmm__h5_quiet(void); /* no error stacks on stderr; called by the functions below */

/* Creates a file with a 512-byte user block, no times kept in objects. comm NULL: serial; else parallel over
 * all its ranks. */
fgmm_status fgmm__h5_create(const char *path, fgmm_comm *comm, hid_t *file);
/* The same, serial, for what fits in memory twice (models, checkpoints, results): made in memory, written
 * whole by fgmm__h5_close, since HDF5 does not survive a full disk (it crashes at the end of the program).
 * Large and parallel files: reserve the space on disk first. */
fgmm_status fgmm__h5_create_small(const char *path, hid_t *file);
/* Opens for reading. comm as above. */
fgmm_status fgmm__h5_open(const char *path, fgmm_comm *comm, hid_t *file);
/* Opens an existing file for writing values into datasets that are there; comm as above. */
fgmm_status fgmm__h5_open_write(const char *path, fgmm_comm *comm, hid_t *file);
/* Closes; a failed close (a flush without space) is an error. */
fgmm_status fgmm__h5_close(hid_t file, const char *path);

fgmm_status fgmm__h5_put_text(hid_t object, const char *name, const char *value); /* UTF-8, variable length */
fgmm_status fgmm__h5_put_i64(hid_t object, const char *name, int64_t value);
fgmm_status fgmm__h5_put_f64(hid_t object, const char *name, double value);
fgmm_status fgmm__h5_get_text(hid_t object, const char *name, char *out,
                              size_t size); /* fixed or variable strings */
fgmm_status fgmm__h5_get_i64(hid_t object, const char *name, int64_t *out);
fgmm_status fgmm__h5_get_f64(hid_t object, const char *name, double *out);
bool fgmm__h5_has(hid_t object, const char *attribute);
bool fgmm__h5_has_dataset(hid_t file, const char *name);

/* A group, or a contiguous dataset (space reserved, not filled), that keeps no times; name may hold slashes
 * if the groups exist. For writes in pieces and for collective ones; the caller closes with H5Gclose,
 * H5Dclose. Parallel files: collective. */
fgmm_status fgmm__h5_group(hid_t file, const char *name, hid_t *group);
fgmm_status fgmm__h5_dataset(hid_t file, const char *name, hid_t type, int rank, const hsize_t *shape,
                             hid_t *dataset);

/* Whole datasets of rank 1..4, serial. `type` is the memory type; the stored one is the same. */
fgmm_status fgmm__h5_write(hid_t file, const char *name, hid_t type, int rank, const hsize_t *shape,
                           const void *data);
fgmm_status fgmm__h5_shape(hid_t file, const char *name, int max_rank, int *rank, hsize_t *shape);
/* Reads the whole dataset, converted to `type`; `count` must be its number of elements (else FGMM_ERR_INPUT).
 */
fgmm_status fgmm__h5_read(hid_t file, const char *name, hid_t type, size_t count, void *data);
hid_t fgmm__h5_type(
    fgmm_dtype dtype); /* memory and file type; f16 is a 16-bit IEEE float made with H5Tset_fields */

/* The user block (bytes 0..511): magic "FGMMH5\1\0", u64 file length, u64 skip_begin, u64 skip_end, u64 hash,
 * zeros. The hash is xxh3 (64 bits) over the xxh3s of the file's 64 MiB pieces from byte 512 on, bytes
 * [skip_begin, skip_end) left out (the vectors of an index; 0,0 for none). Seal: after closing; collective
 * when comm is not NULL (pieces are dealt to the ranks), then rank 0 writes the block and fsyncs. Check:
 * FGMM_ERR_INPUT ("FILE: damaged: ..." ) for a wrong length or hash; *sealed = false and FGMM_OK when there
 * is no block (the caller decides whether to accept the file). Check before HDF5 opens the file. Local. */
fgmm_status fgmm__h5_seal(const char *path, fgmm_comm *comm, uint64_t skip_begin, uint64_t skip_end);
/* Before a sealed file is changed in place: until it is sealed again it is refused as damaged, should the
 * program end in between. Durable when it returns. */
fgmm_status fgmm__h5_break_seal(const char *path);
fgmm_status fgmm__h5_check_seal(const char *path, bool *sealed);

#endif
