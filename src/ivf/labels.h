/* The lists of every row of a rank's shard, kept between the two passes of a build: the postings of the rank,
 * nothing more. */
#ifndef FGMM_IVF_LABELS_H
#define FGMM_IVF_LABELS_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

typedef struct {
    bool multi;   /* rows may be in several lists */
    int64_t rows; /* appended so far */
    int64_t n;    /* postings */
    int64_t capacity;
    uint8_t *counts; /* [rows] lists a row; NULL unless multi: then it is one */
    int32_t *lists;  /* [n] row after row, most likely first */
} fgmm_labels;

/* rows: how many will be appended. */
fgmm_status fgmm__labels_create(int64_t rows, bool multi, fgmm_labels **out);
void fgmm__labels_destroy(fgmm_labels *labels); /* accepts NULL */
/* The next row is in lists[0..count), count from 1 to 64. */
fgmm_status fgmm__labels_append(fgmm_labels *labels, const int32_t *lists, int32_t count);

static inline int32_t fgmm__labels_count(const fgmm_labels *labels, int64_t row)
{
    return labels->multi ? labels->counts[row] : 1;
}

#endif
