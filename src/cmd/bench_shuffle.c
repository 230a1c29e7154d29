/* The exchange of rows among ranks, as a build makes it: rounds of bounded memory, packed while the one
 * before is on its way. What arrives is checked once, then timed. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/status.h"
#include "cmd/bench.h"
#include "data/partition.h"
#include "ivf/exchange.h"
#include "ivf/sink.h"

typedef struct {
    fgmm_exchange *exchange;
    size_t row_bytes;
    int64_t rows, begin, end; /* of all ranks; of this one */
    int rank, size;
    char *pattern;    /* [row_bytes] of row 0; row r's differs in its first byte */
    char *receive;    /* [fgmm__exchange_most] items */
    int64_t arrived;  /* of the last shuffle */
    uint64_t numbers; /* sum of the numbers of rows that arrived */
} shuffle;

/* Rows go everywhere, and not in turn. */
static int owner_of(const shuffle *s, int64_t row)
{
    uint64_t mixed = (uint64_t)row * UINT64_C(0x9E3779B97F4A7C15);
    return (int)((mixed >> 33) % (uint64_t)s->size);
}

/* Packs rows from *next on until a share is full; true when all are packed. */
static bool pack(const shuffle *s, int64_t *next)
{
    enum { ROWS_BETWEEN_PUSHES = 1024 };
    for (; *next < s->end; ++*next) {
        char *slot = fgmm__exchange_slot(s->exchange, owner_of(s, *next));
        if (slot == NULL)
            return false;
        fgmm_posting posting = {.posting = (uint64_t)*next, .id = *next};
        memcpy(slot, &posting, sizeof posting);
        memcpy(slot + sizeof posting, s->pattern, s->row_bytes);
        slot[sizeof posting] = (char)*next;
        if (*next % ROWS_BETWEEN_PUSHES == 0 && fgmm__exchange_push(s->exchange) != FGMM_OK)
            return false; /* the next collective says so too */
    }
    return true;
}

static fgmm_status check(shuffle *s, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const char *item = s->receive + (size_t)i * s->exchange->item_bytes,
                   *row = item + sizeof(fgmm_posting);
        fgmm_posting posting;
        memcpy(&posting, item, sizeof posting);
        int64_t number = (int64_t)posting.posting;
        if (number < 0 || number >= s->rows || posting.id != number || owner_of(s, number) != s->rank ||
            row[0] != (char)number || memcmp(row + 1, s->pattern + 1, s->row_bytes - 1) != 0)
            return fgmm__fail(FGMM_ERR_RUNTIME, "a row arrived damaged, or at the wrong rank (row %lld)",
                              (long long)number);
        s->numbers += (uint64_t)number;
    }
    s->arrived += n;
    return FGMM_OK;
}

/* Collective: every row to its owner. */
static fgmm_status shuffle_rows(shuffle *s, bool checked)
{
    fgmm_status status = FGMM_OK, answer = FGMM_OK;
    bool any_more = true;
    int64_t next = s->begin, arriving = 0;
    s->arrived = 0;
    s->numbers = 0;
    while (any_more) {
        bool over = pack(s, &next);
        FGMM_TRY(fgmm__exchange_end(s->exchange));
        if (checked && answer == FGMM_OK)
            answer = check(s, arriving);
        FGMM_TRY(fgmm__exchange_announce(s->exchange, !over, &arriving, &any_more));
        FGMM_TRY(fgmm__exchange_begin(s->exchange, s->receive));
    }
    FGMM_TRY(fgmm__exchange_end(s->exchange));
    if (checked && answer == FGMM_OK)
        answer = check(s, arriving);
    status = answer;
cleanup:
    return status;
}

/* Collective: all rows arrived, each once. */
static fgmm_status check_all(const shuffle *s, fgmm_comm *comm)
{
    fgmm_status status = FGMM_OK;
    int64_t sums[2] = {s->arrived, (int64_t)s->numbers};
    FGMM_TRY(fgmm__comm_sum_i64(comm, sums, 2));
    uint64_t rows = (uint64_t)s->rows,
             expected = rows % 2 == 0 ? rows / 2 * (rows - 1) : (rows - 1) / 2 * rows;
    if (sums[0] != s->rows || (uint64_t)sums[1] != expected)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%lld of %lld rows arrived, or some twice", (long long)sums[0],
                  (long long)s->rows);
cleanup:
    return status;
}

static fgmm_status make_room(const fgmm_bench *b, shuffle *s)
{
    fgmm_status status = FGMM_OK;
    size_t item_bytes = sizeof(fgmm_posting) + s->row_bytes;
    FGMM_TRY(fgmm__exchange_create_split(b->comm, item_bytes, b->bytes, &s->exchange));
    FGMM_TRY(fgmm__alloc((size_t)fgmm__exchange_most(s->exchange), item_bytes, "rows that arrive",
                         (void **)&s->receive));
    FGMM_ALLOC(s->pattern, s->row_bytes, "a row");
    for (size_t i = 0; i < s->row_bytes; i++)
        s->pattern[i] = (char)(i * 37 + 11);
cleanup:
    return status;
}

fgmm_status fgmm__bench_shuffle(fgmm_bench *b)
{
    fgmm_status status = FGMM_OK;
    double seconds[FGMM_BENCH_MAX_REPS];
    int rank = fgmm_comm_rank(b->comm), size = fgmm_comm_size(b->comm);
    shuffle s = {.row_bytes = (size_t)b->dim * fgmm_dtype_bytes((fgmm_dtype)b->dtype),
                 .rows = b->rows,
                 .begin = fgmm__partition_begin(b->rows, rank, size),
                 .end = fgmm__partition_begin(b->rows, rank + 1, size),
                 .rank = rank,
                 .size = size};
    FGMM_TRY(fgmm__comm_agree(b->comm, make_room(b, &s)));
    FGMM_TRY(fgmm__comm_agree(b->comm, shuffle_rows(&s, true)));
    FGMM_TRY(fgmm__comm_agree(b->comm, check_all(&s, b->comm)));
    for (int64_t rep = -FGMM_BENCH_WARM_UPS; rep < b->reps; rep++) {
        s.exchange->rounds = 0;
        FGMM_TRY(fgmm__comm_barrier(b->comm));
        double began = fgmm__seconds();
        FGMM_TRY(shuffle_rows(&s, false));
        if (rep >= 0)
            seconds[rep] = fgmm__seconds() - began;
    }
    FGMM_TRY(fgmm__bench_agree_times(b, FGMM_OK, seconds));
    double bytes = (double)s.rows * (double)s.exchange->item_bytes;
    cJSON_AddNumberToObject(b->line, "rows", (double)s.rows);
    cJSON_AddNumberToObject(b->line, "dim", (double)b->dim);
    cJSON_AddStringToObject(b->line, "dtype", fgmm_dtype_name((fgmm_dtype)b->dtype));
    cJSON_AddNumberToObject(b->line, "rounds", (double)s.exchange->rounds);
    cJSON_AddNumberToObject(b->line, "bytes", bytes);
    double median = fgmm__bench_times(b, seconds);
    cJSON_AddNumberToObject(b->line, "gb_per_s", 1e-9 * bytes / median);
cleanup:
    fgmm__exchange_destroy(s.exchange);
    free(s.receive);
    free(s.pattern);
    return status;
}
