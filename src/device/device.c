/* The GPU of a rank through the CUDA runtime. */
#include "device/device.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/backoff.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "device/cuda_check.h"

enum { PLACE_BYTES = 512, OLDEST_MAJOR = 8 };

typedef struct allocation {
    void *pointer;
    int64_t bytes;
    struct allocation *next;
} allocation;

struct fgmm_device {
    int index; /* among the devices this process sees */
    char name[256];
    int multiprocessors;
    cudaStream_t stream, copy_stream;
    pthread_mutex_t lock; /* of what follows: buffers may be taken from any thread */
    allocation *allocations;
    int64_t taken_bytes, peak_bytes;
    bool pinning_failed; /* said once */
};

struct fgmm_event_gpu {
    cudaEvent_t event;
};

/* Which GPU messages speak of; a process has one. */
static char place[PLACE_BYTES] = "GPU";

fgmm_status fgmm__cuda_failed(cudaError_t code, const char *call, const char *file, int line)
{
    const char *base = strrchr(file, '/');
    cudaGetLastError(); /* an error that is not for good must not be found again by the next check */
    return fgmm__fail(FGMM_ERR_RUNTIME, "%s: %.*s failed: %s (%s:%d)", place, (int)strcspn(call, "("), call,
                      cudaGetErrorString(code), base ? base + 1 : file, line);
}

/* ---- choice ---- */

/* Without a driver cudaGetDeviceCount fails and leaves the count as it was. */
static int count_devices(cudaError_t *reason)
{
    int count = 0;
    *reason = cudaGetDeviceCount(&count);
    if (*reason == cudaSuccess)
        return count;
    cudaGetLastError();
    return 0;
}

int fgmm__device_count(void)
{
    cudaError_t reason;
    return count_devices(&reason);
}

/* Collective: whether the ranks compute on GPUs. */
static fgmm_status choose(fgmm_comm *comm, fgmm_backend_kind kind, bool *use)
{
    fgmm_status status = FGMM_OK;
    cudaError_t reason;
    int size = fgmm_comm_size(comm);
    int64_t with_gpu = count_devices(&reason) > 0;
    *use = false;
    if (kind == FGMM_BACKEND_CUDA && !with_gpu)
        status = fgmm__fail(FGMM_ERR_RUNTIME, "rank %d on host %s sees no GPU: %s; use --backend cpu",
                            fgmm_comm_rank(comm), fgmm__comm_host(comm),
                            reason == cudaSuccess ? "no device" : cudaGetErrorString(reason));
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_sum_i64(comm, &with_gpu, 1));
    *use = with_gpu == size;
    if (with_gpu > 0 && with_gpu < size)
        fgmm__warn("only %lld of %d ranks see a GPU: computing on the CPU", (long long)with_gpu, size);
cleanup:
    return status;
}

/* Local: takes the GPU that falls to this rank of the node. */
static fgmm_status take_device(const fgmm_comm *comm, fgmm_device **out, unsigned char uuid[16])
{
    fgmm_status status = FGMM_OK;
    fgmm_device *device = NULL;
    struct cudaDeviceProp properties;
    FGMM_ALLOC(device, 1, "the device");
    *out = device; /* the caller closes it, also after a failure */
    pthread_mutex_init(&device->lock, NULL);
    device->index = fgmm__comm_node_rank(comm) % fgmm__device_count();
    snprintf(place, sizeof place, "GPU %d of rank %d on host %s", device->index, fgmm_comm_rank(comm),
             fgmm__comm_host(comm));
    FGMM_CUDA(cudaSetDevice(device->index));
    FGMM_CUDA(cudaGetDeviceProperties(&properties, device->index));
    snprintf(place, sizeof place, "GPU %d (%s) of rank %d on host %s", device->index, properties.name,
             fgmm_comm_rank(comm), fgmm__comm_host(comm));
    if (properties.major < OLDEST_MAJOR)
        FGMM_FAIL(FGMM_ERR_RUNTIME,
                  "%s: compute capability %d.%d is too old, %d.0 is needed; use --backend cpu", place,
                  properties.major, properties.minor, OLDEST_MAJOR);
    snprintf(device->name, sizeof device->name, "%s", properties.name);
    device->multiprocessors = properties.multiProcessorCount;
    memcpy(uuid, properties.uuid.bytes, 16);
    FGMM_CUDA(cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking));
    FGMM_CUDA(cudaStreamCreateWithFlags(&device->copy_stream, cudaStreamNonBlocking));
cleanup:
    return status;
}

fgmm_status fgmm__device_open(fgmm_comm *comm, fgmm_backend_kind kind, fgmm_device **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_device *device = NULL;
    unsigned char uuid[16] = {0};
    bool use = false;
    *out = NULL;
    if (kind == FGMM_BACKEND_CPU)
        return FGMM_OK;
    FGMM_TRY(choose(comm, kind, &use));
    if (!use)
        goto cleanup;
    status = take_device(comm, &device, uuid);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_attach_gpu(comm, uuid));
    *out = device;
    device = NULL;
cleanup:
    fgmm__device_close(device);
    return status;
}

void fgmm__device_close(fgmm_device *device)
{
    if (device == NULL)
        return;
    while (device->allocations != NULL)
        fgmm__device_free(device, device->allocations->pointer);
    if (device->stream != NULL)
        cudaStreamDestroy(device->stream);
    if (device->copy_stream != NULL)
        cudaStreamDestroy(device->copy_stream);
    pthread_mutex_destroy(&device->lock);
    free(device);
}

const char *fgmm__device_name(const fgmm_device *device)
{
    return device->name;
}

int64_t fgmm__device_free_bytes(const fgmm_device *device)
{
    size_t free_bytes = 0, total_bytes = 0;
    cudaSetDevice(device->index);
    return cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess ? (int64_t)free_bytes : 0;
}

int64_t fgmm__device_peak_bytes(const fgmm_device *device)
{
    return device->peak_bytes;
}

int fgmm__device_multiprocessors(const fgmm_device *device)
{
    return device->multiprocessors;
}

void *fgmm__device_stream(const fgmm_device *device)
{
    return device->stream;
}

void *fgmm__device_copy_stream(const fgmm_device *device)
{
    return device->copy_stream;
}

/* ---- memory ---- */

fgmm_status fgmm__device_alloc(fgmm_device *device, size_t bytes, const char *what, void **out)
{
    fgmm_status status = FGMM_OK;
    allocation *entry = NULL;
    FGMM_ALLOC(entry, 1, what);
    FGMM_CUDA(cudaSetDevice(device->index)); /* the current device is a thread's own */
    cudaError_t code = cudaMalloc(&entry->pointer, bytes > 0 ? bytes : 1);
    if (code == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: out of device memory: %.3f GiB for %s, %.3f GiB are free", place,
                  (double)bytes / (1 << 30), what, (double)fgmm__device_free_bytes(device) / (1 << 30));
    }
    if (code != cudaSuccess) {
        status = fgmm__cuda_failed(code, "cudaMalloc", __FILE__, __LINE__);
        goto cleanup;
    }
    entry->bytes = (int64_t)bytes;
    *out = entry->pointer;
    pthread_mutex_lock(&device->lock);
    entry->next = device->allocations;
    device->allocations = entry;
    device->taken_bytes += entry->bytes;
    if (device->taken_bytes > device->peak_bytes)
        device->peak_bytes = device->taken_bytes;
    pthread_mutex_unlock(&device->lock);
    entry = NULL;
cleanup:
    free(entry);
    return status;
}

void fgmm__device_free(fgmm_device *device, void *pointer)
{
    if (pointer == NULL)
        return;
    pthread_mutex_lock(&device->lock);
    allocation **link = &device->allocations;
    while (*link != NULL && (*link)->pointer != pointer)
        link = &(*link)->next;
    allocation *entry = *link;
    if (entry != NULL) {
        *link = entry->next;
        device->taken_bytes -= entry->bytes;
    }
    pthread_mutex_unlock(&device->lock);
    free(entry);
    cudaSetDevice(device->index);
    cudaFree(pointer);
}

/* True for the first buffer that could not be pinned. */
static bool first_pinning_failure(fgmm_device *device)
{
    pthread_mutex_lock(&device->lock);
    bool first = !device->pinning_failed;
    device->pinning_failed = true;
    pthread_mutex_unlock(&device->lock);
    return first;
}

fgmm_status fgmm__pinned_alloc(fgmm_device *device, size_t bytes, const char *what, void **out)
{
    if (device == NULL)
        return fgmm__alloc(bytes, 1, what, out);
    cudaSetDevice(device->index);
    cudaError_t code = cudaHostAlloc(out, bytes > 0 ? bytes : 1, cudaHostAllocPortable);
    if (code == cudaSuccess)
        return FGMM_OK;
    cudaGetLastError();
    *out = NULL;
    if (first_pinning_failure(device))
        fgmm__warn("%s: %.3f GiB of host memory for %s could not be pinned (%s): copies will be slower",
                   place, (double)bytes / (1 << 30), what, cudaGetErrorString(code));
    return fgmm__alloc(bytes, 1, what, out);
}

fgmm_status fgmm__mapped_alloc(fgmm_device *device, size_t bytes, const char *what, void **out)
{
    fgmm_status status = FGMM_OK;
    cudaSetDevice(device->index);
    cudaError_t code = cudaHostAlloc(out, bytes, cudaHostAllocPortable | cudaHostAllocMapped);
    if (code != cudaSuccess) {
        cudaGetLastError();
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: %zu bytes of host memory for %s could not be pinned (%s)", place,
                  bytes, what, cudaGetErrorString(code));
    }
cleanup:
    return status;
}

void fgmm__pinned_free(fgmm_device *device, void *pointer)
{
    struct cudaPointerAttributes attributes = {.type = cudaMemoryTypeUnregistered};
    if (device == NULL || pointer == NULL) {
        free(pointer);
        return;
    }
    /* Pinned or fallen back to plain memory: the driver knows. */
    cudaSetDevice(device->index);
    cudaPointerGetAttributes(&attributes, pointer);
    if (attributes.type == cudaMemoryTypeHost)
        cudaFreeHost(pointer);
    else
        free(pointer);
}

static fgmm_status copy(fgmm_device *device, void *to, const void *from, size_t bytes,
                        enum cudaMemcpyKind kind, void *stream)
{
    fgmm_status status = FGMM_OK;
    FGMM_CUDA(cudaSetDevice(device->index));
    FGMM_CUDA(cudaMemcpyAsync(to, from, bytes, kind, stream));
cleanup:
    return status;
}

fgmm_status fgmm__device_upload(fgmm_device *device, void *to, const void *from_host, size_t bytes,
                                void *stream)
{
    return copy(device, to, from_host, bytes, cudaMemcpyHostToDevice, stream);
}

fgmm_status fgmm__device_download(fgmm_device *device, void *to_host, const void *from, size_t bytes,
                                  void *stream)
{
    return copy(device, to_host, from, bytes, cudaMemcpyDeviceToHost, stream);
}

/* ---- order and waiting ---- */

fgmm_status fgmm__gpu_event_create(fgmm_device *device, fgmm_gpu_event **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_gpu_event *event = NULL;
    FGMM_ALLOC(event, 1, "a GPU event");
    FGMM_CUDA(cudaSetDevice(device->index));
    FGMM_CUDA(cudaEventCreateWithFlags(&event->event, cudaEventDisableTiming));
    *out = event;
    event = NULL;
cleanup:
    free(event);
    return status;
}

void fgmm__gpu_event_destroy(fgmm_gpu_event *event)
{
    if (event == NULL)
        return;
    cudaEventDestroy(event->event);
    free(event);
}

fgmm_status fgmm__gpu_event_record(fgmm_gpu_event *event, void *stream)
{
    fgmm_status status = FGMM_OK;
    FGMM_CUDA(cudaEventRecord(event->event, stream));
cleanup:
    return status;
}

fgmm_status fgmm__stream_wait(void *stream, fgmm_gpu_event *event)
{
    fgmm_status status = FGMM_OK;
    FGMM_CUDA(cudaStreamWaitEvent(stream, event->event, 0));
cleanup:
    return status;
}

static cudaError_t query_event(void *event)
{
    return cudaEventQuery(event);
}

static cudaError_t query_stream(void *stream)
{
    return cudaStreamQuery(stream);
}

/* Polls until the work is done, whatever the ticks say: buffers that a caller then frees are out of use.
 * *ticked is the first tick that was not FGMM_OK. */
static fgmm_status wait_until_done(cudaError_t (*query)(void *), void *handle, fgmm_comm *comm,
                                   fgmm_status *ticked)
{
    double since = fgmm__seconds();
    cudaError_t code;
    while ((code = query(handle)) == cudaErrorNotReady) {
        cudaGetLastError(); /* the next check of a launch must not take it for an error */
        fgmm_status tick = comm != NULL ? fgmm__comm_tick(comm) : FGMM_OK;
        if (*ticked == FGMM_OK)
            *ticked = tick;
        fgmm__backoff(fgmm__seconds() - since, 4e-3); /* kernels that somebody waits for end within */
    }
    return code == cudaSuccess ? FGMM_OK : fgmm__cuda_failed(code, "a kernel or copy", __FILE__, __LINE__);
}

fgmm_status fgmm__gpu_event_wait(fgmm_gpu_event *event, fgmm_comm *comm)
{
    fgmm_status ticked = FGMM_OK;
    fgmm_status status = wait_until_done(query_event, event->event, comm, &ticked);
    return status != FGMM_OK ? status : ticked;
}

fgmm_status fgmm__stream_sync(void *stream, fgmm_comm *comm)
{
    fgmm_status ticked = FGMM_OK;
    return wait_until_done(query_stream, stream, comm, &ticked);
}
