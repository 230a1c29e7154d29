/* Building an index. Pass 1 assigns every row; counts and a scan over ranks then give each posting its
 * number, which is its place in the file. Pass 2 sends the rows to the ranks that own these places and writes
 * them.
 *
 * Postings are numbered list by list and, within a list, by row, so the file does not depend on the number of
 * ranks. Rank r owns the postings [r*region, (r+1)*region) and writes them window by window, in as many
 * passes over the rows as there are windows: one where a region fits in memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/log.h"
#include "data/dataset.h"
#include "data/memory.h"
#include "io/ids.h"
#include "ivf/assign.h"
#include "ivf/exchange.h"
#include "ivf/graph.h"
#include "ivf/index.h"
#include "ivf/sketch.h"
#include "ivf/stage.h"
#include "model/model.h"

enum { EXCHANGE_BYTES = 64 << 20, LEAST_WINDOW_BYTES = 64 << 20 };

/* What travels with each row; the row's bytes follow. */
typedef struct {
    uint64_t posting : 63;
    uint64_t primary : 1; /* the row's first list */
    int64_t id;
} item_header;

struct build {
    fgmm_comm *comm;
    const fgmm_dataset *dataset;
    const fgmm_model *model;
    const fgmm_build_options *options;
    fgmm_build_report report;
    fgmm_workplace place;
    int32_t k;
    fgmm_rule rule;
    fgmm_graph *graph; /* of --assign need */
    fgmm_sketch *sketch;
    bool multi;
    fgmm_stage stage;
    fgmm_ids *user_ids; /* NULL: row numbers */
    size_t row_bytes;   /* 0: vectors are not stored */
    fgmm_labels *labels;
    int64_t *counts;                  /* [k] postings of this rank in each list */
    int64_t *first;                   /* [k] posting number of this rank's first one in each list */
    uint64_t *offsets;                /* [k+1] */
    uint64_t *hashes;                 /* [k] this rank's share of the lists' hashes, then the whole */
    int64_t postings, region, window; /* in all; owned by a rank; written at once */
    bool lists_kept;                  /* for another run */
    fgmm_exchange *exchange;
    fgmm_index_writer *writer;
    /* the window being filled: postings [begin, begin + n) */
    int64_t begin, n;
    int64_t *ids;
    uint8_t *primary;
    char *vectors;
    /* where packing stands in the pass */
    fgmm_label_block block;
    fgmm_tile tile;                /* the rows around the block; none where vectors are not stored */
    int64_t user_id[FGMM_QUANTUM]; /* of the block's rows */
    int32_t row, copy, label;      /* row of the block, of its lists, of all lists of the block */
    int64_t *cursor;               /* [k] number of the next posting of each list */
};

void fgmm_build_defaults(fgmm_build_options *options)
{
    *options = (fgmm_build_options){.rule = FGMM_ASSIGN_HARD,
                                    .tau = -1,
                                    .lambda = 0.5,
                                    .epsilon = -1,
                                    .max_lists = 8,
                                    .neighbors = 10,
                                    .store_vectors = 1};
}

static fgmm_status check(struct build *b)
{
    fgmm_status status = FGMM_OK;
    const fgmm_build_options *options = b->options;
    FGMM_TRY(fgmm__check_model(b->dataset, b->model));
    b->k = fgmm_model_k(b->model);
    FGMM_TRY(fgmm__rule_create(options, b->k, &b->rule));
    b->multi = fgmm__rule_is_multi(&b->rule);
    if (options->ids != NULL)
        FGMM_TRY(fgmm__ids_open(options->ids, fgmm_dataset_rows(b->dataset), &b->user_ids));
    if (options->store_vectors)
        b->row_bytes =
            (size_t)fgmm_dataset_dim(b->dataset) * fgmm_dtype_bytes(fgmm_dataset_dtype(b->dataset));
    if (options->sketch < 0 || options->sketch > fgmm_dataset_dim(b->dataset))
        FGMM_FAIL(FGMM_ERR_INPUT, "--sketch %d: must be 0 to the dimension of the rows, %d", options->sketch,
                  fgmm_dataset_dim(b->dataset));
    if (options->sketch > 0 && !options->store_vectors)
        FGMM_FAIL(FGMM_ERR_INPUT, "--sketch is for searching vectors: store them, or leave it out");
    if (options->sketch > 0 && fgmm_dataset_metric(b->dataset) == FGMM_IP)
        FGMM_FAIL(FGMM_ERR_INPUT, "--sketch bounds distances, --metric ip has none: leave one of them out");
    FGMM_ALLOC(b->counts, b->k, "list counts");
    FGMM_ALLOC(b->first, b->k, "list counts");
    FGMM_ALLOC(b->cursor, b->k, "list counts");
    FGMM_ALLOC(b->hashes, b->k, "list hashes");
    FGMM_ALLOC(b->offsets, b->k + 1, "list offsets");
cleanup:
    return status;
}

/* ---- pass 1: assign ---- */

static uint64_t hash_doubles(const double *values, size_t n, uint64_t seed)
{
    return XXH3_64bits_withSeed(values, n * sizeof *values, seed);
}

/* The model and the options that decide a row's lists. */
static uint64_t options_hash(const struct build *b)
{
    const fgmm_rule *rule = &b->rule;
    const fgmm_model *model = b->model;
    size_t k = (size_t)model->k, dim = (size_t)model->dim;
    const double numbers[] = {(double)rule->rule,
                              (double)rule->max_lists,
                              rule->tau,
                              rule->lambda,
                              rule->epsilon,
                              rule->soar_limit,
                              rule->replication,
                              (double)rule->neighbors,
                              (double)model->algorithm,
                              (double)model->covariance};
    uint64_t hash = hash_doubles(numbers, sizeof numbers / sizeof *numbers, 0);
    hash = hash_doubles(model->weights, k, hash);
    hash = hash_doubles(model->means, k * dim, hash);
    hash = hash_doubles(model->origin, dim, hash);
    return hash_doubles(model->covariances, fgmm__covariance_count(model->covariance, model->k, model->dim),
                        hash);
}

static fgmm_status open_stage(struct build *b, const char *path)
{
    const fgmm_build_options *options = b->options;
    fgmm_stage_record made_from = {.data = fgmm__dataset_fingerprint(b->dataset),
                                   .options = options_hash(b),
                                   .rows = fgmm_dataset_rows(b->dataset)};
    return fgmm__stage_open(b->comm, options->checkpoint, path, options->resume, &made_from, &b->stage);
}

/* The lists of all rows as an earlier run found them. */
static fgmm_status take_lists(struct build *b)
{
    fgmm_status status = FGMM_OK;
    const fgmm_rule_files *files = &b->stage.files;
    fgmm_labels_shape shape =
        fgmm__rule_shape(&b->rule, files, fgmm__shard_begin(b->place.shard), fgmm__shard_end(b->place.shard));
    FGMM_TRY(fgmm__labels_create(&shape, &b->labels));
    FGMM_TRY(files->take(files->context, b->labels));
    if (fgmm__labels_find(b->labels, shape.begin, shape.end, false) < shape.end)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: rows are missing from its files; remove it", b->stage.path);
cleanup:
    return status;
}

/* Collective. */
static fgmm_status find_lists(struct build *b)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(fgmm__comm_agree(b->comm, fgmm__stage_check_backend(&b->stage, b->place.backend->ops->name)));
    fgmm__stage_rule(&b->stage, &b->rule);
    if (b->stage.record.complete)
        FGMM_TRY(fgmm__comm_agree(b->comm, take_lists(b)));
    else
        FGMM_TRY(fgmm__rule_apply(&b->rule, &b->place, b->model, &b->stage.files, &b->labels));
    fgmm__graph_destroy(b->graph);
    b->graph = NULL;
    b->report.tau = b->rule.tau;
    b->report.epsilon = b->rule.epsilon;
    b->report.soar_limit = b->rule.soar_limit;
    b->report.least_gain = b->rule.least_gain;
    b->report.looked_all = b->rule.looked_all;
    FGMM_TRY(fgmm__stage_save(&b->stage, b->labels, &b->rule, true, false));
    b->lists_kept = b->stage.path != NULL;
cleanup:
    return status;
}

/* Begins to go through the rank's rows, block by block; so does next_block. */
static void rewind_blocks(struct build *b)
{
    b->block = (fgmm_label_block){.begin = fgmm__shard_begin(b->place.shard)};
    b->tile = (fgmm_tile){.begin = b->block.begin};
    b->row = b->copy = b->label = 0;
}

/* The lists of the next rows; block.rows 0 behind the last. */
static fgmm_status next_block(struct build *b)
{
    enum { BLOCKS_BETWEEN_TICKS = 64 };
    fgmm_status status = FGMM_OK;
    int64_t begin = b->block.begin + b->block.rows;
    b->row = b->copy = b->label = 0;
    b->block = (fgmm_label_block){.begin = begin};
    if (begin / FGMM_QUANTUM % BLOCKS_BETWEEN_TICKS == 0)
        FGMM_TRY(fgmm__comm_tick(b->comm));
    if (begin < fgmm__shard_end(b->place.shard))
        FGMM_TRY(fgmm__labels_block(b->labels, begin, &b->block));
cleanup:
    return status;
}

static fgmm_status count_lists(struct build *b)
{
    fgmm_status status;
    rewind_blocks(b);
    while ((status = next_block(b)) == FGMM_OK && b->block.rows > 0)
        for (int32_t i = 0; i < b->block.n; i++)
            b->counts[b->block.lists[i]]++;
    return fgmm__comm_agree(b->comm, status);
}

/* ---- numbering the postings ---- */

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void describe_lists(struct build *b, int64_t *sizes)
{
    qsort(sizes, (size_t)b->k, sizeof *sizes, by_size);
    b->report.postings = b->postings;
    b->report.list_min = sizes[0];
    b->report.list_median = sizes[b->k / 2];
    b->report.list_p99 = sizes[((int64_t)b->k * 99 + 99) / 100 - 1];
    b->report.list_max = sizes[b->k - 1];
}

static fgmm_status number_postings(struct build *b)
{
    fgmm_status status = FGMM_OK;
    int64_t *sizes = b->cursor; /* free until pass 2 */
    memcpy(sizes, b->counts, (size_t)b->k * sizeof *sizes);
    FGMM_TRY(fgmm__comm_sum_i64(b->comm, sizes, (size_t)b->k));
    FGMM_TRY(fgmm__comm_exscan_i64(b->comm, b->counts, b->first, (size_t)b->k));
    for (int32_t j = 0; j < b->k; j++) {
        b->first[j] += (int64_t)b->offsets[j];
        b->offsets[j + 1] = b->offsets[j] + (uint64_t)sizes[j];
    }
    b->postings = (int64_t)b->offsets[b->k];
    describe_lists(b, sizes);
cleanup:
    return status;
}

/* Postings a rank writes at once, the same on all: bounded by the caller's word, or by half of what memory is
 * left. */
static fgmm_status size_windows(struct build *b)
{
    fgmm_status status = FGMM_OK;
    int64_t posting_bytes = (int64_t)(b->row_bytes + sizeof *b->ids + sizeof *b->primary);
    if (b->sketch != NULL)
        posting_bytes += (b->sketch->m + 1) * (int64_t)sizeof(float);
    int64_t bytes = b->options->window_bytes, cap = b->options->resources.host_memory_bytes;
    if (bytes <= 0) {
        bytes = fgmm__memory_available() / fgmm__comm_node_size(b->comm) / 2;
        if (cap > 0 && bytes > cap / 2)
            bytes = cap / 2;
        if (cap <= 0 && bytes < LEAST_WINDOW_BYTES)
            bytes = LEAST_WINDOW_BYTES;
    }
    int ranks = fgmm_comm_size(b->comm);
    b->region = (b->postings + ranks - 1) / ranks;
    int64_t negative = -(bytes / posting_bytes); /* the least over ranks is minus the largest of these */
    FGMM_TRY(fgmm__comm_max_i64(b->comm, &negative, 1));
    b->window = -negative < 1 ? 1 : -negative;
    if (b->window > b->region)
        b->window = b->region;
    b->report.windows = (b->region + b->window - 1) / b->window;
cleanup:
    return status;
}

static fgmm_status make_room(struct build *b)
{
    fgmm_status status = FGMM_OK;
    int64_t bytes = b->options->exchange_bytes, cap = b->options->resources.host_memory_bytes;
    if (bytes <= 0)
        bytes = cap > 0 && cap / 8 < EXCHANGE_BYTES ? cap / 8 : EXCHANGE_BYTES;
    FGMM_ALLOC(b->ids, b->window, "a window of the index");
    if (b->multi)
        FGMM_ALLOC(b->primary, b->window, "a window of the index");
    FGMM_TRY(fgmm__alloc((size_t)b->window, b->row_bytes, "a window of the index", (void **)&b->vectors));
    FGMM_TRY(fgmm__exchange_create(b->comm, sizeof(item_header) + b->row_bytes, bytes, &b->exchange));
cleanup:
    return status;
}

static fgmm_status create_file(struct build *b, const char *path)
{
    fgmm_index_layout layout = {
        .model = b->model,
        .metric = fgmm_dataset_metric(b->dataset),
        .dtype = fgmm_dataset_dtype(b->dataset),
        .rows = fgmm_dataset_rows(b->dataset),
        .postings = b->postings,
        .rule = &b->rule,
        .vectors = b->row_bytes > 0,
        .user_ids = b->user_ids != NULL,
        .sketch = b->sketch,
        .threads = b->place.backend->threads,
        .offsets = b->offsets,
    };
    return fgmm__index_create(b->comm, path, &layout, &b->writer);
}

/* ---- pass 2: exchange and write ---- */

/* Puts one posting into the exchange; false when its owner's share of the round is full. */
static bool pack_posting(struct build *b, int32_t list, int64_t posting)
{
    char *slot = fgmm__exchange_slot(b->exchange, (int)(posting / b->region));
    if (slot == NULL)
        return false;
    int64_t row = b->block.begin + b->row;
    const char *bytes = (const char *)b->tile.data + (size_t)(row - b->tile.begin) * b->row_bytes;
    item_header header = {.posting = (uint64_t)posting,
                          .primary = b->copy == 0,
                          .id = b->user_ids != NULL ? b->user_id[b->row] : row};
    memcpy(slot, &header, sizeof header);
    if (b->row_bytes == 0)
        return true;
    memcpy(slot + sizeof header, bytes, b->row_bytes);
    b->hashes[list] += fgmm__row_hash(bytes, b->row_bytes, (uint64_t)posting - b->offsets[list]);
    return true;
}

/* The lists of the next rows, and, where vectors are stored, the rows. */
static fgmm_status next_rows(struct build *b)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(next_block(b));
    int64_t begin = b->block.begin;
    if (b->block.rows == 0)
        goto cleanup;
    if (b->row_bytes > 0 && begin == b->tile.begin + b->tile.rows)
        FGMM_TRY(fgmm__shard_next(b->place.shard, &b->tile));
    if (b->user_ids != NULL)
        FGMM_TRY(fgmm__ids_read(b->user_ids, begin, begin + b->block.rows, b->user_id));
cleanup:
    return status;
}

/* Packs postings of window number `window` of every owner until a share is full or the pass is over, going on
 * where the last call stopped. */
static fgmm_status pack(struct build *b, int64_t window, bool *over)
{
    *over = false;
    for (;;) {
        for (; b->row < b->block.rows; b->row++, b->copy = 0)
            for (; b->copy < fgmm__label_count(&b->block, b->row); b->copy++, b->label++) {
                int32_t list = b->block.lists[b->label];
                int64_t posting = b->cursor[list];
                if (posting % b->region / b->window == window && !pack_posting(b, list, posting))
                    return FGMM_OK;
                b->cursor[list]++;
            }
        fgmm__progress_add(b->block.rows);
        fgmm_status status = next_rows(b);
        *over = status == FGMM_OK && b->block.rows == 0;
        if (status != FGMM_OK || *over)
            return status;
    }
}

/* Puts received postings at their places in the window. */
static void place(struct build *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const char *item = b->exchange->receive + (size_t)i * b->exchange->item_bytes;
        item_header header;
        memcpy(&header, item, sizeof header);
        int64_t at = (int64_t)header.posting - b->begin;
        b->ids[at] = header.id;
        if (b->multi)
            b->primary[at] = header.primary;
        if (b->row_bytes > 0)
            memcpy(b->vectors + (size_t)at * b->row_bytes, item + sizeof header, b->row_bytes);
    }
}

static fgmm_status exchange_window(struct build *b, int64_t window)
{
    fgmm_status status = FGMM_OK;
    bool over = false, any_more = true;
    int64_t received;
    memcpy(b->cursor, b->first, (size_t)b->k * sizeof *b->cursor);
    rewind_blocks(b);
    if (b->row_bytes > 0)
        FGMM_TRY(fgmm__comm_agree(b->comm, fgmm__shard_start_host(b->place.shard)));
    while (any_more) {
        status = over ? fgmm__comm_tick(b->comm) : pack(b, window, &over);
        if (status != FGMM_OK)
            fgmm__comm_announce_failure(b->comm);
        FGMM_TRY(fgmm__comm_agree(b->comm, status));
        FGMM_TRY(fgmm__exchange_round(b->exchange, !over, &received, &any_more));
        place(b, received);
    }
cleanup:
    return status;
}

static fgmm_status write_windows(struct build *b)
{
    fgmm_status status = FGMM_OK;
    int64_t mine = fgmm_comm_rank(b->comm) * b->region, end = mine + b->region;
    if (mine > b->postings)
        mine = b->postings;
    if (end > b->postings)
        end = b->postings;
    int64_t rows = fgmm__shard_end(b->place.shard) - fgmm__shard_begin(b->place.shard);
    fgmm__progress_begin("write", "rows", rows * b->report.windows);
    for (int64_t window = 0; window < b->report.windows; window++) {
        double start = fgmm__seconds();
        b->begin = mine + window * b->window < end ? mine + window * b->window : end;
        b->n = end - b->begin < b->window ? end - b->begin : b->window;
        FGMM_TRY(exchange_window(b, window));
        double exchanged = fgmm__seconds();
        FGMM_TRY(fgmm__index_write(b->writer, b->begin, b->n, b->window, b->ids, b->primary, b->vectors));
        b->report.exchange_seconds += exchanged - start;
        b->report.write_seconds += fgmm__seconds() - exchanged;
    }
    b->report.rounds = b->exchange->rounds;
cleanup:
    fgmm__progress_end();
    return status;
}

static fgmm_status finish(struct build *b)
{
    fgmm_status status = FGMM_OK;
    double start = fgmm__seconds();
    fgmm_index_writer *writer = b->writer;
    FGMM_TRY(fgmm__comm_sum_i64(b->comm, (int64_t *)b->hashes, (size_t)b->k));
    b->writer = NULL;
    FGMM_TRY(fgmm__index_finish(writer, b->hashes, &b->report.bytes_written));
    FGMM_TRY(fgmm__comm_bcast(b->comm, &b->report.bytes_written, sizeof b->report.bytes_written, 0));
    b->report.write_seconds += fgmm__seconds() - start;
cleanup:
    return status;
}

/* What is left of a run that failed, for another one: all lists once they are found, and those found so far
 * where it was stopped. */
static fgmm_status leave(struct build *b, fgmm_status status)
{
    bool found = b->lists_kept;
    if (status == FGMM_STOPPED && b->options->checkpoint != NULL) {
        fgmm_status saved = fgmm__stage_save(&b->stage, found ? NULL : b->labels, &b->rule, false, true);
        b->lists_kept = saved == FGMM_OK;
        return saved == FGMM_OK ? FGMM_STOPPED : saved;
    }
    if (status == FGMM_ERR_RUNTIME && found)
        fgmm__info("%s: keeps the lists of all rows; the same line with --resume goes on from there",
                   b->stage.path);
    return status;
}

static void release(struct build *b)
{
    fgmm__index_abandon(b->writer);
    fgmm__exchange_destroy(b->exchange);
    fgmm__labels_destroy(b->labels);
    fgmm__graph_destroy(b->graph);
    fgmm__sketch_destroy(b->sketch);
    fgmm__workplace_close(&b->place);
    fgmm__ids_close(b->user_ids);
    free(b->counts);
    free(b->first);
    free(b->cursor);
    free(b->offsets);
    free(b->hashes);
    free(b->ids);
    free(b->primary);
    free(b->vectors);
}

/* All but leaving. */
static fgmm_status make(struct build *b, const char *path, fgmm_started *started)
{
    fgmm_status status = FGMM_OK;
    double start = fgmm__seconds();
    FGMM_TRY(fgmm__comm_agree(b->comm, check(b)));
    FGMM_TRY(open_stage(b, path));
    if (b->rule.rule == FGMM_ASSIGN_NEED && !b->stage.record.complete)
        FGMM_TRY(fgmm__graph_create(b->comm, b->dataset, b->model, path, b->options, &b->graph));
    b->rule.graph = b->graph;
    fgmm_workplace_needs needs = {.shape = fgmm_model_covariance(b->model),
                                  .k = b->k,
                                  .second = fgmm__rule_takes_two(&b->rule, b->model)};
    FGMM_TRY(
        fgmm__workplace_open_for(b->comm, b->dataset, &b->options->resources, &needs, started, &b->place));
    FGMM_TRY(find_lists(b));
    FGMM_TRY(count_lists(b));
    b->report.assign_seconds = fgmm__seconds() - start;
    FGMM_TRY(number_postings(b));
    if (b->options->sketch > 0)
        FGMM_TRY(fgmm__sketch_create(b->comm, b->dataset, b->options->sketch, b->place.backend->threads,
                                     &b->sketch));
    FGMM_TRY(size_windows(b));
    FGMM_TRY(fgmm__comm_agree(b->comm, make_room(b)));
    FGMM_TRY(create_file(b, path));
    FGMM_TRY(write_windows(b));
    snprintf(b->report.residency, sizeof b->report.residency, "%s", fgmm__shard_where(b->place.shard));
    FGMM_TRY(finish(b));
    b->lists_kept = false;
    b->report.seconds = fgmm__seconds() - start;
cleanup:
    return status;
}

fgmm_status fgmm__build(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_model *model,
                        const char *path, const fgmm_build_options *options, fgmm_started *started,
                        fgmm_build_report *report)
{
    struct build b = {.comm = comm, .dataset = dataset, .model = model, .options = options};
    fgmm_status status = make(&b, path, started);
    if (status == FGMM_OK && report != NULL)
        *report = b.report;
    if (status != FGMM_OK)
        status = leave(&b, status);
    release(&b);
    fgmm__stage_close(&b.stage, status == FGMM_OK || !(b.lists_kept || options->resume));
    return status;
}

fgmm_status fgmm_build(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_model *model,
                       const char *path, const fgmm_build_options *options, fgmm_build_report *report)
{
    fgmm_status status = fgmm__build(comm, dataset, model, path, options, NULL, report);
    return options->checkpoint != NULL ? status : fgmm__stopped_without_trace(status, path);
}
