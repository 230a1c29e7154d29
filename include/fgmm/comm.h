/* The ranks that work together. One communicator a program; every collective of the library takes it. */
#ifndef FGMM_COMM_H
#define FGMM_COMM_H

#include <mpi.h>
#include "fgmm/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fgmm_comm fgmm_comm;

/* Collective over `parent`, which is duplicated and stays the caller's. MPI must be initialised with at least
 * MPI_THREAD_FUNNELED; all calls are made from the main thread. `timeout_seconds`: a collective fails when a
 * peer has shown no sign of life for that long. */
fgmm_status fgmm_comm_create(MPI_Comm parent, double timeout_seconds, fgmm_comm **out);
void fgmm_comm_destroy(fgmm_comm *comm); /* collective; accepts NULL */
int fgmm_comm_rank(const fgmm_comm *comm);
int fgmm_comm_size(const fgmm_comm *comm);

#ifdef __cplusplus
}
#endif
#endif
