#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/event.h"
#include "base/status.h"
#include "cmd/resources.h"
#include "eval/eval.h"
#include "eval/holdout.h"
#include "eval/report_file.h"
#include "io/knn.h"
#include "ivf/assign.h"
#include "ivf/rules.h"

static const char usage[] = "[mpirun -n R] fgmm eval DATA... QUERIES --models A.h5,B.h5 -o REPORT [OPTIONS]";
static const char description[] = "Builds lists of DATA by every model, rule and storage, searches each by "
                                  "the queries, and tells what each "
                                  "costs at a recall, against k-means with hard lists and a fixed number of "
                                  "lists. A stop rule is learnt for "
                                  "each from queries that are not judged. REPORT.csv gets the curves, "
                                  "REPORT-costs.csv the costs, REPORT.json "
                                  "all.";

enum { MOST_NAMES = 16, MOST_REPLICATIONS = 16, MOST_PROBES = 256 };

static const char *output, *model_list, *rule_list = "hard,tau,soar,closure",
                                        *replication_list = "1,1.25,1.5,2", *order_list = "centroid",
                                        *truth_file, *train_file;
static double lambda = -INFINITY, train_share = 0.5, most_storage = 2;
static int64_t max_probes = MOST_PROBES, max_lists = 8, neighbors, sketch, repeats = 1, resamples = 1000,
               seed, centroid_sketch;
static int metric = -1;
static bool cross;
static fgmm_resource_options resources;

static const fgmm_option table[] = {
    {"-o,--output", FGMM_OPT_TEXT, &output, "REPORT", "how the report's files begin: REPORT.csv and so on"},
    {"--models", FGMM_OPT_TEXT, &model_list, "LIST", "models, separated by commas"},
    {"--rules", FGMM_OPT_TEXT, &rule_list, "LIST",
     "as build --assign, which has need, too (hard,tau,soar,closure)"},
    {"--replication", FGMM_OPT_TEXT, &replication_list, "LIST",
     "postings a row, for the rules that give more than one (1,1.25,1.5,2)"},
    {"--max-lists", FGMM_OPT_COUNT, &max_lists, "M", "most lists a row, as in build (8)"},
    {"--lambda", FGMM_OPT_REAL, &lambda, "L", "of soar, as in build (0.5)"},
    {"--neighbors", FGMM_OPT_COUNT, &neighbors, "N", "of need, as in build (40)"},
    {"--sketch", FGMM_OPT_COUNT, &sketch, "M",
     "judge every search with sketches of M coordinates, too, each of which costs (M+1)/D of a distance, and "
     "M a query (0: none)"},
    {"--centroid-sketch", FGMM_OPT_COUNT, &centroid_sketch, "M",
     "judge every search that goes by centroids with these found by sketches of M coordinates, too, as "
     "search --centroid-sketch (0: not)"},
    {"--probe-by", FGMM_OPT_TEXT, &order_list, "LIST",
     "orders in which lists are probed: centroid, posterior or both (centroid)"},
    {"--max-probes", FGMM_OPT_COUNT, &max_probes, "N", "lists a query probes at most (256)"},
    {"--groundtruth", FGMM_OPT_TEXT, &truth_file, "GT",
     "true neighbours of QUERIES, 10 a query or more (100 are computed)"},
    {"--train-queries", FGMM_OPT_TEXT, &train_file, "FILE",
     "queries to learn the stop rule from; then all of QUERIES are judged (a share of QUERIES)"},
    {"--train-share", FGMM_OPT_REAL, &train_share, "S",
     "share of QUERIES that the stop rule is learnt from; the others are judged (0.5)"},
    {"--cross", FGMM_OPT_FLAG, &cross, NULL,
     "judge the queries to learn from, too, by what those judged teach: narrower intervals, but no query is "
     "left to choose lists by, and no times are taken (with --repeats 0)"},
    {"--most-storage", FGMM_OPT_REAL, &most_storage, "R",
     "postings a row of what is chosen by its cost in training (2)"},
    {"--resamples", FGMM_OPT_COUNT, &resamples, "N",
     "drawings of queries that give the 95 % intervals (1000)"},
    {"--seed", FGMM_OPT_COUNT, &seed, "N", "of the drawings and of the share to learn from (0)"},
    {"--repeats", FGMM_OPT_COUNT, &repeats, "N",
     "timed searches a setting, of which the fastest counts; 0: no times (1)"},
    FGMM_METRIC_OPTION(metric, "the models'"),
    FGMM_RESOURCE_OPTIONS(resources),
    {NULL, FGMM_OPT_FLAG, NULL, NULL, NULL},
};

/* ---- lists of words ---- */

typedef struct {
    char *text; /* owned; cut at its commas */
    const char *words[MOST_NAMES];
    int32_t n;
} words;

static fgmm_status cut(const char *option, const char *list, words *out)
{
    *out = (words){.text = strdup(list)};
    if (out->text == NULL)
        return fgmm__fail(FGMM_ERR_RUNTIME, "out of memory");
    for (char *at = out->text, *next; at != NULL; at = next) {
        next = strchr(at, ',');
        if (next != NULL)
            *next++ = '\0';
        if (*at == '\0')
            return fgmm__fail(FGMM_ERR_INPUT, "%s %s: a word is missing", option, list);
        if (out->n == MOST_NAMES)
            return fgmm__fail(FGMM_ERR_INPUT, "%s: more than %d words", option, MOST_NAMES);
        for (int32_t i = 0; i < out->n; i++)
            if (strcmp(out->words[i], at) == 0)
                return fgmm__fail(FGMM_ERR_INPUT, "%s: %s is there twice", option, at);
        out->words[out->n++] = at;
    }
    return FGMM_OK;
}

/* ---- what the user asks ---- */

struct run {
    words models, rules, replications, orders;
    fgmm_model *model[MOST_NAMES];
    fgmm_dataset *dataset;
    float *rows; /* of all queries: those judged, then those to learn from */
    int64_t *truth;
    float *distances; /* of the true neighbours */
    int32_t truth_k;
    int64_t n, n_test;
    fgmm_eval_options options;
    char *index;
};

static fgmm_status read_rules(struct run *run, const fgmm_eval_rule **rules)
{
    for (int32_t i = 0; i < run->rules.n; i++) {
        rules[i] = fgmm__eval_rule(run->rules.words[i]);
        if (rules[i] == NULL)
            return fgmm__fail(FGMM_ERR_INPUT,
                              "--rules %s: no such rule; see fgmm build --help for those of "
                              "--assign",
                              run->rules.words[i]);
    }
    return FGMM_OK;
}

static fgmm_status read_replications(struct run *run, double *replications)
{
    for (int32_t i = 0; i < run->replications.n; i++)
        if (!fgmm__parse_real(run->replications.words[i], &replications[i]) || !(replications[i] >= 1) ||
            !(replications[i] <= (double)max_lists))
            return fgmm__fail(FGMM_ERR_INPUT, "--replication %s: not a number from 1 to --max-lists, %lld",
                              run->replications.words[i], (long long)max_lists);
    return FGMM_OK;
}

static fgmm_status read_orders(struct run *run)
{
    for (int32_t i = 0; i < run->orders.n; i++) {
        int order = FGMM_PROBE_CENTROID;
        while (order <= FGMM_PROBE_POSTERIOR &&
               strcmp(run->orders.words[i], fgmm__order_name((fgmm_probe_order)order)) != 0)
            order++;
        if (order > FGMM_PROBE_POSTERIOR)
            return fgmm__fail(FGMM_ERR_INPUT, "--probe-by %s: not centroid or posterior",
                              run->orders.words[i]);
        run->options.orders[order] = true;
    }
    return FGMM_OK;
}

static fgmm_status check(int n_arguments)
{
    fgmm_status status = FGMM_OK;
    if (n_arguments < 2)
        FGMM_FAIL(FGMM_ERR_INPUT, "needs data and queries: %s", usage);
    if (output == NULL)
        FGMM_FAIL(FGMM_ERR_INPUT, "needs -o REPORT");
    if (model_list == NULL)
        FGMM_FAIL(FGMM_ERR_INPUT, "needs --models A.h5,B.h5: make some with fgmm fit");
    if (metric == FGMM_IP)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "--metric ip: the learnt stop goes by distances; eval judges l2 and cosine");
    if (!(train_share > 0 && train_share < 1))
        FGMM_FAIL(FGMM_ERR_INPUT, "--train-share %g: must lie between 0 and 1", train_share);
    if (!(most_storage >= 1))
        FGMM_FAIL(FGMM_ERR_INPUT, "--most-storage %g: must be at least 1", most_storage);
    if (max_lists < 1 || max_lists > 64)
        FGMM_FAIL(FGMM_ERR_INPUT, "--max-lists %lld: must be 1 to 64", (long long)max_lists);
    if (lambda != -INFINITY && lambda < 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "--lambda %g: must be 0 or more", lambda);
    if (neighbors > INT32_MAX)
        FGMM_FAIL(FGMM_ERR_INPUT, "--neighbors %lld: too many", (long long)neighbors);
    if (cross && repeats > 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "--cross: two rules are judged together, which no search does: give "
                                  "--repeats 0");
    if (repeats > 1000)
        FGMM_FAIL(FGMM_ERR_INPUT, "--repeats %lld: must be 0 to 1000", (long long)repeats);
    if (resamples < 1 || resamples > 1000000)
        FGMM_FAIL(FGMM_ERR_INPUT, "--resamples %lld: must be 1 to 1M", (long long)resamples);
    FGMM_TRY(fgmm__cmd_check_output(output));
cleanup:
    return status;
}

static fgmm_status set_options(struct run *run)
{
    fgmm_status status = FGMM_OK;
    const fgmm_eval_rule *rules[MOST_NAMES];
    double replications[MOST_REPLICATIONS];
    size_t length = strlen(output) + sizeof "-index.h5";
    FGMM_TRY(cut("--rules", rule_list, &run->rules));
    FGMM_TRY(cut("--replication", replication_list, &run->replications));
    FGMM_TRY(cut("--probe-by", order_list, &run->orders));
    FGMM_TRY(read_rules(run, rules));
    FGMM_TRY(read_replications(run, replications));
    FGMM_TRY(read_orders(run));
    FGMM_ALLOC(run->index, length, "the name of the index");
    snprintf(run->index, length, "%s-index.h5", output);
    run->options.names = run->models.words;
    run->options.models = (const fgmm_model *const *)run->model;
    run->options.n_models = run->models.n;
    run->options.max_lists = (int32_t)max_lists;
    run->options.sketch = (int32_t)sketch;
    run->options.centroid_sketch = (int32_t)centroid_sketch;
    run->options.lambda = lambda;
    run->options.neighbors = (int32_t)neighbors;
    run->options.cross = cross;
    run->options.repeats = (int32_t)repeats;
    run->options.resamples = (int32_t)resamples;
    run->options.seed = (uint64_t)seed;
    run->options.resources = fgmm__cmd_resources(&resources);
    run->options.index = run->index;
    FGMM_TRY(fgmm__cmd_small_count("--max-probes", max_probes, &run->options.max_probes));
    FGMM_TRY(fgmm__plan_create(run->options.models, run->models.n, rules, run->rules.n, replications,
                               run->replications.n, (int32_t)max_lists, &run->options.plan));
cleanup:
    return status;
}

static fgmm_status read_models(struct run *run)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(cut("--models", model_list, &run->models));
    for (int32_t m = 0; m < run->models.n; m++) {
        FGMM_TRY(fgmm_model_read(run->models.words[m], &run->model[m]));
        if (fgmm_model_metric(run->model[m]) != fgmm_model_metric(run->model[0]))
            FGMM_FAIL(FGMM_ERR_INPUT, "%s: fitted with another --metric than %s", run->models.words[m],
                      run->models.words[0]);
    }
cleanup:
    return status;
}

/* ---- queries: judged ones first ---- */

static fgmm_status hold_out(struct run *run)
{
    fgmm_status status = FGMM_OK;
    int64_t n = run->n, train = (int64_t)((double)n * train_share + 0.5), *order = NULL;
    if (train < 1 || train >= n)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%lld queries: too few for a share of %g to learn from; give more, or "
                  "--train-queries",
                  (long long)n, train_share);
    run->n_test = n - train;
    FGMM_ALLOC(order, n, "queries");
    FGMM_TRY(fgmm__hold_out((uint64_t)seed, n, train, order));
    size_t dim = (size_t)fgmm_dataset_dim(run->dataset);
    FGMM_TRY(fgmm__reorder((void **)&run->rows, order, n, dim * sizeof *run->rows));
    if (run->truth != NULL)
        FGMM_TRY(fgmm__reorder((void **)&run->truth, order, n, (size_t)run->truth_k * sizeof *run->truth));
cleanup:
    free(order);
    return status;
}

static fgmm_status append_training(struct run *run)
{
    fgmm_status status = FGMM_OK;
    float *train = NULL, *all = NULL;
    int64_t n = 0;
    size_t dim = (size_t)fgmm_dataset_dim(run->dataset);
    FGMM_TRY(fgmm__cmd_read_queries(&train_file, 1, fgmm_dataset_metric(run->dataset), (int32_t)dim,
                                    fgmm_dataset_name(run->dataset), &train, &n));
    FGMM_ALLOC(all, (size_t)(run->n + n) * dim, "queries");
    memcpy(all, run->rows, (size_t)run->n * dim * sizeof *all);
    memcpy(all + (size_t)run->n * dim, train, (size_t)n * dim * sizeof *all);
    free(run->rows);
    run->rows = all;
    run->n_test = run->n;
    run->n += n;
cleanup:
    free(train);
    return status;
}

/* Two rows of the same values in both would be judged by what they taught. */
static fgmm_status check_disjoint(const struct run *run)
{
    fgmm_status status = FGMM_OK;
    size_t dim = (size_t)fgmm_dataset_dim(run->dataset), bytes = dim * sizeof *run->rows;
    for (int64_t test = 0; test < run->n_test; test++)
        for (int64_t train = run->n_test; train < run->n; train++)
            if (memcmp(run->rows + (size_t)test * dim, run->rows + (size_t)train * dim, bytes) == 0)
                FGMM_FAIL(FGMM_ERR_INPUT,
                          "%s: query %lld is one of the queries to be judged: learn from others", train_file,
                          (long long)(train - run->n_test));
cleanup:
    return status;
}

static fgmm_status read_truth(struct run *run)
{
    fgmm_status status = FGMM_OK;
    fgmm_knn given = {0};
    int32_t least = fgmm__eval_ks[FGMM_EVAL_JUDGED], most = fgmm__eval_ks[FGMM_EVAL_KS - 1];
    if (fgmm_dataset_rows(run->dataset) < least)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: %lld rows: recall is of %d neighbours",
                  fgmm_dataset_name(run->dataset), (long long)fgmm_dataset_rows(run->dataset), least);
    if (truth_file == NULL)
        goto cleanup;
    FGMM_TRY(fgmm__knn_read(truth_file, &given));
    if (given.queries != run->n)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: neighbours of %lld queries, not of %lld", truth_file,
                  (long long)given.queries, (long long)run->n);
    if (given.k < least)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: holds %d neighbours a query, recall is of %d", truth_file, given.k,
                  least);
    run->truth_k = given.k < most ? given.k : most;
    FGMM_ALLOC(run->truth, run->n * run->truth_k, "neighbours");
    for (int64_t q = 0; q < run->n; q++)
        for (int32_t i = 0; i < run->truth_k; i++) {
            int64_t id = given.ids[q * given.k + i];
            if (id < 0 || id >= fgmm_dataset_rows(run->dataset))
                FGMM_FAIL(FGMM_ERR_INPUT, "%s: neighbour %d of query %lld is no row of the data", truth_file,
                          i, (long long)q);
            run->truth[q * run->truth_k + i] = id;
        }
cleanup:
    fgmm__knn_free(&given);
    return status;
}

static fgmm_status open_inputs(struct run *run, const char **arguments, int n)
{
    fgmm_status status = FGMM_OK;
    fgmm_dataset_options options = {.row_end = -1};
    FGMM_TRY(check(n));
    FGMM_TRY(read_models(run));
    FGMM_TRY(set_options(run));
    options.metric = metric < 0 ? fgmm_model_metric(run->model[0]) : (fgmm_metric)metric;
    FGMM_TRY(fgmm_dataset_open(arguments, n - 1, &options, &run->dataset));
    if (sketch > fgmm_dataset_dim(run->dataset))
        FGMM_FAIL(FGMM_ERR_INPUT, "--sketch %lld: must be 0 to the dimension of the rows, %d",
                  (long long)sketch, fgmm_dataset_dim(run->dataset));
    if (centroid_sketch > fgmm_dataset_dim(run->dataset))
        FGMM_FAIL(FGMM_ERR_INPUT, "--centroid-sketch %lld: must be 0 to the dimension of the rows, %d",
                  (long long)centroid_sketch, fgmm_dataset_dim(run->dataset));
    for (int32_t m = 0; m < run->models.n; m++)
        FGMM_TRY(fgmm__check_model(run->dataset, run->model[m]));
    FGMM_TRY(fgmm__cmd_read_queries(arguments + n - 1, 1, options.metric, fgmm_dataset_dim(run->dataset),
                                    fgmm_dataset_name(run->dataset), &run->rows, &run->n));
    FGMM_TRY(read_truth(run));
    if (train_file == NULL)
        FGMM_TRY(hold_out(run));
    else
        FGMM_TRY(append_training(run));
    if (train_file != NULL)
        FGMM_TRY(check_disjoint(run));
cleanup:
    return status;
}

/* ---- the work ---- */

static bool announced;

static fgmm_status announce(const fgmm_device *device, int64_t my_rows, const char *residency)
{
    if (announced)
        return FGMM_OK;
    announced = true;
    return fgmm__cmd_start_event("eval", device, my_rows, residency);
}

/* Neighbours that no file gave: of all queries, or of those to learn from. */
static fgmm_status find_truth(struct run *run)
{
    fgmm_status status = FGMM_OK;
    fgmm_comm *comm = fgmm__cmd_comm();
    int64_t rows = fgmm_dataset_rows(run->dataset), from = run->truth == NULL ? 0 : run->n_test;
    int32_t most = fgmm__eval_ks[FGMM_EVAL_KS - 1], dim = fgmm_dataset_dim(run->dataset);
    int64_t *all = NULL;
    if (run->truth != NULL && train_file == NULL)
        return FGMM_OK;
    if (run->truth == NULL)
        run->truth_k = rows < most ? (int32_t)rows : most;
    status = fgmm__alloc((size_t)(run->n * run->truth_k), sizeof *all, "neighbours", (void **)&all);
    if (status == FGMM_OK)
        status = fgmm__alloc((size_t)((run->n - from) * run->truth_k), sizeof *run->distances, "neighbours",
                             (void **)&run->distances);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    if (run->truth != NULL)
        memcpy(all, run->truth, (size_t)(from * run->truth_k) * sizeof *all);
    FGMM_TRY(fgmm__groundtruth(comm, run->dataset, run->rows + from * dim, run->n - from, run->truth_k,
                               &run->options.resources, announce, all + from * run->truth_k, run->distances));
    free(run->truth);
    run->truth = all;
    all = NULL;
cleanup:
    free(all);
    return status;
}

/* ---- what the user sees ---- */

static void print_head(const struct run *run)
{
    const fgmm_eval_options *options = &run->options;
    printf(
        "%lld rows, %lld queries judged, %lld to learn from%s; recall@10, distances to rows and centroids a "
        "query against\n%s with hard lists and a fixed number of them (1.00), with 95 %% intervals\n",
        (long long)fgmm_dataset_rows(run->dataset), (long long)run->n_test, (long long)(run->n - run->n_test),
        cross ? ", and the other way round" : "", options->names[options->plan.reference_model]);
    printf("%-18s %-8s %7s %-9s %-7s %6s %9s", "model", "rule", "storage", "probe", "stop", "sketch",
           "centroids");
    for (int t = 0; t < FGMM_EVAL_TARGETS; t++)
        printf("  %16g", fgmm__eval_targets[t]);
    printf("\n");
    fflush(stdout);
}

static void print_curve(const fgmm_eval_options *options, const fgmm_eval_curve *curve)
{
    const char *name = options->names[curve->variant.model], *slash = strrchr(name, '/');
    if (fgmm_comm_rank(fgmm__cmd_comm()) != 0)
        return;
    char centroids[32] = "all";
    if (curve->centroid_sketch > 0)
        snprintf(centroids, sizeof centroids, "sketch %d", curve->centroid_sketch);
    printf("%-18s %-8s %7.3f %-9s %-7s %6d %9s", slash != NULL ? slash + 1 : name,
           fgmm__rule_name(curve->variant.rule), curve->storage, fgmm__order_name(curve->probe_by),
           fgmm__stop_name(curve->learnt), curve->sketch, centroids);
    for (int t = 0; t < FGMM_EVAL_TARGETS; t++) {
        const fgmm_eval_cost *cost = &curve->costs[t];
        char text[32] = "-";
        if (!isnan(cost->low))
            snprintf(text, sizeof text, "%.2f (%.2f-%.2f)", cost->ratio, cost->low, cost->high);
        else if (!isnan(cost->ratio))
            snprintf(text, sizeof text, "%.2f", cost->ratio);
        printf("  %16s", text);
    }
    printf("\n");
    fflush(stdout);
}

static void print_chosen(const struct run *run, const fgmm_eval_report *report, bool sketches)
{
    printf("\ncheapest in training with at most %g postings a row%s\n", most_storage,
           sketches ? " and sketches" : "");
    for (int t = 0; t < FGMM_EVAL_TARGETS; t++) {
        int32_t c = fgmm__eval_choose(report, t, most_storage, sketches);
        printf("  recall %-5g", fgmm__eval_targets[t]);
        if (c < 0) {
            printf("not reached; raise --max-probes\n");
            continue;
        }
        const fgmm_eval_curve *curve = &report->curves[c];
        const fgmm_eval_cost *cost = &curve->costs[t];
        printf("%.2f (%.2f-%.2f)  %.0f distances to rows and %.0f to centroids; %s, %s, %.3f a row, %.0f "
               "bytes, by %s, stop %s, sketch %d, of centroids %d\n",
               cost->ratio, cost->low, cost->high, cost->computed, cost->centroids,
               run->options.names[curve->variant.model], fgmm__rule_name(curve->variant.rule), curve->storage,
               curve->bytes, fgmm__order_name(curve->probe_by), fgmm__stop_name(curve->learnt), curve->sketch,
               curve->centroid_sketch);
    }
    fflush(stdout);
}

static void log_end(const struct run *run, const fgmm_eval_report *report)
{
    cJSON *event = fgmm__event_new("end");
    cJSON_AddStringToObject(event, "command", "eval");
    cJSON_AddNumberToObject(event, "queries", (double)run->n_test);
    cJSON_AddNumberToObject(event, "training_queries", (double)(run->n - run->n_test));
    cJSON_AddNumberToObject(event, "curves", report->n);
    fgmm__event_emit(event);
}

static fgmm_status evaluate(struct run *run, fgmm_eval_report *report)
{
    fgmm_status status = FGMM_OK;
    bool speaker = fgmm_comm_rank(fgmm__cmd_comm()) == 0;
    FGMM_TRY(find_truth(run));
    int32_t dim = fgmm_dataset_dim(run->dataset);
    fgmm_eval_queries test = {run->n_test, run->rows, run->truth, run->truth_k},
                      train = {run->n - run->n_test, run->rows + run->n_test * dim,
                               run->truth + run->n_test * run->truth_k, run->truth_k};
    if (speaker)
        print_head(run);
    FGMM_TRY(fgmm__eval(fgmm__cmd_comm(), run->dataset, &run->options, &test, &train, announce, print_curve,
                        report));
    if (!speaker)
        goto cleanup;
    fgmm_eval_facts facts = {.data = fgmm_dataset_name(run->dataset),
                             .rows = fgmm_dataset_rows(run->dataset),
                             .dim = dim,
                             .queries = test.n,
                             .training_queries = train.n,
                             .most_storage = most_storage};
    if (!cross)
        print_chosen(run, report, false);
    if (!cross && sketch > 0)
        print_chosen(run, report, true);
    log_end(run, report);
    FGMM_TRY(fgmm__report_write(output, &run->options, &facts, report));
cleanup:
    return status;
}

fgmm_status fgmm__cmd_eval(int argc, char **argv)
{
    fgmm_status status = FGMM_OK;
    const char **arguments = NULL;
    int n_arguments = 0;
    bool done;
    static struct run run;
    fgmm_eval_report report = {.n = 0};
    FGMM_ALLOC(arguments, argc, "arguments");
    FGMM_TRY(fgmm__cmd_parse(argc, argv, usage, description, table, arguments, &n_arguments, &done));
    if (done)
        goto cleanup;
    FGMM_TRY(fgmm__comm_agree(fgmm__cmd_comm(), open_inputs(&run, arguments, n_arguments)));
    FGMM_TRY(evaluate(&run, &report));
cleanup:
    fgmm__eval_free(&report);
    fgmm_dataset_close(run.dataset);
    for (int32_t m = 0; m < run.models.n; m++)
        fgmm_model_destroy(run.model[m]);
    free(run.models.text);
    free(run.rules.text);
    free(run.replications.text);
    free(run.orders.text);
    free(run.options.plan.variants);
    free(run.rows);
    free(run.truth);
    free(run.distances);
    free(run.index);
    free(arguments);
    return status;
}
