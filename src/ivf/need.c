#include "ivf/need.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "data/partition.h"
#include "ivf/exchange.h"

/* ---- one row ---- */

enum { BEST = FGMM_GRAPH_KEPT }; /* how a needer's nearest list serves it */

/* How much better a list serves the needers than those the row has; the best, 0 where none does. */
static int64_t best_gain(const int32_t *needers, int64_t n, int32_t kept, int64_t *work, int32_t *best)
{
    int64_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        const int32_t *needer = needers + i * (1 + kept), *lists = needer + 1;
        for (int32_t r = 0; r < kept && BEST - r > needer[0]; r++)
            work[lists[r]] += BEST - r - needer[0];
    }
    for (int64_t i = 0; i < n; i++) {
        const int32_t *needer = needers + i * (1 + kept), *lists = needer + 1;
        for (int32_t r = 0; r < kept && BEST - r > needer[0]; r++) {
            int64_t gain = work[lists[r]];
            work[lists[r]] = 0;
            if (gain > most || (gain == most && gain > 0 && lists[r] < *best)) {
                most = gain;
                *best = lists[r];
            }
        }
    }
    return most;
}

static void serve(int32_t *needers, int64_t n, int32_t kept, int32_t list)
{
    for (int64_t i = 0; i < n; i++) {
        int32_t *needer = needers + i * (1 + kept), *lists = needer + 1;
        for (int32_t r = 0; r < kept && BEST - r > needer[0]; r++)
            if (lists[r] == list)
                needer[0] = BEST - r;
    }
}

int32_t fgmm__need_choose(int32_t *needers, int64_t n, int32_t kept, int32_t most, int64_t *work,
                          int32_t *lists, int64_t *gains)
{
    int32_t count = 1;
    for (int64_t i = 0; i < n; i++)
        needers[i * (1 + kept)] = 0;
    serve(needers, n, kept, lists[0]);
    for (; count < most; count++) {
        gains[count] = best_gain(needers, n, kept, work, &lists[count]);
        if (gains[count] == 0)
            break;
        serve(needers, n, kept, lists[count]);
    }
    return count;
}

double fgmm__need_key(int64_t row, int64_t gain)
{
    double spread = (double)((uint64_t)row * UINT64_C(0x9E3779B97F4A7C15) >> 11) * 0x1p-53;
    return 1 / ((double)gain + spread);
}

/* ---- needs on their way to the rows ---- */

/* What travels for each need: the row that is needed, then the nearest lists of the one that needs it. */
typedef struct {
    int64_t row;
    int32_t lists[];
} need;

typedef struct {
    fgmm_workplace *place;
    const fgmm_graph *graph;
    int size, rank;
    int64_t *begins;       /* [size+1] first rows of the shards */
    int64_t (*windows)[2]; /* [size] each rank's rows that hear of their needs now */
    uint32_t *needed;      /* [rows of the shard] by how many rows */
    int64_t *start;        /* [rows of the window + 1] where a row's needs begin */
    int32_t *needers;      /* [needs of the window][1 + kept] */
    int64_t from, edge;    /* where sending stands */
} deal;

static int owner_of(const deal *d, int64_t row)
{
    int low = 0, high = d->size;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (row >= d->begins[middle])
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Sends needs of rows in the windows until a share of the round is full; true when all are sent. kept: lists
 * that go along. */
static bool send_some(deal *d, fgmm_exchange *exchange, int32_t kept)
{
    const fgmm_graph *graph = d->graph;
    for (; d->from < graph->rows; d->from++, d->edge = 0)
        for (; d->edge < graph->n; d->edge++) {
            int64_t row = graph->nearest[d->from * graph->n + d->edge];
            int owner = row < 0 ? 0 : owner_of(d, row);
            if (row < d->windows[owner][0] || row >= d->windows[owner][1])
                continue;
            need *item = fgmm__exchange_slot(exchange, owner);
            if (item == NULL)
                return false;
            item->row = row;
            memcpy(item->lists, graph->lists + d->from * graph->kept, (size_t)kept * sizeof *item->lists);
        }
    return true;
}

/* Collective. Rounds until all needs have arrived; take is called with each. */
static fgmm_status exchange_needs(deal *d, fgmm_exchange *exchange, int32_t kept,
                                  void (*take)(deal *d, const need *item))
{
    fgmm_status status = FGMM_OK;
    bool any_more = true;
    d->from = d->edge = 0;
    while (any_more) {
        int64_t received;
        bool over = send_some(d, exchange, kept);
        FGMM_TRY(fgmm__comm_agree(d->place->comm, fgmm__comm_tick(d->place->comm)));
        FGMM_TRY(fgmm__exchange_round(exchange, !over, &received, &any_more));
        for (int64_t i = 0; i < received; i++)
            take(d, (const need *)(const void *)(exchange->receive + (size_t)i * exchange->item_bytes));
    }
cleanup:
    return status;
}

static void count_need(deal *d, const need *item)
{
    d->needed[item->row - d->begins[d->rank]]++;
}

/* start[i+1] runs from where row i's needs begin to where they end, which is where those of row i+1 begin. */
static void place_need(deal *d, const need *item)
{
    int64_t at = d->start[item->row - d->windows[d->rank][0] + 1]++;
    memcpy(d->needers + at * (1 + d->graph->kept) + 1, item->lists,
           (size_t)d->graph->kept * sizeof *item->lists);
}

/* ---- windows of rows ---- */

enum { WINDOW_BYTES = 256 << 20, EXCHANGE_BYTES = 64 << 20, ROUND_ROWS = 4096 /* between two ticks */ };

/* Rows from `begin` on whose needs fit; at least one. */
static int64_t window_end(const deal *d, int64_t begin, int64_t window_bytes)
{
    int64_t first = d->begins[d->rank], end = begin, bytes = 0;
    int64_t need_bytes = (1 + d->graph->kept) * (int64_t)sizeof *d->needers;
    while (end < d->begins[d->rank + 1]) {
        bytes += d->needed[end - first] * need_bytes + (int64_t)sizeof *d->start;
        if (end > begin && bytes > window_bytes)
            break;
        end++;
    }
    return end;
}

/* Room for the window's needs, and where each row's will lie: start is one row ahead, see place_need. */
static fgmm_status open_window(deal *d, int64_t begin, int64_t end)
{
    fgmm_status status = FGMM_OK;
    int64_t first = d->begins[d->rank], sum = 0;
    free(d->start);
    free(d->needers);
    d->start = NULL;
    d->needers = NULL;
    FGMM_ALLOC(d->start, end - begin + 1, "needs of rows");
    for (int64_t row = begin; row < end; row++) {
        d->start[row - begin + 1] = sum;
        sum += d->needed[row - first];
    }
    FGMM_ALLOC(d->needers, sum * (1 + d->graph->kept), "needs of rows");
cleanup:
    return status;
}

/* One thread's room, and a round's choices. */
typedef struct {
    int64_t **work;  /* [threads][k] */
    int64_t **gains; /* [threads][most] */
    int32_t *lists;  /* [ROUND_ROWS][most] */
    double *keys;    /* [ROUND_ROWS][most] */
    int32_t *counts; /* [ROUND_ROWS] */
    int32_t most;
    int threads;
} chooser;

static void chooser_free(chooser *c)
{
    for (int t = 0; t < c->threads; t++) {
        if (c->work != NULL)
            free(c->work[t]);
        if (c->gains != NULL)
            free(c->gains[t]);
    }
    free(c->work);
    free(c->gains);
    free(c->lists);
    free(c->keys);
    free(c->counts);
}

static fgmm_status chooser_create(chooser *c, int32_t k)
{
    fgmm_status status = FGMM_OK;
    FGMM_ALLOC(c->work, c->threads, "copies of rows");
    FGMM_ALLOC(c->gains, c->threads, "copies of rows");
    for (int t = 0; t < c->threads; t++) {
        FGMM_ALLOC(c->work[t], k, "copies of rows");
        FGMM_ALLOC(c->gains[t], c->most, "copies of rows");
    }
    FGMM_ALLOC(c->lists, ROUND_ROWS * c->most, "copies of rows");
    FGMM_ALLOC(c->keys, ROUND_ROWS * c->most, "copies of rows");
    FGMM_ALLOC(c->counts, ROUND_ROWS, "copies of rows");
cleanup:
    return status;
}

/* Row `row`, as number `at` of the round. */
static void choose_row(const deal *d, chooser *c, int64_t row, int32_t first, int64_t at)
{
    int64_t in_window = row - d->windows[d->rank][0];
    int64_t begin = d->start[in_window], end = d->start[in_window + 1];
    int32_t *lists = c->lists + at * c->most;
    int64_t *gains = c->gains[omp_get_thread_num()];
    lists[0] = first;
    c->counts[at] = fgmm__need_choose(d->needers + begin * (1 + d->graph->kept), end - begin, d->graph->kept,
                                      c->most, c->work[omp_get_thread_num()], lists, gains);
    for (int32_t i = 1; i < c->counts[at]; i++)
        c->keys[at * c->most + i] = fgmm__need_key(row, gains[i]);
}

static fgmm_status choose_window(deal *d, chooser *c, const int32_t *first, fgmm_labels *labels)
{
    fgmm_status status = FGMM_OK;
    int64_t begin = d->windows[d->rank][0], end = d->windows[d->rank][1], shard = d->begins[d->rank];
    for (int64_t at = begin; at < end; at += ROUND_ROWS) {
        int64_t n = end - at < ROUND_ROWS ? end - at : ROUND_ROWS;
#pragma omp parallel for num_threads(c->threads) schedule(dynamic, 16)
        for (int64_t i = 0; i < n; i++)
            choose_row(d, c, at + i, first[at + i - shard], i);
        for (int64_t i = 0; i < n; i++)
            FGMM_TRY(
                fgmm__labels_append(labels, c->lists + i * c->most, c->keys + i * c->most, c->counts[i]));
        FGMM_TRY(fgmm__comm_tick(d->place->comm));
        fgmm__progress_add(n);
    }
cleanup:
    if (status != FGMM_OK)
        fgmm__comm_announce_failure(d->place->comm);
    return status;
}

static fgmm_status windows(deal *d, chooser *c, const int32_t *first, int64_t window_bytes,
                           fgmm_exchange *exchange, fgmm_labels *labels)
{
    fgmm_status status = FGMM_OK;
    int64_t begin = d->begins[d->rank];
    for (;;) {
        int64_t mine[2] = {begin, window_end(d, begin, window_bytes)}, rows = 0;
        FGMM_TRY(fgmm__comm_allgather(d->place->comm, mine, sizeof mine, d->windows));
        for (int r = 0; r < d->size; r++)
            rows += d->windows[r][1] - d->windows[r][0];
        if (rows == 0)
            break;
        FGMM_TRY(fgmm__comm_agree(d->place->comm, open_window(d, mine[0], mine[1])));
        FGMM_TRY(exchange_needs(d, exchange, d->graph->kept, place_need));
        FGMM_TRY(fgmm__comm_agree(d->place->comm, choose_window(d, c, first, labels)));
        begin = mine[1];
    }
cleanup:
    return status;
}

static fgmm_status make_room(deal *d, chooser *c, int64_t rows, int32_t k, int64_t exchange_bytes,
                             fgmm_exchange **counting, fgmm_exchange **placing)
{
    fgmm_status status = FGMM_OK;
    fgmm_comm *comm = d->place->comm;
    FGMM_ALLOC(d->begins, d->size + 1, "needs of rows");
    FGMM_ALLOC(d->windows, d->size, "needs of rows");
    FGMM_ALLOC(d->needed, fgmm__shard_end(d->place->shard) - fgmm__shard_begin(d->place->shard),
               "needs of rows");
    FGMM_TRY(chooser_create(c, k));
    FGMM_TRY(fgmm__exchange_create(comm, sizeof(need), exchange_bytes, counting));
    size_t item_bytes = sizeof(need) + (size_t)d->graph->kept * sizeof(int32_t);
    item_bytes += item_bytes % _Alignof(need);
    FGMM_TRY(fgmm__exchange_create(comm, item_bytes, exchange_bytes, placing));
    for (int r = 0; r <= d->size; r++)
        d->begins[r] = fgmm__partition_begin(rows, r, d->size);
    for (int r = 0; r < d->size; r++) {
        d->windows[r][0] = d->begins[r];
        d->windows[r][1] = d->begins[r + 1];
    }
cleanup:
    return status;
}

fgmm_status fgmm__need_assign(fgmm_workplace *place, const fgmm_graph *graph, const int32_t *first, int32_t k,
                              int32_t most, int64_t window_bytes, fgmm_labels *labels)
{
    fgmm_status status = FGMM_OK;
    fgmm_comm *comm = place->comm;
    deal d = {.place = place, .graph = graph, .size = fgmm_comm_size(comm), .rank = fgmm_comm_rank(comm)};
    chooser c = {.most = most, .threads = place->backend->threads};
    fgmm_exchange *counting = NULL, *placing = NULL;
    int64_t rows = fgmm__shard_end(place->shard) - fgmm__shard_begin(place->shard);
    if (window_bytes <= 0)
        window_bytes = WINDOW_BYTES;
    FGMM_TRY(fgmm__comm_sum_i64(comm, &rows, 1));
    FGMM_TRY(fgmm__comm_agree(comm, make_room(&d, &c, rows, k,
                                              window_bytes < EXCHANGE_BYTES ? window_bytes : EXCHANGE_BYTES,
                                              &counting, &placing)));
    FGMM_TRY(exchange_needs(&d, counting, 0, count_need));
    FGMM_TRY(windows(&d, &c, first, window_bytes, placing, labels));
cleanup:
    fgmm__exchange_destroy(counting);
    fgmm__exchange_destroy(placing);
    chooser_free(&c);
    free(d.begins);
    free(d.windows);
    free(d.needed);
    free(d.start);
    free(d.needers);
    return status;
}
