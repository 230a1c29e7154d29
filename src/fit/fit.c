/* A whole fit: open what computes, load the shard, make or resume a start, run EM with checkpoints. */
#include "fit/fit.h"

#include "base/clock.h"
#include "base/event.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "data/dataset.h"
#include "data/partition.h"
#include "data/weights.h"
#include "em/em.h"
#include "init/init.h"
#include "model/covariance.h"

#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

/* The k-means that makes a start is brief: it need not settle. */
enum { START_KMEANS_ITERATIONS = 25 };
static const double start_kmeans_tol = 1e-3;

typedef struct {
    fgmm_comm *comm;
    const fgmm_dataset *dataset;
    const fgmm_fit_options *options;
    fgmm_fit_watch *watch;
    fgmm_device *device;
    fgmm_backend *backend;
    fgmm_shard *shard;
    fgmm_weights *weights;      /* of rows; NULL: each counts as one */
    fgmm_model *start;          /* --init MODEL.h5, else NULL */
    double *min, *max, *origin; /* [dim] */
    int32_t run;                /* which of options->n_init fits */
    uint64_t seed;              /* of this one */
    fgmm_model *best;           /* of the fits before */
    fgmm_phase phase;           /* of what `save` is given */
    uint64_t options_hash;
    double last_save_seconds;
    bool stop_saved; /* a checkpoint was written because of a stop */
} fit;

void fgmm_fit_defaults(fgmm_fit_options *options)
{
    *options = (fgmm_fit_options){
        .algorithm = FGMM_GMM,
        .covariance = FGMM_SPHERICAL,
        .max_iter = 100,
        .tol = 1e-3,
        .reg_covar = 1e-6,
        .n_init = 1,
        .init = FGMM_INIT_KMEANSPP,
        .checkpoint_seconds = 60,
    };
}

/* ---- checking ---- */

static fgmm_status check_options(const fit *f)
{
    const fgmm_fit_options *o = f->options;
    int64_t rows = fgmm_dataset_rows(f->dataset);
    if (o->k < 1)
        return fgmm__fail(FGMM_ERR_INPUT, "K is %d; at least 1 component is needed (-k)", o->k);
    if (o->k > rows)
        return fgmm__fail(FGMM_ERR_INPUT, "K is %d, but there are only %lld rows; lower -k", o->k,
                          (long long)rows);
    if (fgmm_dataset_metric(f->dataset) == FGMM_IP)
        return fgmm__fail(FGMM_ERR_INPUT, "components are fitted by l2 or cosine, not by the inner product");
    if (o->max_iter < 0 || !(o->tol >= 0) || !(o->reg_covar >= 0))
        return fgmm__fail(FGMM_ERR_INPUT, "--max-iter, --tol and --reg-covar must not be negative");
    if (o->weights != NULL && o->backend == FGMM_BACKEND_CUDA)
        return fgmm__fail(FGMM_ERR_INPUT, "weights of rows are for the CPU in this version: --backend cpu");
    if (o->n_init < 1)
        return fgmm__fail(FGMM_ERR_INPUT, "--n-init %d: must be 1 or more", o->n_init);
    if (o->n_init > 1 && o->init == FGMM_INIT_MODEL)
        return fgmm__fail(FGMM_ERR_INPUT,
                          "--n-init %d: a start from a model file is the same every time; leave one out",
                          o->n_init);
    if (o->algorithm == FGMM_KMEANS && o->covariance != FGMM_SPHERICAL)
        return fgmm__fail(FGMM_ERR_INPUT, "k-means has spherical clusters; leave --covariance out");
    return FGMM_OK;
}

static fgmm_status read_start(fit *f)
{
    const fgmm_fit_options *o = f->options;
    fgmm_status status = FGMM_OK;
    if (o->init != FGMM_INIT_MODEL)
        return FGMM_OK;
    FGMM_TRY(fgmm_model_read(o->init_model, &f->start));
    if (f->start->dim != fgmm_dataset_dim(f->dataset))
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: a model of dimension %d, but the rows have %d", o->init_model,
                  f->start->dim, fgmm_dataset_dim(f->dataset));
    if (f->start->k != o->k)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: a model of %d components, but -k is %d", o->init_model, f->start->k,
                  o->k);
    if (f->start->metric != fgmm_dataset_metric(f->dataset))
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: a model for the metric %s; give --metric %s", o->init_model,
                  fgmm_metric_name(f->start->metric), fgmm_metric_name(f->start->metric));
cleanup:
    return status;
}

/* Options that decide the path of the fit; --tol and --max-iter only say where it ends. */
static uint64_t hash_options(const fit *f)
{
    const fgmm_fit_options *o = f->options;
    uint64_t words[8] = {(uint64_t)o->algorithm, (uint64_t)o->covariance, (uint64_t)o->k, (uint64_t)o->init,
                         o->seed};
    memcpy(&words[5], &o->reg_covar, sizeof(double));
    if (f->start != NULL) {
        words[6] = XXH3_64bits(f->start->means, (size_t)f->start->k * (size_t)f->start->dim * sizeof(double));
        words[7] = XXH3_64bits(f->start->weights, (size_t)f->start->k * sizeof(double));
    }
    uint64_t hash = XXH3_64bits_withSeed(words, sizeof words, (uint64_t)o->n_init - 1);
    uint64_t weights = f->weights != NULL ? fgmm__weights_fingerprint(f->weights) : 0;
    return f->weights != NULL ? XXH3_64bits_withSeed(&weights, sizeof weights, hash) : hash;
}

/* ---- checkpoints ---- */

static bool save_is_due(void *context)
{
    const fit *f = context;
    return f->options->checkpoint != NULL && fgmm_comm_rank(f->comm) == 0 &&
           fgmm__seconds() - f->last_save_seconds >= f->options->checkpoint_seconds;
}

static fgmm_status save(void *context, const fgmm_model *model, bool stopped)
{
    fit *f = context;
    const fgmm_fit_options *o = f->options;
    double now = fgmm__seconds();
    f->stop_saved = f->stop_saved || stopped;
    if (o->checkpoint == NULL || fgmm_comm_rank(f->comm) != 0)
        return FGMM_OK;
    fgmm_checkpoint checkpoint = {.phase = model != NULL ? f->phase : FGMM_PHASE_START,
                                  .stopped = stopped,
                                  .data_fingerprint = fgmm__dataset_fingerprint(f->dataset),
                                  .options_hash = f->options_hash,
                                  .model = (fgmm_model *)model,
                                  .run = f->run,
                                  .best = f->best};
    fgmm_status status = fgmm__checkpoint_write(o->checkpoint, &checkpoint);
    f->last_save_seconds = fgmm__seconds();
    if (status == FGMM_OK) {
        cJSON *event = fgmm__event_new("checkpoint");
        cJSON_AddStringToObject(event, "file", o->checkpoint);
        if (o->n_init > 1)
            cJSON_AddNumberToObject(event, "run", f->run);
        cJSON_AddNumberToObject(event, "iteration", model != NULL ? (double)model->n_iter : 0);
        cJSON_AddBoolToObject(event, "stopped", stopped);
        cJSON_AddNumberToObject(event, "seconds", f->last_save_seconds - now);
        fgmm__event_emit(event);
    }
    return status;
}

/* The parameters to go on from: *out stays NULL when there is no checkpoint or none that holds any. */
static fgmm_status resume(fit *f, fgmm_model **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_checkpoint checkpoint = {0};
    const char *path = f->options->checkpoint;
    bool found = false;
    f->phase = FGMM_PHASE_START;
    if (!f->options->resume || path == NULL)
        return FGMM_OK;
    FGMM_TRY(fgmm__checkpoint_read(path, &checkpoint, &found));
    if (!found) {
        fgmm__info("%s: no checkpoint; starting afresh", path);
        goto cleanup;
    }
    if (checkpoint.data_fingerprint != fgmm__dataset_fingerprint(f->dataset))
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: a checkpoint of other data; remove it or give the same files and --rows", path);
    if (checkpoint.options_hash != f->options_hash)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: a checkpoint of other options; remove it or give the same line again",
                  path);
    f->phase = checkpoint.phase;
    f->run = (int32_t)checkpoint.run;
    f->best = checkpoint.best;
    *out = checkpoint.model;
    checkpoint.model = checkpoint.best = NULL;
    fgmm__info("%s: going on after iteration %lld%s", path, *out != NULL ? (long long)(*out)->n_iter : 0,
               f->phase == FGMM_PHASE_KMEANS ? " of the k-means start" : "");
cleanup:
    fgmm_model_destroy(checkpoint.model);
    fgmm_model_destroy(checkpoint.best);
    return status;
}

/* ---- what computes, and on what ---- */

static fgmm_status open_backend(fit *f)
{
    fgmm_status status = FGMM_OK;
    int threads = f->options->threads > 0 ? f->options->threads : omp_get_max_threads();
    fgmm_backend_kind kind = f->weights != NULL ? FGMM_BACKEND_CPU : f->options->backend;
    FGMM_TRY(fgmm__device_open(f->comm, kind, &f->device));
    FGMM_TRY(fgmm__backend_create(f->comm, f->device, threads, &f->backend));
cleanup:
    return status;
}

/* What the largest rank keeps for each of its rows beside the rows, a quantum over. */
static int64_t row_state_bytes(const fit *f)
{
    int64_t each = f->weights != NULL ? (int64_t)sizeof(double) : 0;
    if (f->options->init == FGMM_INIT_PARALLEL)
        each += FGMM_PARALLEL_ROW_BYTES;
    return (fgmm_dataset_rows(f->dataset) / fgmm_comm_size(f->comm) + FGMM_QUANTUM) * each;
}

static fgmm_status load_shard(fit *f)
{
    fgmm_status status = FGMM_OK;
    const fgmm_fit_options *o = f->options;
    int32_t dim = fgmm_dataset_dim(f->dataset);
    fgmm_moment moment =
        o->algorithm == FGMM_GMM ? fgmm__covariance_type(o->covariance)->moment : FGMM_MOMENT_SPHERICAL;
    fgmm_shard_options shard = {
        .residency = o->residency,
        .device_memory_bytes = o->device_memory_bytes,
        .host_memory_bytes = o->host_memory_bytes,
        .cap_whole_process = true,
        .tile_rows = o->tile_rows,
        .reserved_bytes = row_state_bytes(f),
        .backend_bytes = f->backend->ops->workspace_bytes(o->covariance, moment, o->k, dim),
    };
    FGMM_ALLOC(f->min, dim, "ranges");
    FGMM_ALLOC(f->max, dim, "ranges");
    FGMM_ALLOC(f->origin, dim, "the origin");
    FGMM_TRY(fgmm__shard_create(f->dataset, f->comm, f->device, &shard, &f->shard));
    if (f->watch != NULL && f->watch->started != NULL)
        FGMM_TRY(f->watch->started(f->device, fgmm__shard_end(f->shard) - fgmm__shard_begin(f->shard),
                                   fgmm__shard_where(f->shard)));
    FGMM_TRY(fgmm__shard_load(f->shard, f->min, f->max));
    if (f->weights != NULL)
        FGMM_TRY(
            fgmm__weights_load(f->weights, f->comm, fgmm__shard_begin(f->shard), fgmm__shard_end(f->shard)));
cleanup:
    return status;
}

/* ---- starts ---- */

static fgmm_em new_em(fit *f, const char *name, int64_t max_iter, double tol)
{
    return (fgmm_em){.comm = f->comm,
                     .backend = f->backend,
                     .dataset = f->dataset,
                     .shard = f->shard,
                     .weights = f->weights,
                     .min = f->min,
                     .max = f->max,
                     .max_iter = max_iter,
                     .tol = tol,
                     .reg_covar = f->options->reg_covar,
                     .name = name,
                     .save = save,
                     .save_is_due = save_is_due,
                     .context = f};
}

static fgmm_status new_model(const fit *f, fgmm_algorithm algorithm, fgmm_covariance covariance,
                             fgmm_model **out)
{
    fgmm_status status =
        fgmm__model_create(algorithm, covariance, f->options->k, fgmm_dataset_dim(f->dataset), out);
    if (status != FGMM_OK)
        return status;
    fgmm_model *model = *out;
    memcpy(model->origin, f->origin, (size_t)model->dim * sizeof *model->origin);
    model->metric = fgmm_dataset_metric(f->dataset);
    model->seed = f->seed;
    model->n_rows = fgmm_dataset_rows(f->dataset);
    strncpy(model->backend, f->backend->ops->name, sizeof model->backend - 1);
    if ((model->data = strdup(fgmm_dataset_name(f->dataset))) == NULL)
        return fgmm__fail(FGMM_ERR_RUNTIME, "out of memory: a model's names");
    for (int32_t k = 0; k < model->k; k++)
        model->weights[k] = 1.0 / model->k;
    return FGMM_OK;
}

/* Means of the k-means start; `resumed` (may be NULL) holds those of a k-means start that was interrupted. */
static fgmm_status kmeans_means(fit *f, const fgmm_model *resumed, double *means)
{
    fgmm_status status = FGMM_OK;
    fgmm_model *kmeans = NULL;
    fgmm_em em = new_em(f, "k-means start", START_KMEANS_ITERATIONS, start_kmeans_tol);
    f->phase = FGMM_PHASE_KMEANS;
    if (resumed != NULL) {
        FGMM_TRY(fgmm__model_copy(resumed, &kmeans));
    } else {
        FGMM_TRY(new_model(f, FGMM_KMEANS, FGMM_SPHERICAL, &kmeans));
        FGMM_TRY(fgmm__init_kmeanspp(f->dataset, f->weights, f->comm, f->seed, f->options->k, kmeans->means));
    }
    FGMM_TRY(fgmm__em_run(&em, kmeans));
    memcpy(means, kmeans->means, (size_t)kmeans->k * (size_t)kmeans->dim * sizeof *means);
cleanup:
    fgmm_model_destroy(kmeans);
    return status;
}

/* First parameters: a model file's, or from means by one hard assignment. */
static fgmm_status make_start(fit *f, const fgmm_model *resumed, fgmm_model **out)
{
    fgmm_status status = FGMM_OK;
    const fgmm_fit_options *o = f->options;
    fgmm_model *model = NULL;
    bool whole = false; /* weights and covariances are known as well as means */
    FGMM_TRY(new_model(f, o->algorithm, o->covariance, &model));
    size_t means_bytes = (size_t)model->k * (size_t)model->dim * sizeof *model->means;
    if (o->init == FGMM_INIT_MODEL) {
        memcpy(model->means, f->start->means, means_bytes);
        whole = o->algorithm == FGMM_GMM && f->start->algorithm == FGMM_GMM &&
                f->start->covariance == o->covariance;
        if (whole) {
            memcpy(model->weights, f->start->weights, (size_t)model->k * sizeof *model->weights);
            memcpy(model->covariances, f->start->covariances,
                   fgmm__covariance_count(o->covariance, model->k, model->dim) * sizeof *model->covariances);
        }
    } else if (o->init == FGMM_INIT_KMEANS && o->algorithm == FGMM_GMM) {
        FGMM_TRY(kmeans_means(f, resumed, model->means));
    } else if (o->init == FGMM_INIT_RANDOM) {
        FGMM_TRY(fgmm__init_random(f->dataset, f->comm, f->seed, o->k, model->means));
    } else if (o->init == FGMM_INIT_PARALLEL) {
        fgmm_init_place place = {.comm = f->comm,
                                 .backend = f->backend,
                                 .dataset = f->dataset,
                                 .shard = f->shard,
                                 .weights = f->weights,
                                 .origin = f->origin};
        FGMM_TRY(fgmm__init_parallel(&place, f->seed, o->k, model->means));
    } else {
        FGMM_TRY(fgmm__init_kmeanspp(f->dataset, f->weights, f->comm, f->seed, o->k, model->means));
    }
    f->phase = FGMM_PHASE_FIT;
    if (o->algorithm == FGMM_GMM && !whole) {
        fgmm_em em = new_em(f, "start", 0, 0);
        FGMM_TRY(fgmm__em_from_means(&em, model));
    }
    *out = model;
    model = NULL;
cleanup:
    fgmm_model_destroy(model);
    return status;
}

/* ---- one fit and several ---- */

static fgmm_status fit_once(fit *f, fgmm_model **resumed, fgmm_model **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_model *model = NULL;
    fgmm_em em = new_em(f, "iteration", f->options->max_iter, f->options->tol);
    FGMM_TRY(fgmm__init_origin(f->dataset, f->comm, f->seed, f->origin));
    if (*resumed != NULL && f->phase == FGMM_PHASE_FIT) {
        model = *resumed;
        *resumed = NULL;
    } else {
        FGMM_TRY(make_start(f, f->phase == FGMM_PHASE_KMEANS ? *resumed : NULL, &model));
    }
    f->phase = FGMM_PHASE_FIT;
    FGMM_TRY(fgmm__em_run(&em, model));
    *out = model;
    model = NULL;
cleanup:
    fgmm_model_destroy(model);
    return status;
}

static void tell_run(const fit *f, const fgmm_model *model, bool better)
{
    bool kmeans = model->algorithm == FGMM_KMEANS;
    double value = kmeans ? -model->log_likelihood : model->log_likelihood;
    if (f->options->n_init == 1)
        return;
    fgmm__info("fit %d of %d (seed %llu): %s %.9g after %lld iterations%s", f->run + 1, f->options->n_init,
               (unsigned long long)f->seed, kmeans ? "mean squared distance" : "mean log-likelihood", value,
               (long long)model->n_iter, better ? ", the best so far" : "");
    cJSON *event = fgmm__event_new("run");
    cJSON_AddNumberToObject(event, "run", f->run);
    cJSON_AddNumberToObject(event, "seed", (double)f->seed);
    cJSON_AddNumberToObject(event, kmeans ? "mean_squared_distance" : "log_likelihood", value);
    cJSON_AddNumberToObject(event, "iterations", (double)model->n_iter);
    fgmm__event_emit(event);
}

/* The best of n_init fits, in f->best. Every rank decides alike: their models are the same. */
static fgmm_status fit_all(fit *f, fgmm_model **resumed)
{
    fgmm_status status = FGMM_OK;
    fgmm_model *model = NULL;
    for (; f->run < f->options->n_init; f->run++) {
        f->seed = f->options->seed + (uint64_t)f->run;
        FGMM_TRY(fit_once(f, resumed, &model));
        fgmm_model_destroy(*resumed); /* of a start that is over */
        *resumed = NULL;
        f->phase = FGMM_PHASE_START;
        bool better = f->best == NULL || model->log_likelihood > f->best->log_likelihood;
        tell_run(f, model, better);
        if (better) {
            fgmm_model_destroy(f->best);
            f->best = model;
        } else {
            fgmm_model_destroy(model);
        }
        model = NULL;
    }
cleanup:
    return status;
}

/* ---- the whole ---- */

static void describe_run(const fit *f)
{
    fgmm_shard_times times;
    fgmm_fit_watch *w = f->watch;
    if (w == NULL || f->shard == NULL)
        return;
    fgmm__shard_times(f->shard, &times);
    double compute = times.pass_seconds - times.read_wait_seconds - times.copy_wait_seconds;
    const char *slowest = "computing";
    if (times.read_wait_seconds > compute)
        slowest = "reading";
    if (times.copy_wait_seconds > compute && times.copy_wait_seconds > times.read_wait_seconds)
        slowest = "copying to the device";
    snprintf(w->residency, sizeof w->residency, "%s", fgmm__shard_where(f->shard));
    snprintf(w->pace, sizeof w->pace,
             "%s set the pace (%.1f s of %.1f s waiting for reads, %.1f s for copies)", slowest,
             times.read_wait_seconds, times.pass_seconds, times.copy_wait_seconds);
    w->peak_host_bytes = fgmm__shard_peak_host_bytes(f->shard);
    w->peak_device_bytes = f->device != NULL ? fgmm__device_peak_bytes(f->device) : 0;
}

fgmm_status fgmm__fit(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_fit_options *options,
                      fgmm_fit_watch *watch, fgmm_model **out)
{
    fgmm_status status = FGMM_OK;
    fit f = {.comm = comm,
             .dataset = dataset,
             .options = options,
             .watch = watch,
             .last_save_seconds = fgmm__seconds()};
    fgmm_model *resumed = NULL;
    status = check_options(&f);
    if (status == FGMM_OK)
        status = read_start(&f);
    if (status == FGMM_OK && options->weights != NULL)
        status = fgmm__weights_open(options->weights, dataset, &f.weights);
    f.options_hash = hash_options(&f);
    if (status == FGMM_OK)
        status = resume(&f, &resumed);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(open_backend(&f));
    status = load_shard(&f);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fit_all(&f, &resumed));
    describe_run(&f);
    *out = f.best;
    f.best = NULL;
cleanup:
    if (status == FGMM_STOPPED && !f.stop_saved) { /* before the first iteration: what there was stays */
        fgmm_status saved = fgmm__comm_agree(comm, save(&f, resumed, true));
        status = saved == FGMM_OK ? FGMM_STOPPED : saved;
    }
    fgmm_model_destroy(resumed);
    fgmm_model_destroy(f.best);
    fgmm_model_destroy(f.start);
    fgmm__shard_destroy(f.shard);
    fgmm__weights_close(f.weights);
    fgmm__backend_destroy(f.backend);
    fgmm__device_close(f.device);
    free(f.min);
    free(f.max);
    free(f.origin);
    return status;
}

fgmm_status fgmm_fit(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_fit_options *options,
                     fgmm_model **out)
{
    return fgmm__fit(comm, dataset, options, NULL, out);
}
