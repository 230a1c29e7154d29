/* Building an index. Pass 1 finds the lists of every row; counts and a scan over ranks then give each posting
 * its number, which is its place in the file. Pass 2 sends the rows to the ranks that own these places and
 * writes them (ivf/delivery.h).
 *
 * Postings are numbered list by list and, within a list, by row, so the file does not depend on the number of
 * ranks. Rank r owns the postings [r*region, (r+1)*region): equal parts of the file, whatever the lists'
 * sizes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/log.h"
#include "data/dataset.h"
#include "data/memory.h"
#include "io/ids.h"
#include "ivf/append.h"
#include "ivf/assign.h"
#include "ivf/delivery.h"
#include "ivf/graph.h"
#include "ivf/index.h"
#include "ivf/sketch.h"
#include "ivf/stage.h"
#include "model/model.h"

struct build {
    fgmm_comm *comm;
    const fgmm_dataset *dataset;
    const fgmm_model *model;
    const fgmm_build_options *options;
    fgmm_build_report report;
    fgmm_append *old; /* the index that rows are added to; NULL: none */
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
    int64_t *counts;          /* [k] postings of this rank in each list */
    int64_t *sizes;           /* [k] postings of all ranks */
    int64_t *first;           /* [k] posting number of this rank's first one in each list */
    uint64_t *offsets;        /* [k+1] */
    uint64_t *hashes;         /* [k] this rank's share of the lists' hashes, then the whole */
    int64_t postings;         /* in all */
    bool taken, lists_kept;   /* lists: from another run, for another run */
    double load_wait_seconds; /* for reads, before lists are sought */
    fgmm_index_writer *writer;
};

void fgmm_build_defaults(fgmm_build_options *options)
{
    *options = (fgmm_build_options){.rule = FGMM_ASSIGN_HARD,
                                    .tau = -1,
                                    .lambda = 0.5,
                                    .epsilon = -1,
                                    .max_lists = 8,
                                    .neighbors = 40,
                                    .store_vectors = 1};
}

/* Model and rule, of the options or of the index that rows are added to. */
static fgmm_status choose_rule(struct build *b)
{
    fgmm_status status = FGMM_OK;
    const fgmm_build_options *options = b->options;
    bool vectors = options->store_vectors;
    if (options->append != NULL) {
        FGMM_TRY(fgmm__append_open(options->append, &b->old));
        FGMM_TRY(fgmm__append_check(b->old, b->dataset, options->ids != NULL));
        b->model = b->old->model;
        vectors = b->old->index->vectors_at != 0;
    }
    FGMM_TRY(fgmm__check_model(b->dataset, b->model));
    b->k = fgmm_model_k(b->model);
    if (b->old != NULL)
        b->rule = b->old->rule;
    else
        FGMM_TRY(fgmm__rule_create(options, b->k, &b->rule));
    b->multi = fgmm__rule_is_multi(&b->rule);
    if (vectors)
        b->row_bytes =
            (size_t)fgmm_dataset_dim(b->dataset) * fgmm_dtype_bytes(fgmm_dataset_dtype(b->dataset));
cleanup:
    return status;
}

static fgmm_status check(struct build *b)
{
    fgmm_status status = FGMM_OK;
    const fgmm_build_options *options = b->options;
    FGMM_TRY(choose_rule(b));
    if (options->ids != NULL)
        FGMM_TRY(fgmm__ids_open(options->ids, fgmm_dataset_rows(b->dataset), &b->user_ids));
    if (options->sketch < 0 || options->sketch > fgmm_dataset_dim(b->dataset))
        FGMM_FAIL(FGMM_ERR_INPUT, "--sketch %d: must be 0 to the dimension of the rows, %d", options->sketch,
                  fgmm_dataset_dim(b->dataset));
    if (options->sketch > 0 && !options->store_vectors)
        FGMM_FAIL(FGMM_ERR_INPUT, "--sketch is for searching vectors: store them, or leave it out");
    if (options->sketch > 0 && fgmm_dataset_metric(b->dataset) == FGMM_IP)
        FGMM_FAIL(FGMM_ERR_INPUT, "--sketch bounds distances, --metric ip has none: leave one of them out");
    FGMM_ALLOC(b->counts, b->k, "list counts");
    FGMM_ALLOC(b->first, b->k, "list counts");
    FGMM_ALLOC(b->sizes, b->k, "list counts");
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
    b->taken = b->stage.record.complete;
    if (b->taken)
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

static void note_assignment(struct build *b)
{
    fgmm_shard_times times;
    int64_t rows = fgmm__shard_end(b->place.shard) - fgmm__shard_begin(b->place.shard);
    size_t row_bytes =
        (size_t)fgmm_dataset_dim(b->dataset) * fgmm_dtype_bytes(fgmm_dataset_dtype(b->dataset));
    fgmm__shard_times(b->place.shard, &times);
    b->report.assign = (fgmm_stage_rate){.bytes = b->taken ? 0 : rows * (int64_t)row_bytes,
                                         .seconds = b->report.assign_seconds};
    b->report.assign_read_wait_seconds = times.read_wait_seconds - b->load_wait_seconds;
}

static fgmm_status count_lists(struct build *b)
{
    fgmm_status status;
    fgmm_label_block block = {.rows = 0};
    while ((status = fgmm__labels_next(b->labels, b->comm, &block)) == FGMM_OK && block.rows > 0)
        for (int32_t i = 0; i < block.n; i++)
            b->counts[block.lists[i]]++;
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
    int64_t *sizes = b->sizes;
    memcpy(sizes, b->counts, (size_t)b->k * sizeof *sizes);
    FGMM_TRY(fgmm__comm_sum_i64(b->comm, sizes, (size_t)b->k));
    FGMM_TRY(fgmm__comm_exscan_i64(b->comm, b->counts, b->first, (size_t)b->k));
    for (int32_t j = 0; j < b->k; j++) {
        int64_t old = b->old != NULL ? fgmm__append_list_size(b->old, j) : 0;
        b->first[j] += (int64_t)b->offsets[j] + old;
        sizes[j] += old;
        b->offsets[j + 1] = b->offsets[j] + (uint64_t)sizes[j];
    }
    b->postings = (int64_t)b->offsets[b->k];
    describe_lists(b, sizes);
cleanup:
    return status;
}

static int64_t old_rows(const struct build *b)
{
    return b->old != NULL ? fgmm_index_rows(b->old->index) : 0;
}

static fgmm_status create_file(struct build *b, const char *path)
{
    fgmm_index_layout layout = {
        .model = b->model,
        .metric = fgmm_dataset_metric(b->dataset),
        .dtype = fgmm_dataset_dtype(b->dataset),
        .rows = old_rows(b) + fgmm_dataset_rows(b->dataset),
        .postings = b->postings,
        .rule = &b->rule,
        .vectors = b->row_bytes > 0,
        .user_ids = b->user_ids != NULL || (b->old != NULL && b->old->user_ids),
        .sketch = b->old != NULL ? b->old->index->sketch : b->sketch,
        .threads = b->place.backend->threads,
        .offsets = b->offsets,
    };
    return fgmm__index_create(b->comm, path, &layout, &b->writer);
}

/* ---- pass 2: exchange and write ---- */

/* What of the cap of host memory the build itself will take, beside shard and backend. */
static int64_t memory_reserved(const struct build *b)
{
    int64_t arrays = b->k * (int64_t)(5 * sizeof(int64_t));
    return b->options->resources.host_memory_bytes > 0 ? fgmm__delivery_memory(b->options, b->comm) + arrays
                                                       : 0;
}

static fgmm_status write_rows(struct build *b)
{
    double start = fgmm__seconds();
    fgmm_delivery delivery = {.comm = b->comm,
                              .shard = b->place.shard,
                              .labels = b->labels,
                              .k = b->k,
                              .row_bytes = b->row_bytes,
                              .multi = b->multi,
                              .ids = b->user_ids,
                              .first_id = old_rows(b),
                              .offsets = b->offsets,
                              .next = b->first,
                              .hashes = b->hashes,
                              .writer = b->writer,
                              .memory_bytes = fgmm__delivery_memory(b->options, b->comm),
                              .exchange_bytes = b->options->exchange_bytes};
    fgmm_status status = FGMM_OK;
    if (b->old != NULL)
        FGMM_TRY(fgmm__append_copy(b->old, b->comm, b->offsets, b->writer, b->hashes));
    b->report.copy_seconds = fgmm__seconds() - start;
    FGMM_TRY(fgmm__deliver(&delivery, &b->report));
    b->report.write_seconds = fgmm__seconds() - start - b->report.copy_seconds;
    b->report.rows = old_rows(b) + fgmm_dataset_rows(b->dataset);
cleanup:
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
    b->report.write_wait_seconds += fgmm__seconds() - start;
cleanup:
    return status;
}

/* Collective: the report of all ranks. Bytes are summed; of seconds a stage takes those of the slowest rank,
 * and waiting is that of the average rank. */
static fgmm_status join_reports(struct build *b)
{
    fgmm_status status = FGMM_OK;
    fgmm_build_report *r = &b->report;
    enum { STAGES = 4, WAITS = STAGES + 1, MAXIMA = STAGES + 2 };
    fgmm_stage_rate *stages[STAGES] = {&r->assign, &r->read, &r->exchange, &r->write};
    double *waits[WAITS] = {&r->assign_read_wait_seconds, &r->read_wait_seconds, &r->exchange_wait_seconds,
                            &r->write_wait_seconds, &r->peers_wait_seconds};
    double largest[MAXIMA] = {[STAGES] = (double)r->windows, (double)fgmm__memory_peak()};
    int64_t sums[STAGES + WAITS];
    for (int i = 0; i < STAGES; i++) {
        sums[i] = stages[i]->bytes;
        largest[i] = stages[i]->seconds;
    }
    for (int i = 0; i < WAITS; i++)
        sums[STAGES + i] = llrint(*waits[i] * 1e9);
    FGMM_TRY(fgmm__comm_sum_i64(b->comm, sums, STAGES + WAITS));
    FGMM_TRY(fgmm__comm_max_f64(b->comm, largest, MAXIMA));
    for (int i = 0; i < STAGES; i++)
        *stages[i] = (fgmm_stage_rate){.bytes = sums[i], .seconds = largest[i]};
    for (int i = 0; i < WAITS; i++)
        *waits[i] = (double)sums[STAGES + i] * 1e-9 / fgmm_comm_size(b->comm);
    r->windows = (int64_t)largest[STAGES];
    r->peak_bytes = (int64_t)largest[STAGES + 1];
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
    if (status == FGMM_ERR_INPUT) /* trying again would not help */
        b->lists_kept = false;
    if (status == FGMM_ERR_RUNTIME && found)
        fgmm__info("%s: keeps the lists of all rows; the same line with --resume goes on from there",
                   b->stage.path);
    return status;
}

static void release(struct build *b)
{
    fgmm__index_abandon(b->writer);
    fgmm__labels_destroy(b->labels);
    fgmm__graph_destroy(b->graph);
    fgmm__sketch_destroy(b->sketch);
    fgmm__append_close(b->old);
    fgmm__workplace_close(&b->place);
    fgmm__ids_close(b->user_ids);
    free(b->counts);
    free(b->first);
    free(b->sizes);
    free(b->offsets);
    free(b->hashes);
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
                                  .second = fgmm__rule_takes_two(&b->rule, b->model),
                                  .host_bytes = memory_reserved(b)};
    FGMM_TRY(
        fgmm__workplace_open_for(b->comm, b->dataset, &b->options->resources, &needs, started, &b->place));
    double loaded = fgmm__seconds();
    fgmm_shard_times times;
    fgmm__shard_times(b->place.shard, &times);
    b->load_wait_seconds = times.read_wait_seconds;
    b->report.load_seconds = loaded - start;
    FGMM_TRY(find_lists(b));
    FGMM_TRY(count_lists(b));
    b->report.assign_seconds = fgmm__seconds() - loaded;
    note_assignment(b);
    FGMM_TRY(number_postings(b));
    if (b->options->sketch > 0)
        FGMM_TRY(fgmm__sketch_create(b->comm, b->dataset, b->options->sketch, b->place.backend->threads,
                                     &b->sketch));
    FGMM_TRY(create_file(b, path));
    FGMM_TRY(write_rows(b));
    snprintf(b->report.residency, sizeof b->report.residency, "%s", fgmm__shard_where(b->place.shard));
    FGMM_TRY(finish(b));
    FGMM_TRY(join_reports(b));
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
    fgmm_status gone = fgmm__comm_barrier(comm); /* what rank 0 removes is gone for all when this returns */
    return status != FGMM_OK ? status : gone;
}

fgmm_status fgmm_build(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_model *model,
                       const char *path, const fgmm_build_options *options, fgmm_build_report *report)
{
    fgmm_status status = fgmm__build(comm, dataset, model, path, options, NULL, report);
    return options->checkpoint != NULL ? status : fgmm__stopped_without_trace(status, path);
}
