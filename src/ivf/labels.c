#include "ivf/labels.h"

#include <stdlib.h>
#include <string.h>

fgmm_status fgmm__labels_create(int64_t rows, bool multi, bool keyed, fgmm_labels **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_labels *labels = NULL;
    FGMM_ALLOC(labels, 1, "labels");
    labels->multi = multi;
    labels->capacity = rows;
    if (multi)
        FGMM_ALLOC(labels->counts, rows, "labels");
    if (keyed)
        FGMM_ALLOC(labels->keys, rows, "labels");
    FGMM_ALLOC(labels->lists, rows, "labels");
    *out = labels;
    labels = NULL;
cleanup:
    fgmm__labels_destroy(labels);
    return status;
}

void fgmm__labels_destroy(fgmm_labels *labels)
{
    if (labels == NULL)
        return;
    free(labels->counts);
    free(labels->lists);
    free(labels->keys);
    free(labels);
}

static fgmm_status grow(fgmm_labels *labels)
{
    int64_t capacity = labels->capacity + labels->capacity / 4 + 64;
    int32_t *lists = realloc(labels->lists, (size_t)capacity * sizeof *lists);
    if (lists != NULL)
        labels->lists = lists;
    double *keys = NULL;
    if (lists != NULL && labels->keys != NULL) {
        keys = realloc(labels->keys, (size_t)capacity * sizeof *keys);
        if (keys != NULL)
            labels->keys = keys;
    }
    if (lists == NULL || (labels->keys != NULL && keys == NULL))
        return fgmm__fail(FGMM_ERR_RUNTIME, "out of memory: lists of %lld postings; lower --max-lists",
                          (long long)capacity);
    labels->capacity = capacity;
    return FGMM_OK;
}

fgmm_status fgmm__labels_append(fgmm_labels *labels, const int32_t *lists, const double *keys, int32_t count)
{
    if (labels->n + count > labels->capacity) {
        fgmm_status status = grow(labels);
        if (status != FGMM_OK)
            return status;
    }
    memcpy(labels->lists + labels->n, lists, (size_t)count * sizeof *lists);
    if (labels->keys != NULL) {
        memcpy(labels->keys + labels->n, keys, (size_t)count * sizeof *keys);
        labels->keys[labels->n] = -1;
    }
    labels->n += count;
    if (labels->multi)
        labels->counts[labels->rows] = (uint8_t)count;
    labels->rows++;
    return FGMM_OK;
}

/* ---- keeping the least keys ---- */

enum { DIGIT_BITS = 16, DIGITS = 1 << DIGIT_BITS, WORD_BITS = 64 };

/* Floating-point numbers from 0 up are in the order of their bits. */
static uint64_t bits_of(double key)
{
    uint64_t bits;
    memcpy(&bits, &key, sizeof bits);
    return bits;
}

/* Counts, over all ranks, the keys whose bits above the digit at `shift` are `prefix`, by that digit. */
static fgmm_status count_digits(const fgmm_labels *labels, fgmm_comm *comm, uint64_t prefix, int shift,
                                int64_t *counts)
{
    enum { BETWEEN_TICKS = 1 << 24 };
    fgmm_status status = FGMM_OK;
    memset(counts, 0, DIGITS * sizeof *counts);
    for (int64_t i = 0; i < labels->n && status == FGMM_OK; i++) {
        uint64_t above = bits_of(labels->keys[i]) >> shift;
        if (labels->keys[i] >= 0 && above >> DIGIT_BITS == prefix)
            counts[above % DIGITS]++;
        if (i % BETWEEN_TICKS == BETWEEN_TICKS - 1)
            status = fgmm__comm_tick(comm);
    }
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_sum_i64(comm, counts, DIGITS));
cleanup:
    return status;
}

/* Finds, digit by digit, the least key that may not stay: what lies below it may. */
fgmm_status fgmm__labels_limit(const fgmm_labels *labels, fgmm_comm *comm, int64_t most, double *limit,
                               bool *all)
{
    fgmm_status status = FGMM_OK;
    int64_t *counts = NULL, below = 0;
    uint64_t first_out = 0;
    *all = false;
    FGMM_TRY(fgmm__comm_agree(comm, fgmm__alloc(DIGITS, sizeof *counts, "counts of keys", (void **)&counts)));
    for (int shift = WORD_BITS - DIGIT_BITS; shift >= 0 && !*all; shift -= DIGIT_BITS) {
        uint64_t digit = 0;
        FGMM_TRY(count_digits(labels, comm, first_out, shift, counts));
        while (digit < DIGITS && below + counts[digit] <= most)
            below += counts[digit++];
        *all = digit == DIGITS;
        first_out = first_out << DIGIT_BITS | digit;
    }
    *limit = -1;
    for (int64_t i = 0; i < labels->n; i++)
        if (labels->keys[i] > *limit && (*all || bits_of(labels->keys[i]) < first_out))
            *limit = labels->keys[i];
    FGMM_TRY(fgmm__comm_max_f64(comm, limit, 1));
cleanup:
    free(counts);
    return status;
}

void fgmm__labels_trim(fgmm_labels *labels, double limit)
{
    int64_t from = 0, to = 0;
    for (int64_t row = 0; row < labels->rows; row++) {
        int32_t count = fgmm__labels_count(labels, row), kept = 1;
        while (kept < count && labels->keys[from + kept] <= limit)
            kept++;
        memmove(labels->lists + to, labels->lists + from, (size_t)kept * sizeof *labels->lists);
        labels->counts[row] = (uint8_t)kept;
        from += count;
        to += kept;
    }
    labels->n = to;
    free(labels->keys);
    labels->keys = NULL;
}
