/* Sums over the GPUs of all ranks: NCCL where every rank has a device of its own, else through the host.
 * NCCL's communicator is non-blocking, so that every wait can look for silent peers. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "comm/internal.h"
#include "comm/nccl_check.h"

enum { UUID_BYTES = 16 };
static const size_t staging_words = (size_t)8 << 20; /* 64 MiB */

struct fgmm__nccl {
    ncclComm_t handle;
};

static fgmm_status failed(const fgmm_comm *comm, const char *call, const char *file, int line,
                          const char *reason, const char *detail)
{
    const char *base = strrchr(file, '/');
    return fgmm__fail(FGMM_ERR_RUNTIME, "%.*s failed on rank %d (host %s): %s%s%s (%s:%d)",
                      (int)strcspn(call, "("), call, comm->rank, comm->hosts[comm->rank], reason,
                      detail[0] ? ": " : "", detail, base ? base + 1 : file, line);
}

fgmm_status fgmm__nccl_failed(const fgmm_comm *comm, ncclResult_t code, const char *call, const char *file,
                              int line)
{
    const char *detail = ncclGetLastError(NULL);
    return failed(comm, call, file, line, ncclGetErrorString(code), detail != NULL ? detail : "");
}

fgmm_status fgmm__nccl_cuda_failed(const fgmm_comm *comm, cudaError_t code, const char *call,
                                   const char *file, int line)
{
    cudaGetLastError(); /* an error that is not for good must not be found again by the next check */
    return failed(comm, call, file, line, cudaGetErrorString(code), "");
}

/* The communicator's own state: ncclSuccess, ncclInProgress, or an error that a peer or the network caused.
 */
static fgmm_status look_at(fgmm_comm *comm, ncclComm_t handle, const char *what, bool *ready)
{
    fgmm_status status = FGMM_OK;
    ncclResult_t state = ncclSuccess;
    FGMM_NCCL(comm, ncclCommGetAsyncError(handle, &state));
    *ready = state == ncclSuccess;
    if (state != ncclSuccess && state != ncclInProgress)
        status = fgmm__nccl_failed(comm, state, what, __FILE__, __LINE__);
cleanup:
    return status;
}

/* Waits until a non-blocking call has gone through. While communicators come up a peer may fail by itself:
 * then this rank gives up too and both go to the agreement. */
static fgmm_status wait_ready(fgmm_comm *comm, ncclComm_t handle, const char *what)
{
    fgmm_status status = FGMM_OK;
    fgmm__wait wait = fgmm__wait_begin(0);
    for (bool ready = false; !ready;) {
        FGMM_TRY(look_at(comm, handle, what, &ready));
        if (ready)
            break;
        if (fgmm__heartbeat_peer_failed(comm)) {
            status = FGMM_ERR_RUNTIME; /* the peer brings the message */
            goto cleanup;
        }
        FGMM_TRY(fgmm__wait_step(comm, &wait));
    }
cleanup:
    return status;
}

/* ---- attaching ---- */

/* The first two ranks that brought the same UUID; false when all differ. */
static bool find_sharing(const unsigned char (*uuids)[UUID_BYTES], int size, int *one, int *other)
{
    for (*other = 1; *other < size; ++*other)
        for (*one = 0; *one < *other; ++*one)
            if (memcmp(uuids[*one], uuids[*other], UUID_BYTES) == 0)
                return true;
    return false;
}

/* Local, but all ranks must be in it for one to come out. */
static fgmm_status bring_up(fgmm_comm *comm, const ncclUniqueId *id, ncclComm_t *handle)
{
    fgmm_status status = FGMM_OK;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    FGMM_NCCL(comm, ncclCommInitRankConfig(handle, comm->size, *id, comm->rank, &config));
    FGMM_TRY(wait_ready(comm, *handle, "ncclCommInitRankConfig"));
cleanup:
    return status;
}

static fgmm_status connect_gpus(fgmm_comm *comm)
{
    fgmm_status status = FGMM_OK;
    fgmm__nccl *nccl = NULL;
    ncclComm_t handle = NULL;
    ncclUniqueId id;
    memset(&id, 0, sizeof id);
    status = fgmm__alloc(1, sizeof *nccl, "the communicator of the GPUs", (void **)&nccl);
    if (status == FGMM_OK && comm->rank == 0) {
        ncclResult_t code = ncclGetUniqueId(&id);
        if (code != ncclSuccess)
            status = fgmm__nccl_failed(comm, code, "ncclGetUniqueId", __FILE__, __LINE__);
    }
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_bcast(comm, &id, sizeof id, 0));
    status = bring_up(comm, &id, &handle);
    if (status != FGMM_OK)
        fgmm__comm_announce_failure(comm); /* the others wait inside NCCL for this rank */
    FGMM_TRY(fgmm__comm_agree(comm, status));
    nccl->handle = handle;
    comm->nccl = nccl;
    handle = NULL;
    nccl = NULL;
cleanup:
    if (handle != NULL)
        ncclCommAbort(handle);
    free(nccl);
    return status;
}

fgmm_status fgmm__comm_attach_gpu(fgmm_comm *comm, const unsigned char uuid[16])
{
    fgmm_status status = FGMM_OK;
    unsigned char(*uuids)[UUID_BYTES] = NULL;
    int one, other;
    fgmm__nccl_destroy(comm); /* of a device opened before */
    status = fgmm__alloc((size_t)comm->size, sizeof *uuids, "the names of the GPUs", (void **)&uuids);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_allgather(comm, uuid, UUID_BYTES, uuids));
    if (find_sharing((const unsigned char(*)[UUID_BYTES])uuids, comm->size, &one, &other))
        fgmm__warn("ranks %d and %d share a GPU: sums go through the host; start one rank a GPU for speed",
                   one, other);
    else if (comm->size > 1)
        FGMM_TRY(connect_gpus(comm));
cleanup:
    free(uuids);
    return status;
}

void fgmm__nccl_destroy(fgmm_comm *comm)
{
    fgmm__nccl *nccl = comm->nccl;
    if (nccl == NULL)
        return;
    comm->nccl = NULL;
    ncclResult_t code = comm->broken ? ncclRemoteError : ncclCommFinalize(nccl->handle);
    bool flushed = (code == ncclSuccess || code == ncclInProgress) &&
                   wait_ready(comm, nccl->handle, "ncclCommFinalize") == FGMM_OK;
    if (flushed)
        ncclCommDestroy(nccl->handle);
    else
        ncclCommAbort(nccl->handle);
    free(nccl);
}

bool fgmm__comm_has_nccl(const fgmm_comm *comm)
{
    return comm->nccl != NULL;
}

/* ---- summing ---- */

/* Waits for all work on the stream. A collective's kernel does not end when a peer is lost: NCCL's state
 * (handle NULL: none) and the signs of life tell. */
static fgmm_status wait_stream(fgmm_comm *comm, ncclComm_t handle, cudaStream_t stream)
{
    fgmm_status status = FGMM_OK;
    fgmm__wait wait = fgmm__wait_begin(0);
    cudaError_t code;
    while ((code = cudaStreamQuery(stream)) == cudaErrorNotReady) {
        bool ready;
        cudaGetLastError(); /* not an error: none for the next check to find */
        if (handle != NULL)
            FGMM_TRY(look_at(comm, handle, "ncclAllReduce", &ready));
        FGMM_TRY(fgmm__wait_step(comm, &wait));
    }
    if (code != cudaSuccess)
        status = fgmm__nccl_cuda_failed(comm, code, "a kernel or copy", __FILE__, __LINE__);
cleanup:
    return status;
}

static fgmm_status sum_by_nccl(fgmm_comm *comm, int64_t *values, size_t count, cudaStream_t stream)
{
    fgmm_status status = FGMM_OK;
    ncclComm_t handle = comm->nccl->handle;
    FGMM_NCCL(comm,
              ncclAllReduce(values, values, count, ncclUint64, ncclSum, handle, stream)); /* unsigned wraps */
    FGMM_TRY(wait_ready(comm, handle, "ncclAllReduce"));
    FGMM_TRY(wait_stream(comm, handle, stream));
cleanup:
    if (status != FGMM_OK) {
        fgmm__comm_break(comm);
        fgmm__nccl_destroy(comm); /* aborts, which ends the kernel that waits for the peers */
    }
    return status;
}

/* Ranks that share a GPU. The sums are the same bits: integers. */
static fgmm_status sum_by_host(fgmm_comm *comm, int64_t *values, size_t count, cudaStream_t stream,
                               int64_t *staging)
{
    fgmm_status status = FGMM_OK;
    for (size_t at = 0; at < count; at += staging_words) {
        size_t words = count - at < staging_words ? count - at : staging_words;
        FGMM_NCCL_CUDA(comm,
                       cudaMemcpyAsync(staging, values + at, 8 * words, cudaMemcpyDeviceToHost, stream));
        FGMM_NCCL_CUDA(comm, cudaStreamSynchronize(stream));
        FGMM_TRY(fgmm__comm_sum_i64(comm, staging, words));
        FGMM_NCCL_CUDA(comm,
                       cudaMemcpyAsync(values + at, staging, 8 * words, cudaMemcpyHostToDevice, stream));
        FGMM_NCCL_CUDA(comm, cudaStreamSynchronize(stream));
    }
cleanup:
    if (status != FGMM_OK)
        fgmm__comm_break(comm);
    return status;
}

fgmm_status fgmm__comm_sum_i64_device(fgmm_comm *comm, int64_t *values, size_t count, void *stream)
{
    fgmm_status status = FGMM_OK;
    int64_t *staging = NULL;
    bool staged = comm->size > 1 && comm->nccl == NULL;
    /* What this rank's own kernels did wrong shows here, where it can still be agreed on. */
    status = wait_stream(comm, NULL, stream);
    if (status == FGMM_OK && staged)
        status = fgmm__alloc(count < staging_words ? count : staging_words, 8, "sums on the host",
                             (void **)&staging);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    if (staged)
        FGMM_TRY(sum_by_host(comm, values, count, stream, staging));
    else if (comm->nccl != NULL && count > 0)
        FGMM_TRY(sum_by_nccl(comm, values, count, stream));
cleanup:
    free(staging);
    return status;
}
