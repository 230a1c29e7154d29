/* Builds without CUDA: there is never a device, so that the functions that take one cannot be reached. */
#include "device/device.h"

#include <assert.h>
#include <stdlib.h>

#include "base/status.h"

static fgmm_status without_cuda(void)
{
    return fgmm__fail(FGMM_ERR_RUNTIME, "this fgmm was built without CUDA; use --backend cpu");
}

int fgmm__device_count(void)
{
    return 0;
}

fgmm_status fgmm__device_open(fgmm_comm *comm, fgmm_backend_kind kind, fgmm_device **out)
{
    (void)comm;
    *out = NULL;
    return kind == FGMM_BACKEND_CUDA ? without_cuda() : FGMM_OK;
}

void fgmm__device_close(fgmm_device *device)
{
    assert(device == NULL);
    (void)device;
}

const char *fgmm__device_name(const fgmm_device *device)
{
    (void)device;
    return "";
}

int64_t fgmm__device_free_bytes(const fgmm_device *device)
{
    (void)device;
    return 0;
}

int64_t fgmm__device_peak_bytes(const fgmm_device *device)
{
    (void)device;
    return 0;
}

int fgmm__device_multiprocessors(const fgmm_device *device)
{
    (void)device;
    return 0;
}

void *fgmm__device_stream(const fgmm_device *device)
{
    (void)device;
    return NULL;
}

void *fgmm__device_copy_stream(const fgmm_device *device)
{
    (void)device;
    return NULL;
}

fgmm_status fgmm__device_alloc(fgmm_device *device, size_t bytes, const char *what, void **out)
{
    (void)device;
    (void)bytes;
    (void)what;
    (void)out;
    return without_cuda();
}

void fgmm__device_free(fgmm_device *device, void *pointer)
{
    (void)device;
    assert(pointer == NULL);
    (void)pointer;
}

fgmm_status fgmm__pinned_alloc(fgmm_device *device, size_t bytes, const char *what, void **out)
{
    (void)device;
    return fgmm__alloc(bytes, 1, what, out);
}

void fgmm__pinned_free(fgmm_device *device, void *pointer)
{
    (void)device;
    free(pointer);
}

fgmm_status fgmm__device_upload(fgmm_device *device, void *to, const void *from_host, size_t bytes,
                                void *stream)
{
    (void)device;
    (void)to;
    (void)from_host;
    (void)bytes;
    (void)stream;
    return without_cuda();
}

fgmm_status fgmm__device_download(fgmm_device *device, void *to_host, const void *from, size_t bytes,
                                  void *stream)
{
    (void)device;
    (void)to_host;
    (void)from;
    (void)bytes;
    (void)stream;
    return without_cuda();
}

fgmm_status fgmm__gpu_event_create(fgmm_device *device, fgmm_gpu_event **out)
{
    (void)device;
    (void)out;
    return without_cuda();
}

void fgmm__gpu_event_destroy(fgmm_gpu_event *event)
{
    assert(event == NULL);
    (void)event;
}

fgmm_status fgmm__gpu_event_record(fgmm_gpu_event *event, void *stream)
{
    (void)event;
    (void)stream;
    return without_cuda();
}

fgmm_status fgmm__stream_wait(void *stream, fgmm_gpu_event *event)
{
    (void)stream;
    (void)event;
    return without_cuda();
}

fgmm_status fgmm__gpu_event_wait(fgmm_gpu_event *event, fgmm_comm *comm)
{
    (void)event;
    (void)comm;
    return without_cuda();
}

fgmm_status fgmm__stream_sync(void *stream, fgmm_comm *comm)
{
    (void)stream;
    (void)comm;
    return without_cuda();
}
