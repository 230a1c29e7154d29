/* Signs of life. Every rank sends every other a small message now and then, from fgmm__comm_tick and from all
 * waiting; the same channel carries two announcements, which go out at once: STOP (asked to stop early) and
 * FAILED (on the way to an agreement with an error). Nothing ever waits for these messages, so a rank that
 * does not look at them for a while delays nobody. */
#include "comm/internal.h"

#include <stdlib.h>

#include "base/backoff.h"
#include "base/clock.h"
#include "base/stop.h"
#include "comm/mpi_check.h"

typedef enum { ALIVE, STOP, FAILED, KINDS } sign_kind;

/* A sign is its kind (the tag) and the sender's number of completed agreements, which tells a fresh FAILED
 * from one that an agreement has settled before it arrived. */
struct fgmm__heartbeat {
    double period_seconds;                /* between two ALIVE to the same peer */
    double next_poll, next_alive;         /* clock times */
    double next_check, last_check;        /* of the peers' silence */
    double awake_since;                   /* end of the last time this rank itself was suspended */
    bool quiet;                           /* draining: nothing is sent any more */
    bool stop_told;                       /* all peers know, from this rank or another */
    int64_t announced_at, peer_failed_at; /* agreement the last FAILED (own, a peer's) leads to; -1: none */
    double *heard;                        /* [size] clock time of the last sign */
    int64_t *sent, *received;             /* [size] messages, for draining */
    int64_t *outbox;                      /* [KINDS][size] contents of messages under way */
    MPI_Request *requests;                /* [KINDS][size] */
};

static const double poll_seconds = 2e-3;
static const double check_seconds = 0.1;

fgmm_status fgmm__heartbeat_create(fgmm_comm *comm)
{
    fgmm_status status = FGMM_OK;
    size_t n = (size_t)comm->size;
    fgmm__heartbeat *beat = NULL;
    FGMM_ALLOC(beat, 1, "the signs of life");
    comm->heartbeat = beat;
    FGMM_ALLOC(beat->heard, n, "the signs of life");
    FGMM_ALLOC(beat->sent, n, "the signs of life");
    FGMM_ALLOC(beat->received, n, "the signs of life");
    FGMM_ALLOC(beat->outbox, KINDS * n, "the signs of life");
    FGMM_ALLOC(beat->requests, KINDS * n, "the signs of life");
    for (size_t i = 0; i < KINDS * n; i++)
        beat->requests[i] = MPI_REQUEST_NULL;
    /* Ten signs a timeout, so that a few late ones do no harm; more often than every 10 s is never needed. */
    beat->period_seconds = comm->timeout_seconds / 10 < 10 ? comm->timeout_seconds / 10 : 10;
    beat->announced_at = beat->peer_failed_at = -1;
cleanup:
    return status;
}

void fgmm__heartbeat_destroy(fgmm_comm *comm)
{
    fgmm__heartbeat *beat = comm->heartbeat;
    if (beat == NULL)
        return;
    free(beat->heard);
    free(beat->sent);
    free(beat->received);
    free(beat->outbox);
    free(beat->requests);
    free(beat);
    comm->heartbeat = NULL;
}

/* Sends a sign to every peer. One whose last sign of this kind has not even left yet is not receiving: it is
 * passed over. */
static fgmm_status tell_peers(fgmm_comm *comm, sign_kind kind)
{
    fgmm_status status = FGMM_OK;
    fgmm__heartbeat *beat = comm->heartbeat;
    if (beat->quiet)
        return FGMM_OK;
    for (int i = 1; i < comm->size; i++) {
        int peer = (comm->rank + i) % comm->size; /* not all ranks at rank 0 first */
        size_t slot = (size_t)kind * (size_t)comm->size + (size_t)peer;
        int gone = 0;
        FGMM_MPI(comm, MPI_Test(&beat->requests[slot], &gone, MPI_STATUS_IGNORE));
        if (!gone)
            continue;
        beat->outbox[slot] = comm->agreements;
        FGMM_MPI(comm, MPI_Isend(&beat->outbox[slot], 1, MPI_INT64_T, peer, kind, comm->signs,
                                 &beat->requests[slot]));
        beat->sent[peer]++;
    }
cleanup:
    return status;
}

/* Receives what has arrived. */
static fgmm_status receive_signs(fgmm_comm *comm, double now)
{
    fgmm_status status = FGMM_OK;
    fgmm__heartbeat *beat = comm->heartbeat;
    for (;;) {
        MPI_Status envelope;
        int arrived = 0;
        int64_t agreements = 0;
        FGMM_MPI(comm, MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm->signs, &arrived, &envelope));
        if (!arrived)
            break;
        int peer = envelope.MPI_SOURCE;
        FGMM_MPI(comm, MPI_Recv(&agreements, 1, MPI_INT64_T, peer, envelope.MPI_TAG, comm->signs,
                                MPI_STATUS_IGNORE));
        beat->heard[peer] = now;
        beat->received[peer]++;
        if (envelope.MPI_TAG == STOP) {
            beat->stop_told = true;
            fgmm__stop_request();
        } else if (envelope.MPI_TAG == FAILED && agreements > beat->peer_failed_at) {
            beat->peer_failed_at = agreements;
        }
    }
cleanup:
    return status;
}

/* The exchange itself; cheap when called again within poll_seconds. */
static fgmm_status exchange_signs(fgmm_comm *comm, double now)
{
    fgmm_status status = FGMM_OK;
    fgmm__heartbeat *beat = comm->heartbeat;
    if (fgmm__stop_requested() && !beat->stop_told) {
        beat->stop_told = true;
        FGMM_TRY(tell_peers(comm, STOP));
    }
    if (now < beat->next_poll)
        goto cleanup;
    beat->next_poll = now + poll_seconds;
    FGMM_TRY(receive_signs(comm, now));
    if (now >= beat->next_alive) {
        beat->next_alive = now + beat->period_seconds;
        FGMM_TRY(tell_peers(comm, ALIVE));
    }
cleanup:
    return status;
}

bool fgmm__heartbeat_peer_failed(const fgmm_comm *comm)
{
    return comm->heartbeat->peer_failed_at >= comm->agreements;
}

fgmm_status fgmm__comm_tick(fgmm_comm *comm)
{
    if (comm->broken)
        return FGMM_ERR_RUNTIME;
    if (comm->size > 1) {
        fgmm_status status = exchange_signs(comm, fgmm__seconds());
        if (status != FGMM_OK)
            return status;
        if (fgmm__heartbeat_peer_failed(comm))
            return FGMM_ERR_RUNTIME;
    }
    return fgmm__stop_requested() ? FGMM_STOPPED : FGMM_OK;
}

void fgmm__comm_announce_failure(fgmm_comm *comm)
{
    fgmm__heartbeat *beat = comm->heartbeat;
    if (comm->broken || beat->announced_at == comm->agreements)
        return;
    beat->announced_at = comm->agreements;
    tell_peers(comm, FAILED); /* what goes wrong here breaks the communicator, as the next agreement says */
}

/* Fails when a peer has been silent for the timeout, counted from the beginning of the wait at the earliest.
 * A rank that was suspended itself has no right to complain of the others. */
static fgmm_status check_silence(fgmm_comm *comm, double since, double now)
{
    fgmm__heartbeat *beat = comm->heartbeat;
    if (now < beat->next_check)
        return FGMM_OK;
    beat->next_check = now + check_seconds;
    if (now - beat->last_check > comm->timeout_seconds / 2)
        beat->awake_since = now;
    beat->last_check = now;
    if (since < beat->awake_since)
        since = beat->awake_since;
    int silent = -1;
    double oldest = now;
    for (int peer = 0; peer < comm->size; peer++) {
        double last = beat->heard[peer] > since ? beat->heard[peer] : since;
        if (peer != comm->rank && last < oldest) {
            oldest = last;
            silent = peer;
        }
    }
    if (silent < 0 || now - oldest <= comm->timeout_seconds)
        return FGMM_OK;
    fgmm__fail(FGMM_ERR_RUNTIME,
               "rank %d on host %s has shown no sign of life for %.0f seconds (see --comm-timeout)", silent,
               comm->hosts[silent], now - oldest);
    return fgmm__comm_break(comm);
}

/* MPI moves data only while it is polled, so no sleeping within the time that a slow transfer (50 MB/s)
 * takes. 10 ms are about what ranks wait for each other when they share cores. */
fgmm__wait fgmm__wait_begin(size_t bytes)
{
    return (fgmm__wait){.since = fgmm__seconds(), .patience_seconds = 10e-3 + 20e-9 * (double)bytes};
}

fgmm_status fgmm__wait_step(fgmm_comm *comm, const fgmm__wait *wait)
{
    fgmm_status status = FGMM_OK;
    double now = fgmm__seconds();
    if (comm->size > 1) {
        FGMM_TRY(exchange_signs(comm, now));
        FGMM_TRY(check_silence(comm, wait->since, now));
    }
    fgmm__backoff(now - wait->since, wait->patience_seconds);
cleanup:
    return status;
}

fgmm_status fgmm__comm_wait(fgmm_comm *comm, int n, MPI_Request *requests, size_t bytes)
{
    fgmm_status status = FGMM_OK;
    fgmm__wait wait = fgmm__wait_begin(bytes);
    for (;;) {
        int done = 0;
        FGMM_MPI(comm, MPI_Testall(n, requests, &done, MPI_STATUSES_IGNORE));
        if (done)
            break;
        FGMM_TRY(fgmm__wait_step(comm, &wait));
    }
cleanup:
    return status;
}

fgmm_status fgmm__heartbeat_drain(fgmm_comm *comm)
{
    fgmm_status status = FGMM_OK;
    fgmm__heartbeat *beat = comm->heartbeat;
    int64_t *expected = NULL;
    FGMM_ALLOC(expected, comm->size, "the signs of life");
    FGMM_TRY(fgmm__comm_barrier(comm)); /* from here on no rank needs signs: none is computing */
    beat->quiet = true;
    FGMM_TRY(fgmm__comm_alltoall_i64(comm, beat->sent, expected));
    for (int peer = 0; peer < comm->size; peer++) {
        fgmm__wait wait = fgmm__wait_begin(0);
        while (beat->received[peer] < expected[peer]) {
            FGMM_TRY(receive_signs(comm, fgmm__seconds()));
            FGMM_TRY(fgmm__wait_step(comm, &wait));
        }
    }
    FGMM_TRY(fgmm__comm_wait(comm, KINDS * comm->size, beat->requests, 0));
cleanup:
    if (status != FGMM_OK)
        fgmm__comm_break(comm);
    free(expected);
    return status;
}
