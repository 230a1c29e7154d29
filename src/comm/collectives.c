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

/* Byte places of the pieces of a packed buffer: [size + 1]. */
static void place_pieces(const int64_t *counts, int size, size_t item_bytes, size_t *places)
{
    places[0] = 0;
    for (int rank = 0; rank < size; rank++)
        places[rank + 1] = places[rank] + (size_t)counts[rank] * item_bytes;
}

static size_t slices_of(size_t bytes, size_t slice_bytes)
{
    return bytes / slice_bytes + (bytes % slice_bytes != 0);
}

fgmm_status fgmm__comm_alltoallv(fgmm_comm *comm, const void *send, const int64_t *send_counts, void *recv,
                                 const int64_t *recv_counts, size_t item_bytes)
{
    fgmm_status status = FGMM_OK;
    int size = comm->size, me = comm->rank, pending = 0;
    size_t *from = NULL, *to = NULL, n_requests = 0;
    MPI_Request *requests = NULL;
    FGMM_TRY(check_usable(comm));
    FGMM_ALLOC(from, size + 1, "the places of the pieces to send");
    FGMM_ALLOC(to, size + 1, "the places of the pieces to receive");
    place_pieces(send_counts, size, item_bytes, from);
    place_pieces(recv_counts, size, item_bytes, to);
    for (int peer = 0; peer < size; peer++)
        n_requests += slices_of(from[peer + 1] - from[peer], comm->slice_bytes) +
                      slices_of(to[peer + 1] - to[peer], comm->slice_bytes);
    FGMM_ALLOC(requests, n_requests, "the messages of an exchange");

    /* Receives before sends, so that large messages find their place; each rank begins with its next
     * neighbour. */
    for (int i = 1; i < size; i++) {
        int peer = (me + i) % size;
        for (size_t at = to[peer]; at < to[peer + 1]; at += comm->slice_bytes)
            FGMM_MPI(comm, MPI_Irecv((char *)recv + at, (int)smaller(to[peer + 1] - at, comm->slice_bytes),
                                     MPI_BYTE, peer, FGMM__TAG_ALLTOALLV, comm->data, &requests[pending++]));
    }
    for (int i = 1; i < size; i++) {
        int peer = (me + i) % size;
        for (size_t at = from[peer]; at < from[peer + 1]; at += comm->slice_bytes)
            FGMM_MPI(comm,
                     MPI_Isend((const char *)send + at, (int)smaller(from[peer + 1] - at, comm->slice_bytes),
                               MPI_BYTE, peer, FGMM__TAG_ALLTOALLV, comm->data, &requests[pending++]));
    }
    if (from[me + 1] > from[me])
        memcpy((char *)recv + to[me], (const char *)send + from[me], from[me + 1] - from[me]);
    FGMM_TRY(fgmm__comm_wait(comm, pending, requests, from[size] + to[size]));
cleanup:
    if (status != FGMM_OK)
        fgmm__comm_break(comm);
    free(requests);
    free(from);
    free(to);
    return status;
}
