/* The first pass: every row is read once, looked at, and brought to where it will live. */
#include <math.h>
#include <stdlib.h>
#include "base/clock.h"
#include "base/log.h"
#include "data/dataset.h"
#include "data/range.h"
#include "data/shard_internal.h"

typedef struct {
    fgmm_range *range;
    int64_t shown; /* rows on the progress line, of all ranks together: this rank's are taken for the others'
                      too */
} loading;

static void show_progress(const fgmm_shard *shard, loading *l, int64_t end)
{
    double share = (double)(end - shard->begin) / (double)(shard->end - shard->begin);
    int64_t rows = (int64_t)(share * (double)fgmm_dataset_rows(shard->dataset));
    fgmm__progress_add(rows - l->shown);
    l->shown = rows;
}

static fgmm_status look_at(const fgmm_shard *shard, loading *l, int64_t begin, int64_t n, const void *rows)
{
    if (fgmm__range_add(l->range, rows, n))
        return FGMM_OK;
    return fgmm__dataset_check_finite(shard->dataset, begin, n, rows);
}

static fgmm_status stage(fgmm_shard *shard, int64_t tile, int64_t begin, int64_t n, const void *rows)
{
    fgmm_status status = FGMM_OK;
    void *stream = fgmm__device_copy_stream(shard->device);
    fgmm_shard_slot *slots = shard->slots;
    size_t bytes = (size_t)n * shard->row_bytes;
    char *to = shard->device_rows + (size_t)(begin - shard->begin) * shard->row_bytes;
    FGMM_TRY(fgmm__device_upload(shard->device, to, rows, bytes, stream));
    FGMM_TRY(fgmm__gpu_event_record(slots[tile % FGMM_DEVICE_BUFFERS].copied, stream));
    shard->times.bytes_copied += (int64_t)bytes;
    if (tile > 0) {
        FGMM_TRY(fgmm__shard_wait_copy(shard, slots[(tile - 1) % FGMM_DEVICE_BUFFERS].copied));
        fgmm__ring_release(shard->ring, tile);
    }
cleanup:
    return status;
}

/* Rows [begin, end) of one kind: into host memory for good, or through the ring (and on to the device). */
static fgmm_status load_segment(fgmm_shard *shard, loading *l, int64_t begin, int64_t end, void *into)
{
    fgmm_status status = FGMM_OK;
    bool to_device = begin < shard->host_begin;
    int64_t tile_rows = shard->layout.tile_rows;
    if (begin == end)
        return FGMM_OK;
    fgmm__ring_start(shard->ring, begin, end, into);
    for (int64_t tile = 0, row = begin; row < end; tile++, row += tile_rows) {
        int64_t n = end - row < tile_rows ? end - row : tile_rows;
        void *rows;
        FGMM_TRY(fgmm__comm_tick(shard->comm));
        FGMM_TRY(fgmm__shard_wait_read(shard, tile, &rows));
        FGMM_TRY(look_at(shard, l, row, n, rows));
        if (to_device)
            FGMM_TRY(stage(shard, tile, row, n, rows));
        else
            fgmm__ring_release(shard->ring, tile + 1);
        shard->times.bytes_read += n * (int64_t)shard->row_bytes;
        show_progress(shard, l, row + n);
    }
    if (to_device) /* the last copy, before the next segment is read into its buffer */
        FGMM_TRY(fgmm__stream_sync(fgmm__device_copy_stream(shard->device), shard->comm));
cleanup:
    return status;
}

static fgmm_status load_rows(fgmm_shard *shard, loading *l, bool streamed)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(load_segment(shard, l, shard->begin, shard->host_begin, NULL));
    FGMM_TRY(load_segment(shard, l, shard->host_begin, shard->stream_begin, shard->host_rows));
    if (streamed)
        FGMM_TRY(load_segment(shard, l, shard->stream_begin, shard->end, NULL));
    FGMM_TRY(fgmm__shard_quiesce(shard, shard->comm));
cleanup:
    return status;
}

/* Collective: min of the minima, max of the maxima. */
static fgmm_status reduce_range(const fgmm_shard *shard, const fgmm_range *range, double *low, double *high,
                                double *min, double *max)
{
    fgmm_status status = FGMM_OK;
    size_t dim = (size_t)fgmm_dataset_dim(shard->dataset);
    fgmm__range_get(range, low, high);
    FGMM_TRY(fgmm__comm_min_f64(shard->comm, low, dim));
    FGMM_TRY(fgmm__comm_max_f64(shard->comm, high, dim));
    for (size_t j = 0; j < dim; j++) {
        if (min != NULL)
            min[j] = low[j];
        if (max != NULL)
            max[j] = high[j];
    }
cleanup:
    return status;
}

static fgmm_status load(fgmm_shard *shard, bool streamed, double *min, double *max)
{
    fgmm_status status = FGMM_OK;
    loading l = {0};
    double *low = NULL, *high = NULL;
    int32_t dim = fgmm_dataset_dim(shard->dataset);
    double began = fgmm__seconds();

    fgmm__progress_begin("reading", "rows", fgmm_dataset_rows(shard->dataset));
    status = fgmm__range_create(fgmm_dataset_dtype(shard->dataset), dim, &l.range);
    if (status == FGMM_OK)
        status = fgmm__alloc((size_t)dim, sizeof *low, "the range of the data", (void **)&low);
    if (status == FGMM_OK)
        status = fgmm__alloc((size_t)dim, sizeof *high, "the range of the data", (void **)&high);
    if (status == FGMM_OK)
        status = load_rows(shard, &l, streamed);
    if (status != FGMM_OK && status != FGMM_STOPPED)
        fgmm__comm_announce_failure(shard->comm);
    FGMM_TRY(fgmm__comm_agree(shard->comm, status));
    if (streamed)
        FGMM_TRY(reduce_range(shard, l.range, low, high, min, max));
    shard->streamed_seen = streamed;
    shard->times.pass_seconds += fgmm__seconds() - began;
cleanup:
    if (status != FGMM_OK) /* a thread or a copy may still be at work on the shard's memory */
        (void)fgmm__shard_quiesce(shard, NULL);
    fgmm__progress_end();
    fgmm__range_destroy(l.range);
    free(low);
    free(high);
    return status;
}

fgmm_status fgmm__shard_load(fgmm_shard *shard, double *min, double *max)
{
    return load(shard, true, min, max);
}

fgmm_status fgmm__shard_load_resident(fgmm_shard *shard)
{
    return load(shard, false, NULL, NULL);
}
