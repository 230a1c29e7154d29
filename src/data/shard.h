/* A rank's shard of the dataset and the passes over it. The shard lives on the device, in host memory, or in
 * its files (read again in every pass); reading, copying and computing overlap through a ring of buffers. */
#ifndef FGMM_DATA_SHARD_H
#define FGMM_DATA_SHARD_H

#include "data/tile.h"
#include "device/device.h"
#include "fgmm/dataset.h"

typedef struct fgmm_shard fgmm_shard;

typedef struct {
    fgmm_residency residency;    /* FGMM_RESIDENCY_DEVICE on the CPU backend means host */
    int64_t device_memory_bytes; /* caps of this rank; 0: what the device has free, less a reserve */
    int64_t host_memory_bytes; /* 0: what the node has available (cgroup limits heeded), divided by its ranks,
                                  less a reserve */
    bool cap_whole_process;    /* what this process holds already counts toward host_memory_bytes, as a user
                                  would count it */
    int64_t tile_rows;         /* 0: by size; rounded up to whole quanta */
    int64_t backend_bytes;     /* device (CUDA) or host (CPU) memory the backend needs beside the shard */
    int64_t reserved_bytes;    /* host memory that others will take of the cap */
} fgmm_shard_options;

/* Collective: residency is decided alike on all ranks (the weakest decides) and agreed. `device` NULL: CPU
 * backend. Nothing is read yet. FGMM_ERR_INPUT when a forced residency does not fit its cap. The dataset
 * stays the caller's and outlives the shard. */
fgmm_status fgmm__shard_create(const fgmm_dataset *dataset, fgmm_comm *comm, fgmm_device *device,
                               const fgmm_shard_options *options, fgmm_shard **out);
void fgmm__shard_destroy(fgmm_shard *shard); /* accepts NULL */

int64_t fgmm__shard_begin(const fgmm_shard *shard); /* global rows [begin, end) of this rank */
int64_t fgmm__shard_end(const fgmm_shard *shard);
const char *fgmm__shard_where(
    const fgmm_shard *shard); /* "device", "host", "stream", or a mix: "device 60 %, stream 40 %" */
int64_t fgmm__shard_peak_host_bytes(const fgmm_shard *shard); /* buffers and resident rows */

/* Collective: the first pass. Reads every row once, fills resident memory, finds the range of each dimension
 * over all ranks (min, max: [dim], may be NULL) and refuses NaN and infinities ("FILE: row R holds a NaN
 * (column C)", FGMM_ERR_INPUT; R counts in the file; its number in the data as a whole is added where that is
 * another). To be called once, before the first pass. Shows progress. FGMM_STOPPED on request. */
fgmm_status fgmm__shard_load(fgmm_shard *shard, double *min, double *max);

/* The same for the resident rows alone, without a range: streamed rows are not read before the first pass,
 * whose reader threads look at them and refuse what `load` would (so does every pass until one came to its
 * end). */
fgmm_status fgmm__shard_load_resident(fgmm_shard *shard);

/* A pass: start, then next until tile->rows is 0. Local. `next` hands out tiles in row order; a tile's memory
 * is valid until the work that was enqueued on the device's stream before the following `next` call is done
 * (CUDA), or until the following `next` call (CPU). It ticks the communicator and returns FGMM_STOPPED or the
 * tick's failure; the pass is then over. */
fgmm_status fgmm__shard_start(fgmm_shard *shard);
/* From global row `row` of the shard on, a multiple of FGMM_QUANTUM. */
fgmm_status fgmm__shard_start_at(fgmm_shard *shard, int64_t row);
fgmm_status fgmm__shard_next(fgmm_shard *shard, fgmm_tile *tile);
/* Host copy of tiles: as next, but data is always host memory (for packing rows in list building). */
fgmm_status fgmm__shard_start_host(fgmm_shard *shard);

/* What set the pace of the passes so far: seconds spent waiting for reads, for copies, and in all; and those
 * in which reader threads were at work. */
typedef struct {
    double read_wait_seconds, copy_wait_seconds, pass_seconds, read_seconds;
    int64_t bytes_read, bytes_copied;
} fgmm_shard_times;
void fgmm__shard_times(const fgmm_shard *shard, fgmm_shard_times *out);

#endif
