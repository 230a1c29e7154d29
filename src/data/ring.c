#include "data/ring.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "data/dataset.h"

/* A tile is read in slices of about this size, so that several threads work on the tile that is waited for.
 */
static const int64_t slice_bytes = (int64_t)4 << 20;
static const long wait_nanoseconds = 50000000; /* between ticks */

struct fgmm_ring {
    const fgmm_dataset *dataset;
    fgmm_device *device;
    size_t row_bytes;
    int64_t tile_rows, slice_rows;
    void *buffers[FGMM_RING_BUFFERS];
    pthread_t *threads;
    int n_threads;
    bool has_lock, has_work, has_ready;

    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t work;  /* for the threads: there may be a slice to read */
    pthread_cond_t ready; /* for the owner: a tile is there, a read failed, a thread went idle */
    bool quit;
    int64_t begin, end; /* the run; begin == end: none */
    char *into;
    int64_t n_tiles;
    int64_t next_tile, next_row;        /* the next slice to read: its tile and first row */
    int64_t released;                   /* tiles below it may be overwritten */
    int slices_left[FGMM_RING_BUFFERS]; /* not yet read, of the latest tile begun in each buffer */
    int busy;                           /* threads that are reading */
    double busy_since, busy_seconds;    /* since when, and how long before that, any was */
    bool check;                         /* rows are looked at for NaN and infinities */
    fgmm_status status;                 /* of the first failed read */
};

static int64_t tile_begin(const fgmm_ring *ring, int64_t tile)
{
    return ring->begin + tile * ring->tile_rows;
}

static int64_t tile_end(const fgmm_ring *ring, int64_t tile)
{
    int64_t end = tile_begin(ring, tile) + ring->tile_rows;
    return end < ring->end ? end : ring->end;
}

static char *tile_rows_at(const fgmm_ring *ring, int64_t tile)
{
    if (ring->into != NULL)
        return ring->into + (size_t)(tile * ring->tile_rows) * ring->row_bytes;
    return ring->buffers[tile % FGMM_RING_BUFFERS];
}

/* ---- the reader threads ---- */

static bool may_read(const fgmm_ring *ring)
{
    return ring->status == FGMM_OK && ring->next_tile < ring->n_tiles &&
           ring->next_tile < ring->released + FGMM_RING_BUFFERS;
}

/* Under the lock: takes the next slice, rows [*begin, *end) of *tile. */
static void take_slice(fgmm_ring *ring, int64_t *tile, int64_t *begin, int64_t *end)
{
    *tile = ring->next_tile;
    *begin = ring->next_row;
    int64_t last = tile_end(ring, *tile);
    *end = *begin + ring->slice_rows < last ? *begin + ring->slice_rows : last;
    if (*begin == tile_begin(ring, *tile)) {
        int64_t slices = (last - *begin + ring->slice_rows - 1) / ring->slice_rows;
        ring->slices_left[*tile % FGMM_RING_BUFFERS] = (int)slices;
    }
    ring->next_row = *end;
    if (*end == last)
        ring->next_tile++;
}

static void *read_slices(void *argument)
{
    fgmm_ring *ring = argument;
    pthread_mutex_lock(&ring->lock);
    while (!ring->quit) {
        if (!may_read(ring)) {
            pthread_cond_wait(&ring->work, &ring->lock);
            continue;
        }
        int64_t tile, begin, end;
        take_slice(ring, &tile, &begin, &end);
        char *to = tile_rows_at(ring, tile) + (size_t)(begin - tile_begin(ring, tile)) * ring->row_bytes;
        bool check = ring->check;
        if (ring->busy++ == 0)
            ring->busy_since = fgmm__seconds();
        pthread_mutex_unlock(&ring->lock);
        fgmm_status status = fgmm_dataset_read(ring->dataset, begin, end, to);
        if (status == FGMM_OK && check)
            status = fgmm__dataset_check_finite(ring->dataset, begin, end - begin, to);
        pthread_mutex_lock(&ring->lock);
        if (--ring->busy == 0)
            ring->busy_seconds += fgmm__seconds() - ring->busy_since;
        ring->slices_left[tile % FGMM_RING_BUFFERS]--;
        if (ring->status == FGMM_OK)
            ring->status = status;
        pthread_cond_signal(&ring->ready);
    }
    pthread_mutex_unlock(&ring->lock);
    return NULL;
}

/* ---- the owner ---- */

static fgmm_status create_lock(fgmm_ring *ring)
{
    fgmm_status status = FGMM_ERR_RUNTIME;
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes) != 0)
        return fgmm__fail(status, "out of memory for the locks of the reader threads");
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    ring->has_lock = pthread_mutex_init(&ring->lock, NULL) == 0;
    ring->has_work = pthread_cond_init(&ring->work, NULL) == 0;
    ring->has_ready = pthread_cond_init(&ring->ready, &attributes) == 0;
    pthread_condattr_destroy(&attributes);
    if (ring->has_lock && ring->has_work && ring->has_ready)
        return FGMM_OK;
    return fgmm__fail(status, "out of memory for the locks of the reader threads");
}

fgmm_status fgmm__ring_create(const fgmm_dataset *dataset, fgmm_device *device, int64_t tile_rows,
                              bool buffers, int n_threads, fgmm_ring **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_ring *ring = NULL;
    *out = NULL;
    FGMM_ALLOC(ring, 1, "the ring of buffers");
    ring->dataset = dataset;
    ring->device = device;
    ring->row_bytes = (size_t)fgmm_dataset_dim(dataset) * fgmm_dtype_bytes(fgmm_dataset_dtype(dataset));
    ring->tile_rows = tile_rows;
    ring->slice_rows = slice_bytes / (int64_t)ring->row_bytes + 1;
    FGMM_TRY(create_lock(ring));
    for (int i = 0; buffers && i < FGMM_RING_BUFFERS; i++)
        FGMM_TRY(fgmm__pinned_alloc(device, (size_t)tile_rows * ring->row_bytes, "the ring of buffers",
                                    &ring->buffers[i]));
    FGMM_ALLOC(ring->threads, n_threads, "the reader threads");
    for (; ring->n_threads < n_threads; ring->n_threads++) {
        int code = pthread_create(&ring->threads[ring->n_threads], NULL, read_slices, ring);
        if (code != 0)
            FGMM_FAIL(FGMM_ERR_RUNTIME, "cannot start a reader thread: %s", strerror(code));
    }
    *out = ring;
    ring = NULL;
cleanup:
    fgmm__ring_destroy(ring);
    return status;
}

void fgmm__ring_destroy(fgmm_ring *ring)
{
    if (ring == NULL)
        return;
    if (ring->n_threads > 0) {
        pthread_mutex_lock(&ring->lock);
        ring->quit = true;
        pthread_cond_broadcast(&ring->work);
        pthread_mutex_unlock(&ring->lock);
        for (int i = 0; i < ring->n_threads; i++)
            pthread_join(ring->threads[i], NULL);
    }
    if (ring->has_ready)
        pthread_cond_destroy(&ring->ready);
    if (ring->has_work)
        pthread_cond_destroy(&ring->work);
    if (ring->has_lock)
        pthread_mutex_destroy(&ring->lock);
    for (int i = 0; i < FGMM_RING_BUFFERS; i++)
        fgmm__pinned_free(ring->device, ring->buffers[i]);
    free(ring->threads);
    free(ring);
}

/* Under the lock: no slice is taken any more, and those taken come to their end. */
static void end_run(fgmm_ring *ring)
{
    ring->n_tiles = 0;
    while (ring->busy > 0)
        pthread_cond_wait(&ring->ready, &ring->lock);
}

void fgmm__ring_start(fgmm_ring *ring, int64_t begin, int64_t end, void *into)
{
    pthread_mutex_lock(&ring->lock);
    end_run(ring);
    ring->begin = begin;
    ring->end = end;
    ring->into = into;
    ring->n_tiles = (end - begin + ring->tile_rows - 1) / ring->tile_rows;
    ring->next_tile = 0;
    ring->next_row = begin;
    ring->released = 0;
    ring->status = FGMM_OK;
    pthread_cond_broadcast(&ring->work);
    pthread_mutex_unlock(&ring->lock);
}

void fgmm__ring_stop(fgmm_ring *ring)
{
    pthread_mutex_lock(&ring->lock);
    end_run(ring);
    pthread_mutex_unlock(&ring->lock);
}

static bool is_ready(const fgmm_ring *ring, int64_t tile)
{
    return tile < ring->next_tile && ring->slices_left[tile % FGMM_RING_BUFFERS] == 0;
}

bool fgmm__ring_ready(fgmm_ring *ring, int64_t tile)
{
    pthread_mutex_lock(&ring->lock);
    bool ready = ring->status == FGMM_OK && is_ready(ring, tile);
    pthread_mutex_unlock(&ring->lock);
    return ready;
}

/* Under the lock: until something happened or it is time for a tick. */
static void wait_a_moment(fgmm_ring *ring)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += wait_nanoseconds;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&ring->ready, &ring->lock, &until);
}

fgmm_status fgmm__ring_wait(fgmm_ring *ring, int64_t tile, fgmm_comm *comm, void **rows)
{
    fgmm_status status = FGMM_OK;
    for (;;) {
        pthread_mutex_lock(&ring->lock);
        if (ring->status == FGMM_OK && !is_ready(ring, tile))
            wait_a_moment(ring);
        status = ring->status;
        bool ready = is_ready(ring, tile);
        *rows = tile_rows_at(ring, tile);
        pthread_mutex_unlock(&ring->lock);
        if (status != FGMM_OK || ready)
            return status;
        if (comm != NULL) {
            status = fgmm__comm_tick(comm);
            if (status != FGMM_OK)
                return status;
        }
    }
}

void fgmm__ring_release(fgmm_ring *ring, int64_t tile)
{
    pthread_mutex_lock(&ring->lock);
    ring->released = tile;
    pthread_cond_broadcast(&ring->work);
    pthread_mutex_unlock(&ring->lock);
}

void *fgmm__ring_buffer(fgmm_ring *ring)
{
    return ring->buffers[0];
}

void fgmm__ring_check_rows(fgmm_ring *ring, bool check)
{
    pthread_mutex_lock(&ring->lock);
    ring->check = check;
    pthread_mutex_unlock(&ring->lock);
}

double fgmm__ring_read_seconds(fgmm_ring *ring)
{
    pthread_mutex_lock(&ring->lock);
    double seconds = ring->busy_seconds;
    if (ring->busy > 0)
        seconds += fgmm__seconds() - ring->busy_since;
    pthread_mutex_unlock(&ring->lock);
    return seconds;
}
