/* Checkpoints of a fit: the last complete parameters and where in the fit they belong. Written aside, sealed
 * with a hash, fsynced and renamed; the one before is kept as FILE.1. */
#ifndef FGMM_CHECKPOINT_CHECKPOINT_H
#define FGMM_CHECKPOINT_CHECKPOINT_H

#include <stdbool.h>
#include "model/model.h"

typedef enum {
    FGMM_PHASE_START,  /* nothing is fitted yet; there is no model */
    FGMM_PHASE_KMEANS, /* in the k-means that makes the start */
    FGMM_PHASE_FIT
} fgmm_phase;

typedef struct {
    fgmm_phase phase;
    bool stopped;              /* written because the run was asked to stop */
    uint64_t data_fingerprint; /* fgmm__dataset_fingerprint */
    uint64_t options_hash;     /* of the options that decide the result */
    fgmm_model *model;         /* NULL in FGMM_PHASE_START */
    int64_t run;               /* which of several fits (--n-init) it is, from 0 */
    fgmm_model *best;          /* of the fits before; NULL in the first */
} fgmm_checkpoint;

/* Local (rank 0). */
fgmm_status fgmm__checkpoint_write(const char *path, const fgmm_checkpoint *checkpoint);
/* Local. *found = false when there is neither FILE nor FILE.1; a damaged FILE falls back to FILE.1 with a
 * warning. The models are the caller's. */
fgmm_status fgmm__checkpoint_read(const char *path, fgmm_checkpoint *out, bool *found);
/* Local (rank 0): removes FILE and FILE.1; missing ones are fine. */
void fgmm__checkpoint_remove(const char *path);

#endif
