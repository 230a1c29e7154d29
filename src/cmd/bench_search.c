/* bench search: a batch of queries in lists that lie in memory, made from a synth: mixture whose true means
 * are the centroids. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "backend/backend.h"
#include "backend/measure.h"
#include "base/clock.h"
#include "base/status.h"
#include "cmd/bench.h"
#include "data/shard.h"
#include "io/reader.h"
#include "ivf/scan.h"

enum { CHECKED_QUERIES = 64, READ_ROWS = 1 << 14 };

typedef struct {
    fgmm_bench *b;
    fgmm_dataset *dataset; /* the rows, then the queries */
    fgmm_backend *backend, *cpu;
    fgmm_scan *scan; /* of the CPU */
    fgmm_model *model;
    int64_t n, n_queries;
    int32_t dim, lists, k, nprobe;
    fgmm_dtype dtype;
    size_t row_bytes;
    float *queries, *centroids;
    int32_t *labels;   /* [n] */
    uint64_t *offsets; /* [lists+1] */
    char *rows;        /* [n] list by list */
    int64_t *ids;
    fgmm_backend_lists *on_backend; /* NULL on the CPU */
    int32_t *probes;                /* [n_queries][nprobe] */
    fgmm_neighbor *nearest;         /* [n_queries][k] */
    int32_t *counts;
} search;

/* ---- lists ---- */

static fgmm_status open_rows(search *s)
{
    fgmm_status status = FGMM_OK;
    const fgmm_bench *b = s->b;
    char spec[160];
    const char *source = spec;
    if (fgmm_comm_size(b->comm) > 1)
        FGMM_FAIL(FGMM_ERR_INPUT, "bench search is of one rank");
    if (b->n_data > 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "bench search makes its own rows: say --rows, --dim, --dtype and --spread");
    if (b->queries < 1 || b->queries > (1 << 20) || b->nprobe < 1 || b->nprobe > b->k || b->neighbors < 1 ||
        b->neighbors > b->rows)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "--queries, --nprobe and --neighbors must be at least 1, --nprobe at most -k, "
                  "--neighbors at most --rows");
    if (b->device != NULL && (b->nprobe > FGMM_MOST_NEAREST || b->neighbors > FGMM_MOST_NEAREST))
        FGMM_FAIL(FGMM_ERR_INPUT, "--nprobe and --neighbors must be at most %d on a GPU", FGMM_MOST_NEAREST);
    snprintf(spec, sizeof spec, "synth:n=%lld,d=%lld,k=%lld,seed=%lld,spread=%.17g,dtype=%s",
             (long long)(b->rows + b->queries), (long long)b->dim, (long long)b->k, (long long)b->seed,
             b->spread, fgmm_dtype_name((fgmm_dtype)b->dtype));
    FGMM_TRY(fgmm_dataset_open(&source, 1, NULL, &s->dataset));
    s->n = b->rows;
    s->n_queries = b->queries;
    s->dim = (int32_t)b->dim;
    s->lists = (int32_t)b->k;
    s->k = (int32_t)b->neighbors;
    s->nprobe = (int32_t)b->nprobe;
    s->dtype = (fgmm_dtype)b->dtype;
    s->row_bytes = (size_t)s->dim * fgmm_dtype_bytes(s->dtype);
cleanup:
    return status;
}

static fgmm_status read_queries(search *s)
{
    fgmm_status status = FGMM_OK;
    char *stored = NULL;
    size_t values = (size_t)s->n_queries * (size_t)s->dim;
    FGMM_ALLOC(s->queries, values, "queries");
    FGMM_ALLOC(stored, values * fgmm_dtype_bytes(s->dtype), "queries");
    FGMM_TRY(fgmm_dataset_read(s->dataset, s->n, s->n + s->n_queries, stored));
    fgmm__to_f32(s->dtype, stored, values, s->queries);
cleanup:
    free(stored);
    return status;
}

static fgmm_status make_model(search *s)
{
    fgmm_status status = FGMM_OK;
    size_t values = (size_t)s->lists * (size_t)s->dim;
    FGMM_TRY(fgmm__model_create(FGMM_KMEANS, FGMM_SPHERICAL, s->lists, s->dim, &s->model));
    double variance = fgmm__bench_true_means(s->b, s->model);
    FGMM_ALLOC(s->centroids, values, "centroids");
    for (size_t i = 0; i < values; i++)
        s->centroids[i] = (float)s->model->means[i];
    for (int32_t j = 0; j < s->lists; j++) {
        s->model->weights[j] = 1.0 / s->lists;
        s->model->covariances[j] = fmax(variance, 1e-6);
    }
cleanup:
    return status;
}

/* The list of every row: that of the nearest centroid. The queries, which are rows too, come last. */
static fgmm_status label_rows(search *s)
{
    fgmm_status status = FGMM_OK;
    fgmm_shard *shard = NULL;
    fgmm_components *components = NULL;
    fgmm_tile tile;
    const fgmm_backend_ops *ops = s->backend->ops;
    fgmm_shard_options options = {
        .tile_rows = fgmm__globals()->tile_rows,
        .backend_bytes = ops->workspace_bytes(FGMM_SPHERICAL, FGMM_MOMENT_NONE, s->lists, s->dim)};
    FGMM_ALLOC(s->labels, s->n + s->n_queries, "lists");
    FGMM_TRY(fgmm__components_create(s->model, true, NULL, NULL, &components));
    FGMM_TRY(fgmm__shard_create(s->dataset, s->b->comm, s->b->device, &options, &shard));
    FGMM_TRY(fgmm__shard_load(shard, NULL, NULL));
    FGMM_TRY(ops->assign_begin(s->backend, components, 1));
    FGMM_TRY(fgmm__shard_start(shard));
    for (;;) {
        FGMM_TRY(fgmm__shard_next(shard, &tile));
        if (tile.rows == 0)
            break;
        FGMM_TRY(ops->assign_tile(s->backend, &tile, s->labels + tile.begin, NULL, NULL));
    }
cleanup:
    fgmm__components_destroy(components);
    fgmm__shard_destroy(shard);
    return status;
}

/* Puts every row to its list, in the order of rows. */
static fgmm_status fill_lists(search *s)
{
    fgmm_status status = FGMM_OK;
    uint64_t *next = NULL;
    int64_t *place = NULL;
    char *chunks = NULL;
    int failed = FGMM_OK;
    FGMM_ALLOC(s->offsets, s->lists + 1, "lists");
    FGMM_ALLOC(next, s->lists, "lists");
    FGMM_ALLOC(place, s->n, "lists");
    FGMM_ALLOC(s->rows, (size_t)s->n * s->row_bytes, "lists");
    FGMM_ALLOC(s->ids, s->n, "lists");
    FGMM_ALLOC(chunks, (size_t)s->b->threads * READ_ROWS * s->row_bytes, "lists");
    for (int64_t i = 0; i < s->n; i++)
        s->offsets[s->labels[i] + 1]++;
    for (int32_t j = 0; j < s->lists; j++)
        next[j] = s->offsets[j + 1] += s->offsets[j];
    for (int64_t i = s->n - 1; i >= 0; i--) {
        place[i] = (int64_t)--next[s->labels[i]];
        s->ids[place[i]] = i;
    }
#pragma omp parallel for num_threads(s->b->threads) schedule(dynamic, 1)
    for (int64_t at = 0; at < s->n; at += READ_ROWS) {
        int64_t end = at + READ_ROWS < s->n ? at + READ_ROWS : s->n;
        char *rows = chunks + (size_t)omp_get_thread_num() * READ_ROWS * s->row_bytes;
        fgmm_status read = fgmm_dataset_read(s->dataset, at, end, rows);
        for (int64_t i = at; read == FGMM_OK && i < end; i++)
            memcpy(s->rows + (size_t)place[i] * s->row_bytes, rows + (size_t)(i - at) * s->row_bytes,
                   s->row_bytes);
        if (read != FGMM_OK) {
#pragma omp atomic write
            failed = read;
        }
    }
    status = (fgmm_status)failed;
cleanup:
    free(next);
    free(place);
    free(chunks);
    return status;
}

static fgmm_status read_list(void *context, int32_t list, int64_t begin, int64_t n, void *rows, int64_t *ids)
{
    const search *s = context;
    size_t at = (size_t)s->offsets[list] + (size_t)begin;
    memcpy(rows, s->rows + at * s->row_bytes, (size_t)n * s->row_bytes);
    memcpy(ids, s->ids + at, (size_t)n * sizeof *ids);
    return FGMM_OK;
}

static fgmm_status give_lists(search *s)
{
    fgmm_status status = FGMM_OK;
    fgmm_list_table table = {.lists = s->lists,
                             .dim = s->dim,
                             .dtype = s->dtype,
                             .offsets = s->offsets,
                             .centroids = s->centroids,
                             .read = read_list,
                             .context = s};
    FGMM_TRY(fgmm__backend_create(s->b->comm, NULL, s->b->threads, &s->cpu));
    FGMM_TRY(fgmm__scan_create(s->cpu, &s->scan));
    if (s->backend->ops->lists_open != NULL)
        FGMM_TRY(s->backend->ops->lists_open(s->backend, &table, 0, &s->on_backend));
    FGMM_ALLOC(s->probes, s->n_queries * s->nprobe, "probes");
    FGMM_ALLOC(s->nearest, s->n_queries * s->k, "neighbours");
    FGMM_ALLOC(s->counts, s->n_queries, "neighbours");
cleanup:
    return status;
}

/* ---- searching ---- */

/* The lists whose centroids are nearest, then every list for the queries that visit it: on the CPU. */
static fgmm_status search_on_cpu(search *s, int32_t n, int64_t *probes, fgmm_top **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_top *order = NULL;
    int32_t *subset = NULL;
    FGMM_ALLOC(subset, n, "queries");
    for (int32_t q = 0; q < n; q++)
        subset[q] = q;
    FGMM_TRY(fgmm__top_create(n, s->nprobe, false, &order));
    FGMM_TRY(fgmm__top_create(n, s->k, false, out));
    FGMM_TRY(s->cpu->ops->queries_begin(s->cpu, s->queries, n, s->dim));
    FGMM_TRY(fgmm__scan_rows(s->scan, order, subset, n, s->centroids, FGMM_F32, s->dim, s->lists, NULL, 0));
    fgmm__top_sort(order);
    fgmm__top_read(order, probes, NULL);
    for (int32_t j = 0; j < s->lists; j++) {
        int32_t visitors = 0;
        for (int32_t q = 0; q < n; q++)
            for (int32_t p = 0; p < s->nprobe; p++)
                if (probes[(int64_t)q * s->nprobe + p] == j)
                    subset[visitors++] = q;
        uint64_t begin = s->offsets[j], rows = s->offsets[j + 1] - begin;
        if (visitors > 0 && rows > 0)
            FGMM_TRY(fgmm__scan_rows(s->scan, *out, subset, visitors, s->rows + begin * s->row_bytes,
                                     s->dtype, s->dim, (int64_t)rows, s->ids + begin, 0));
    }
    fgmm__top_sort(*out);
cleanup:
    fgmm__top_destroy(order);
    free(subset);
    return status;
}

/* One batch; *device_seconds stays where it is not known. */
static fgmm_status search_batch(search *s, double *device_seconds)
{
    fgmm_status status = FGMM_OK;
    fgmm_top *top = NULL;
    int64_t *probes = NULL;
    fgmm_list_times times;
    if (s->on_backend != NULL) {
        FGMM_TRY(s->backend->ops->lists_search(s->on_backend, s->queries, s->n_queries, s->k, s->nprobe,
                                               s->nprobe, s->probes, s->nearest, s->counts, &times));
        *device_seconds = times.device_seconds;
        goto cleanup;
    }
    FGMM_ALLOC(probes, s->n_queries * s->nprobe, "probes");
    FGMM_TRY(search_on_cpu(s, (int32_t)s->n_queries, probes, &top));
    memcpy(s->nearest, top->heap, (size_t)(s->n_queries * s->k) * sizeof *s->nearest);
    memcpy(s->counts, top->count, (size_t)s->n_queries * sizeof *s->counts);
    for (int64_t i = 0; i < s->n_queries * s->nprobe; i++)
        s->probes[i] = (int32_t)probes[i];
cleanup:
    fgmm__top_destroy(top);
    free(probes);
    return status;
}

/* What the first queries found is what a CPU finds for them alone: ids, and distances to the last bit. */
static fgmm_status check_answer(search *s, int32_t *checked)
{
    fgmm_status status = FGMM_OK;
    fgmm_top *top = NULL;
    int64_t *probes = NULL;
    double unused;
    int32_t n = *checked = (int32_t)(s->n_queries < CHECKED_QUERIES ? s->n_queries : CHECKED_QUERIES);
    FGMM_TRY(search_batch(s, &unused));
    FGMM_ALLOC(probes, (int64_t)n * s->nprobe, "probes");
    FGMM_TRY(search_on_cpu(s, n, probes, &top));
    for (int32_t q = 0; q < n; q++) {
        size_t at = (size_t)q * (size_t)s->k;
        for (int32_t p = 0; p < s->nprobe; p++)
            if (s->probes[(int64_t)q * s->nprobe + p] != probes[(int64_t)q * s->nprobe + p])
                FGMM_FAIL(FGMM_ERR_RUNTIME, "query %d probes other lists than on the CPU", q);
        if (s->counts[q] != top->count[q] ||
            memcmp(s->nearest + at, top->heap + at, (size_t)top->count[q] * sizeof *s->nearest) != 0)
            FGMM_FAIL(FGMM_ERR_RUNTIME, "query %d found other rows than on the CPU", q);
    }
cleanup:
    fgmm__top_destroy(top);
    free(probes);
    return status;
}

/* ---- the result ---- */

/* Bytes of the rows of all lists that the batch visits; *scanned: rows met, all queries together. */
static fgmm_status touched(const search *s, double *bytes, double *scanned)
{
    fgmm_status status = FGMM_OK;
    bool *visited = NULL;
    FGMM_ALLOC(visited, s->lists, "lists");
    *bytes = *scanned = 0;
    for (int64_t i = 0; i < s->n_queries * s->nprobe; i++) {
        int32_t list = s->probes[i];
        double rows = (double)(s->offsets[list + 1] - s->offsets[list]);
        *scanned += rows;
        *bytes += visited[list] ? 0 : rows * (double)s->row_bytes;
        visited[list] = true;
    }
cleanup:
    free(visited);
    return status;
}

/* Bytes a second that memory gives, reads and writes counted. */
static fgmm_status copy_rate(const fgmm_bench *b, double *rate)
{
    enum { REPEATS = 5 };
    double seconds[REPEATS];
    int64_t bytes = b->device != NULL ? (int64_t)1 << 30 : (int64_t)64 << 20;
    fgmm_status status = fgmm__measure_copy(b->device, b->threads, bytes, REPEATS, seconds);
    if (status == FGMM_OK)
        *rate = 2 * (double)bytes / fgmm__median(seconds, REPEATS);
    return status;
}

static fgmm_status add_results(const search *s, int32_t checked, double *seconds, double *device_seconds)
{
    fgmm_status status = FGMM_OK;
    cJSON *line = s->b->line;
    double bytes, scanned, rate, n = (double)s->n_queries;
    FGMM_TRY(touched(s, &bytes, &scanned));
    FGMM_TRY(copy_rate(s->b, &rate));
    cJSON_AddNumberToObject(line, "rows", (double)s->n);
    cJSON_AddNumberToObject(line, "dim", s->dim);
    cJSON_AddNumberToObject(line, "k", s->lists);
    cJSON_AddStringToObject(line, "dtype", fgmm_dtype_name(s->dtype));
    cJSON_AddStringToObject(line, "data", fgmm_dataset_name(s->dataset));
    cJSON_AddNumberToObject(line, "queries", n);
    cJSON_AddNumberToObject(line, "nprobe", s->nprobe);
    cJSON_AddNumberToObject(line, "neighbors", s->k);
    cJSON_AddNumberToObject(line, "checked_queries", checked);
    double median = fgmm__bench_times(s->b, seconds);
    cJSON_AddNumberToObject(line, "queries_per_s", n / median);
    cJSON_AddNumberToObject(line, "scanned_per_query", scanned / n);
    cJSON_AddNumberToObject(line, "bytes_touched", bytes);
    cJSON_AddNumberToObject(line, "copy_gb_per_s", 1e-9 * rate);
    cJSON_AddNumberToObject(line, "floor_ms", 1e3 * bytes / rate);
    cJSON_AddNumberToObject(line, "floor_share", bytes / rate / median);
    if (s->on_backend != NULL) { /* without the copies of queries and results */
        double device = fgmm__median(device_seconds, (int)s->b->reps);
        cJSON_AddNumberToObject(line, "device_ms_median", 1e3 * device);
        cJSON_AddNumberToObject(line, "device_ms_min", 1e3 * device_seconds[0]);
        cJSON_AddNumberToObject(line, "device_queries_per_s", n / device);
        cJSON_AddNumberToObject(line, "device_floor_share", bytes / rate / device);
    }
cleanup:
    return status;
}

static fgmm_status time_search(search *s)
{
    fgmm_status status = FGMM_OK;
    double seconds[FGMM_BENCH_MAX_REPS], device_seconds[FGMM_BENCH_MAX_REPS], unused;
    int32_t checked = 0;
    FGMM_TRY(check_answer(s, &checked));
    for (int64_t rep = -FGMM_BENCH_WARM_UPS; rep < s->b->reps; rep++) {
        double begin = fgmm__seconds();
        FGMM_TRY(search_batch(s, rep >= 0 ? &device_seconds[rep] : &unused));
        if (rep >= 0)
            seconds[rep] = fgmm__seconds() - begin;
    }
    FGMM_TRY(add_results(s, checked, seconds, device_seconds));
cleanup:
    return status;
}

fgmm_status fgmm__bench_search(fgmm_bench *b)
{
    fgmm_status status = FGMM_OK;
    search s = {.b = b};
    FGMM_TRY(open_rows(&s));
    FGMM_TRY(fgmm__backend_create(b->comm, b->device, b->threads, &s.backend));
    FGMM_TRY(read_queries(&s));
    FGMM_TRY(make_model(&s));
    FGMM_TRY(label_rows(&s));
    FGMM_TRY(fill_lists(&s));
    FGMM_TRY(give_lists(&s));
    FGMM_TRY(time_search(&s));
cleanup:
    if (s.on_backend != NULL)
        s.backend->ops->lists_close(s.on_backend);
    fgmm__scan_destroy(s.scan);
    fgmm__backend_destroy(s.cpu);
    fgmm__backend_destroy(s.backend);
    fgmm_model_destroy(s.model);
    fgmm_dataset_close(s.dataset);
    free(s.queries);
    free(s.centroids);
    free(s.labels);
    free(s.offsets);
    free(s.rows);
    free(s.ids);
    free(s.probes);
    free(s.nearest);
    free(s.counts);
    return status;
}
