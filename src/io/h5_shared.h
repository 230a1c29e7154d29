/* An HDF5 file that all ranks write together: rank 0 lays it out, with the space of every dataset reserved on
 * disk, then all ranks open it and fill in values. Written beside its name and renamed. HDF5 does not survive
 * a full disk (it crashes at the end of the program), so it is kept from meeting one: the space is taken
 * before HDF5 writes a byte. */
#ifndef FGMM_IO_H5_SHARED_H
#define FGMM_IO_H5_SHARED_H

#include "io/h5.h"

typedef struct {
    fgmm_comm *comm;
    char *path;
    char *aside;   /* the name it has until it is whole */
    bool exists;   /* rank 0: there is a file to remove on failure */
    hid_t file;    /* open for writing on all ranks; < 0 when closed */
    int64_t bytes; /* of the file; rank 0 */
} fgmm_h5_shared;

/* Makes groups, attributes, small datasets and places for large ones (fgmm__h5_dataset) in a new file. Rank
 * 0. */
typedef fgmm_status fgmm_h5_layout(hid_t file, void *context);

/* Collective. bytes: about the size of the file, a little more rather than less. FGMM_ERR_RUNTIME "no space
 * left" with nothing left behind. *out is to be zeroed before and abandoned or committed afterwards, whatever
 * the status. */
fgmm_status fgmm__h5_shared_create(fgmm_comm *comm, const char *path, int64_t bytes, fgmm_h5_layout *lay_out,
                                   void *context, fgmm_h5_shared *out);
/* Collective: the same, but no rank has the file open; its name, aside, is known to all. */
fgmm_status fgmm__h5_shared_lay_out(fgmm_comm *comm, const char *path, int64_t bytes, fgmm_h5_layout *lay_out,
                                    void *context, fgmm_h5_shared *out);
/* Collective: closes the file, whose datasets the caller has closed; it stays aside and may be sealed. */
fgmm_status fgmm__h5_shared_close(fgmm_h5_shared *shared);
/* Collective: gives the closed file its name. */
fgmm_status fgmm__h5_shared_commit(fgmm_h5_shared *shared);
/* Collective while the file is open: frees; removes what was not committed. Accepts a zeroed one. */
void fgmm__h5_shared_abandon(fgmm_h5_shared *shared);

/* Collective: rows [begin, begin+n) of a dataset [..] (columns 0) or [..][columns], by every rank that has
 * some (n may be 0); transfer: collective or H5P_DEFAULT for writes that a rank does by itself, then it is
 * local. */
fgmm_status fgmm__h5_write_rows(hid_t dataset, hid_t type, int64_t begin, int64_t n, int32_t columns,
                                const void *data, hid_t transfer);

#endif
