/* Copies between pageable host memory and the device through one pinned buffer. The runtime would wait for
 * the stream before it copies pageable memory, and copy it no faster. */
#include "backend/cuda_backend.h"

#include <string.h>

enum {
    STAGING_LEAST = 1 << 20,
    STAGING_MOST = 32 << 20,
    STAGING_ALIGNMENT = 64,
    SHARE = 256 << 10, /* of a copy, for one thread */
    COPIERS = 8        /* threads of a copy through the buffer: more do not start sooner */
};

/* Makes the buffer at least so large and empty; all copies under way end first. */
static fgmm_status renew(fgmm__cuda_backend *cuda, size_t bytes)
{
    fgmm_status status = FGMM_OK;
    void *pointer = NULL;
    FGMM_TRY(fgmm__stream_sync(cuda->stream, cuda->base.comm));
    cuda->staging.used = 0;
    if (cuda->staging.bytes >= bytes)
        goto cleanup;
    fgmm__cuda_staging_free(cuda);
    FGMM_TRY(fgmm__pinned_alloc(cuda->base.device, bytes, "copies to and from the device", &pointer));
    cuda->staging.pointer = pointer;
    cuda->staging.bytes = bytes;
cleanup:
    return status;
}

/* Twice what is in use and asked for, within the limits: the next E-step finds room for all of its copies. */
static size_t roomy(size_t bytes)
{
    return bytes < STAGING_LEAST / 2 ? STAGING_LEAST : bytes > STAGING_MOST / 2 ? STAGING_MOST : 2 * bytes;
}

fgmm_status fgmm__cuda_stage(fgmm__cuda_backend *cuda, size_t bytes, void *out)
{
    fgmm_status status = FGMM_OK;
    if (cuda->staging.used + bytes > cuda->staging.bytes)
        FGMM_TRY(renew(cuda, roomy(cuda->staging.used + bytes)));
    char *place = cuda->staging.pointer + cuda->staging.used;
    cuda->staging.used += (bytes + STAGING_ALIGNMENT - 1) / STAGING_ALIGNMENT * STAGING_ALIGNMENT;
    memcpy(out, &place, sizeof place);
cleanup:
    return status;
}

static int copiers(const fgmm__cuda_backend *cuda)
{
    return cuda->base.threads < COPIERS ? cuda->base.threads : COPIERS;
}

/* Threads copy pieces to the buffer and send them on. */
static fgmm_status upload_shared(fgmm__cuda_backend *cuda, char *to, char *place, const char *from,
                                 size_t bytes)
{
    int failed = FGMM_OK;
#pragma omp parallel for schedule(static) num_threads(copiers(cuda))
    for (size_t at = 0; at < bytes; at += SHARE) {
        size_t piece = bytes - at < SHARE ? bytes - at : SHARE;
        memcpy(place + at, from + at, piece);
        fgmm_status status = fgmm__device_upload(cuda->base.device, to + at, place + at, piece, cuda->stream);
        if (status != FGMM_OK) {
#pragma omp atomic write
            failed = status;
        }
    }
    return (fgmm_status)failed;
}

fgmm_status fgmm__cuda_upload(fgmm__cuda_backend *cuda, void *to, const void *from, size_t bytes)
{
    fgmm_status status = FGMM_OK;
    void *place = NULL;
    if (bytes > STAGING_MOST)
        return fgmm__device_upload(cuda->base.device, to, from, bytes, cuda->stream);
    FGMM_TRY(fgmm__cuda_stage(cuda, bytes, &place));
    if (bytes > 2 * SHARE)
        return upload_shared(cuda, to, place, from, bytes);
    memcpy(place, from, bytes);
    FGMM_TRY(fgmm__device_upload(cuda->base.device, to, place, bytes, cuda->stream));
cleanup:
    return status;
}

/* With all threads: one alone copies slower than the bus. */
static void copy_home(const fgmm__cuda_backend *cuda, char *to, const char *from, size_t bytes)
{
#pragma omp parallel for schedule(static) num_threads(copiers(cuda)) if (bytes > 2 * SHARE)
    for (size_t at = 0; at < bytes; at += SHARE)
        memcpy(to + at, from + at, bytes - at < SHARE ? bytes - at : SHARE);
}

/* Piece by piece through the halves of the buffer: while one is on its way, the one before is copied. */
static fgmm_status download_long(fgmm__cuda_backend *cuda, char *to, const char *from, size_t bytes)
{
    fgmm_status status = FGMM_OK;
    const size_t most = STAGING_MOST / 2, pieces = (bytes + most - 1) / most;
    FGMM_TRY(renew(cuda, STAGING_MOST));
    for (size_t i = 0; i <= pieces; i++) {
        if (i < pieces) {
            size_t at = i * most, piece = bytes - at < most ? bytes - at : most;
            FGMM_TRY(fgmm__device_download(cuda->base.device, cuda->staging.pointer + i % 2 * most, from + at,
                                           piece, cuda->stream));
            FGMM_TRY(fgmm__gpu_event_record(cuda->staging.ready[i % 2], cuda->stream));
        }
        if (i > 0) {
            size_t at = (i - 1) * most, piece = bytes - at < most ? bytes - at : most;
            FGMM_TRY(fgmm__gpu_event_wait(cuda->staging.ready[(i - 1) % 2], cuda->base.comm));
            copy_home(cuda, to + at, cuda->staging.pointer + (i - 1) % 2 * most, piece);
        }
    }
cleanup:
    return status;
}

fgmm_status fgmm__cuda_download(fgmm__cuda_backend *cuda, void *to, const void *from, size_t bytes)
{
    return fgmm__cuda_downloads(cuda, &(fgmm__cuda_copy){to, from, bytes}, 1);
}

/* Uploads that are still on their way read the buffer before these copies, in the order of the stream, write
 * it. */
fgmm_status fgmm__cuda_downloads(fgmm__cuda_backend *cuda, const fgmm__cuda_copy *copies, int n)
{
    fgmm_status status = FGMM_OK;
    size_t total = 0, at = 0;
    for (int i = 0; i < n; i++)
        total += copies[i].bytes;
    if (total > STAGING_MOST) {
        for (int i = 0; i < n; i++)
            FGMM_TRY(download_long(cuda, copies[i].to, copies[i].from, copies[i].bytes));
        goto cleanup;
    }
    if (cuda->staging.bytes < total)
        FGMM_TRY(renew(cuda, roomy(total)));
    for (int i = 0; i < n; at += copies[i++].bytes)
        FGMM_TRY(fgmm__device_download(cuda->base.device, cuda->staging.pointer + at, copies[i].from,
                                       copies[i].bytes, cuda->stream));
    FGMM_TRY(fgmm__stream_sync(cuda->stream, cuda->base.comm));
    cuda->staging.used = 0;
    at = 0;
    for (int i = 0; i < n; at += copies[i++].bytes)
        copy_home(cuda, copies[i].to, cuda->staging.pointer + at, copies[i].bytes);
cleanup:
    return status;
}

void fgmm__cuda_staging_free(fgmm__cuda_backend *cuda)
{
    fgmm__pinned_free(cuda->base.device, cuda->staging.pointer);
    cuda->staging.pointer = NULL;
    cuda->staging.bytes = cuda->staging.used = 0;
}
