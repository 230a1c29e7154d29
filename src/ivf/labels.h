/* The lists of every row of a rank's shard, kept between the two passes of a build: the postings of the rank,
 * nothing more (while a replication is sought: those that it chooses from). */
#ifndef FGMM_IVF_LABELS_H
#define FGMM_IVF_LABELS_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"
#include "comm/comm.h"

typedef struct {
    bool multi;   /* rows may be in several lists */
    int64_t rows; /* appended so far */
    int64_t n;    /* postings */
    int64_t capacity;
    uint8_t *counts; /* [rows] lists a row; NULL unless multi: then it is one */
    int32_t *lists;  /* [n] row after row, the row's first list first */
    double *keys; /* [n] how dear a list is to the row: at least 0, ascending within a row; negative for the
                     first, which is kept whatever happens. NULL unless keyed */
} fgmm_labels;

/* rows: how many will be appended. keyed: lists come with keys. */
fgmm_status fgmm__labels_create(int64_t rows, bool multi, bool keyed, fgmm_labels **out);
void fgmm__labels_destroy(fgmm_labels *labels); /* accepts NULL */
/* The next row is in lists[0..count), count from 1 to 64. keys: [count], the first is not looked at; NULL
 * unless keyed. */
fgmm_status fgmm__labels_append(fgmm_labels *labels, const int32_t *lists, const double *keys, int32_t count);

static inline int32_t fgmm__labels_count(const fgmm_labels *labels, int64_t row)
{
    return labels->multi ? labels->counts[row] : 1;
}

/* Collective. The largest key that may stay so that, over all ranks, rows are in at most `most` lists beyond
 * their first: exact, and the same on any number of ranks. Equal keys stay or go together. -1 when none may
 * stay; *all: every one may. */
fgmm_status fgmm__labels_limit(const fgmm_labels *labels, fgmm_comm *comm, int64_t most, double *limit,
                               bool *all);
/* Local. Drops the lists whose key is above the limit, and all keys. */
void fgmm__labels_trim(fgmm_labels *labels, double limit);

#endif
