/* What a pass over the data needs, opened together: the rank's device, its backend, its shard of the rows. */
#ifndef FGMM_IVF_WORKPLACE_H
#define FGMM_IVF_WORKPLACE_H

#include "backend/backend.h"
#include "data/shard.h"
#include "ivf/ivf.h"

typedef struct {
    fgmm_comm *comm;
    fgmm_device *device; /* NULL: the CPU */
    fgmm_backend *backend;
    fgmm_shard *shard; /* loaded; NULL where no dataset was given */
} fgmm_workplace;

/* Collective; the same status on all ranks. dataset NULL: device and backend alone. k: components (or
 * centroids) the backend will be given, for its share of memory. started: may be NULL. */
fgmm_status fgmm__workplace_open(fgmm_comm *comm, const fgmm_dataset *dataset,
                                 const fgmm_resources *resources, fgmm_covariance shape, int32_t k,
                                 fgmm_started *started, fgmm_workplace *place);
void fgmm__workplace_close(fgmm_workplace *place); /* of a zeroed or an opened one */

/* A stop leaves nothing of these commands to go on from, so it is an error in the contract's sense: turns
 * FGMM_STOPPED into FGMM_ERR_RUNTIME with a message that says so. Other statuses pass. */
fgmm_status fgmm__stopped_without_trace(fgmm_status status, const char *what);

#endif
