/* fgmm fit: options in, a model file out. */
#include "cmd/cmd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/event.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "cmd/resources.h"
#include "fit/fit.h"
#include "model/model.h"

static const char usage[] = "[mpirun -n R] fgmm fit DATA... -k K -o MODEL.h5 [OPTIONS]";
static const char description[] =
    "Fits a Gaussian mixture (or k-means) to the rows of DATA and writes the model.\n"
    "DATA: files, folders, quoted globs, @LIST or synth:n=1M,d=128,k=1024 - read as one array of rows.";

typedef struct {
    fgmm_fit_options fit;
    int algorithm, covariance, residency, metric;
    int64_t k, seed, n_init, train_rows;
    const char *init, *output, *checkpoint, *rows;
    bool resume;
    char default_checkpoint[4096];
} arguments;

static fgmm_status parse(int argc, char **argv, arguments *a, const char **sources, int *n_sources,
                         bool *done)
{
    fgmm_fit_defaults(&a->fit);
    a->init = "kmeans++";
    a->n_init = 1;
    const fgmm_option table[] = {
        {"-k,--components", FGMM_OPT_COUNT, &a->k, "K", "number of components (required)"},
        {"-o,--output", FGMM_OPT_TEXT, &a->output, "MODEL.h5", "the model file (required)"},
        {"--algorithm", FGMM_OPT_CHOICE, &a->algorithm, "gmm|kmeans", "what to fit (gmm)"},
        {"--covariance", FGMM_OPT_CHOICE, &a->covariance, "spherical|diag|tied|full",
         "shape of a component (spherical)"},
        {"--metric", FGMM_OPT_CHOICE, &a->metric, "l2|cosine|ip",
         "cosine scales every row to unit length; ip is for build and what follows, which take a model of l2 "
         "(l2)"},
        {"--max-iter", FGMM_OPT_COUNT, &a->fit.max_iter, "N", "most iterations (100)"},
        {"--tol", FGMM_OPT_REAL, &a->fit.tol, "T",
         "stop when the mean log-likelihood a row changes by less than T nats; k-means: when the mean "
         "squared distance changes by a smaller share; 0 never stops (1e-3)"},
        {"--reg-covar", FGMM_OPT_REAL, &a->fit.reg_covar, "R", "added to the variances (1e-6)"},
        {"--init", FGMM_OPT_TEXT, &a->init, "kmeans++|kmeans-parallel|kmeans|random|MODEL.h5",
         "where to start: kmeans++ on a seeded sample of min(N, 64 K) rows; kmeans-parallel on all rows, in "
         "six passes or "
         "a few more; a short kmeans after kmeans++; random rows; or a model (kmeans++; random above "
         "K=8192)"},
        {"--seed", FGMM_OPT_COUNT, &a->seed, "S", "seed of all random choices (0)"},
        {"--n-init", FGMM_OPT_COUNT, &a->n_init, "R",
         "fits R times, with the seeds S, S+1, ..., and keeps the best (1)"},
        {"--rows", FGMM_OPT_TEXT, &a->rows, "A:B", "rows A to B-1 of DATA alone (all)"},
        {"--train-rows", FGMM_OPT_COUNT, &a->train_rows, "N",
         "fit to N of the rows, one drawn from each of N equal parts: those of convert --sample N with the "
         "same "
         "--seed (all)"},
        {"--weights", FGMM_OPT_TEXT, &a->fit.weights, "FILE",
         "a weight a row, 0 or more, taken relative to their mean: .npy ('<f4', '<f8') or .fbin (u32 rows, "
         "u32 1, f32); "
         "of --rows alone where it is given. Computed on CPUs (each row counts as one)"},
        {"--residency", FGMM_OPT_CHOICE, &a->residency, "auto|device|host|stream",
         "where a rank's rows live between iterations; stream reads them again each time (auto)"},
        {"--device-memory", FGMM_OPT_BYTES, &a->fit.device_memory_bytes, "BYTES",
         "cap of device memory a rank (what is free)"},
        {"--host-memory", FGMM_OPT_BYTES, &a->fit.host_memory_bytes, "BYTES",
         "host memory a rank may take (its share of the node's)"},
        {"--checkpoint", FGMM_OPT_TEXT, &a->checkpoint, "FILE", "checkpoint file (MODEL.h5.ckpt)"},
        {"--checkpoint-every", FGMM_OPT_REAL, &a->fit.checkpoint_seconds, "SECONDS",
         "time between checkpoints (60)"},
        {"--resume", FGMM_OPT_FLAG, &a->resume, NULL, "go on from the checkpoint; without one, start afresh"},
        {NULL, FGMM_OPT_FLAG, NULL, NULL, NULL},
    };
    return fgmm__cmd_parse(argc, argv, usage, description, table, sources, n_sources, done);
}

static fgmm_status choose_init(arguments *a)
{
    static const struct {
        const char *name;
        fgmm_init init;
    } known[] = {{"kmeans++", FGMM_INIT_KMEANSPP},
                 {"kmeans", FGMM_INIT_KMEANS},
                 {"random", FGMM_INIT_RANDOM},
                 {"kmeans-parallel", FGMM_INIT_PARALLEL}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(a->init, known[i].name) == 0) {
            a->fit.init = known[i].init;
            if (a->fit.init == FGMM_INIT_KMEANSPP && a->k > 8192)
                a->fit.init = FGMM_INIT_RANDOM;
            return FGMM_OK;
        }
    if (access(a->init, R_OK) != 0)
        return fgmm__fail(
            FGMM_ERR_INPUT,
            "--init %s: neither kmeans++, kmeans-parallel, kmeans, random nor a readable model file",
            a->init);
    a->fit.init = FGMM_INIT_MODEL;
    a->fit.init_model = a->init;
    return FGMM_OK;
}

static fgmm_status check(arguments *a, int n_sources)
{
    fgmm_status status = FGMM_OK;
    if (n_sources == 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "no DATA given; usage: %s", usage);
    if (a->output == NULL)
        FGMM_FAIL(FGMM_ERR_INPUT, "no output given (-o MODEL.h5)");
    if (a->k < 1 || a->k > INT32_MAX)
        FGMM_FAIL(FGMM_ERR_INPUT, "the number of components must be given and at least 1 (-k K; got %lld)",
                  (long long)a->k);
    if (a->n_init < 1 || a->n_init > INT32_MAX)
        FGMM_FAIL(FGMM_ERR_INPUT, "--n-init %lld: must be 1 or more", (long long)a->n_init);
    FGMM_TRY(fgmm__cmd_refuse_ip(a->metric));
    FGMM_TRY(choose_init(a));
    FGMM_TRY(fgmm__cmd_check_output(a->output));
    if (a->checkpoint == NULL) {
        snprintf(a->default_checkpoint, sizeof a->default_checkpoint, "%s.ckpt", a->output);
        a->checkpoint = a->default_checkpoint;
    }
    FGMM_TRY(fgmm__cmd_check_output(a->checkpoint));
    a->fit.algorithm = (fgmm_algorithm)a->algorithm;
    a->fit.covariance = (fgmm_covariance)a->covariance;
    a->fit.residency = (fgmm_residency)a->residency;
    a->fit.k = (int32_t)a->k;
    a->fit.seed = (uint64_t)a->seed;
    a->fit.n_init = (int32_t)a->n_init;
    a->fit.resume = a->resume;
    a->fit.checkpoint = a->checkpoint;
    a->fit.backend = (fgmm_backend_kind)fgmm__globals()->backend;
    a->fit.tile_rows = fgmm__globals()->tile_rows;
    a->fit.threads = fgmm__cmd_threads();
cleanup:
    return status;
}

/* True when --resume finds the work done: a whole model of this shape and no checkpoint left. */
static fgmm_status already_whole(const arguments *a, bool *whole)
{
    fgmm_status status = FGMM_OK;
    fgmm_model *model = NULL;
    *whole = false;
    if (!a->resume || access(a->checkpoint, F_OK) == 0 || access(a->output, F_OK) != 0)
        return FGMM_OK;
    FGMM_TRY(fgmm_model_read(a->output, &model));
    if (model->k != a->fit.k || model->algorithm != a->fit.algorithm ||
        model->covariance != a->fit.covariance || model->metric != (fgmm_metric)a->metric ||
        model->seed < (uint64_t)a->seed || model->seed - (uint64_t)a->seed >= (uint64_t)a->n_init)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: a whole model, but of other options; remove it or give another -o",
                  a->output);
    *whole = true;
cleanup:
    fgmm_model_destroy(model);
    return status;
}

static fgmm_status announce(const fgmm_device *device, int64_t my_rows, const char *residency)
{
    return fgmm__cmd_start_event("fit", device, my_rows, residency);
}

static void report(const arguments *a, const fgmm_model *model, const fgmm_fit_watch *watch, double seconds)
{
    bool kmeans = model->algorithm == FGMM_KMEANS;
    double busy = 0;
    for (int64_t i = 0; i < model->n_iter; i++)
        busy += model->history_seconds[i];
    double rate = busy > 0 ? (double)model->n_rows * (double)model->n_iter / busy : 0;
    cJSON *event = fgmm__event_new("end");
    cJSON_AddStringToObject(event, "output", a->output);
    cJSON_AddNumberToObject(event, "rows", (double)model->n_rows);
    cJSON_AddNumberToObject(event, "iterations", (double)model->n_iter);
    cJSON_AddBoolToObject(event, "converged", model->converged);
    cJSON_AddNumberToObject(event, kmeans ? "mean_squared_distance" : "log_likelihood",
                            kmeans ? -model->log_likelihood : model->log_likelihood);
    cJSON_AddNumberToObject(event, "seconds", seconds);
    cJSON_AddNumberToObject(event, "rows_per_s", rate);
    cJSON_AddStringToObject(event, "residency", watch->residency);
    cJSON_AddNumberToObject(event, "peak_device_bytes", (double)watch->peak_device_bytes);
    cJSON_AddNumberToObject(event, "peak_host_bytes", (double)watch->peak_host_bytes);
    fgmm__event_emit(event);
    fgmm__info("%s: %lld rows, %lld iterations, %s, %s %.9g, %.2f s, %.4g rows/s in iterations, shard on %s",
               a->output, (long long)model->n_rows, (long long)model->n_iter,
               model->converged ? "converged" : "not converged",
               kmeans ? "mean squared distance" : "mean log-likelihood",
               kmeans ? -model->log_likelihood : model->log_likelihood, seconds, rate, watch->residency);
    fgmm__info("%s; peak a rank: host %.1f MiB for rows and buffers, device %.1f MiB", watch->pace,
               (double)watch->peak_host_bytes / (1 << 20), (double)watch->peak_device_bytes / (1 << 20));
}

fgmm_status fgmm__cmd_fit(int argc, char **argv)
{
    fgmm_status status = FGMM_OK;
    arguments a = {0};
    const char **sources = NULL;
    int n_sources = 0;
    bool done = false, whole = false;
    fgmm_dataset *dataset = NULL;
    fgmm_model *model = NULL;
    fgmm_fit_watch watch = {.started = announce};
    double start = fgmm__seconds();
    FGMM_ALLOC(sources, argc, "arguments");
    FGMM_TRY(parse(argc, argv, &a, sources, &n_sources, &done));
    if (done)
        goto cleanup;
    fgmm_comm *comm = fgmm__cmd_comm();
    fgmm_dataset_options options = {.row_end = -1, .metric = (fgmm_metric)a.metric, .dot_as_l2 = 1};
    status = check(&a, n_sources);
    if (status == FGMM_OK)
        status = already_whole(&a, &whole);
    if (status == FGMM_OK && a.rows != NULL)
        status = fgmm__cmd_parse_rows(a.rows, &options);
    options.sample_rows = a.train_rows;
    options.sample_seed = (uint64_t)a.seed;
    if (status == FGMM_OK && !whole)
        status = fgmm_dataset_open(sources, n_sources, &options, &dataset);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    if (whole) {
        fgmm__info("%s: already whole, nothing to do (to fit anew, remove it or leave --resume out)",
                   a.output);
        goto cleanup;
    }
    FGMM_TRY(fgmm__fit(comm, dataset, &a.fit, &watch, &model));
    if (fgmm_comm_rank(comm) == 0)
        status = fgmm_model_write(model, a.output);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    if (fgmm_comm_rank(comm) == 0)
        fgmm__checkpoint_remove(a.checkpoint);
    report(&a, model, &watch, fgmm__seconds() - start);
cleanup:
    if (status == FGMM_STOPPED)
        fgmm__fail(FGMM_STOPPED, "stopped on request; checkpoint %s: run the same line with --resume",
                   a.checkpoint);
    fgmm_model_destroy(model);
    fgmm_dataset_close(dataset);
    free(sources);
    return status;
}
