#include "data/shard_internal.h"

#include <omp.h>
#include <stdlib.h>
#include "base/clock.h"
#include "data/memory.h"
#include "data/partition.h"

/* A tenth of what is free stays free: for the program itself, the file cache, and everybody's misjudgement.
 */
static int64_t less_reserve(int64_t bytes)
{
    return bytes - bytes / 10;
}

static int64_t host_cap(const fgmm_shard_options *options, fgmm_comm *comm)
{
    if (options->host_memory_bytes > 0)
        return options->host_memory_bytes;
    return less_reserve(fgmm__memory_available()) / fgmm__comm_node_size(comm);
}

/* Libraries, and the stacks and heaps of threads that come yet. What a GPU's driver maps is left out: it can
 * be more than any sensible buffers. */
static int64_t held(const fgmm_shard_options *options, const fgmm_device *device)
{
    if (!options->cap_whole_process || options->host_memory_bytes == 0 || device != NULL)
        return 0;
    return fgmm__memory_resident() + ((int64_t)4 << 20);
}

static int64_t device_cap(const fgmm_shard_options *options, fgmm_comm *comm, fgmm_device *device)
{
    if (device == NULL)
        return 0;
    if (options->device_memory_bytes > 0)
        return options->device_memory_bytes;
    int sharing = 1; /* ranks that have a device each have NCCL */
    if (!fgmm__comm_has_nccl(comm) && fgmm__device_count() > 0)
        sharing = (fgmm__comm_node_size(comm) + fgmm__device_count() - 1) / fgmm__device_count();
    return less_reserve(fgmm__device_free_bytes(device)) / sharing;
}

/* Collective: the request of the weakest rank, the same on all. */
static fgmm_status agree_request(const fgmm_shard *shard, const fgmm_shard_options *options,
                                 fgmm_layout_request *out)
{
    int64_t rows = fgmm_dataset_rows(shard->dataset);
    int64_t quanta = (rows + FGMM_QUANTUM - 1) / FGMM_QUANTUM;
    int size = fgmm_comm_size(shard->comm);
    int64_t largest = (quanta + size - 1) / size * FGMM_QUANTUM;
    bool cpu = shard->device == NULL;
    /* Largest of the negated caps: the smallest cap. */
    int64_t weakest[] = {-host_cap(options, shard->comm), -device_cap(options, shard->comm, shard->device),
                         options->backend_bytes, held(options, shard->device), options->reserved_bytes};
    fgmm_status status = fgmm__comm_max_i64(shard->comm, weakest, 5);
    *out = (fgmm_layout_request){
        .residency = options->residency,
        .has_device = !cpu,
        .rows = largest < rows ? largest : rows,
        .row_bytes = (int64_t)shard->row_bytes,
        .tile_rows = options->tile_rows,
        .host_bytes = -weakest[0],
        .device_bytes = -weakest[1],
        .host_taken = weakest[4] + (cpu ? weakest[2] : 0),
        .device_taken = cpu ? 0 : weakest[2],
        .host_held = weakest[3],
    };
    return status;
}

/* Readers wait more than they work, but a synth: source or --metric cosine keeps them busy. A GPU leaves the
 * CPU to them. */
static int reader_threads(bool has_device)
{
    int share = has_device ? omp_get_max_threads() : omp_get_max_threads() / 2;
    int most = has_device ? 16 : 8;
    return share < 2 ? 2 : share > most ? most : share;
}

static void place_segments(fgmm_shard *shard)
{
    int64_t host_begin = shard->begin + shard->layout.device_rows;
    int64_t stream_begin = host_begin + shard->layout.host_rows;
    shard->host_begin = host_begin < shard->end ? host_begin : shard->end;
    shard->stream_begin = stream_begin < shard->end ? stream_begin : shard->end;
}

static fgmm_status take_memory(fgmm_shard *shard)
{
    fgmm_status status = FGMM_OK;
    const fgmm_layout *layout = &shard->layout;
    size_t device_bytes = (size_t)(shard->host_begin - shard->begin) * shard->row_bytes;
    size_t host_bytes = (size_t)(shard->stream_begin - shard->host_begin) * shard->row_bytes;
    size_t tile_bytes = (size_t)layout->tile_rows * shard->row_bytes;

    if (device_bytes > 0)
        FGMM_TRY(fgmm__device_alloc(shard->device, device_bytes, "the shard", (void **)&shard->device_rows));
    if (host_bytes > 0)
        FGMM_TRY(fgmm__pinned_alloc(shard->device, host_bytes, "the shard", (void **)&shard->host_rows));
    FGMM_TRY(fgmm__ring_create(shard->dataset, shard->device, layout->tile_rows, layout->ring,
                               reader_threads(shard->device != NULL), &shard->ring));
    shard->host_bytes = (int64_t)(host_bytes + (layout->ring ? FGMM_RING_BUFFERS * tile_bytes : 0));
    for (int i = 0; shard->device != NULL && i < FGMM_DEVICE_BUFFERS; i++) {
        fgmm_shard_slot *slot = &shard->slots[i];
        if (layout->device_ring)
            FGMM_TRY(fgmm__device_alloc(shard->device, tile_bytes, "the tiles of the shard", &slot->rows));
        FGMM_TRY(fgmm__gpu_event_create(shard->device, &slot->copied));
        FGMM_TRY(fgmm__gpu_event_create(shard->device, &slot->done));
    }
cleanup:
    return status;
}

fgmm_status fgmm__shard_create(const fgmm_dataset *dataset, fgmm_comm *comm, fgmm_device *device,
                               const fgmm_shard_options *options, fgmm_shard **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_shard *shard = NULL;
    fgmm_layout_request request;
    int64_t rows = fgmm_dataset_rows(dataset);
    *out = NULL;

    status = fgmm__alloc(1, sizeof *shard, "a shard", (void **)&shard);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    shard->dataset = dataset;
    shard->comm = comm;
    shard->device = device;
    shard->row_bytes = (size_t)fgmm_dataset_dim(dataset) * fgmm_dtype_bytes(fgmm_dataset_dtype(dataset));
    shard->begin = fgmm__partition_begin(rows, fgmm_comm_rank(comm), fgmm_comm_size(comm));
    shard->end = fgmm__partition_begin(rows, fgmm_comm_rank(comm) + 1, fgmm_comm_size(comm));
    FGMM_TRY(agree_request(shard, options, &request));
    status = fgmm__layout_decide(&request, &shard->layout);
    if (status == FGMM_OK) {
        fgmm__layout_describe(&shard->layout, shard->where, sizeof shard->where);
        place_segments(shard);
        status = take_memory(shard);
    }
    FGMM_TRY(fgmm__comm_agree(comm, status));
    *out = shard;
    shard = NULL;
cleanup:
    fgmm__shard_destroy(shard);
    return status;
}

fgmm_status fgmm__shard_quiesce(fgmm_shard *shard, fgmm_comm *comm)
{
    if (shard->ring != NULL)
        fgmm__ring_stop(shard->ring);
    if (shard->device == NULL)
        return FGMM_OK;
    fgmm_status status = fgmm__stream_sync(fgmm__device_copy_stream(shard->device), comm);
    return status != FGMM_OK ? status : fgmm__stream_sync(fgmm__device_stream(shard->device), comm);
}

void fgmm__shard_destroy(fgmm_shard *shard)
{
    if (shard == NULL)
        return;
    /* A fault of the device was told by whoever met it; here it only must not keep memory from being freed.
     */
    (void)fgmm__shard_quiesce(shard, NULL);
    fgmm__ring_destroy(shard->ring);
    for (int i = 0; i < FGMM_DEVICE_BUFFERS; i++) {
        fgmm__gpu_event_destroy(shard->slots[i].copied);
        fgmm__gpu_event_destroy(shard->slots[i].done);
        fgmm__device_free(shard->device, shard->slots[i].rows);
    }
    fgmm__device_free(shard->device, shard->device_rows);
    fgmm__pinned_free(shard->device, shard->host_rows);
    free(shard);
}

int64_t fgmm__shard_begin(const fgmm_shard *shard)
{
    return shard->begin;
}

int64_t fgmm__shard_end(const fgmm_shard *shard)
{
    return shard->end;
}

const char *fgmm__shard_where(const fgmm_shard *shard)
{
    return shard->where;
}

int64_t fgmm__shard_peak_host_bytes(const fgmm_shard *shard)
{
    return shard->host_bytes;
}

void fgmm__shard_times(const fgmm_shard *shard, fgmm_shard_times *out)
{
    *out = shard->times;
    out->read_seconds = fgmm__ring_read_seconds(shard->ring);
}

fgmm_status fgmm__shard_wait_read(fgmm_shard *shard, int64_t tile, void **rows)
{
    double began = fgmm__seconds();
    fgmm_status status = fgmm__ring_wait(shard->ring, tile, shard->comm, rows);
    shard->times.read_wait_seconds += fgmm__seconds() - began;
    return status;
}

fgmm_status fgmm__shard_wait_copy(fgmm_shard *shard, fgmm_gpu_event *event)
{
    double began = fgmm__seconds();
    fgmm_status status = fgmm__gpu_event_wait(event, shard->comm);
    shard->times.copy_wait_seconds += fgmm__seconds() - began;
    return status;
}
