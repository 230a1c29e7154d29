/* Shards on a device made of host memory, at 1 to 4 ranks. Its streams are queues whose work is done at the
 * worst of times: as soon as it may be, only when somebody waits for it, or at random in between. A buffer
 * that is used again too early shows as wrong rows. These definitions of device/device.h take the place of
 * the library's. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/log.h"
#include "base/philox.h"
#include "base/status.h"
#include "support/shard_device.h"

enum { QUEUE = 4096 };
typedef enum { EAGER, LAZY, RANDOM, N_MOODS } mood;

struct fgmm_event_gpu {
    uint64_t recorded, reached; /* how often the record was enqueued, and done */
};

typedef struct {
    enum { COPY, RECORD, WAIT } kind;
    void *to;
    const void *from;
    size_t bytes;
    fgmm_gpu_event *event;
    uint64_t ticket; /* of the event: its record's number */
} operation;

typedef struct {
    operation queue[QUEUE];
    int first, count;
} stream;

struct fgmm_device {
    stream copies, kernels;
    mood mood;
    uint64_t draws;
    int64_t blocks, taken_bytes, peak_bytes; /* blocks of device and host memory, bytes of device memory */
};

static struct fgmm_device the_device;

/* Does the first operation of a stream; false when there is none, or it must wait. */
static bool step(stream *s)
{
    if (s->count == 0)
        return false;
    operation *o = &s->queue[s->first];
    if (o->kind == WAIT && o->event->reached < o->ticket)
        return false;
    if (o->kind == COPY)
        memcpy(o->to, o->from, o->bytes);
    if (o->kind == RECORD)
        o->event->reached = o->ticket;
    s->first = (s->first + 1) % QUEUE;
    s->count--;
    return true;
}

static void enqueue(stream *s, operation o)
{
    if (s->count == QUEUE)
        abort();
    s->queue[(s->first + s->count++) % QUEUE] = o;
    fgmm_device *d = &the_device;
    uint64_t steps = d->mood == EAGER  ? QUEUE
                     : d->mood == LAZY ? 0
                                       : fgmm__philox_below(1, FGMM_RNG_BENCH, d->draws++, 4);
    while (steps-- > 0) {
        bool copies_first = fgmm__philox_below(2, FGMM_RNG_BENCH, d->draws++, 2) == 0;
        if (!step(copies_first ? &d->copies : &d->kernels) && !step(copies_first ? &d->kernels : &d->copies))
            break;
    }
}

/* Both streams go on only as far as the wait needs. */
static void work_until(const stream *empty, const fgmm_gpu_event *event, uint64_t ticket)
{
    while (empty != NULL ? empty->count > 0 : event->reached < ticket) {
        if (!step(empty == &the_device.kernels ? &the_device.kernels : &the_device.copies) &&
            !step(empty == &the_device.kernels ? &the_device.copies : &the_device.kernels))
            abort(); /* the streams wait for each other */
    }
}

int fgmm__device_count(void)
{
    return 1;
}

int64_t fgmm__device_free_bytes(const fgmm_device *device)
{
    (void)device;
    return (int64_t)1 << 40;
}

void *fgmm__device_stream(const fgmm_device *device)
{
    (void)device;
    return &the_device.kernels;
}

void *fgmm__device_copy_stream(const fgmm_device *device)
{
    (void)device;
    return &the_device.copies;
}

int64_t fgmm__device_peak_bytes(const fgmm_device *device)
{
    return device->peak_bytes;
}

/* The size stands before the memory, out of the way of its alignment. */
enum { PREFIX = 64 };

fgmm_status fgmm__device_alloc(fgmm_device *device, size_t bytes, const char *what, void **out)
{
    char *block;
    fgmm_status status = fgmm__alloc(PREFIX + bytes, 1, what, (void **)&block);
    if (status != FGMM_OK)
        return status;
    memcpy(block, &bytes, sizeof bytes);
    device->blocks++;
    device->taken_bytes += (int64_t)bytes;
    if (device->peak_bytes < device->taken_bytes)
        device->peak_bytes = device->taken_bytes;
    *out = block + PREFIX;
    return FGMM_OK;
}

void fgmm__device_free(fgmm_device *device, void *pointer)
{
    if (pointer == NULL)
        return;
    size_t bytes;
    char *block = (char *)pointer - PREFIX;
    memcpy(&bytes, block, sizeof bytes);
    device->blocks--;
    device->taken_bytes -= (int64_t)bytes;
    free(block);
}

fgmm_status fgmm__pinned_alloc(fgmm_device *device, size_t bytes, const char *what, void **out)
{
    fgmm_status status = fgmm__alloc(bytes, 1, what, out);
    device->blocks += status == FGMM_OK;
    return status;
}

void fgmm__pinned_free(fgmm_device *device, void *pointer)
{
    device->blocks -= pointer != NULL;
    free(pointer);
}

fgmm_status fgmm__device_upload(fgmm_device *device, void *to, const void *from, size_t bytes, void *s)
{
    (void)device;
    enqueue(s, (operation){.kind = COPY, .to = to, .from = from, .bytes = bytes});
    return FGMM_OK;
}

fgmm_status fgmm__device_download(fgmm_device *device, void *to, const void *from, size_t bytes, void *s)
{
    return fgmm__device_upload(device, to, from, bytes, s);
}

fgmm_status fgmm__gpu_event_create(fgmm_device *device, fgmm_gpu_event **out)
{
    (void)device;
    return fgmm__alloc(1, sizeof **out, "an event", (void **)out);
}

void fgmm__gpu_event_destroy(fgmm_gpu_event *event)
{
    free(event);
}

fgmm_status fgmm__gpu_event_record(fgmm_gpu_event *event, void *s)
{
    event->recorded++;
    enqueue(s, (operation){.kind = RECORD, .event = event, .ticket = event->recorded});
    return FGMM_OK;
}

fgmm_status fgmm__stream_wait(void *s, fgmm_gpu_event *event)
{
    enqueue(s, (operation){.kind = WAIT, .event = event, .ticket = event->recorded});
    return FGMM_OK;
}

fgmm_status fgmm__gpu_event_wait(fgmm_gpu_event *event, fgmm_comm *comm)
{
    work_until(NULL, event, event->recorded);
    return comm != NULL ? fgmm__comm_tick(comm) : FGMM_OK;
}

fgmm_status fgmm__stream_sync(void *s, fgmm_comm *comm)
{
    (void)comm;
    work_until(s, NULL, 0);
    return FGMM_OK;
}

int main(int argc, char **argv)
{
    int provided, rank, failed = 0;
    fgmm_comm *comm = NULL;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    fgmm__log_init(rank, -1, FGMM_PROGRESS_NEVER);
    if (fgmm_comm_create(MPI_COMM_WORLD, 60, &comm) != FGMM_OK)
        return 1;
    for (int m = EAGER; m < N_MOODS; m++) {
        the_device = (struct fgmm_device){.mood = (mood)m};
        failed += fgmm_test_shard_on_device(comm, &the_device);
        failed += the_device.blocks != 0; /* all memory was given back */
    }
    fgmm_comm_destroy(comm);
    MPI_Finalize();
    return failed;
}
