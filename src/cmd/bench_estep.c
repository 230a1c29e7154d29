/* bench estep, bench kmeans: one iteration of a fit over resident rows, where the backend keeps the
 * parameters (begin, tiles, the sum over ranks, the M-step, what the host reads); elsewhere one E-step with
 * the sum over ranks. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "backend/backend.h"
#include "backend/measure.h"
#include "base/clock.h"
#include "base/status.h"
#include "cmd/bench.h"
#include "cmd/bench_reference.h"
#include "data/sample.h"
#include "data/shard.h"
#include "io/reader.h"
#include "io/synth_row.h"
#include "model/covariance.h"

/* The precision that the program promises (--precision auto). */
static const double LOG_CONTRACT = 1e-6, SUMS_CONTRACT = 1e-3;

static const double REG_COVAR = 1e-6; /* as fit's */

/* Multiplications of the reference, on all threads: about a second. */
static const double REFERENCE_WORK = 0x1p32;

typedef struct {
    fgmm_bench *b;
    bool hard;
    fgmm_dataset *dataset;
    fgmm_shard *shard;
    fgmm_backend *backend;
    const fgmm_resident_ops *resident; /* NULL: E-steps alone are timed */
    fgmm_model *model;                 /* the start of every iteration */
    fgmm_em_terms terms;
    fgmm_components *components;
    fgmm_grid *grid;
    fgmm_stats *stats;
    fgmm_moment moment;
    double *range; /* [2][dim]: least and greatest of all rows */
    int64_t pairs; /* that were kept */
} estep;

/* ---- rows and components ---- */

/* A condition number is the square of a ratio of standard deviations. */
static double anisotropy(const fgmm_bench *b)
{
    return sqrt(b->condition);
}

/* model: what the rows are for; NULL where they bring their own. */
static fgmm_status open_rows(const fgmm_bench *b, const fgmm_model *model, fgmm_dataset **out)
{
    char spec[192];
    const char *source = spec;
    fgmm_dataset_options options = {.row_end = -1, .dot_as_l2 = 1};
    if (model != NULL)
        options.metric = model->metric;
    snprintf(spec, sizeof spec, "synth:n=%lld,d=%lld,k=%lld,seed=%lld,spread=%.17g,anisotropy=%.17g,dtype=%s",
             (long long)b->rows, (long long)b->dim, (long long)b->k, (long long)b->seed, b->spread,
             anisotropy(b), fgmm_dtype_name((fgmm_dtype)b->dtype));
    fgmm_status status = b->n_data > 0 ? fgmm_dataset_open(b->data, b->n_data, &options, out)
                                       : fgmm_dataset_open(&source, 1, NULL, out);
    return fgmm__comm_agree(b->comm, status);
}

/* A variance of synth: rows as they are stored. */
static double stored_variance(const fgmm_bench *b, double deviation)
{
    bool integers = b->dtype == FGMM_U8 || b->dtype == FGMM_I8;
    double scaled =
        deviation * (integers ? 96 : 1); /* synth_row.h: the half-width of the cube in stored units */
    return fmax(scaled * scaled + (integers ? 1.0 / 12 : 0), 1e-6);
}

double fgmm__bench_true_means(const fgmm_bench *b, fgmm_model *model)
{
    fgmm_dtype dtype = (fgmm_dtype)b->dtype;
    for (size_t i = 0; i < (size_t)model->k * model->dim; i++) {
        int32_t value =
            fgmm__synth_uniform(fgmm__philox((uint64_t)b->seed, FGMM_RNG_SYNTH_MEAN, i, 0).word[0]);
        model->means[i] = dtype == FGMM_U8   ? fgmm__synth_u8(value)
                          : dtype == FGMM_I8 ? fgmm__synth_i8(value)
                                             : (double)fgmm__synth_f32(value);
    }
    return stored_variance(b, b->spread);
}

/* Their covariances, of diag and full models: a variance a dimension. */
static void true_covariances(const fgmm_bench *b, fgmm_model *model)
{
    size_t dim = (size_t)model->dim, k = (size_t)model->k;
    int64_t range[2];
    fgmm__synth_scale_range(b->spread, anisotropy(b), range);
    for (size_t i = 0; i < k * dim; i++) {
        int32_t scale =
            range[0] == range[1] ? (int32_t)range[0] : fgmm__synth_scale((uint64_t)b->seed, i, range);
        double variance = stored_variance(b, scale / FGMM_SYNTH_SCALE_ONE);
        if (model->covariance == FGMM_DIAG)
            model->covariances[i] = variance;
        else
            model->covariances[(i / dim * dim + i % dim) * dim + i % dim] = variance;
    }
}

/* Of any rows: a sample as means, and how far others are from the nearest of them. */
static fgmm_status sampled_means(const fgmm_bench *b, const fgmm_dataset *dataset, fgmm_model *model,
                                 double *variance)
{
    fgmm_status status = FGMM_OK;
    enum { PROBES = 256 };
    float *means = NULL, *probes = NULL;
    int64_t n_probes = fgmm_dataset_rows(dataset) < PROBES ? fgmm_dataset_rows(dataset) : PROBES;
    double sum = 0;
    FGMM_TRY(fgmm__sample_rows(dataset, b->comm, (uint64_t)b->seed, FGMM_RNG_BENCH, model->k, NULL, &means));
    FGMM_TRY(
        fgmm__sample_rows(dataset, b->comm, (uint64_t)b->seed + 1, FGMM_RNG_BENCH, n_probes, NULL, &probes));
    for (size_t i = 0; i < (size_t)model->k * model->dim; i++)
        model->means[i] = means[i];
    for (int64_t i = 0; i < n_probes; i++) {
        double nearest = INFINITY;
        for (int32_t k = 0; k < model->k; k++) {
            double distance = 0;
            for (int32_t d = 0; d < model->dim; d++) {
                double t = probes[i * model->dim + d] - model->means[(size_t)k * model->dim + d];
                distance += t * t;
            }
            nearest = fmin(nearest, distance);
        }
        sum += nearest;
    }
    *variance = sum / ((double)n_probes * model->dim);
cleanup:
    free(means);
    free(probes);
    return status;
}

static void fill_covariances(fgmm_model *model, double variance)
{
    size_t dim = (size_t)model->dim, n = fgmm__covariance_count(model->covariance, model->k, model->dim);
    bool matrices = model->covariance == FGMM_TIED || model->covariance == FGMM_FULL;
    for (size_t i = 0; i < n; i++)
        model->covariances[i] = !matrices || i % (dim * dim) % (dim + 1) == 0 ? variance : 0;
}

/* Near the rows' mean; whole numbers keep integer rows whole. */
static void fill_origin(fgmm_model *model, fgmm_dtype dtype)
{
    for (int32_t d = 0; d < model->dim; d++) {
        double sum = 0;
        for (int32_t k = 0; k < model->k; k++)
            sum += model->means[(size_t)k * model->dim + d] / model->k;
        model->origin[d] = dtype == FGMM_U8 || dtype == FGMM_I8 ? nearbyint(sum) : (double)(float)sum;
    }
}

/* Local. */
static fgmm_status read_model(estep *e)
{
    fgmm_status status = FGMM_OK;
    const char *path = e->b->model;
    FGMM_TRY(fgmm_model_read(path, &e->model));
    bool kmeans = e->model->algorithm == FGMM_KMEANS;
    if (kmeans != e->hard)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: a model of %s: give it to `bench %s`", path,
                  kmeans ? "k-means" : "a mixture", kmeans ? "kmeans" : "estep");
cleanup:
    return status;
}

static fgmm_status check_model(const estep *e)
{
    int32_t dim = fgmm_dataset_dim(e->dataset);
    if (e->model->dim != dim)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: a model of %d dimensions; the rows have %d", e->b->model,
                          e->model->dim, dim);
    return FGMM_OK;
}

/* Means that suit the rows, equal weights, and the variance that goes with them. */
static fgmm_status make_model(estep *e)
{
    fgmm_status status = FGMM_OK;
    const fgmm_bench *b = e->b;
    double variance = 0;
    if (b->k > fgmm_dataset_rows(e->dataset))
        FGMM_FAIL(FGMM_ERR_INPUT, "%lld components of %lld rows: give at least as many rows", (long long)b->k,
                  (long long)fgmm_dataset_rows(e->dataset));
    FGMM_TRY(fgmm__model_create(e->hard ? FGMM_KMEANS : FGMM_GMM,
                                e->hard ? FGMM_SPHERICAL : (fgmm_covariance)b->covariance, (int32_t)b->k,
                                fgmm_dataset_dim(e->dataset), &e->model));
    fgmm_model *model = e->model;
    if (b->n_data == 0)
        variance = fgmm__bench_true_means(b, model);
    else
        FGMM_TRY(sampled_means(b, e->dataset, model, &variance));
    for (int32_t k = 0; k < model->k; k++)
        model->weights[k] = 1.0 / model->k;
    fill_covariances(model, fmax(variance, 1e-6));
    if (b->condition > 1)
        true_covariances(b, model);
cleanup:
    return status;
}

static fgmm_status make_components(estep *e)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(e->b->model != NULL ? check_model(e) : make_model(e));
    fill_origin(e->model, fgmm_dataset_dtype(e->dataset));
    e->moment = e->hard ? FGMM_MOMENT_NONE : fgmm__covariance_type(e->model->covariance)->moment;
    FGMM_TRY(fgmm__components_create(e->model, e->hard, NULL, NULL, &e->components));
cleanup:
    return status;
}

/* ---- loading ---- */

static fgmm_status load(estep *e)
{
    fgmm_status status = FGMM_OK;
    const fgmm_bench *b = e->b;
    int32_t dim = fgmm_dataset_dim(e->dataset);
    fgmm_shard_options options = {.residency = (fgmm_residency)b->residency,
                                  .tile_rows = fgmm__globals()->tile_rows};
    FGMM_TRY(fgmm__backend_create(b->comm, b->device, b->threads, &e->backend));
    options.backend_bytes = e->backend->ops->workspace_bytes(e->components->shape, e->moment,
                                                             e->components->k, e->components->dim);
    FGMM_TRY(fgmm__shard_create(e->dataset, b->comm, b->device, &options, &e->shard));
    FGMM_ALLOC(e->range, 2 * (size_t)dim, "the rows' range");
    FGMM_TRY(fgmm__shard_load(e->shard, e->range, e->range + dim));
    e->terms = (fgmm_em_terms){fgmm_dataset_rows(e->dataset), e->range, e->range + dim, REG_COVAR};
    e->resident = e->backend->ops->resident;
    if (e->resident != NULL && !e->resident->serves(e->model->algorithm, e->model->covariance))
        e->resident = NULL;
    if (e->resident != NULL)
        goto cleanup; /* the backend makes the grid, and gives the sums when asked */
    FGMM_TRY(fgmm__grid_create(e->terms.rows, e->terms.min, e->terms.max, e->components, &e->grid));
    FGMM_TRY(fgmm__stats_create(e->components->k, dim, e->moment, &e->stats));
cleanup:
    return fgmm__comm_agree(b->comm, status);
}

/* ---- one iteration ---- */

/* Collective: back to the start, before the clock runs. */
static fgmm_status restart(estep *e)
{
    fgmm_status status = FGMM_OK;
    if (e->resident != NULL)
        status = e->resident->load(e->backend, e->model, &e->terms);
    return fgmm__comm_agree(e->b->comm, status);
}

/* Up to `most_rows` rows of this rank; all for a negative number. */
static fgmm_status add_tiles(estep *e, int64_t most_rows)
{
    fgmm_status status = FGMM_OK;
    const fgmm_backend_ops *ops = e->backend->ops;
    if (e->resident != NULL)
        FGMM_TRY(e->resident->begin(e->backend));
    else
        FGMM_TRY(ops->estep_begin(e->backend, e->components, e->grid, e->moment, true));
    FGMM_TRY(fgmm__shard_start(e->shard));
    for (;;) {
        fgmm_tile tile;
        FGMM_TRY(fgmm__shard_next(e->shard, &tile));
        if (tile.rows == 0)
            break;
        if (most_rows >= 0 && tile.rows > most_rows)
            tile.rows = most_rows;
        if (tile.rows > 0)
            FGMM_TRY(ops->estep_tile(e->backend, &tile));
        if (most_rows >= 0)
            most_rows -= tile.rows;
    }
cleanup:
    return status;
}

/* Collective. */
static fgmm_status run(estep *e, int64_t most_rows)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(fgmm__comm_agree(e->b->comm, add_tiles(e, most_rows)));
    if (e->resident != NULL) {
        fgmm_em_step step;
        FGMM_TRY(e->resident->end(e->backend, &step));
        e->pairs = step.pairs;
    } else {
        FGMM_TRY(e->backend->ops->estep_end(e->backend, e->stats));
        e->pairs = *e->stats->pairs;
    }
cleanup:
    return status;
}

/* ---- the answer ---- */

static int64_t rows_to_check(const estep *e)
{
    const fgmm_components *c = e->components;
    bool matrices = c->shape == FGMM_FULL || c->shape == FGMM_TIED;
    double a_row = (double)c->k * c->dim * (matrices ? c->dim : 1);
    int64_t n = (int64_t)fmax(16, fmin(1000, REFERENCE_WORK / a_row)), mine = fgmm__shard_end(e->shard);
    return n < mine ? n : mine;
}

static fgmm_status compare(const estep *e, int64_t n, fgmm_reference_error *error)
{
    fgmm_status status = FGMM_OK;
    fgmm_dtype dtype = fgmm_dataset_dtype(e->dataset);
    size_t values = (size_t)n * (size_t)fgmm_dataset_dim(e->dataset);
    char *stored = NULL;
    double *rows = NULL;
    FGMM_ALLOC(stored, values * fgmm_dtype_bytes(dtype), "the reference");
    FGMM_ALLOC(rows, values, "the reference");
    FGMM_TRY(fgmm_dataset_read(e->dataset, 0, n, stored));
    fgmm__to_f64(dtype, stored, values, rows);
    FGMM_TRY(fgmm__reference_compare(e->components, e->grid, rows, n, e->stats, error));
    if (*e->stats->rows != n)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%lld rows went in, %lld were counted", (long long)n,
                  (long long)*e->stats->rows);
    /* A row between two centroids may go to either: then only the distances are to agree. */
    if (!(error->log <= LOG_CONTRACT) || (!e->hard && !(error->sums <= SUMS_CONTRACT)))
        FGMM_FAIL(FGMM_ERR_RUNTIME,
                  "the answer is out of contract on the first %lld rows: log-likelihood off by %.3g (allowed "
                  "%.0e), "
                  "sums by %.3g (allowed %.0e)",
                  (long long)n, error->log, LOG_CONTRACT, error->sums, SUMS_CONTRACT);
cleanup:
    free(stored);
    free(rows);
    return status;
}

/* Collective: the first rows, which are rank 0's, against the reference. */
static fgmm_status check_answer(estep *e, fgmm_reference_error *error)
{
    fgmm_status status = FGMM_OK;
    bool mine = fgmm_comm_rank(e->b->comm) == 0;
    int64_t n = mine ? rows_to_check(e) : 0;
    FGMM_TRY(restart(e));
    FGMM_TRY(run(e, n));
    if (e->resident != NULL)
        FGMM_TRY(e->resident->sums(e->backend, &e->grid, &e->stats));
    status = fgmm__comm_agree(e->b->comm, mine ? compare(e, n, error) : FGMM_OK);
cleanup:
    return status;
}

/* ---- the result ---- */

/* Operations of the dense products: log-densities, and sums where responsibilities are shared. */
static double dense_operations(const estep *e)
{
    double cells = (double)fgmm_dataset_rows(e->dataset) * e->components->k * e->components->dim;
    if (e->hard)
        return 2 * cells;
    switch (e->components->shape) {
    case FGMM_SPHERICAL:
    case FGMM_TIED:
        return 4 * cells;
    case FGMM_DIAG:
        return 8 * cells;
    case FGMM_FULL:
        break;
    }
    return 2 * cells * e->components->dim;
}

static int64_t extra_bytes(const estep *e, int64_t loaded_bytes)
{
    if (e->b->device != NULL)
        return fgmm__device_peak_bytes(e->b->device) - loaded_bytes;
    return e->backend->ops->workspace_bytes(e->components->shape, e->moment, e->components->k,
                                            e->components->dim);
}

static void describe(const estep *e)
{
    cJSON *line = e->b->line;
    cJSON_AddNumberToObject(line, "rows", (double)fgmm_dataset_rows(e->dataset));
    cJSON_AddNumberToObject(line, "dim", e->components->dim);
    cJSON_AddNumberToObject(line, "k", e->components->k);
    cJSON_AddStringToObject(line, "covariance",
                            e->hard ? "hard" : fgmm_covariance_name(e->components->shape));
    cJSON_AddStringToObject(line, "dtype", fgmm_dtype_name(fgmm_dataset_dtype(e->dataset)));
    cJSON_AddStringToObject(line, "data", fgmm_dataset_name(e->dataset));
    if (e->b->model != NULL)
        cJSON_AddStringToObject(line, "model", e->b->model);
    cJSON_AddStringToObject(line, "residency", fgmm__shard_where(e->shard));
    cJSON_AddStringToObject(line, "timed", e->resident != NULL ? "iteration" : "estep");
}

static void add_results(const estep *e, double *seconds, double gemm_tflops,
                        const fgmm_reference_error *error)
{
    cJSON *line = e->b->line;
    double rows = (double)fgmm_dataset_rows(e->dataset), median = fgmm__bench_times(e->b, seconds);
    double tflops = 1e-12 * dense_operations(e) / median;
    cJSON_AddNumberToObject(line, "rows_per_s", rows / median);
    cJSON_AddNumberToObject(line, "tflops_dense", tflops);
    cJSON_AddNumberToObject(line, "gemm_tflops", gemm_tflops);
    cJSON_AddNumberToObject(line, "of_gemm", tflops / (gemm_tflops * fgmm_comm_size(e->b->comm)));
    cJSON_AddNumberToObject(line, "max_rel_err", error->sums);
    cJSON_AddNumberToObject(line, "log_rel_err", error->log);
    cJSON_AddNumberToObject(line, "pairs_per_row", (double)e->pairs / rows);
}

static fgmm_status time_estep(estep *e)
{
    fgmm_status status = FGMM_OK;
    fgmm_bench *b = e->b;
    fgmm_reference_error error = {0};
    double seconds[FGMM_BENCH_MAX_REPS], gemm_tflops = 0;
    int64_t loaded_bytes = b->device != NULL ? fgmm__device_peak_bytes(b->device) : 0;
    FGMM_TRY(check_answer(e, &error));
    for (int64_t rep = -FGMM_BENCH_WARM_UPS; rep < b->reps; rep++) {
        FGMM_TRY(restart(e));
        FGMM_TRY(fgmm__comm_barrier(b->comm));
        double begin = fgmm__seconds();
        FGMM_TRY(run(e, -1));
        if (rep >= 0)
            seconds[rep] = fgmm__seconds() - begin;
    }
    FGMM_TRY(fgmm__bench_agree_times(b, FGMM_OK, seconds));
    FGMM_TRY(fgmm__comm_agree(b->comm, fgmm__measure_gemm(b->device, b->threads, &gemm_tflops)));
    describe(e);
    add_results(e, seconds, gemm_tflops, &error);
    cJSON_AddNumberToObject(b->line, b->device != NULL ? "extra_device_bytes" : "extra_host_bytes",
                            (double)extra_bytes(e, loaded_bytes));
cleanup:
    return status;
}

static fgmm_status bench(fgmm_bench *b, bool hard)
{
    fgmm_status status = FGMM_OK;
    estep e = {.b = b, .hard = hard};
    if (b->model != NULL)
        FGMM_TRY(fgmm__comm_agree(b->comm, read_model(&e)));
    FGMM_TRY(open_rows(b, e.model, &e.dataset));
    FGMM_TRY(fgmm__comm_agree(b->comm, make_components(&e)));
    FGMM_TRY(load(&e));
    FGMM_TRY(time_estep(&e));
cleanup:
    free(e.range);
    fgmm_model_destroy(e.model);
    fgmm__stats_destroy(e.stats);
    fgmm__grid_destroy(e.grid);
    fgmm__components_destroy(e.components);
    fgmm__shard_destroy(e.shard);
    fgmm__backend_destroy(e.backend);
    fgmm_dataset_close(e.dataset);
    return status;
}

fgmm_status fgmm__bench_estep(fgmm_bench *b)
{
    return bench(b, false);
}

fgmm_status fgmm__bench_kmeans(fgmm_bench *b)
{
    return bench(b, true);
}
