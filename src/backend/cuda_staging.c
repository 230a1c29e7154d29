/* Copies between pageable host memory and the device through one pinned buffer. The runtime would wait for
 * the stream before it copies pageable memory, and copy it no faster. */
#include "backend/cuda_backend.h"

#include <string.h>

enum { STAGING_LEAST = 1 << 20, STAGING_MOST = 32 << 20, STAGING_ALIGNMENT = 64 };

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

fgmm_status fgmm__cuda_upload(fgmm__cuda_backend *cuda, void *to, const void *from, size_t bytes)
{
    fgmm_status status = FGMM_OK;
    if (bytes > STAGING_MOST)
        return fgmm__device_upload(cuda->base.device, to, from, bytes, cuda->stream);
    if (cuda->staging.used + bytes > cuda->staging.bytes)
        FGMM_TRY(renew(cuda, roomy(cuda->staging.used + bytes)));
    char *place = cuda->staging.pointer + cuda->staging.used;
    memcpy(place, from, bytes);
    cuda->staging.used += (bytes + STAGING_ALIGNMENT - 1) / STAGING_ALIGNMENT * STAGING_ALIGNMENT;
    FGMM_TRY(fgmm__device_upload(cuda->base.device, to, place, bytes, cuda->stream));
cleanup:
    return status;
}

/* Uploads that are still on their way read the buffer before this copy, in the order of the stream, writes
 * it. */
fgmm_status fgmm__cuda_download(fgmm__cuda_backend *cuda, void *to, const void *from, size_t bytes)
{
    fgmm_status status = FGMM_OK;
    bool staged = bytes <= STAGING_MOST;
    if (staged && cuda->staging.bytes < bytes)
        FGMM_TRY(renew(cuda, roomy(bytes)));
    FGMM_TRY(fgmm__device_download(cuda->base.device, staged ? cuda->staging.pointer : to, from, bytes,
                                   cuda->stream));
    FGMM_TRY(fgmm__stream_sync(cuda->stream, cuda->base.comm));
    cuda->staging.used = 0;
    if (staged)
        memcpy(to, cuda->staging.pointer, bytes);
cleanup:
    return status;
}

void fgmm__cuda_staging_free(fgmm__cuda_backend *cuda)
{
    fgmm__pinned_free(cuda->base.device, cuda->staging.pointer);
    cuda->staging.pointer = NULL;
    cuda->staging.bytes = cuda->staging.used = 0;
}
