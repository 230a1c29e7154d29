#include "ivf/labels.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { MOST_LISTS = 64 };

/* A block in the file. Keys, lists and counts follow, in this order, so that all are aligned. */
typedef struct {
    int64_t begin;
    int32_t rows, n;
    uint64_t hash; /* of what follows, its seed made of the run's and the fields above */
} block_header;

struct fgmm_labels {
    fgmm_labels_shape shape;
    char *path;
    int file;
    int64_t bytes;    /* written so far */
    int64_t *at;      /* [quanta] where a block lies in the file; -1: nowhere yet */
    int64_t postings; /* in blocks */
    /* the block being filled: header, then room for what a quantum of rows can take */
    block_header next;
    double *keys;
    int32_t *lists;
    uint8_t counts[FGMM_QUANTUM];
    char *packed; /* a block as it stands in the file, being written or just read; 8-byte aligned */
    int64_t packed_capacity;
};

static int64_t quanta_of(const fgmm_labels_shape *shape)
{
    return (shape->end - shape->begin + FGMM_QUANTUM - 1) / FGMM_QUANTUM;
}

static int64_t *place_of(const fgmm_labels *labels, int64_t row)
{
    return &labels->at[(row - labels->shape.begin) / FGMM_QUANTUM];
}

static int32_t rows_of_block(const fgmm_labels_shape *shape, int64_t begin)
{
    int64_t left = shape->end - begin;
    return left < FGMM_QUANTUM ? (int32_t)left : FGMM_QUANTUM;
}

/* Bytes of a block behind its header. */
static int64_t payload_bytes(const fgmm_labels_shape *shape, const block_header *header)
{
    int64_t bytes = header->n * (int64_t)sizeof(int32_t);
    if (shape->keyed)
        bytes += header->n * (int64_t)sizeof(double);
    return bytes + (shape->multi ? header->rows : 0);
}

/* A block begins where a header may: at a multiple of 8. */
static int64_t block_bytes(const fgmm_labels_shape *shape, const block_header *header)
{
    return ((int64_t)sizeof *header + payload_bytes(shape, header) + 7) / 8 * 8;
}

static uint64_t hash_of(const fgmm_labels_shape *shape, const block_header *header, const char *payload)
{
    const int64_t about[] = {header->begin, header->rows, header->n, (int64_t)shape->seed};
    return XXH3_64bits_withSeed(payload, (size_t)payload_bytes(shape, header),
                                XXH3_64bits(about, sizeof about));
}

/* ---- the file ---- */

static fgmm_status write_bytes(const fgmm_labels *labels, const char *bytes, int64_t n, int64_t at)
{
    for (int64_t done = 0; done < n;) {
        ssize_t written = pwrite(labels->file, bytes + done, (size_t)(n - done), (off_t)(at + done));
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot be written (the lists of the rows): %s",
                              labels->path, written < 0 ? strerror(errno) : "no space left");
        done += written;
    }
    return FGMM_OK;
}

static bool read_exactly(int file, char *bytes, int64_t n, int64_t at)
{
    for (int64_t done = 0; done < n;) {
        ssize_t got = pread(file, bytes + done, (size_t)(n - done), (off_t)(at + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        done += got;
    }
    return true;
}

static fgmm_status make_packed_room(fgmm_labels *labels, int64_t bytes)
{
    fgmm_status status = FGMM_OK;
    if (bytes <= labels->packed_capacity)
        return FGMM_OK;
    free(labels->packed);
    labels->packed = NULL;
    labels->packed_capacity = 0;
    FGMM_ALLOC(labels->packed, bytes, "a block of lists");
    labels->packed_capacity = bytes;
cleanup:
    return status;
}

/* Appends the packed block to the file. */
static fgmm_status put_packed(fgmm_labels *labels, const block_header *header)
{
    fgmm_status status = FGMM_OK;
    int64_t bytes = block_bytes(&labels->shape, header);
    FGMM_TRY(write_bytes(labels, labels->packed, bytes, labels->bytes));
    *place_of(labels, header->begin) = labels->bytes;
    labels->bytes += bytes;
    labels->postings += header->n;
cleanup:
    return status;
}

/* Reads the block at `at`, which ends before `end`, of a file of this shape, and checks it; *sound = false
 * where it is damaged. */
static fgmm_status get_packed(fgmm_labels *labels, int file, int64_t at, int64_t end, block_header *header,
                              bool *sound)
{
    fgmm_status status = FGMM_OK;
    *sound = end - at >= (int64_t)sizeof *header && read_exactly(file, (char *)header, sizeof *header, at) &&
             header->rows > 0 && header->rows <= FGMM_QUANTUM && header->n >= header->rows &&
             header->n <= header->rows * MOST_LISTS && block_bytes(&labels->shape, header) <= end - at;
    if (!*sound)
        return FGMM_OK;
    int64_t bytes = block_bytes(&labels->shape, header);
    FGMM_TRY(make_packed_room(labels, bytes));
    *sound = read_exactly(file, labels->packed, bytes, at) &&
             hash_of(&labels->shape, header, labels->packed + sizeof *header) == header->hash;
cleanup:
    return status;
}

fgmm_status fgmm__labels_create(const fgmm_labels_shape *shape, fgmm_labels **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_labels *labels = NULL;
    FGMM_ALLOC(labels, 1, "the lists of the rows");
    labels->shape = *shape;
    labels->file = -1;
    labels->path = strdup(shape->path);
    if (labels->path == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory");
    labels->shape.path = labels->path;
    FGMM_ALLOC(labels->at, quanta_of(shape), "the lists of the rows");
    for (int64_t i = 0; i < quanta_of(shape); i++)
        labels->at[i] = -1;
    FGMM_ALLOC(labels->lists, FGMM_QUANTUM * (shape->multi ? MOST_LISTS : 1), "the lists of the rows");
    if (shape->keyed)
        FGMM_ALLOC(labels->keys, FGMM_QUANTUM * MOST_LISTS, "the lists of the rows");
    labels->next.begin = shape->begin;
    labels->file = open(labels->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (labels->file < 0 || (!shape->keep && unlink(labels->path) != 0))
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot be created: %s", labels->path, strerror(errno));
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
    if (labels->file >= 0)
        close(labels->file);
    free(labels->path);
    free(labels->at);
    free(labels->keys);
    free(labels->lists);
    free(labels->packed);
    free(labels);
}

/* ---- writing ---- */

static fgmm_status write_block(fgmm_labels *labels)
{
    fgmm_status status = FGMM_OK;
    block_header *header = &labels->next;
    int64_t bytes = block_bytes(&labels->shape, header);
    FGMM_TRY(make_packed_room(labels, bytes));
    memset(labels->packed + bytes - 8, 0, 8); /* what fills up to a multiple of 8 */
    char *to = labels->packed + sizeof *header;
    if (labels->shape.keyed) {
        memcpy(to, labels->keys, (size_t)header->n * sizeof *labels->keys);
        to += (size_t)header->n * sizeof *labels->keys;
    }
    memcpy(to, labels->lists, (size_t)header->n * sizeof *labels->lists);
    to += (size_t)header->n * sizeof *labels->lists;
    if (labels->shape.multi)
        memcpy(to, labels->counts, (size_t)header->rows);
    header->hash = hash_of(&labels->shape, header, labels->packed + sizeof *header);
    memcpy(labels->packed, header, sizeof *header);
    FGMM_TRY(put_packed(labels, header));
    *header = (block_header){.begin = header->begin + header->rows};
cleanup:
    return status;
}

fgmm_status fgmm__labels_append(fgmm_labels *labels, const int32_t *lists, const double *keys, int32_t count)
{
    block_header *next = &labels->next;
    if (next->rows == 0)
        next->begin = fgmm__labels_find(labels, next->begin, labels->shape.end, false);
    memcpy(labels->lists + next->n, lists, (size_t)count * sizeof *lists);
    if (labels->shape.keyed) {
        memcpy(labels->keys + next->n, keys, (size_t)count * sizeof *keys);
        labels->keys[next->n] = -1;
    }
    labels->counts[next->rows++] = (uint8_t)count;
    next->n += count;
    return next->rows == rows_of_block(&labels->shape, next->begin) ? write_block(labels) : FGMM_OK;
}

int64_t fgmm__labels_find(const fgmm_labels *labels, int64_t row, int64_t end, bool known)
{
    while (row < end && (*place_of(labels, row) >= 0) != known)
        row += FGMM_QUANTUM - row % FGMM_QUANTUM;
    return row < end ? row : end;
}

int64_t fgmm__labels_postings(const fgmm_labels *labels)
{
    return labels->postings;
}

fgmm_status fgmm__labels_sync(fgmm_labels *labels, int64_t *bytes)
{
    *bytes = labels->bytes;
    if (fsync(labels->file) == 0)
        return FGMM_OK;
    return fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot be written (the lists of the rows): %s", labels->path,
                      strerror(errno));
}

/* ---- reading ---- */

static fgmm_status damaged(const char *path)
{
    return fgmm__fail(FGMM_ERR_INPUT, "%s: damaged; remove it, or leave --resume out to begin anew", path);
}

fgmm_status fgmm__labels_block(fgmm_labels *labels, int64_t begin, fgmm_label_block *out)
{
    fgmm_status status = FGMM_OK;
    block_header header;
    bool sound;
    FGMM_TRY(get_packed(labels, labels->file, *place_of(labels, begin), labels->bytes, &header, &sound));
    if (!sound || header.begin != begin)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot be read back, or was changed meanwhile", labels->path);
    const char *from = labels->packed + sizeof header;
    *out = (fgmm_label_block){.begin = begin, .rows = header.rows, .n = header.n};
    if (labels->shape.keyed) {
        out->keys = (const double *)from;
        from += (size_t)header.n * sizeof *out->keys;
    }
    out->lists = (const int32_t *)from;
    if (labels->shape.multi)
        out->counts = (const uint8_t *)(out->lists + header.n);
cleanup:
    return status;
}

fgmm_status fgmm__labels_next(fgmm_labels *labels, fgmm_comm *comm, fgmm_label_block *block)
{
    enum { BLOCKS_BETWEEN_TICKS = 64 };
    fgmm_status status = FGMM_OK;
    int64_t begin = block->rows > 0 ? block->begin + block->rows : labels->shape.begin;
    if (begin / FGMM_QUANTUM % BLOCKS_BETWEEN_TICKS == 0)
        FGMM_TRY(fgmm__comm_tick(comm));
    *block = (fgmm_label_block){.rows = 0};
    if (begin < labels->shape.end)
        FGMM_TRY(fgmm__labels_block(labels, begin, block));
cleanup:
    return status;
}

fgmm_status fgmm__labels_take(fgmm_labels *labels, const char *path, int64_t bytes)
{
    fgmm_status status = FGMM_OK;
    block_header header;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: cannot be opened (lists that an earlier run found): %s", path,
                  strerror(errno));
    for (int64_t at = 0; at < bytes; at += block_bytes(&labels->shape, &header)) {
        bool sound;
        FGMM_TRY(get_packed(labels, file, at, bytes, &header, &sound));
        if (!sound)
            FGMM_TRY(damaged(path));
        if (header.begin < labels->shape.begin || header.begin >= labels->shape.end)
            continue;
        if (header.begin % FGMM_QUANTUM != 0 || header.rows != rows_of_block(&labels->shape, header.begin))
            FGMM_TRY(damaged(path));
        FGMM_TRY(put_packed(labels, &header));
    }
cleanup:
    if (file >= 0)
        close(file);
    return status;
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
static fgmm_status count_digits(fgmm_labels *labels, fgmm_comm *comm, uint64_t prefix, int shift,
                                int64_t *counts)
{
    fgmm_status status = FGMM_OK;
    fgmm_label_block block = {.rows = 0};
    memset(counts, 0, DIGITS * sizeof *counts);
    while ((status = fgmm__labels_next(labels, comm, &block)) == FGMM_OK && block.rows > 0)
        for (int32_t i = 0; i < block.n; i++) {
            uint64_t above = bits_of(block.keys[i]) >> shift;
            if (block.keys[i] >= 0 && above >> DIGIT_BITS == prefix)
                counts[above % DIGITS]++;
        }
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_sum_i64(comm, counts, DIGITS));
cleanup:
    return status;
}

/* The largest key, over all ranks, whose bits are below `first_out` (all: of any). */
static fgmm_status largest_key(fgmm_labels *labels, fgmm_comm *comm, uint64_t first_out, bool all,
                               double *limit)
{
    fgmm_status status = FGMM_OK;
    fgmm_label_block block = {.rows = 0};
    *limit = -1;
    while ((status = fgmm__labels_next(labels, comm, &block)) == FGMM_OK && block.rows > 0)
        for (int32_t i = 0; i < block.n; i++)
            if (block.keys[i] > *limit && (all || bits_of(block.keys[i]) < first_out))
                *limit = block.keys[i];
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_max_f64(comm, limit, 1));
cleanup:
    return status;
}

/* Finds, digit by digit, the least key that may not stay: what lies below it may. */
fgmm_status fgmm__labels_limit(fgmm_labels *labels, fgmm_comm *comm, int64_t most, double *limit, bool *all)
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
    FGMM_TRY(largest_key(labels, comm, first_out, *all, limit));
cleanup:
    free(counts);
    return status;
}

fgmm_status fgmm__labels_trim(fgmm_labels *labels, double limit, fgmm_comm *comm, fgmm_labels *to)
{
    fgmm_status status = FGMM_OK;
    fgmm_label_block block = {.rows = 0};
    while ((status = fgmm__labels_next(labels, comm, &block)) == FGMM_OK && block.rows > 0) {
        int32_t at = 0;
        for (int32_t row = 0; row < block.rows; row++) {
            int32_t count = fgmm__label_count(&block, row), kept = 1;
            while (kept < count && block.keys[at + kept] <= limit)
                kept++;
            FGMM_TRY(fgmm__labels_append(to, block.lists + at, NULL, kept));
            at += count;
        }
    }
cleanup:
    return status;
}
