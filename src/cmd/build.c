#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/event.h"
#include "base/log.h"
#include "base/status.h"
#include "cmd/resources.h"
#include "ivf/ivf.h"
#include "ivf/rules.h"

static const char usage[] = "[mpirun -n R] fgmm build DATA... MODEL.h5|--append INDEX.h5 -o NEW.h5 [OPTIONS]";
static const char description[] =
    "Puts every row of DATA into inverted lists, one a component of the model, and writes the index.\n"
    "--append adds the rows of DATA to those of an index, by its own model, rule and parameters: what hard, "
    "tau, soar "
    "and closure give for all rows at once, to the byte.";

/* Minus infinity and numbers below 0, which nobody can type: not given. */
static const char *output, *ids, *checkpoint, *append;
static char default_checkpoint[4096];
static bool resume;
static int rule = -1, vectors = -1, metric = -1;
static double tau = -INFINITY, lambda = -INFINITY, epsilon = -INFINITY, replication = -INFINITY;
static int64_t max_lists = -1, neighbors = -1, sketch = -1, window_bytes, exchange_bytes;
static fgmm_resource_options resources;

static const fgmm_option table[] = {
    {"-o,--output", FGMM_OPT_TEXT, &output, "INDEX.h5", "where the index goes"},
    {"--append", FGMM_OPT_TEXT, &append, "INDEX.h5",
     "add the rows to this index's, by its model, rule, parameters and sketches; row numbers go on from its "
     "own, or "
     "--ids brings yours"},
    {"--assign", FGMM_OPT_CHOICE, &rule, "hard|tau|soar|closure|need",
     "hard: the most likely component (k-means: the nearest centroid); the others add to that: tau every "
     "component with responsibility T or more; soar the list whose residual is small and at right angles to "
     "the first's; closure the nearest lists, but those nearer to a list already taken than to the row; need "
     "the lists that a search probes first which starts from rows that have this one among their nearest: "
     "looks for the nearest rows of all rows, in hard lists that take as much room beside INDEX.h5 meanwhile "
     "(hard)"},
    {"--tau", FGMM_OPT_REAL, &tau, "T", "least responsibility of --assign tau (1/K)"},
    {"--lambda", FGMM_OPT_REAL, &lambda, "L",
     "weight of --assign soar's term for parallel residuals: the second list has the least |x-c|^2 + L "
     "((x-c1).(x-c))^2/|x-c1|^2; 0 takes the second nearest (0.5; SOAR's authors use 1 to 1.5)"},
    {"--epsilon", FGMM_OPT_REAL, &epsilon, "E",
     "--assign closure takes lists at most 1+E times as far as the nearest (0.1)"},
    {"--max-lists", FGMM_OPT_COUNT, &max_lists, "M",
     "most lists a row of --assign tau, closure and need (8)"},
    {"--replication", FGMM_OPT_REAL, &replication, "R",
     "choose T, E, the rows that soar gives a second list, or the copies of need, so that the lists hold up "
     "to R times the rows; takes 12 bytes of disk for each posting to choose from, at most M a row"},
    {"--neighbors", FGMM_OPT_COUNT, &neighbors, "N",
     "--assign need: nearest rows that a row needs; takes 8 N + 128 bytes of memory a row (40)"},
    {"--ids", FGMM_OPT_TEXT, &ids, "FILE",
     "your own ids, one a row, each different and none negative: .npy ('<i8') or .i64bin (u32 rows, u32 1, "
     "then i64) (row numbers)"},
    {"--vectors", FGMM_OPT_CHOICE, &vectors, "yes|no", "store the rows, or their ids alone (yes)"},
    FGMM_METRIC_OPTION(metric, "the model's"),
    FGMM_RESOURCE_OPTIONS(resources),
    {"--window", FGMM_OPT_BYTES, &window_bytes, "BYTES",
     "memory of a rank for rows on their way, from which they are written in order: the more, the longer the "
     "runs in the file (a quarter of --host-memory, or half of what is free)"},
    {"--exchange", FGMM_OPT_BYTES, &exchange_bytes, "BYTES",
     "bytes a rank sends in one round of the exchange (64MiB, or an eighth of --window)"},
    {"--checkpoint", FGMM_OPT_TEXT, &checkpoint, "FILE",
     "where a build that is stopped says how far it came; the rows' lists lie beside it meanwhile, 4 bytes a "
     "posting (INDEX.h5.ckpt)"},
    {"--resume", FGMM_OPT_FLAG, &resume, NULL, "go on from the checkpoint; without one, start afresh"},
    {"--sketch", FGMM_OPT_COUNT, &sketch, "M",
     "store M principal coordinates of every posting and the length of what they leave out: search then "
     "passes "
     "over rows that are too far, with the same answers; 4 (M+1) bytes a posting (0: none)"},
    {NULL, FGMM_OPT_FLAG, NULL, NULL, NULL},
};

/* A number that was given must not be below its least, and belongs to one rule. */
static fgmm_status check_number(const char *name, double value, double least, int its_rule)
{
    if (value == -INFINITY)
        return FGMM_OK;
    if (value < least)
        return fgmm__fail(FGMM_ERR_INPUT, "%s %g: must be %g or more", name, value, least);
    if (its_rule >= 0 && rule != its_rule)
        return fgmm__fail(FGMM_ERR_INPUT, "%s belongs to --assign %s: give both or neither", name,
                          fgmm__rule_name((fgmm_assign_rule)its_rule));
    return FGMM_OK;
}

/* The index that rows are added to says how; what was not given gets its default. */
static fgmm_status settle_options(void)
{
    if (append != NULL &&
        (rule >= 0 || vectors >= 0 || metric >= 0 || max_lists >= 0 || neighbors >= 0 || sketch >= 0 ||
         tau > -INFINITY || lambda > -INFINITY || epsilon > -INFINITY || replication > -INFINITY))
        return fgmm__fail(
            FGMM_ERR_INPUT,
            "--append takes --assign and its parameters, --vectors, --sketch and --metric from the "
            "index: leave them out");
    rule = rule < 0 ? FGMM_ASSIGN_HARD : rule;
    vectors = vectors < 0 ? 0 : vectors;
    max_lists = max_lists < 0 ? 8 : max_lists;
    sketch = sketch < 0 ? 0 : sketch;
    return FGMM_OK;
}

static fgmm_status check(int n_arguments)
{
    fgmm_status status = FGMM_OK;
    if (n_arguments < (append != NULL ? 1 : 2))
        FGMM_FAIL(FGMM_ERR_INPUT, "needs %s: %s", append != NULL ? "data" : "data and a model", usage);
    FGMM_TRY(settle_options());
    if (output == NULL)
        FGMM_FAIL(FGMM_ERR_INPUT, "needs -o INDEX.h5");
    if (max_lists < 1 || max_lists > 64)
        FGMM_FAIL(FGMM_ERR_INPUT, "--max-lists %lld: must be 1 to 64", (long long)max_lists);
    FGMM_TRY(check_number("--tau", tau, 0, -1)); /* hard lists ignore it */
    FGMM_TRY(check_number("--lambda", lambda, 0, FGMM_ASSIGN_SOAR));
    FGMM_TRY(check_number("--epsilon", epsilon, 0, FGMM_ASSIGN_CLOSURE));
    FGMM_TRY(
        check_number("--neighbors", neighbors >= 0 ? (double)neighbors : -INFINITY, 1, FGMM_ASSIGN_NEED));
    if (neighbors > INT32_MAX)
        FGMM_FAIL(FGMM_ERR_INPUT, "--neighbors %lld: too many", (long long)neighbors);
    FGMM_TRY(check_number("--replication", replication, 1, -1));
    if (sketch > INT32_MAX)
        FGMM_FAIL(FGMM_ERR_INPUT, "--sketch %lld: more than any row has coordinates", (long long)sketch);
    FGMM_TRY(fgmm__cmd_check_output(output));
    if (checkpoint == NULL) {
        snprintf(default_checkpoint, sizeof default_checkpoint, "%s.ckpt", output);
        checkpoint = default_checkpoint;
    }
    FGMM_TRY(fgmm__cmd_check_output(checkpoint));
cleanup:
    return status;
}

static fgmm_build_options options_given(void)
{
    fgmm_build_options options;
    fgmm_build_defaults(&options);
    options.rule = (fgmm_assign_rule)rule;
    options.tau = tau;
    options.epsilon = epsilon;
    if (lambda >= 0)
        options.lambda = lambda;
    if (replication >= 0)
        options.replication = replication;
    options.max_lists = (int32_t)max_lists;
    if (neighbors > 0)
        options.neighbors = (int32_t)neighbors;
    options.sketch = (int32_t)sketch;
    options.store_vectors = vectors == 0;
    options.ids = ids;
    options.append = append;
    options.checkpoint = checkpoint;
    options.resume = resume;
    options.resources = fgmm__cmd_resources(&resources);
    options.window_bytes = window_bytes;
    options.exchange_bytes = exchange_bytes;
    return options;
}

/* What the rows are put into: a model's components, or the lists of an index. */
typedef struct {
    fgmm_dataset *dataset;
    fgmm_model *model; /* NULL with --append */
    fgmm_metric metric;
    int64_t old_rows; /* of the index that rows are added to */
    int32_t lists;
} inputs;

static fgmm_status open_old(inputs *in)
{
    fgmm_status status = FGMM_OK;
    fgmm_index *index = NULL;
    FGMM_TRY(fgmm_index_open(append, &index));
    in->metric = fgmm_index_metric(index);
    in->old_rows = fgmm_index_rows(index);
    in->lists = fgmm_index_lists(index);
cleanup:
    fgmm_index_close(index);
    return status;
}

static fgmm_status open_model(const char *path, inputs *in)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(fgmm_model_read(path, &in->model));
    in->metric = metric < 0 ? fgmm_model_metric(in->model) : (fgmm_metric)metric;
    in->lists = fgmm_model_k(in->model);
cleanup:
    return status;
}

static fgmm_status open_inputs(const char **arguments, int n, inputs *in)
{
    fgmm_status status = FGMM_OK;
    fgmm_dataset_options options = {.row_end = -1};
    FGMM_TRY(check(n));
    FGMM_TRY(append != NULL ? open_old(in) : open_model(arguments[n - 1], in));
    options.metric = in->metric;
    FGMM_TRY(fgmm_dataset_open(arguments, append != NULL ? n : n - 1, &options, &in->dataset));
cleanup:
    return status;
}

/* What was found for the replication, in words that make the same lists again where there are such. */
static void print_replication(const fgmm_build_report *r, int64_t n_rows)
{
    double reached = (double)r->postings / (double)n_rows;
    printf("replication   %.6f of %g: ", reached, replication);
    if (rule == FGMM_ASSIGN_TAU)
        printf("tau %.9g\n", r->tau);
    else if (rule == FGMM_ASSIGN_CLOSURE && r->epsilon >= 0)
        printf("epsilon %.17g\n", r->epsilon);
    else if (rule == FGMM_ASSIGN_CLOSURE)
        printf("no further lists\n");
    else if (rule == FGMM_ASSIGN_NEED)
        printf("copies that gain %g or more\n", r->least_gain);
    else
        printf("second lists for %.4f of the rows\n", reached - 1);
}

/* Which stage the ranks waited for longest; packing is what they do in between. Waiting for other ranks is
 * waiting for what those wait for. */
static const char *pace_of(const fgmm_build_report *r)
{
    double waits[] = {r->read_wait_seconds, r->exchange_wait_seconds, r->write_wait_seconds};
    static const char *const names[] = {"reading", "the exchange", "writing"};
    double packing = r->write_seconds - r->peers_wait_seconds;
    int longest = 0;
    for (int i = 0; i < 3; i++) {
        packing -= waits[i];
        longest = waits[i] > waits[longest] ? i : longest;
    }
    return packing > waits[longest] ? "packing" : names[longest];
}

static void print_rate(const char *name, fgmm_stage_rate rate)
{
    if (rate.bytes > 0 && rate.seconds > 0)
        printf("  %s %.3f", name, (double)rate.bytes * 1e-9 / rate.seconds);
}

static void print_stages(const fgmm_build_report *r)
{
    printf("GB/s        ");
    print_rate("assign", r->assign);
    print_rate("read", r->read);
    print_rate("exchange", r->exchange);
    print_rate("write", r->write);
    printf("\npace          %s (waited %.2f s for reads, %.2f for the exchange, %.2f for writing, %.2f for "
           "other ranks)\n",
           pace_of(r), r->read_wait_seconds, r->exchange_wait_seconds, r->write_wait_seconds,
           r->peers_wait_seconds);
}

static void print_summary(const fgmm_build_report *r, int64_t n_rows, int32_t k)
{
    printf("postings      %lld (%.4f a row), %d lists\n", (long long)r->postings,
           (double)r->postings / (double)n_rows, k);
    if (replication >= 1)
        print_replication(r, n_rows);
    if (r->looked_all > 0)
        printf("looked at     all centroids for %.4f of the rows\n", (double)r->looked_all / (double)n_rows);
    printf("list sizes    min %lld  median %lld  p99 %lld  max %lld\n", (long long)r->list_min,
           (long long)r->list_median, (long long)r->list_p99, (long long)r->list_max);
    printf("seconds       %.2f (load %.2f, assign %.2f, ", r->seconds, r->load_seconds, r->assign_seconds);
    if (append != NULL)
        printf("copy %.2f, ", r->copy_seconds);
    printf("write %.2f)\n", r->write_seconds);
    print_stages(r);
    printf("written       %.3f GB, %.3f GB/s\n", (double)r->bytes_written * 1e-9,
           (double)r->bytes_written * 1e-9 / r->seconds);
    printf("memory        at most %.1f MiB a rank\n", (double)r->peak_bytes / (1 << 20));
    printf("rows lived in %s\n", r->residency);
    fflush(stdout);
}

/* A stage, and how long the average rank waited for it; assign: in it, for reads. */
static void log_rate(cJSON *event, const char *name, fgmm_stage_rate rate, double waited)
{
    cJSON *stage = cJSON_AddObjectToObject(event, name);
    cJSON_AddNumberToObject(stage, "bytes", (double)rate.bytes);
    cJSON_AddNumberToObject(stage, "seconds", rate.seconds);
    cJSON_AddNumberToObject(stage, "waited_seconds", waited);
}

static void log_end(const fgmm_build_report *r, int64_t n_rows)
{
    cJSON *event = fgmm__event_new("end");
    cJSON_AddStringToObject(event, "command", "build");
    cJSON_AddNumberToObject(event, "postings", (double)r->postings);
    cJSON_AddNumberToObject(event, "replication", (double)r->postings / (double)n_rows);
    cJSON_AddNumberToObject(event, "looked_at_all_centroids", (double)r->looked_all);
    if (rule == FGMM_ASSIGN_TAU)
        cJSON_AddNumberToObject(event, "tau", r->tau);
    if (rule == FGMM_ASSIGN_CLOSURE)
        cJSON_AddNumberToObject(event, "epsilon", r->epsilon);
    if (rule == FGMM_ASSIGN_NEED && isfinite(r->least_gain))
        cJSON_AddNumberToObject(event, "least_gain", r->least_gain);
    cJSON_AddNumberToObject(event, "list_min", (double)r->list_min);
    cJSON_AddNumberToObject(event, "list_median", (double)r->list_median);
    cJSON_AddNumberToObject(event, "list_p99", (double)r->list_p99);
    cJSON_AddNumberToObject(event, "list_max", (double)r->list_max);
    cJSON_AddNumberToObject(event, "windows", (double)r->windows);
    cJSON_AddNumberToObject(event, "rounds", (double)r->rounds);
    cJSON_AddNumberToObject(event, "bytes_written", (double)r->bytes_written);
    cJSON_AddNumberToObject(event, "seconds", r->seconds);
    cJSON_AddNumberToObject(event, "load_seconds", r->load_seconds);
    cJSON_AddNumberToObject(event, "assign_seconds", r->assign_seconds);
    cJSON_AddNumberToObject(event, "copy_seconds", r->copy_seconds);
    cJSON_AddNumberToObject(event, "write_seconds", r->write_seconds);
    log_rate(event, "assign", r->assign, r->assign_read_wait_seconds);
    log_rate(event, "read", r->read, r->read_wait_seconds);
    log_rate(event, "exchange", r->exchange, r->exchange_wait_seconds);
    log_rate(event, "write", r->write, r->write_wait_seconds);
    cJSON_AddNumberToObject(event, "waited_for_ranks_seconds", r->peers_wait_seconds);
    cJSON_AddStringToObject(event, "pace", pace_of(r));
    cJSON_AddNumberToObject(event, "peak_bytes", (double)r->peak_bytes);
    cJSON_AddStringToObject(event, "residency", r->residency);
    fgmm__event_emit(event);
}

static fgmm_status announce(const fgmm_device *device, int64_t my_rows, const char *residency)
{
    return fgmm__cmd_start_event("build", device, my_rows, residency);
}

/* True when --resume finds the work done: an index of this shape and no checkpoint. */
static fgmm_status already_whole(const inputs *in, bool *whole)
{
    fgmm_status status = FGMM_OK;
    fgmm_index *index = NULL;
    *whole = false;
    if (!resume || access(checkpoint, F_OK) == 0 || access(output, F_OK) != 0)
        return FGMM_OK;
    FGMM_TRY(fgmm_index_open(output, &index));
    if (fgmm_index_rows(index) != in->old_rows + fgmm_dataset_rows(in->dataset) ||
        fgmm_index_lists(index) != in->lists || fgmm_index_dim(index) != fgmm_dataset_dim(in->dataset) ||
        fgmm_index_dtype(index) != fgmm_dataset_dtype(in->dataset) || fgmm_index_metric(index) != in->metric)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: a whole index, but of other data; remove it or give another -o",
                  output);
    *whole = true;
    fgmm__info("%s: already whole, nothing to do (to build anew, remove it or leave --resume out)", output);
cleanup:
    fgmm_index_close(index);
    return status;
}

fgmm_status fgmm__cmd_build(int argc, char **argv)
{
    fgmm_status status = FGMM_OK;
    const char **arguments = NULL;
    int n_arguments = 0;
    bool done, whole = false;
    inputs in = {.dataset = NULL};
    fgmm_build_report report;
    FGMM_ALLOC(arguments, argc, "arguments");
    FGMM_TRY(fgmm__cmd_parse(argc, argv, usage, description, table, arguments, &n_arguments, &done));
    if (done)
        goto cleanup;
    fgmm_comm *comm = fgmm__cmd_comm();
    status = open_inputs(arguments, n_arguments, &in);
    if (status == FGMM_OK)
        status = already_whole(&in, &whole);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    if (whole)
        goto cleanup;
    fgmm_build_options options = options_given();
    FGMM_TRY(fgmm__build(comm, in.dataset, in.model, output, &options, announce, &report));
    if (fgmm_comm_rank(comm) == 0) {
        print_summary(&report, report.rows, in.lists);
        log_end(&report, report.rows);
    }
cleanup:
    if (status == FGMM_STOPPED)
        fgmm__fail(FGMM_STOPPED, "stopped on request; checkpoint %s: run the same line with --resume",
                   checkpoint);
    fgmm_dataset_close(in.dataset);
    fgmm_model_destroy(in.model);
    free(arguments);
    return status;
}
