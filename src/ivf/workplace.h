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
    fgmm_backend *second; /* for passes with two models; NULL where not asked for */
    fgmm_shard *shard;    /* its resident rows loaded; NULL where no dataset was given */
} fgmm_workplace;

typedef struct {
    fgmm_covariance shape;
    int32_t k;          /* components (or centroids) the backend will be given, for its share of memory */
    bool second;        /* a second backend too, with as many centroids */
    int64_t host_bytes; /* that the caller will take of the cap of host memory */
} fgmm_workplace_needs;

/* Collective; the same status on all ranks. dataset NULL: device and backend alone. k: components (or
 * centroids) the backend will be given, for its share of memory. started: may be NULL. */
fgmm_status fgmm__workplace_open(fgmm_comm *comm, const fgmm_dataset *dataset,
                                 const fgmm_resources *resources, fgmm_covariance shape, int32_t k,
                                 fgmm_started *started, fgmm_workplace *place);
fgmm_status fgmm__workplace_open_for(fgmm_comm *comm, const fgmm_dataset *dataset,
                                     const fgmm_resources *resources, const fgmm_workplace_needs *needs,
                                     fgmm_started *started, fgmm_workplace *place);
void fgmm__workplace_close(fgmm_workplace *place); /* of a zeroed or an opened one */

/* Local. Hands the queries to the backend, for what is near under this metric. */
fgmm_status fgmm__workplace_queries(fgmm_workplace *place, fgmm_metric metric, const float *queries,
                                    int64_t n, int32_t dim);
/* The backend that finds neighbours: inner products are computed on CPUs whatever was asked for, and rank 0
 * says so where that is not what was asked for. */
fgmm_backend_kind fgmm__neighbors_backend(fgmm_metric metric, fgmm_backend_kind asked);
/* Ranking is by a distance throughout; under the inner product users see the product, which is minus that. */
void fgmm__show_distances(fgmm_metric metric, float *distances, int64_t n);

/* A stop leaves nothing of these commands to go on from, so it is an error in the contract's sense: turns
 * FGMM_STOPPED into FGMM_ERR_RUNTIME with a message that says so. Other statuses pass. */
fgmm_status fgmm__stopped_without_trace(fgmm_status status, const char *what);

#endif
