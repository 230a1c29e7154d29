/* An index as a FAISS IndexIVFFlat (32-bit floats, L2): what faiss.read_index reads. Checked against files
 * FAISS 1.7.3 writes. */
#ifndef FGMM_EXPORT_FAISS_H
#define FGMM_EXPORT_FAISS_H

#include <stdbool.h>
#include "comm/comm.h"
#include "fgmm/ivf.h"

typedef struct {
    bool on_disk;      /* lists in a file of their own (path + ".ivfdata"), which FAISS maps */
    bool primary_only; /* each row in its most likely list alone */
} fgmm_faiss_options;

/* Local (one rank). Little-endian machines. comm: ticked during the work, may be NULL. *rows gets the number
 * of vectors written. Files are written beside their names and renamed. */
fgmm_status fgmm__export_faiss(const fgmm_index *index, const char *path, const fgmm_faiss_options *options,
                               fgmm_comm *comm, int64_t *rows);

#endif
