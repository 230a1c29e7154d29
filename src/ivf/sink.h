/* Where postings arrive and from where they are written: two buffers, one filling while a thread brings what
 * the other holds into the order of the file and writes it. Memory is that of the buffers, whatever the
 * index's size; the fuller a buffer, the longer the runs that are written. */
#ifndef FGMM_IVF_SINK_H
#define FGMM_IVF_SINK_H

#include "comm/comm.h"
#include "ivf/index.h"

/* What travels with each row; the row's bytes follow, none where vectors are not stored. */
typedef struct {
    uint64_t posting : 63;
    uint64_t primary : 1; /* the row's first list */
    int64_t id;
} fgmm_posting;

typedef struct fgmm_sink fgmm_sink;

typedef struct {
    int64_t flushes;     /* buffers written */
    int64_t bytes;       /* written */
    double busy_seconds; /* the thread sorted and wrote */
    double wait_seconds; /* the owner waited for it */
} fgmm_sink_times;

/* Items of item_bytes = sizeof(fgmm_posting) + row_bytes, of postings [begin, end). */
static inline int64_t fgmm__sink_bytes(int64_t capacity, size_t item_bytes)
{
    return capacity * (int64_t)(2 * item_bytes + 2 * sizeof(uint64_t));
}
enum { FGMM_SINK_MOST = 1 << 24 }; /* largest capacity */

/* Local; so is all that follows. Starts the thread. capacity: items a buffer. The writer stays the caller's.
 */
fgmm_status fgmm__sink_create(fgmm_index_writer *writer, size_t row_bytes, bool multi, int64_t begin,
                              int64_t end, int64_t capacity, fgmm_sink **out);
void fgmm__sink_destroy(fgmm_sink *sink); /* accepts NULL; what was not written is lost */

/* Room for `n` items at *items, at most a buffer's capacity; waits, with ticks, for the thread if it is
 * behind. A failed write is returned here or by `finish`. */
fgmm_status fgmm__sink_room(fgmm_sink *sink, int64_t n, fgmm_comm *comm, void **items);
void fgmm__sink_filled(fgmm_sink *sink, int64_t n); /* so many of them are there */
/* All is written when it returns FGMM_OK. */
fgmm_status fgmm__sink_finish(fgmm_sink *sink, fgmm_comm *comm);
void fgmm__sink_times(fgmm_sink *sink, fgmm_sink_times *out);

#endif
