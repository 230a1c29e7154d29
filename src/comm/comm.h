/* What the ranks do together. Collective calls are made by all ranks in the same order, on the main thread;
 * every one gives up with FGMM_ERR_RUNTIME when a peer has shown no sign of life for the timeout. */
#ifndef FGMM_COMM_COMM_H
#define FGMM_COMM_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "fgmm/comm.h"

/* Collective. Every rank brings its own status; all return the same one: FGMM_OK if all are, else the gravest
 * of FGMM_ERR_RUNTIME > FGMM_ERR_INPUT > FGMM_STOPPED, and every rank's message becomes that of the lowest
 * rank that has it. Call it before going on to a collective whenever a rank may have failed by itself. What
 * was agreed to have failed stays so: bringing the same failure again (on the way out through several layers,
 * of which not all ranks need to have entered the same) returns at once, until fgmm_error_clear. */
fgmm_status fgmm__comm_agree(fgmm_comm *comm, fgmm_status mine);

/* Local, cheap, called often (at least once a second) by long work: sends signs of life, receives the peers'.
 * Returns FGMM_OK, or FGMM_STOPPED when any rank was asked to stop (this one tells the others), or
 * FGMM_ERR_RUNTIME when a peer announced failure. The caller then leaves its loop and goes to the next
 * fgmm__comm_agree: it brings FGMM_STOPPED for a stop and FGMM_OK-or-own status for a peer's failure (the
 * peer brings the message). */
fgmm_status fgmm__comm_tick(fgmm_comm *comm);

/* Local: tells the peers that this rank is on its way to fgmm__comm_agree with a failure, so that they leave
 * long loops. fgmm__comm_agree does it too; call it where work lies between the fault and the agreement. A
 * failure must follow. */
void fgmm__comm_announce_failure(fgmm_comm *comm);

/* Collectives on host memory. Counts are 64-bit everywhere; sums of integers are exact. */
fgmm_status fgmm__comm_barrier(fgmm_comm *comm);
fgmm_status fgmm__comm_bcast(fgmm_comm *comm, void *buffer, size_t bytes, int root);
fgmm_status fgmm__comm_sum_i64(fgmm_comm *comm, int64_t *values,
                               size_t count); /* all-reduce in place; wraps */
fgmm_status fgmm__comm_min_f64(fgmm_comm *comm, double *values, size_t count); /* all-reduce in place */
fgmm_status fgmm__comm_max_f64(fgmm_comm *comm, double *values, size_t count);
fgmm_status fgmm__comm_max_i64(fgmm_comm *comm, int64_t *values, size_t count);
/* out[i] = sum of values[i] over the ranks before this one (rank 0: 0). out may not alias values. */
fgmm_status fgmm__comm_exscan_i64(fgmm_comm *comm, const int64_t *values, int64_t *out, size_t count);
/* out: [size][bytes], in rank order, on every rank. */
fgmm_status fgmm__comm_allgather(fgmm_comm *comm, const void *mine, size_t bytes, void *out);
/* Pieces of different length on every rank, concatenated in rank order on every rank. counts: [size] items,
 * known to all. */
fgmm_status fgmm__comm_allgatherv(fgmm_comm *comm, const void *mine, const int64_t *counts, size_t item_bytes,
                                  void *out);
/* Item counts [size]; buffers packed in rank order. recv_counts must match the peers' send_counts. */
fgmm_status fgmm__comm_alltoallv(fgmm_comm *comm, const void *send, const int64_t *send_counts, void *recv,
                                 const int64_t *recv_counts, size_t item_bytes);
/* The same in two calls, between which the ranks may work; buffers stay until the second returns. Meanwhile
 * other collectives are allowed, another exchange is not. send_at: [size] where, in items, each rank's piece
 * of `send` begins; NULL: packed. `push` is local: MPI moves data only while it is called, so call it often.
 * `end` belongs to a begin that succeeded, whatever happened since. */
typedef struct fgmm_transfer fgmm_transfer;
fgmm_status fgmm__comm_alltoallv_begin(fgmm_comm *comm, const void *send, const int64_t *send_at,
                                       const int64_t *send_counts, void *recv, const int64_t *recv_counts,
                                       size_t item_bytes, fgmm_transfer **out);
fgmm_status fgmm__comm_alltoallv_push(fgmm_transfer *transfer, bool *done);
fgmm_status fgmm__comm_alltoallv_end(fgmm_transfer *transfer);
fgmm_status fgmm__comm_alltoall_i64(fgmm_comm *comm, const int64_t *send,
                                    int64_t *recv); /* one a pair of ranks */

/* Where this rank stands among those of its node (shared memory). */
int fgmm__comm_node_rank(const fgmm_comm *comm);
int fgmm__comm_node_size(const fgmm_comm *comm);
const char *fgmm__comm_host(const fgmm_comm *comm); /* this rank's host name */

/* The MPI communicator of the collectives, for libraries that make a duplicate of their own (parallel HDF5).
 */
MPI_Comm fgmm__comm_mpi(const fgmm_comm *comm);

/* True after a fault inside a collective (a silent peer, an error of MPI or NCCL): the ranks no longer stand
 * at the same call, nothing can be agreed on, every further collective fails at once, and fgmm__comm_abort is
 * all that is left. */
bool fgmm__comm_broken(const fgmm_comm *comm);

/* GPUs (comm/nccl.c; without CUDA these return FGMM_ERR_RUNTIME). Collective: every rank has selected its
 * device and brings its 16-byte UUID. Distinct devices (of more than one rank) get an NCCL communicator; if
 * ranks share one, reductions go through the host, with one warning and the same bits. */
fgmm_status fgmm__comm_attach_gpu(fgmm_comm *comm, const unsigned char uuid[16]);
bool fgmm__comm_has_nccl(const fgmm_comm *comm);
/* Collective all-reduce (sum, wrapping) of device memory in place; `stream` is a cudaStream_t. First waits
 * for the stream's own work and agrees on its errors (it contains an fgmm__comm_agree); returns after the
 * result is there, with signs of life meanwhile, watching NCCL for asynchronous errors. */
fgmm_status fgmm__comm_sum_i64_device(fgmm_comm *comm, int64_t *values, size_t count, void *stream);

/* The one place that calls MPI_Abort: prints "fgmm: message" and ends all ranks. For faults after which no
 * agreement is possible. */
_Noreturn void fgmm__comm_abort(fgmm_comm *comm, fgmm_status status);

#endif
