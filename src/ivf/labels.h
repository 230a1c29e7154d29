/* The lists of every row of a rank's shard, kept in a file between the passes of a build: memory is that of a
 * block, whatever the rows. A block is a quantum of rows; blocks may be written in any order and are read by
 * row. A file can be read back by another run, on any number of ranks, as long as nothing says that it was
 * made from other data. */
#ifndef FGMM_IVF_LABELS_H
#define FGMM_IVF_LABELS_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"
#include "comm/comm.h"
#include "data/partition.h"

typedef struct {
    int64_t begin, end; /* global rows, whole quanta but at the end of the data */
    bool multi;         /* rows may be in several lists */
    bool keyed;         /* lists come with keys */
    uint64_t seed;      /* of the blocks' hashes: what the lists were made from */
    const char *path;
    bool keep; /* the file bears its name; else it is gone when it is closed, or when the program ends */
} fgmm_labels_shape;

typedef struct fgmm_labels fgmm_labels;

/* The rows of a quantum. */
typedef struct {
    int64_t begin; /* global number of the first */
    int32_t rows;
    int32_t n;             /* postings */
    const uint8_t *counts; /* [rows] lists a row; NULL: one */
    const int32_t *lists;  /* [n] row after row, the row's first list first */
    const double *keys; /* [n] how dear a list is to the row: at least 0, ascending within a row; negative for
                           the first, which is kept whatever happens. NULL unless keyed */
} fgmm_label_block;

static inline int32_t fgmm__label_count(const fgmm_label_block *block, int32_t row)
{
    return block->counts != NULL ? block->counts[row] : 1;
}

/* All of this is local but where it says otherwise. */
fgmm_status fgmm__labels_create(const fgmm_labels_shape *shape, fgmm_labels **out);
void fgmm__labels_destroy(fgmm_labels *labels); /* accepts NULL; the file stays where it was to be kept */

/* The next row, in row order and beginning with the first that no block holds yet, is in lists[0..count),
 * count from 1 to 64. keys: [count], the first is not looked at; NULL unless keyed. */
fgmm_status fgmm__labels_append(fgmm_labels *labels, const int32_t *lists, const double *keys, int32_t count);
/* The first row of [row, end) that is in no block (known false) or in one (true); else end. */
int64_t fgmm__labels_find(const fgmm_labels *labels, int64_t row, int64_t end, bool known);
int64_t fgmm__labels_postings(const fgmm_labels *labels); /* in the blocks so far */
/* The block that begins at global row `begin`; what it points to lasts until the next call. */
fgmm_status fgmm__labels_block(fgmm_labels *labels, int64_t begin, fgmm_label_block *out);

/* The block after *block (before the first call zeroed), in row order; rows 0 behind the last. Ticks now and
 * then. */
fgmm_status fgmm__labels_next(fgmm_labels *labels, fgmm_comm *comm, fgmm_label_block *block);

/* Makes what was written durable; *bytes: the length of the file. */
fgmm_status fgmm__labels_sync(fgmm_labels *labels, int64_t *bytes);
/* Takes over the blocks of another run's file, of the same shape but for its rows, that lie in this one's
 * rows. bytes: its length, as that run noted it. FGMM_ERR_INPUT where it is damaged. */
fgmm_status fgmm__labels_take(fgmm_labels *labels, const char *path, int64_t bytes);

/* Collective. The largest key that may stay so that, over all ranks, rows are in at most `most` lists beyond
 * their first: exact, and the same on any number of ranks. Equal keys stay or go together. -1 when none may
 * stay; *all: every one may. */
fgmm_status fgmm__labels_limit(fgmm_labels *labels, fgmm_comm *comm, int64_t most, double *limit, bool *all);
/* Appends to `to`, which has no keys, the lists whose key is at most the limit. */
fgmm_status fgmm__labels_trim(fgmm_labels *labels, double limit, fgmm_comm *comm, fgmm_labels *to);

#endif
