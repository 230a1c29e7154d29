/* An index as FAISS's lists: what faiss.read_index reads. Checked against files FAISS 1.7.3 writes. */
#ifndef FGMM_EXPORT_FAISS_H
#define FGMM_EXPORT_FAISS_H

#include <stdbool.h>
#include "comm/comm.h"
#include "fgmm/ivf.h"

typedef struct {
    bool on_disk;      /* lists in a file of their own (path + ".ivfdata"), which FAISS maps */
    bool primary_only; /* each row in its most likely list alone */
    bool as_f32;       /* rows become 32-bit floats whatever their type is */
} fgmm_faiss_options;

/* The type in which FAISS will hold the index's rows, none of which loses a bit: f32, u8 and f16 as they are,
 * i8 (of which FAISS knows nothing) as f16; as_f32: f32. */
fgmm_dtype fgmm__faiss_stored(const fgmm_index *index, bool as_f32);
/* The name of the FAISS index that holds rows of this type. */
const char *fgmm__faiss_kind(fgmm_dtype stored);

/* Local (one rank). Little-endian machines. comm: ticked during the work, may be NULL. *rows gets the number
 * of vectors written. Files are written beside their names and renamed. */
fgmm_status fgmm__export_faiss(const fgmm_index *index, const char *path, const fgmm_faiss_options *options,
                               fgmm_comm *comm, int64_t *rows);

/* What chooses lists, without rows. */
typedef struct {
    int32_t k, dim;
    fgmm_metric metric;
    const float *centroids; /* [k][dim], the caller's */
} fgmm_faiss_coarse;

fgmm_faiss_coarse fgmm__faiss_coarse(const fgmm_index *index); /* its centroids stay the index's */
/* Local. An IndexIVFFlat that is trained and empty. */
fgmm_status fgmm__export_faiss_coarse(const fgmm_faiss_coarse *coarse, const char *path);

#endif
