/* The communicator: its life, agreement on failure, the last resort. */
#include "comm/internal.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/stop.h"
#include "comm/mpi_check.h"

enum {
    MESSAGE_BYTES = 2048, /* as much as base/status.c keeps */
    LAST_TURN = 5         /* seconds the higher ranks wait before they abort */
};

fgmm_status fgmm__comm_break(fgmm_comm *comm)
{
    comm->broken = true;
    return FGMM_ERR_RUNTIME;
}

fgmm_status fgmm__mpi_failed(fgmm_comm *comm, int code, const char *call, const char *file, int line)
{
    char reason[MPI_MAX_ERROR_STRING] = "unknown error";
    int length = 0;
    MPI_Error_string(code, reason, &length);
    const char *base = strrchr(file, '/');
    int name_length = (int)strcspn(call, "(");
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    fgmm__fail(FGMM_ERR_RUNTIME, "%.*s failed on rank %d: %s (%s:%d)", name_length, call, rank, reason,
               base ? base + 1 : file, line);
    return comm ? fgmm__comm_break(comm) : FGMM_ERR_RUNTIME;
}

/* A duplicate whose errors come back as codes. */
static fgmm_status duplicate(MPI_Comm parent, MPI_Comm *out)
{
    fgmm_status status = FGMM_OK;
    FGMM_MPI(NULL, MPI_Comm_dup(parent, out));
    FGMM_MPI(NULL, MPI_Comm_set_errhandler(*out, MPI_ERRORS_RETURN));
cleanup:
    return status;
}

static fgmm_status find_node(fgmm_comm *comm)
{
    fgmm_status status = FGMM_OK;
    MPI_Comm node = MPI_COMM_NULL;
    FGMM_MPI(NULL, MPI_Comm_split_type(comm->data, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &node));
    FGMM_MPI(NULL, MPI_Comm_rank(node, &comm->node_rank));
    FGMM_MPI(NULL, MPI_Comm_size(node, &comm->node_size));
cleanup:
    if (node != MPI_COMM_NULL)
        MPI_Comm_free(&node);
    return status;
}

static fgmm_status check_mpi(void)
{
    fgmm_status status = FGMM_OK;
    int initialised = 0, threads = MPI_THREAD_SINGLE;
    MPI_Initialized(&initialised);
    if (!initialised)
        FGMM_FAIL(FGMM_ERR_INPUT, "fgmm_comm_create: MPI is not initialised");
    FGMM_MPI(NULL, MPI_Query_thread(&threads));
    if (threads < MPI_THREAD_FUNNELED)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "fgmm_comm_create: MPI must be initialised with MPI_THREAD_FUNNELED or more");
cleanup:
    return status;
}

/* What every rank needs of its own memory before the first agreement. */
static fgmm_status allocate(fgmm_comm *comm)
{
    fgmm_status status = FGMM_OK;
    FGMM_ALLOC(comm->hosts, comm->size, "the names of the hosts");
    FGMM_TRY(fgmm__heartbeat_create(comm));
cleanup:
    return status;
}

fgmm_status fgmm_comm_create(MPI_Comm parent, double timeout_seconds, fgmm_comm **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_comm *comm = NULL;
    int length = 0;
    FGMM_TRY(check_mpi());
    if (!(timeout_seconds > 0))
        FGMM_FAIL(FGMM_ERR_INPUT, "the timeout for silent peers is %g seconds; it must be more than 0",
                  timeout_seconds);
    FGMM_ALLOC(comm, 1, "the communicator");
    comm->data = comm->signs = MPI_COMM_NULL;
    comm->timeout_seconds = timeout_seconds;
    comm->slice_bytes = (size_t)1 << 30;
    FGMM_TRY(duplicate(parent, &comm->data));
    FGMM_TRY(duplicate(parent, &comm->signs));
    FGMM_MPI(NULL, MPI_Comm_rank(comm->data, &comm->rank));
    FGMM_MPI(NULL, MPI_Comm_size(comm->data, &comm->size));
    FGMM_TRY(find_node(comm));

    /* Without its own memory a rank cannot even wait for the others as it should: plain MPI for this one
     * exchange. */
    int mine = allocate(comm), worst = FGMM_OK;
    FGMM_MPI(NULL, MPI_Allreduce(&mine, &worst, 1, MPI_INT, MPI_MAX, comm->data));
    if (worst != FGMM_OK) {
        fgmm__heartbeat_destroy(comm); /* some ranks have none to drain */
        FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory on a rank: no communicator");
    }
    FGMM_MPI(comm, MPI_Get_processor_name(comm->hosts[comm->rank], &length));
    char host[MPI_MAX_PROCESSOR_NAME];
    memcpy(host, comm->hosts[comm->rank], sizeof host);
    FGMM_TRY(fgmm__comm_allgather(comm, host, sizeof host, comm->hosts));
    *out = comm;
    comm = NULL;
cleanup:
    fgmm_comm_destroy(comm);
    return status;
}

void fgmm_comm_destroy(fgmm_comm *comm)
{
    if (comm == NULL)
        return;
    fgmm__nccl_destroy(comm);
    if (comm->heartbeat != NULL && !comm->broken)
        fgmm__heartbeat_drain(comm);
    if (comm->broken)
        return; /* requests that may never end still point into it */
    if (comm->signs != MPI_COMM_NULL)
        MPI_Comm_free(&comm->signs);
    if (comm->data != MPI_COMM_NULL)
        MPI_Comm_free(&comm->data);
    fgmm__heartbeat_destroy(comm);
    free(comm->hosts);
    free(comm);
}

int fgmm_comm_rank(const fgmm_comm *comm)
{
    return comm->rank;
}

int fgmm_comm_size(const fgmm_comm *comm)
{
    return comm->size;
}

int fgmm__comm_node_rank(const fgmm_comm *comm)
{
    return comm->node_rank;
}

int fgmm__comm_node_size(const fgmm_comm *comm)
{
    return comm->node_size;
}

const char *fgmm__comm_host(const fgmm_comm *comm)
{
    return comm->hosts[comm->rank];
}

MPI_Comm fgmm__comm_mpi(const fgmm_comm *comm)
{
    return comm->data;
}

bool fgmm__comm_broken(const fgmm_comm *comm)
{
    return comm->broken;
}

/* ---- agreement ---- */

/* How grave what a rank brings is. FOLLOWED: it left its work because a peer announced a failure, and has no
 * message of its own. */
typedef enum { FINE, FOLLOWED, STOPPED, BAD_INPUT, FAILED_RUN } gravity;

static gravity weigh(const fgmm_comm *comm, fgmm_status mine)
{
    switch (mine) {
    case FGMM_OK:
        return fgmm__heartbeat_peer_failed(comm) ? FOLLOWED : FINE;
    case FGMM_STOPPED:
        return STOPPED;
    case FGMM_ERR_INPUT:
        return BAD_INPUT;
    case FGMM_ERR_RUNTIME:
        break;
    }
    bool own = fgmm_error_message()[0] != '\0' || !fgmm__heartbeat_peer_failed(comm);
    return own ? FAILED_RUN : FOLLOWED;
}

static fgmm_status status_of(gravity gravest)
{
    static const fgmm_status statuses[] = {[FINE] = FGMM_OK,
                                           [FOLLOWED] = FGMM_ERR_RUNTIME,
                                           [STOPPED] = FGMM_STOPPED,
                                           [BAD_INPUT] = FGMM_ERR_INPUT,
                                           [FAILED_RUN] = FGMM_ERR_RUNTIME};
    return statuses[gravest];
}

fgmm_status fgmm__comm_agree(fgmm_comm *comm, fgmm_status mine)
{
    fgmm_status status = FGMM_OK;
    if (comm->broken)
        return FGMM_ERR_RUNTIME;
    if (comm->failed != FGMM_OK && mine == comm->failed && comm->failed_epoch == fgmm__error_epoch())
        return mine;
    gravity weight = weigh(comm, mine);
    if (weight >= BAD_INPUT)
        fgmm__comm_announce_failure(comm); /* peers in a long loop leave it; it costs nothing where none is */
    /* The maximum finds the gravest, and among its ranks the lowest. */
    int64_t key = ((int64_t)weight << 32) | (INT_MAX - comm->rank);
    FGMM_TRY(fgmm__comm_max_i64(comm, &key, 1));
    gravity gravest = (gravity)(key >> 32);
    int spokesman = INT_MAX - (int)(key & INT_MAX);
    if (gravest == FOLLOWED) {
        fgmm__fail(FGMM_ERR_RUNTIME, "a rank announced a failure and then brought none");
    } else if (gravest != FINE) {
        char message[MESSAGE_BYTES];
        snprintf(message, sizeof message, "%s", fgmm_error_message());
        FGMM_TRY(fgmm__comm_bcast(comm, message, sizeof message, spokesman));
        fgmm__set_message(message);
    }
    comm->agreements++;
    status = status_of(gravest);
    comm->failed = status == FGMM_STOPPED ? FGMM_OK : status;
    comm->failed_epoch = fgmm__error_epoch();
cleanup:
    return status;
}

/* ---- the last resort ---- */

/* After a fault that several ranks notice, each comes to fgmm__comm_abort by itself. One message is enough:
 * rank 0 ends the run; should it be the one that is missing, rank 1 does a second later, and so on. A TERM in
 * that time is the launcher's, which another rank has told: what is left is to be killed. */
static void wait_for_turn(int rank)
{
    bool stopped_before = fgmm__stop_requested();
    double until = fgmm__seconds() + (rank < LAST_TURN ? rank : LAST_TURN);
    while (fgmm__seconds() < until) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        if (!stopped_before && fgmm__stop_requested()) {
            stopped_before = true;
            until = fgmm__seconds() + LAST_TURN;
        }
    }
}

_Noreturn void fgmm__comm_abort(fgmm_comm *comm, fgmm_status status)
{
    if (comm != NULL)
        wait_for_turn(comm->rank);
    const char *message = fgmm_error_message();
    fprintf(stderr, "fgmm: %s\n", message[0] != '\0' ? message : "failed without a message");
    fflush(stderr);
    MPI_Abort(comm != NULL ? comm->data : MPI_COMM_WORLD, status);
    abort(); /* not reached: MPI_Abort ends the process */
}
