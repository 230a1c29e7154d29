/* What the files of comm/ share: the communicator itself, waiting, signs of life. */
#ifndef FGMM_COMM_INTERNAL_H
#define FGMM_COMM_INTERNAL_H

#include "base/status.h"
#include "comm/comm.h"

typedef struct fgmm__heartbeat fgmm__heartbeat; /* heartbeat.c */
typedef struct fgmm__nccl fgmm__nccl;           /* nccl.c */

struct fgmm_comm {
    MPI_Comm data;  /* collectives and bulk messages */
    MPI_Comm signs; /* signs of life: never waited on */
    int rank, size;
    int node_rank, node_size;
    char (*hosts)[MPI_MAX_PROCESSOR_NAME]; /* [size] */
    double timeout_seconds;
    size_t slice_bytes;    /* the most one MPI call moves; the same on all ranks */
    int64_t agreements;    /* completed calls of fgmm__comm_agree */
    bool broken;           /* see fgmm__comm_broken */
    fgmm_status failed;    /* what all ranks agreed on last, other than FGMM_OK and FGMM_STOPPED */
    unsigned failed_epoch; /* fgmm__error_epoch at that time */
    fgmm__heartbeat *heartbeat;
    fgmm__nccl *nccl; /* NULL without GPUs, or where ranks share one */
};

/* Marks the communicator broken and returns FGMM_ERR_RUNTIME. */
fgmm_status fgmm__comm_break(fgmm_comm *comm);

/* Tags on `data`. */
enum { FGMM__TAG_ALLTOALLV = 1 };

/* ---- heartbeat.c ---- */

fgmm_status fgmm__heartbeat_create(fgmm_comm *comm); /* local */
void fgmm__heartbeat_destroy(fgmm_comm *comm);       /* local; accepts a communicator without one */

/* Collective: sends no more signs and receives all that are under way, so that `signs` can be freed. */
fgmm_status fgmm__heartbeat_drain(fgmm_comm *comm);

/* True when a peer announced a failure that no agreement has settled yet. */
bool fgmm__heartbeat_peer_failed(const fgmm_comm *comm);

/* ---- waiting for all peers ---- */

typedef struct {
    double since;            /* when the wait began; a peer's silence before that does not count */
    double patience_seconds; /* see fgmm__backoff */
} fgmm__wait;

/* `bytes`: how much MPI moves during this wait; 0 for a few words or for what needs no polling to go on. */
fgmm__wait fgmm__wait_begin(size_t bytes);

/* Between two looks at what is awaited: exchanges signs of life, backs off. Fails, and breaks the
 * communicator, when a peer has been silent for the timeout. A stop or a peer's announced failure does not
 * end the wait. */
fgmm_status fgmm__wait_step(fgmm_comm *comm, const fgmm__wait *wait);

/* Waits for MPI requests of a collective; they are complete on FGMM_OK. */
fgmm_status fgmm__comm_wait(fgmm_comm *comm, int n, MPI_Request *requests, size_t bytes);

/* ---- nccl.c, nccl_none.c ---- */

void fgmm__nccl_destroy(fgmm_comm *comm); /* collective unless broken; accepts a communicator without one */

#endif
