/* The inside of a shard, shared by shard.c (its life), load.c (the first pass) and pass.c (all others). */
#ifndef FGMM_DATA_SHARD_INTERNAL_H
#define FGMM_DATA_SHARD_INTERNAL_H

#include "data/residency.h"
#include "data/ring.h"
#include "data/shard.h"

/* A device buffer through which tiles pass on their way to the kernels. */
typedef struct {
    void *rows;             /* [tile_rows][dim], device; NULL when all rows live on the device */
    fgmm_gpu_event *copied; /* the tile is here (copy stream) */
    fgmm_gpu_event *done;   /* the kernels are done with it (kernel stream) */
} fgmm_shard_slot;

/* Where the tile that was handed out last lies. */
typedef enum { FGMM_TILE_NONE, FGMM_TILE_RESIDENT, FGMM_TILE_RING, FGMM_TILE_SLOT } fgmm_tile_place;

typedef struct {
    bool host;            /* tiles are wanted in host memory */
    bool ring_started;    /* reading of the streamed rows is under way */
    int64_t position;     /* first global row of the next tile */
    int64_t ring_begin;   /* first global row that comes through the ring */
    fgmm_tile_place last; /* of the tile before it, and where that began */
    int64_t last_begin;
    int64_t uploaded, handed; /* tiles enqueued for upload to slots, and of these handed out */
    int64_t upload_position;  /* first global row of the next tile to upload */
    double started;
} fgmm_shard_pass;

struct fgmm_shard {
    const fgmm_dataset *dataset;
    fgmm_comm *comm;
    fgmm_device *device; /* NULL: CPU backend */
    int64_t begin, end;
    int64_t host_begin, stream_begin; /* [begin, host_begin) on the device, [host_begin, stream_begin) in host
                                         memory, the rest in files */
    size_t row_bytes;
    fgmm_layout layout;
    char where[64];
    char *device_rows, *host_rows; /* resident memory, NULL where there is none */
    int64_t host_bytes;            /* taken for resident rows and buffers */
    fgmm_ring *ring;
    bool streamed_seen; /* all streamed rows were looked at for NaN and infinities */
    fgmm_shard_slot slots[FGMM_DEVICE_BUFFERS];
    fgmm_shard_pass pass;
    fgmm_shard_times times;
};

/* Ends what is under way: reader threads, copies, and kernels on the shard's buffers. comm may be NULL: no
 * ticks. */
fgmm_status fgmm__shard_quiesce(fgmm_shard *shard, fgmm_comm *comm);
/* fgmm__ring_wait, its time booked. */
fgmm_status fgmm__shard_wait_read(fgmm_shard *shard, int64_t tile, void **rows);
/* fgmm__gpu_event_wait on a copy, its time booked. */
fgmm_status fgmm__shard_wait_copy(fgmm_shard *shard, fgmm_gpu_event *event);

#endif
