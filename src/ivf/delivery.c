#include "ivf/delivery.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "data/memory.h"
#include "ivf/exchange.h"
#include "ivf/sink.h"

enum { EXCHANGE_BYTES = 64 << 20, LEAST_MEMORY = 64 << 20 };

/* Where the pass stands. */
typedef struct {
    fgmm_delivery *d;
    fgmm_exchange *exchange;
    fgmm_sink *sink;
    int64_t postings, region; /* in all; owned by a rank: [rank*region, (rank+1)*region) */
    fgmm_label_block block;
    fgmm_tile tile;                /* the rows around the block; none where vectors are not stored */
    int64_t user_id[FGMM_QUANTUM]; /* of the block's rows */
    int32_t row, copy, label;      /* row of the block, of its lists, of all lists of the block */
    int64_t arriving, arrived_bytes;
    double exchange_wait_seconds, peers_wait_seconds;
} pass;

int64_t fgmm__delivery_memory(const fgmm_build_options *options, const fgmm_comm *comm)
{
    int64_t cap = options->resources.host_memory_bytes;
    if (options->window_bytes > 0)
        return options->window_bytes;
    if (cap > 0)
        return cap / 4;
    int64_t bytes = fgmm__memory_available() / fgmm__comm_node_size(comm) / 2;
    return bytes > LEAST_MEMORY ? bytes : LEAST_MEMORY;
}

/* ---- room ---- */

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Postings of a sink's buffer: what memory allows beside the exchange, but no more than makes runs long (64
 * KiB for each list and sender) and leaves several buffers to be written while others fill. */
static int64_t sink_capacity(const pass *p, int64_t memory)
{
    enum { RUN_BYTES = 64 << 10, BUFFERS = 8 };
    int64_t item_bytes = (int64_t)p->exchange->item_bytes, arriving = fgmm__exchange_most(p->exchange);
    int64_t runs = least(p->d->k, p->region); /* lists of the region times senders */
    int64_t useful = most(p->region / BUFFERS, runs * (RUN_BYTES / item_bytes + 1));
    int64_t fits = (memory - 2 * arriving * item_bytes) / fgmm__sink_bytes(1, (size_t)item_bytes);
    return most(least(least(fits, useful), least(p->region, FGMM_SINK_MOST)), arriving);
}

/* Collective: exchange and sink. */
static fgmm_status make_room(pass *p)
{
    fgmm_status status = FGMM_OK;
    size_t item_bytes = sizeof(fgmm_posting) + p->d->row_bytes;
    int ranks = fgmm_comm_size(p->d->comm);
    int64_t memory = -p->d->memory_bytes, round = p->d->exchange_bytes;
    FGMM_TRY(fgmm__comm_max_i64(p->d->comm, &memory, 1)); /* minus the least of all ranks */
    memory = -memory;
    if (round <= 0)
        round = least(EXCHANGE_BYTES, memory / 8);
    p->region = most((p->postings + ranks - 1) / ranks, 1);
    round = least(round, least(p->region, FGMM_SINK_MOST) * (int64_t)item_bytes);
    int64_t begin = least(fgmm_comm_rank(p->d->comm) * p->region, p->postings),
            end = least(begin + p->region, p->postings);
    status = fgmm__exchange_create_split(p->d->comm, item_bytes, round, &p->exchange);
    if (status == FGMM_OK)
        status = fgmm__sink_create(p->d->writer, p->d->row_bytes, p->d->multi, begin, end,
                                   sink_capacity(p, memory), &p->sink);
    FGMM_TRY(fgmm__comm_agree(p->d->comm, status));
cleanup:
    return status;
}

/* ---- packing, receiving ---- */

/* Puts one posting into the exchange; false when its owner's share of the round is full. */
static bool pack_posting(pass *p, int32_t list)
{
    int64_t number = p->d->next[list];
    char *slot = fgmm__exchange_slot(p->exchange, (int)(number / p->region));
    if (slot == NULL)
        return false;
    int64_t row = p->block.begin + p->row;
    fgmm_posting posting = {.posting = (uint64_t)number,
                            .primary = p->copy == 0,
                            .id = p->d->ids != NULL ? p->user_id[p->row] : p->d->first_id + row};
    memcpy(slot, &posting, sizeof posting);
    if (p->d->row_bytes > 0) {
        const char *bytes = (const char *)p->tile.data + (size_t)(row - p->tile.begin) * p->d->row_bytes;
        memcpy(slot + sizeof posting, bytes, p->d->row_bytes);
        p->d->hashes[list] += fgmm__row_hash(bytes, p->d->row_bytes, (uint64_t)number - p->d->offsets[list]);
    }
    p->d->next[list]++;
    return true;
}

/* The lists of the next rows, and, where vectors are stored, the rows. */
static fgmm_status next_rows(pass *p)
{
    fgmm_status status = FGMM_OK;
    p->row = p->copy = p->label = 0;
    FGMM_TRY(fgmm__labels_next(p->d->labels, p->d->comm, &p->block));
    int64_t begin = p->block.begin;
    if (p->block.rows == 0)
        goto cleanup;
    if (p->d->row_bytes > 0 && begin == p->tile.begin + p->tile.rows)
        FGMM_TRY(fgmm__shard_next(p->d->shard, &p->tile));
    if (p->d->ids != NULL)
        FGMM_TRY(fgmm__ids_read(p->d->ids, begin, begin + p->block.rows, p->user_id));
cleanup:
    return status;
}

/* Packs postings until a share is full or the pass is over, going on where the last call stopped. */
static fgmm_status pack(pass *p, bool *over)
{
    fgmm_status status = FGMM_OK;
    *over = false;
    for (;;) {
        for (; p->row < p->block.rows; p->row++, p->copy = 0)
            for (; p->copy < fgmm__label_count(&p->block, p->row); p->copy++, p->label++)
                if (!pack_posting(p, p->block.lists[p->label]))
                    return FGMM_OK;
        fgmm__progress_add(p->block.rows);
        FGMM_TRY(fgmm__exchange_push(p->exchange));
        FGMM_TRY(next_rows(p));
        *over = p->block.rows == 0;
        if (*over)
            return FGMM_OK;
    }
cleanup:
    return status;
}

/* Ends the round under way. */
static fgmm_status receive(pass *p)
{
    double began = fgmm__seconds();
    fgmm_status status = fgmm__exchange_end(p->exchange);
    p->exchange_wait_seconds += fgmm__seconds() - began;
    fgmm__sink_filled(p->sink, p->arriving);
    p->arriving = 0;
    return status;
}

/* Begins the next one. packed: what came of packing it; the peers wait for our part in any case. */
static fgmm_status send(pass *p, fgmm_status packed, bool over, bool *any_more)
{
    fgmm_status status = FGMM_OK;
    fgmm_comm *comm = p->d->comm;
    void *room = NULL;
    double began = fgmm__seconds();
    FGMM_TRY(fgmm__exchange_announce(p->exchange, !over, &p->arriving, any_more));
    p->peers_wait_seconds += fgmm__seconds() - began;
    if (packed == FGMM_OK)
        packed = fgmm__sink_room(p->sink, p->arriving, comm, &room);
    if (packed != FGMM_OK)
        fgmm__comm_announce_failure(comm);
    began = fgmm__seconds();
    FGMM_TRY(fgmm__comm_agree(comm, packed));
    p->peers_wait_seconds += fgmm__seconds() - began;
    FGMM_TRY(fgmm__exchange_begin(p->exchange, room));
    p->arrived_bytes += p->arriving * (int64_t)p->exchange->item_bytes;
cleanup:
    return status;
}

/* While a round is on its way the next is packed, and what arrived before is written. */
static fgmm_status send_rows(pass *p)
{
    fgmm_status status = FGMM_OK;
    fgmm_comm *comm = p->d->comm;
    bool over = false, any_more = true;
    p->tile.begin = fgmm__shard_begin(p->d->shard);
    if (p->d->row_bytes > 0)
        FGMM_TRY(fgmm__comm_agree(comm, fgmm__shard_start_host(p->d->shard)));
    while (any_more) {
        fgmm_status packed = over ? fgmm__comm_tick(comm) : pack(p, &over);
        if (packed != FGMM_OK)
            fgmm__comm_announce_failure(comm);
        FGMM_TRY(receive(p));
        FGMM_TRY(send(p, packed, over, &any_more));
    }
    FGMM_TRY(receive(p));
    FGMM_TRY(fgmm__comm_agree(comm, fgmm__sink_finish(p->sink, comm)));
cleanup:
    return status;
}

/* What each stage did. */
static void note_stages(const pass *p, const fgmm_shard_times *before, fgmm_build_report *report)
{
    fgmm_shard_times after;
    fgmm_sink_times sink;
    fgmm__shard_times(p->d->shard, &after);
    fgmm__sink_times(p->sink, &sink);
    report->rounds = p->exchange->rounds;
    report->windows = sink.flushes;
    report->read = (fgmm_stage_rate){.bytes = after.bytes_read - before->bytes_read,
                                     .seconds = after.read_seconds - before->read_seconds};
    report->exchange = (fgmm_stage_rate){.bytes = p->arrived_bytes, .seconds = p->exchange->seconds};
    report->write = (fgmm_stage_rate){.bytes = sink.bytes, .seconds = sink.busy_seconds};
    report->read_wait_seconds = after.read_wait_seconds - before->read_wait_seconds;
    report->exchange_wait_seconds = p->exchange_wait_seconds;
    report->write_wait_seconds = sink.wait_seconds;
    report->peers_wait_seconds = p->peers_wait_seconds;
}

fgmm_status fgmm__deliver(fgmm_delivery *delivery, fgmm_build_report *report)
{
    fgmm_status status = FGMM_OK;
    pass p = {.d = delivery, .postings = (int64_t)delivery->offsets[delivery->k]};
    fgmm_shard_times before;
    fgmm__shard_times(delivery->shard, &before);
    fgmm__progress_begin("write", "rows",
                         fgmm__shard_end(delivery->shard) - fgmm__shard_begin(delivery->shard));
    FGMM_TRY(make_room(&p));
    FGMM_TRY(send_rows(&p));
    note_stages(&p, &before, report);
cleanup:
    fgmm__progress_end();
    fgmm__sink_destroy(p.sink);
    fgmm__exchange_destroy(p.exchange);
    return status;
}
