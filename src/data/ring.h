/* A ring of host buffers that reader threads fill ahead with the tiles of a range of rows. */
#ifndef FGMM_DATA_RING_H
#define FGMM_DATA_RING_H

#include "comm/comm.h"
#include "data/residency.h"
#include "device/device.h"
#include "fgmm/dataset.h"

typedef struct fgmm_ring fgmm_ring;

/* Starts the threads, which wait for work. tile_rows: rows a tile. buffers false: no memory, for runs into
 * the caller's. Pinned when there is a device. Everything below is called from one thread. */
fgmm_status fgmm__ring_create(const fgmm_dataset *dataset, fgmm_device *device, int64_t tile_rows,
                              bool buffers, int n_threads, fgmm_ring **out);
void fgmm__ring_destroy(fgmm_ring *ring); /* accepts NULL; ends a run that is under way */

/* Begins a run over global rows [begin, end), cut into tiles from `begin` on; one under way is ended first.
 * into: rows are read to their place in this memory ([end - begin] rows), else into the buffers. */
void fgmm__ring_start(fgmm_ring *ring, int64_t begin, int64_t end, void *into);
/* Whether the threads also refuse rows with a NaN or an infinity (fgmm__dataset_check_finite), from the next
 * run on; they do not at first. */
void fgmm__ring_check_rows(fgmm_ring *ring, bool check);
void fgmm__ring_stop(fgmm_ring *ring); /* returns when no thread writes any more */

/* Whether a tile of the run (numbered from 0) is there. */
bool fgmm__ring_ready(fgmm_ring *ring, int64_t tile);
/* Waits for a tile, ticking comm (may be NULL) meanwhile: the first failed read, or the tick's status. */
fgmm_status fgmm__ring_wait(fgmm_ring *ring, int64_t tile, fgmm_comm *comm, void **rows);
/* Tiles below `tile` are done with: their buffers may be overwritten. */
void fgmm__ring_release(fgmm_ring *ring, int64_t tile);
/* The first buffer, for other uses between runs. */
void *fgmm__ring_buffer(fgmm_ring *ring);
/* Seconds in which at least one thread was reading, so far. */
double fgmm__ring_read_seconds(fgmm_ring *ring);

#endif
