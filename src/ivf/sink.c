#include "ivf/sink.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

/* Sorted are words of a posting's number in the region, above, and its place in the buffer, below. */
enum { SLOT_BITS = 24, DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS };
_Static_assert(FGMM_SINK_MOST <= 1 << SLOT_BITS, "a place in the buffer fits its bits");

enum { RUN_BYTES = 1 << 20 };                  /* written at once */
static const long wait_nanoseconds = 20000000; /* between ticks */

struct fgmm_sink {
    fgmm_index_writer *writer;
    size_t row_bytes, item_bytes;
    bool multi;
    int64_t begin, end, capacity;
    char *buffers[2];
    int64_t n[2]; /* items that each holds */
    int filling;
    double wait_seconds;
    /* the thread's */
    uint64_t *words, *sorted;         /* [capacity] */
    int64_t run_rows, run_begin, run; /* room for a run; the run being gathered */
    int64_t *ids;
    uint8_t *primary;
    char *vectors;
    pthread_t thread;
    bool has_thread, has_lock, has_changed;

    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t changed;
    int writing; /* the buffer that the thread works on; -1: none */
    bool quit;
    fgmm_status status;
    fgmm_sink_times times;
};

/* ---- the thread: order, then runs ---- */

/* By the bits above SLOT_BITS; the result lies in sink->words. */
static void sort_words(fgmm_sink *sink, int64_t n)
{
    int bits = 1;
    while (bits < 64 - SLOT_BITS && (sink->end - sink->begin) >> bits > 0)
        bits++;
    for (int shift = SLOT_BITS; shift < SLOT_BITS + bits; shift += DIGIT_BITS) {
        int64_t at[DIGITS] = {0}, sum = 0;
        for (int64_t i = 0; i < n; i++)
            at[sink->words[i] >> shift & (DIGITS - 1)]++;
        for (int d = 0; d < DIGITS; d++) {
            int64_t count = at[d];
            at[d] = sum;
            sum += count;
        }
        for (int64_t i = 0; i < n; i++)
            sink->sorted[at[sink->words[i] >> shift & (DIGITS - 1)]++] = sink->words[i];
        uint64_t *swap = sink->words;
        sink->words = sink->sorted;
        sink->sorted = swap;
    }
}

static fgmm_status write_run(fgmm_sink *sink)
{
    int64_t n = sink->run;
    sink->run = 0;
    if (n == 0)
        return FGMM_OK;
    sink->times.bytes += n * (int64_t)(sink->row_bytes + sizeof *sink->ids + (sink->multi ? 1 : 0));
    return fgmm__index_put(sink->writer, sink->run_begin, n, sink->ids, sink->primary, sink->vectors);
}

/* Adds an item to the run, which is written first where the item does not continue it. */
static fgmm_status add_to_run(fgmm_sink *sink, const char *item)
{
    fgmm_status status = FGMM_OK;
    fgmm_posting posting;
    memcpy(&posting, item, sizeof posting);
    int64_t number = (int64_t)posting.posting;
    if (number != sink->run_begin + sink->run || sink->run == sink->run_rows)
        FGMM_TRY(write_run(sink));
    if (sink->run == 0)
        sink->run_begin = number;
    sink->ids[sink->run] = posting.id;
    if (sink->multi)
        sink->primary[sink->run] = posting.primary;
    if (sink->row_bytes > 0)
        memcpy(sink->vectors + (size_t)sink->run * sink->row_bytes, item + sizeof posting, sink->row_bytes);
    sink->run++;
cleanup:
    return status;
}

static fgmm_status write_buffer(fgmm_sink *sink, const char *items, int64_t n)
{
    fgmm_status status = FGMM_OK;
    for (int64_t i = 0; i < n; i++) {
        fgmm_posting posting;
        memcpy(&posting, items + (size_t)i * sink->item_bytes, sizeof posting);
        sink->words[i] = ((uint64_t)posting.posting - (uint64_t)sink->begin) << SLOT_BITS | (uint64_t)i;
    }
    sort_words(sink, n);
    for (int64_t i = 0; i < n; i++)
        FGMM_TRY(
            add_to_run(sink, items + (size_t)(sink->words[i] & (FGMM_SINK_MOST - 1)) * sink->item_bytes));
    FGMM_TRY(write_run(sink));
cleanup:
    return status;
}

static void *write_buffers(void *argument)
{
    fgmm_sink *sink = argument;
    pthread_mutex_lock(&sink->lock);
    while (!sink->quit) {
        if (sink->writing < 0) {
            pthread_cond_wait(&sink->changed, &sink->lock);
            continue;
        }
        int buffer = sink->writing;
        pthread_mutex_unlock(&sink->lock);
        double began = fgmm__seconds();
        fgmm_status status = write_buffer(sink, sink->buffers[buffer], sink->n[buffer]);
        double ended = fgmm__seconds();
        pthread_mutex_lock(&sink->lock);
        sink->times.busy_seconds += ended - began;
        sink->times.flushes++;
        if (sink->status == FGMM_OK)
            sink->status = status;
        sink->writing = -1;
        pthread_cond_broadcast(&sink->changed);
    }
    pthread_mutex_unlock(&sink->lock);
    return NULL;
}

/* ---- the owner ---- */

static fgmm_status start_thread(fgmm_sink *sink)
{
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes) != 0)
        return fgmm__fail(FGMM_ERR_RUNTIME, "out of memory for the thread that writes");
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    sink->has_lock = pthread_mutex_init(&sink->lock, NULL) == 0;
    sink->has_changed = pthread_cond_init(&sink->changed, &attributes) == 0;
    pthread_condattr_destroy(&attributes);
    if (!sink->has_lock || !sink->has_changed)
        return fgmm__fail(FGMM_ERR_RUNTIME, "out of memory for the thread that writes");
    int code = pthread_create(&sink->thread, NULL, write_buffers, sink);
    sink->has_thread = code == 0;
    return code == 0 ? FGMM_OK
                     : fgmm__fail(FGMM_ERR_RUNTIME, "cannot start a thread that writes: %s", strerror(code));
}

fgmm_status fgmm__sink_create(fgmm_index_writer *writer, size_t row_bytes, bool multi, int64_t begin,
                              int64_t end, int64_t capacity, fgmm_sink **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_sink *sink = NULL;
    FGMM_ALLOC(sink, 1, "the postings that arrive");
    sink->writer = writer;
    sink->row_bytes = row_bytes;
    sink->item_bytes = sizeof(fgmm_posting) + row_bytes;
    sink->multi = multi;
    sink->begin = begin;
    sink->end = end;
    sink->capacity = capacity;
    sink->writing = -1;
    sink->run_rows = RUN_BYTES / (int64_t)(row_bytes + sizeof(int64_t)) + 1;
    for (int i = 0; i < 2; i++)
        FGMM_TRY(fgmm__alloc((size_t)capacity, sink->item_bytes, "the postings that arrive",
                             (void **)&sink->buffers[i]));
    FGMM_ALLOC(sink->words, capacity, "the postings that arrive");
    FGMM_ALLOC(sink->sorted, capacity, "the postings that arrive");
    FGMM_ALLOC(sink->ids, sink->run_rows, "the postings that arrive");
    FGMM_ALLOC(sink->primary, sink->run_rows, "the postings that arrive");
    FGMM_TRY(
        fgmm__alloc((size_t)sink->run_rows, row_bytes, "the postings that arrive", (void **)&sink->vectors));
    FGMM_TRY(start_thread(sink));
    *out = sink;
    sink = NULL;
cleanup:
    fgmm__sink_destroy(sink);
    return status;
}

void fgmm__sink_destroy(fgmm_sink *sink)
{
    if (sink == NULL)
        return;
    if (sink->has_thread) {
        pthread_mutex_lock(&sink->lock);
        sink->quit = true;
        pthread_cond_broadcast(&sink->changed);
        pthread_mutex_unlock(&sink->lock);
        pthread_join(sink->thread, NULL);
    }
    if (sink->has_changed)
        pthread_cond_destroy(&sink->changed);
    if (sink->has_lock)
        pthread_mutex_destroy(&sink->lock);
    for (int i = 0; i < 2; i++)
        free(sink->buffers[i]);
    free(sink->words);
    free(sink->sorted);
    free(sink->ids);
    free(sink->primary);
    free(sink->vectors);
    free(sink);
}

/* Until the thread has nothing to do. */
static fgmm_status wait_for_thread(fgmm_sink *sink, fgmm_comm *comm)
{
    fgmm_status status = FGMM_OK;
    double began = fgmm__seconds();
    pthread_mutex_lock(&sink->lock);
    while (sink->writing >= 0 && status == FGMM_OK) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += wait_nanoseconds;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&sink->changed, &sink->lock, &until);
        pthread_mutex_unlock(&sink->lock);
        status = fgmm__comm_tick(comm);
        pthread_mutex_lock(&sink->lock);
    }
    if (sink->status != FGMM_OK)
        status = sink->status;
    pthread_mutex_unlock(&sink->lock);
    sink->wait_seconds += fgmm__seconds() - began;
    return status;
}

/* Gives the thread the buffer that was being filled, as soon as it has written the other one. */
static fgmm_status hand_over(fgmm_sink *sink, fgmm_comm *comm)
{
    fgmm_status status = wait_for_thread(sink, comm);
    if (status != FGMM_OK)
        return status;
    pthread_mutex_lock(&sink->lock);
    sink->writing = sink->filling;
    pthread_cond_broadcast(&sink->changed);
    pthread_mutex_unlock(&sink->lock);
    sink->filling ^= 1;
    sink->n[sink->filling] = 0;
    return FGMM_OK;
}

fgmm_status fgmm__sink_room(fgmm_sink *sink, int64_t n, fgmm_comm *comm, void **items)
{
    if (sink->n[sink->filling] + n > sink->capacity) {
        fgmm_status status = hand_over(sink, comm);
        if (status != FGMM_OK)
            return status;
    }
    *items = sink->buffers[sink->filling] + (size_t)sink->n[sink->filling] * sink->item_bytes;
    return FGMM_OK;
}

void fgmm__sink_filled(fgmm_sink *sink, int64_t n)
{
    sink->n[sink->filling] += n;
}

fgmm_status fgmm__sink_finish(fgmm_sink *sink, fgmm_comm *comm)
{
    fgmm_status status = FGMM_OK;
    if (sink->n[sink->filling] > 0)
        status = hand_over(sink, comm);
    return status == FGMM_OK ? wait_for_thread(sink, comm) : status;
}

void fgmm__sink_times(fgmm_sink *sink, fgmm_sink_times *out)
{
    pthread_mutex_lock(&sink->lock);
    *out = sink->times;
    pthread_mutex_unlock(&sink->lock);
    out->wait_seconds = sink->wait_seconds;
}
