/* Passes over a shard. Resident rows are handed out where they lie. Streamed rows come through the ring of
 * host buffers; under CUDA they, and rows that live in host memory, go on through two device buffers: while
 * kernels work on one the copy stream fills the other. */
#include <string.h>
#include "base/clock.h"
#include "data/shard_internal.h"

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The end of the tile of `tile_rows` that begins at `row`: tiles do not cross from one kind of memory to
 * another. */
static int64_t tile_end(const fgmm_shard *shard, int64_t row, int64_t tile_rows)
{
    int64_t segment_end = row < shard->host_begin     ? shard->host_begin
                          : row < shard->stream_begin ? shard->stream_begin
                                                      : shard->end;
    return least(row + tile_rows, segment_end);
}

static int64_t ring_tile(const fgmm_shard *shard, int64_t row)
{
    return (row - shard->pass.ring_begin) / shard->layout.tile_rows;
}

static void start_ring(fgmm_shard *shard)
{
    fgmm__ring_check_rows(shard->ring, !shard->streamed_seen);
    fgmm__ring_start(shard->ring, shard->pass.ring_begin, shard->end, NULL);
    shard->pass.ring_started = true;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static fgmm_status start(fgmm_shard *shard, bool host, int64_t row)
{
    fgmm_status status = FGMM_OK;
    /* Resident rows are only read: what still works on them needs no wait. */
    if (shard->pass.ring_started || shard->pass.uploaded > 0)
        status = fgmm__shard_quiesce(shard, shard->comm);
    if (status != FGMM_OK)
        return status;
    shard->pass = (fgmm_shard_pass){
        .host = host || shard->device == NULL,
        .position = row,
        .ring_begin = most(row, shard->stream_begin),
        .upload_position = most(row, shard->host_begin),
        .started = fgmm__seconds(),
    };
    /* A host pass downloads device rows into a buffer of the ring first. */
    if (shard->pass.ring_begin < shard->end && (!shard->pass.host || row >= shard->host_begin))
        start_ring(shard);
    return FGMM_OK;
}

fgmm_status fgmm__shard_start(fgmm_shard *shard)
{
    return start(shard, false, shard->begin);
}

fgmm_status fgmm__shard_start_at(fgmm_shard *shard, int64_t row)
{
    return start(shard, false, row);
}

fgmm_status fgmm__shard_start_host(fgmm_shard *shard)
{
    return start(shard, true, shard->begin);
}

/* ---- tiles in host memory ---- */

static fgmm_status download(fgmm_shard *shard, int64_t begin, int64_t end, void **rows)
{
    void *stream = fgmm__device_copy_stream(shard->device);
    size_t bytes = (size_t)(end - begin) * shard->row_bytes;
    const char *from = shard->device_rows + (size_t)(begin - shard->begin) * shard->row_bytes;
    fgmm_gpu_event *copied = shard->slots[0].copied;
    *rows = fgmm__ring_buffer(shard->ring);
    fgmm_status status = fgmm__device_download(shard->device, *rows, from, bytes, stream);
    if (status == FGMM_OK)
        status = fgmm__gpu_event_record(copied, stream);
    if (status == FGMM_OK)
        status = fgmm__shard_wait_copy(shard, copied);
    shard->times.bytes_copied += (int64_t)bytes;
    return status;
}

static fgmm_status host_tile(fgmm_shard *shard, fgmm_tile *tile)
{
    fgmm_shard_pass *pass = &shard->pass;
    int64_t begin = pass->position;
    bool viewed = begin >= shard->host_begin && begin < shard->stream_begin;
    int64_t end = tile_end(
        shard, begin, viewed && shard->device == NULL ? shard->layout.view_rows : shard->layout.tile_rows);
    void *rows = NULL;
    fgmm_status status = FGMM_OK;

    pass->last = FGMM_TILE_RESIDENT;
    if (viewed) {
        rows = shard->host_rows + (size_t)(begin - shard->host_begin) * shard->row_bytes;
    } else if (begin < shard->host_begin) {
        status = download(shard, begin, end, &rows);
    } else {
        if (!pass->ring_started)
            start_ring(shard);
        status = fgmm__shard_wait_read(shard, ring_tile(shard, begin), &rows);
        shard->times.bytes_read += (end - begin) * (int64_t)shard->row_bytes;
        pass->last = FGMM_TILE_RING;
    }
    tile->rows = end - begin;
    tile->data = rows;
    return status;
}

/* ---- tiles in device memory ---- */

/* Enqueues the upload of the next tile that is not on the device; *enqueued = false when it is not read yet
 * and `wait` is not set. */
static fgmm_status upload(fgmm_shard *shard, bool wait, bool *enqueued)
{
    fgmm_status status = FGMM_OK;
    fgmm_shard_pass *pass = &shard->pass;
    fgmm_shard_slot *slot = &shard->slots[pass->uploaded % FGMM_DEVICE_BUFFERS];
    void *stream = fgmm__device_copy_stream(shard->device);
    int64_t begin = pass->upload_position, end = tile_end(shard, begin, shard->layout.tile_rows);
    size_t bytes = (size_t)(end - begin) * shard->row_bytes;
    void *rows;

    *enqueued = false;
    if (begin < shard->stream_begin) {
        rows = shard->host_rows + (size_t)(begin - shard->host_begin) * shard->row_bytes;
    } else {
        if (!wait && !fgmm__ring_ready(shard->ring, ring_tile(shard, begin)))
            goto cleanup;
        FGMM_TRY(fgmm__shard_wait_read(shard, ring_tile(shard, begin), &rows));
        shard->times.bytes_read += (int64_t)bytes;
    }
    if (pass->uploaded >= FGMM_DEVICE_BUFFERS)
        FGMM_TRY(fgmm__stream_wait(stream, slot->done));
    FGMM_TRY(fgmm__device_upload(shard->device, slot->rows, rows, bytes, stream));
    FGMM_TRY(fgmm__gpu_event_record(slot->copied, stream));
    shard->times.bytes_copied += (int64_t)bytes;
    pass->uploaded++;
    pass->upload_position = end;
    *enqueued = true;
cleanup:
    return status;
}

/* Keeps the device buffers filling: the tile that is needed now is waited for, one more is taken if it is
 * there. */
static fgmm_status upload_ahead(fgmm_shard *shard)
{
    fgmm_shard_pass *pass = &shard->pass;
    bool enqueued = true;
    while (enqueued && pass->upload_position < shard->end &&
           pass->uploaded - pass->handed < FGMM_DEVICE_BUFFERS) {
        bool needed = pass->position >= shard->host_begin && pass->uploaded == pass->handed;
        fgmm_status status = upload(shard, needed, &enqueued);
        if (status != FGMM_OK)
            return status;
    }
    return FGMM_OK;
}

static fgmm_status device_tile(fgmm_shard *shard, fgmm_tile *tile)
{
    fgmm_status status = FGMM_OK;
    fgmm_shard_pass *pass = &shard->pass;
    FGMM_TRY(upload_ahead(shard));
    if (pass->position < shard->host_begin) {
        tile->rows = tile_end(shard, pass->position, shard->layout.view_rows) - pass->position;
        tile->data = shard->device_rows + (size_t)(pass->position - shard->begin) * shard->row_bytes;
        tile->lasting = true;
        pass->last = FGMM_TILE_RESIDENT;
        goto cleanup;
    }
    fgmm_shard_slot *slot = &shard->slots[pass->handed % FGMM_DEVICE_BUFFERS];
    FGMM_TRY(fgmm__stream_wait(fgmm__device_stream(shard->device), slot->copied));
    tile->rows = tile_end(shard, pass->position, shard->layout.tile_rows) - pass->position;
    tile->data = slot->rows;
    pass->handed++;
    pass->last = FGMM_TILE_SLOT;
cleanup:
    return status;
}

/* ---- the pass ---- */

/* The tile handed out before: its host buffer goes back to the readers, its device buffer when the kernels
 * enqueued so far are done. */
static fgmm_status give_back_last(fgmm_shard *shard)
{
    fgmm_status status = FGMM_OK;
    fgmm_shard_pass *pass = &shard->pass;
    bool streamed = pass->last_begin >= shard->stream_begin;
    if (pass->last == FGMM_TILE_SLOT) {
        fgmm_shard_slot *slot = &shard->slots[(pass->handed - 1) % FGMM_DEVICE_BUFFERS];
        FGMM_TRY(fgmm__gpu_event_record(slot->done, fgmm__device_stream(shard->device)));
        /* Also keeps the host from running more than two tiles ahead of the copies. */
        FGMM_TRY(fgmm__shard_wait_copy(shard, slot->copied));
    }
    if (pass->last != FGMM_TILE_NONE && pass->last != FGMM_TILE_RESIDENT && streamed)
        fgmm__ring_release(shard->ring, ring_tile(shard, pass->last_begin) + 1);
    pass->last = FGMM_TILE_NONE;
cleanup:
    return status;
}

fgmm_status fgmm__shard_next(fgmm_shard *shard, fgmm_tile *tile)
{
    fgmm_status status = FGMM_OK;
    fgmm_shard_pass *pass = &shard->pass;
    *tile = (fgmm_tile){
        .begin = pass->position,
        .dim = fgmm_dataset_dim(shard->dataset),
        .dtype = fgmm_dataset_dtype(shard->dataset),
    };
    FGMM_TRY(fgmm__comm_tick(shard->comm));
    FGMM_TRY(give_back_last(shard));
    if (pass->position == shard->end) {
        shard->streamed_seen = true;
        shard->times.pass_seconds += fgmm__seconds() - pass->started;
        pass->started = fgmm__seconds();
        goto cleanup;
    }
    FGMM_TRY(pass->host ? host_tile(shard, tile) : device_tile(shard, tile));
    pass->last_begin = pass->position;
    pass->position += tile->rows;
cleanup:
    if (status != FGMM_OK)
        tile->rows = 0;
    return status;
}
