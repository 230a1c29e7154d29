/* The GPU of a rank: choice, memory, streams, events. Compiled without CUDA (device_none.c) it reports no
 * device. */
#ifndef FGMM_DEVICE_DEVICE_H
#define FGMM_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/comm.h"
#include "fgmm/types.h"

typedef struct fgmm_device fgmm_device;

/* Number of GPUs visible to this process; 0 without a driver or without CUDA in the build. Local. */
int fgmm__device_count(void);

/* Collective. FGMM_BACKEND_AUTO: CUDA if every rank sees a GPU (a warning if only some do), else *out = NULL
 * (the CPU). FGMM_BACKEND_CUDA without a GPU: FGMM_ERR_RUNTIME with the driver's word. Picks device = node
 * rank modulo visible devices, attaches it to comm (UUIDs, NCCL). */
fgmm_status fgmm__device_open(fgmm_comm *comm, fgmm_backend_kind kind, fgmm_device **out);
void fgmm__device_close(fgmm_device *device); /* accepts NULL */

const char *fgmm__device_name(const fgmm_device *device);
int64_t fgmm__device_free_bytes(const fgmm_device *device);
int64_t fgmm__device_peak_bytes(
    const fgmm_device *device); /* most bytes taken through fgmm__device_alloc at one time */
int fgmm__device_multiprocessors(const fgmm_device *device);
void *fgmm__device_stream(const fgmm_device *device);      /* cudaStream_t of kernels */
void *fgmm__device_copy_stream(const fgmm_device *device); /* cudaStream_t of copies to the device */

fgmm_status fgmm__device_alloc(fgmm_device *device, size_t bytes, const char *what, void **out);
void fgmm__device_free(fgmm_device *device,
                       void *pointer); /* accepts NULL; the pointer came from fgmm__device_alloc */
fgmm_status fgmm__pinned_alloc(fgmm_device *device, size_t bytes, const char *what,
                               void **out); /* device NULL: plain memory */
/* Host memory that kernels write; there is no other where it cannot be pinned. Freed by fgmm__pinned_free. Of
 * a device alone. */
fgmm_status fgmm__mapped_alloc(fgmm_device *device, size_t bytes, const char *what, void **out);
void fgmm__pinned_free(fgmm_device *device, void *pointer);

/* Asynchronous on the copy stream / the kernel stream. */
fgmm_status fgmm__device_upload(fgmm_device *device, void *to, const void *from_host, size_t bytes,
                                void *stream);
fgmm_status fgmm__device_download(fgmm_device *device, void *to_host, const void *from, size_t bytes,
                                  void *stream);

typedef struct fgmm_event_gpu fgmm_gpu_event;
fgmm_status fgmm__gpu_event_create(fgmm_device *device, fgmm_gpu_event **out);
void fgmm__gpu_event_destroy(fgmm_gpu_event *event);
fgmm_status fgmm__gpu_event_record(fgmm_gpu_event *event, void *stream);
fgmm_status fgmm__stream_wait(void *stream, fgmm_gpu_event *event); /* the stream waits, not the host */
/* The host waits until the event has happened, ticking `comm` meanwhile (comm may be NULL); then returns the
 * first tick's status that was not FGMM_OK. */
fgmm_status fgmm__gpu_event_wait(fgmm_gpu_event *event, fgmm_comm *comm);
/* The host waits for all work of a stream, ticking likewise, and returns the first error of any kernel on it,
 * but no tick's status. */
fgmm_status fgmm__stream_sync(void *stream, fgmm_comm *comm);

#endif
