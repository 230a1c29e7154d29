/* Collectives on host memory. MPI counts in ints: whatever is larger goes in slices, which all ranks cut
 * alike. Each call is non-blocking underneath and waited for by fgmm__comm_wait, which notices silent peers.
 * One that fails breaks the communicator: the other ranks wait inside it. */
#include "comm/internal.h"

#include <stdlib.h>
#include <string.h>

#include "comm/mpi_check.h"

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Every collective starts here: a broken communicator has said why already. */
static fgmm_status check_usable(const fgmm_comm *comm)
{
    return comm->broken ? FGMM_ERR_RUNTIME : FGMM_OK;
}

fgmm_status fgmm__comm_barrier(fgmm_comm *comm)
{
    fgmm_status status = FGMM_OK;
    MPI_Request request = MPI_REQUEST_NULL;
    FGMM_TRY(check_usable(comm));
    FGMM_MPI(comm, MPI_Ibarrier(comm->data, &request));
    FGMM_TRY(fgmm__comm_wait(comm, 1, &request, 0));
cleanup:
    return status;
}

fgmm_status fgmm__comm_bcast(fgmm_comm *comm, void *buffer, size_t bytes, int root)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(check_usable(comm));
    for (size_t at = 0; at < bytes; at += comm->slice_bytes) {
        size_t slice = smaller(bytes - at, comm->slice_bytes);
        MPI_Request request = MPI_REQUEST_NULL;
        FGMM_MPI(comm, MPI_Ibcast((char *)buffer + at, (int)slice, MPI_BYTE, root, comm->data, &request));
        FGMM_TRY(fgmm__comm_wait(comm, 1, &request, slice));
    }
cleanup:
    return status;
}

/* All-reduce in place of 8-byte values. */
static fgmm_status reduce(fgmm_comm *comm, void *values, size_t count, MPI_Datatype type, MPI_Op op)
{
    fgmm_status status = FGMM_OK;
    size_t step = comm->slice_bytes / 8;
    FGMM_TRY(check_usable(comm));
    if (comm->size == 1)
        goto cleanup;
    for (size_t at = 0; at < count; at += step) {
        size_t slice = smaller(count - at, step);
        MPI_Request request = MPI_REQUEST_NULL;
        FGMM_MPI(comm, MPI_Iallreduce(MPI_IN_PLACE, (int64_t *)values + at, (int)slice, type, op, comm->data,
                                      &request));
        FGMM_TRY(fgmm__comm_wait(comm, 1, &request, 8 * slice));
    }
cleanup:
    return status;
}

fgmm_status fgmm__comm_sum_i64(fgmm_comm *comm, int64_t *values, size_t count)
{
    return reduce(comm, values, count, MPI_UINT64_T, MPI_SUM); /* unsigned: wrapping is defined */
}

fgmm_status fgmm__comm_min_f64(fgmm_comm *comm, double *values, size_t count)
{
    return reduce(comm, values, count, MPI_DOUBLE, MPI_MIN);
}

fgmm_status fgmm__comm_max_f64(fgmm_comm *comm, double *values, size_t count)
{
    return reduce(comm, values, count, MPI_DOUBLE, MPI_MAX);
}

fgmm_status fgmm__comm_max_i64(fgmm_comm *comm, int64_t *values, size_t count)
{
    return reduce(comm, values, count, MPI_INT64_T, MPI_MAX);
}

fgmm_status fgmm__comm_exscan_i64(fgmm_comm *comm, const int64_t *values, int64_t *out, size_t count)
{
    fgmm_status status = FGMM_OK;
    size_t step = comm->slice_bytes / 8;
    FGMM_TRY(check_usable(comm));
    for (size_t at = 0; at < count; at += step) {
        size_t slice = smaller(count - at, step);
        MPI_Request request = MPI_REQUEST_NULL;
        FGMM_MPI(comm,
                 MPI_Iexscan(values + at, out + at, (int)slice, MPI_UINT64_T, MPI_SUM, comm->data, &request));
        FGMM_TRY(fgmm__comm_wait(comm, 1, &request, 8 * slice));
    }
    if (comm->rank == 0)
        memset(out, 0, count * sizeof *out); /* MPI leaves it undefined there */
cleanup:
    return status;
}

fgmm_status fgmm__comm_allgather(fgmm_comm *comm, const void *mine, size_t bytes, void *out)
{
    fgmm_status status = FGMM_OK;
    MPI_Request request = MPI_REQUEST_NULL;
    FGMM_TRY(check_usable(comm));
    if (bytes <= comm->slice_bytes / (size_t)comm->size) {
        FGMM_MPI(comm,
                 MPI_Iallgather(mine, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE, comm->data, &request));
        FGMM_TRY(fgmm__comm_wait(comm, 1, &request, bytes * (size_t)comm->size));
        goto cleanup;
    }
    if (bytes > 0)
        memcpy((char *)out + bytes * (size_t)comm->rank, mine, bytes);
    for (int rank = 0; rank < comm->size; rank++)
        FGMM_TRY(fgmm__comm_bcast(comm, (char *)out + bytes * (size_t)rank, bytes, rank));
cleanup:
    return status;
}

/* The pieces in one call, where all of them together fit into a slice. */
static fgmm_status allgatherv_at_once(fgmm_comm *comm, const void *mine, const int64_t *counts,
                                      size_t item_bytes, void *out)
{
    fgmm_status status = FGMM_OK;
    MPI_Request request = MPI_REQUEST_NULL;
    int *lengths = NULL, *places = NULL, end = 0;
    FGMM_ALLOC(lengths, comm->size, "the lengths of the pieces to gather");
    FGMM_ALLOC(places, comm->size, "the places of the pieces to gather");
    for (int rank = 0; rank < comm->size; rank++) {
        lengths[rank] = (int)((size_t)counts[rank] * item_bytes);
        places[rank] = end;
        end += lengths[rank];
    }
    FGMM_MPI(comm, MPI_Iallgatherv(mine, lengths[comm->rank], MPI_BYTE, out, lengths, places, MPI_BYTE,
                                   comm->data, &request));
    FGMM_TRY(fgmm__comm_wait(comm, 1, &request, (size_t)end));
cleanup:
    if (status != FGMM_OK)
        fgmm__comm_break(comm);
    free(lengths);
    free(places);
    return status;
}

fgmm_status fgmm__comm_allgatherv(fgmm_comm *comm, const void *mine, const int64_t *counts, size_t item_bytes,
                                  void *out)
{
    fgmm_status status = FGMM_OK;
    size_t before = 0, total = 0;
    FGMM_TRY(check_usable(comm));
    for (int rank = 0; rank < comm->size; rank++) {
        before += rank < comm->rank ? (size_t)counts[rank] * item_bytes : 0;
        total += (size_t)counts[rank] * item_bytes;
    }
    if (total <= comm->slice_bytes) {
        FGMM_TRY(allgatherv_at_once(comm, mine, counts, item_bytes, out));
        goto cleanup;
    }
    if (counts[comm->rank] > 0)
        memcpy((char *)out + before, mine, (size_t)counts[comm->rank] * item_bytes);
    char *piece = out;
    for (int rank = 0; rank < comm->size; rank++) {
        size_t bytes = (size_t)counts[rank] * item_bytes;
        FGMM_TRY(fgmm__comm_bcast(comm, piece, bytes, rank));
        piece += bytes;
    }
cleanup:
    return status;
}

fgmm_status fgmm__comm_alltoall_i64(fgmm_comm *comm, const int64_t *send, int64_t *recv)
{
    fgmm_status status = FGMM_OK;
    MPI_Request request = MPI_REQUEST_NULL;
    FGMM_TRY(check_usable(comm));
    FGMM_MPI(comm, MPI_Ialltoall(send, 1, MPI_INT64_T, recv, 1, MPI_INT64_T, comm->data, &request));
    FGMM_TRY(fgmm__comm_wait(comm, 1, &request, 0));
cleanup:
    return status;
}

/* ---- alltoallv ---- */

struct fgmm_transfer {
    fgmm_comm *comm;
    MPI_Request *requests;
    int pending;
    size_t bytes;
};

static size_t slices_of(size_t bytes, size_t slice_bytes)
{
    return bytes / slice_bytes + (bytes % slice_bytes != 0);
}

/* Where each rank's piece of a packed buffer begins, in items. */
static void place_pieces(const int64_t *counts, int size, int64_t *places)
{
    int64_t at = 0;
    for (int rank = 0; rank < size; rank++) {
        places[rank] = at;
        at += counts[rank];
    }
}

/* Receives before sends, so that large messages find their place; each rank begins with its next neighbour.
 */
static fgmm_status post_pieces(fgmm_transfer *transfer, const char *send, const int64_t *from,
                               const int64_t *send_counts, char *recv, const int64_t *to,
                               const int64_t *recv_counts, size_t item_bytes)
{
    fgmm_status status = FGMM_OK;
    fgmm_comm *comm = transfer->comm;
    for (int i = 1; i < comm->size; i++) {
        int peer = (comm->rank + i) % comm->size;
        char *piece = recv + (size_t)to[peer] * item_bytes;
        size_t bytes = (size_t)recv_counts[peer] * item_bytes;
        for (size_t at = 0; at < bytes; at += comm->slice_bytes)
            FGMM_MPI(comm,
                     MPI_Irecv(piece + at, (int)smaller(bytes - at, comm->slice_bytes), MPI_BYTE, peer,
                               FGMM__TAG_ALLTOALLV, comm->data, &transfer->requests[transfer->pending++]));
    }
    for (int i = 1; i < comm->size; i++) {
        int peer = (comm->rank + i) % comm->size;
        const char *piece = send + (size_t)from[peer] * item_bytes;
        size_t bytes = (size_t)send_counts[peer] * item_bytes;
        for (size_t at = 0; at < bytes; at += comm->slice_bytes)
            FGMM_MPI(comm,
                     MPI_Isend(piece + at, (int)smaller(bytes - at, comm->slice_bytes), MPI_BYTE, peer,
                               FGMM__TAG_ALLTOALLV, comm->data, &transfer->requests[transfer->pending++]));
    }
cleanup:
    return status;
}

static void free_transfer(fgmm_transfer *transfer)
{
    if (transfer != NULL)
        free(transfer->requests);
    free(transfer);
}

fgmm_status fgmm__comm_alltoallv_begin(fgmm_comm *comm, const void *send, const int64_t *send_at,
                                       const int64_t *send_counts, void *recv, const int64_t *recv_counts,
                                       size_t item_bytes, fgmm_transfer **out)
{
    fgmm_status status = FGMM_OK;
    int size = comm->size, me = comm->rank;
    int64_t *from = NULL, *to = NULL;
    size_t n_requests = 0, mine = (size_t)send_counts[me] * item_bytes;
    fgmm_transfer *transfer = NULL;
    FGMM_TRY(check_usable(comm));
    FGMM_ALLOC(transfer, 1, "an exchange");
    transfer->comm = comm;
    FGMM_ALLOC(from, size, "the places of the pieces to send");
    FGMM_ALLOC(to, size, "the places of the pieces to receive");
    place_pieces(send_counts, size, from);
    place_pieces(recv_counts, size, to);
    if (send_at != NULL)
        memcpy(from, send_at, (size_t)size * sizeof *from);
    for (int peer = 0; peer < size; peer++) {
        size_t out_bytes = (size_t)send_counts[peer] * item_bytes,
               in_bytes = (size_t)recv_counts[peer] * item_bytes;
        n_requests += slices_of(out_bytes, comm->slice_bytes) + slices_of(in_bytes, comm->slice_bytes);
        transfer->bytes += out_bytes + in_bytes;
    }
    FGMM_ALLOC(transfer->requests, n_requests, "the messages of an exchange");
    FGMM_TRY(post_pieces(transfer, send, from, send_counts, recv, to, recv_counts, item_bytes));
    if (mine > 0)
        memcpy((char *)recv + (size_t)to[me] * item_bytes, (const char *)send + (size_t)from[me] * item_bytes,
               mine);
    *out = transfer;
    transfer = NULL;
cleanup:
    if (status != FGMM_OK)
        fgmm__comm_break(comm);
    free_transfer(transfer);
    free(from);
    free(to);
    return status;
}

fgmm_status fgmm__comm_alltoallv_push(fgmm_transfer *transfer, bool *done)
{
    fgmm_status status = FGMM_OK;
    int over = 0;
    FGMM_TRY(check_usable(transfer->comm));
    FGMM_MPI(transfer->comm, MPI_Testall(transfer->pending, transfer->requests, &over, MPI_STATUSES_IGNORE));
    if (over)
        transfer->pending = 0;
    *done = over != 0;
cleanup:
    return status;
}

fgmm_status fgmm__comm_alltoallv_end(fgmm_transfer *transfer)
{
    fgmm_status status = check_usable(transfer->comm);
    if (status == FGMM_OK)
        status = fgmm__comm_wait(transfer->comm, transfer->pending, transfer->requests, transfer->bytes);
    if (status != FGMM_OK)
        fgmm__comm_break(transfer->comm);
    free_transfer(transfer);
    return status;
}

fgmm_status fgmm__comm_alltoallv(fgmm_comm *comm, const void *send, const int64_t *send_counts, void *recv,
                                 const int64_t *recv_counts, size_t item_bytes)
{
    fgmm_transfer *transfer = NULL;
    fgmm_status status =
        fgmm__comm_alltoallv_begin(comm, send, NULL, send_counts, recv, recv_counts, item_bytes, &transfer);
    return status != FGMM_OK ? status : fgmm__comm_alltoallv_end(transfer);
}
