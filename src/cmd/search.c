#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/event.h"
#include "base/status.h"
#include "cmd/resources.h"
#include "io/knn.h"
#include "ivf/results_file.h"
#include "ivf/search.h"
#include "ivf/stop.h"

static const char usage[] = "[mpirun -n R] fgmm search INDEX.h5 QUERIES... [OPTIONS]";
static const char description[] =
    "Finds the nearest rows of every query in the NPROBE lists whose centroids "
    "are nearest to it, or in as many as a stop rule learnt with --learn-stop asks for, and tells recall "
    "against cost.";

enum { MOST_SETTINGS = 256, MOST_PROBES = 1024 /* a query when a rule is learnt, unless told otherwise */ };

static const char *output, *truth_file, *csv_file, *nprobe_list, *target_list;
static int64_t k = 10, max_probes, centroid_sketch, device_memory_bytes;
static int metric = -1, probe_by = -1, keep_all = 0;
static bool learn;

static const fgmm_option table[] = {
    {"-k,--neighbors", FGMM_OPT_COUNT, &k, "K", "neighbours a query (10)"},
    {"--nprobe", FGMM_OPT_TEXT, &nprobe_list, "LIST",
     "lists probed a query: one number or several, a search each (1,2,4,8,16)"},
    {"--recall-target", FGMM_OPT_TEXT, &target_list, "LIST",
     "in place of --nprobe: every query probes lists until the index's stop rule expects this mean recall, "
     "0.8 to "
     "0.99; one number or several (none)"},
    {"--probe-by", FGMM_OPT_CHOICE, &probe_by, "centroid|posterior",
     "lists nearest by their centroids first, or those that the index's mixture finds most likely (centroid, "
     "or "
     "the stop rule's)"},
    {"--learn-stop", FGMM_OPT_FLAG, &learn, NULL,
     "learn the stop rule from QUERIES and store it in the index; judge it with others"},
    {"--max-probes", FGMM_OPT_COUNT, &max_probes, "N",
     "with --learn-stop: lists a query probes at most, then and under the rule; recall is of their rows "
     "(all, up "
     "to 1024)"},
    {"--skip", FGMM_OPT_CHOICE, &keep_all, "yes|no",
     "pass over rows that the index's sketches (build --sketch) rule out, on the host: the same answers from "
     "fewer distances (yes)"},
    {"--centroid-sketch", FGMM_OPT_COUNT, &centroid_sketch, "M",
     "find the nearest centroids by sketches of theirs of M coordinates, on the host: the same lists from "
     "fewer "
     "distances (0: by all distances)"},
    {"--device-memory", FGMM_OPT_BYTES, &device_memory_bytes, "BYTES",
     "device memory that a rank's lists may take; what does not fit is brought when it is visited (what is "
     "free)"},
    {"--groundtruth", FGMM_OPT_TEXT, &truth_file, "GT",
     "true neighbours for recall: .ibin, .ivecs or .h5[:/dataset] (none)"},
    {"-o,--output", FGMM_OPT_TEXT, &output, "RESULTS",
     "ids and distances: .h5, or .ivecs or .ibin for one nprobe (none)"},
    {"--csv", FGMM_OPT_TEXT, &csv_file, "FILE", "write the table there, too (none)"},
    FGMM_METRIC_OPTION(metric, "the index's"),
    {NULL, FGMM_OPT_FLAG, NULL, NULL, NULL},
};

/* All that a run reads and makes. */
struct run {
    fgmm_index *index;
    float *queries; /* [n][dim] */
    int64_t n;
    int32_t k;
    int settings;
    int32_t nprobe[MOST_SETTINGS]; /* or */
    double target[MOST_SETTINGS];  /* of recall */
    fgmm_stop_rule rule;           /* where recall is the target */
    fgmm_knn truth;
    int64_t *ids; /* [settings][n][k] */
    float *distances;
    fgmm_search_report reports[MOST_SETTINGS];
};

/* The settings of a search: numbers of lists, or recalls. */
static fgmm_status parse_settings(struct run *run)
{
    char text[32];
    const char *option = target_list != NULL ? "--recall-target" : "--nprobe";
    const char *list = target_list != NULL ? target_list : nprobe_list != NULL ? nprobe_list : "1,2,4,8,16";
    for (const char *at = list; *at != '\0';) {
        size_t length = strcspn(at, ",");
        int64_t count = 0;
        double *target = &run->target[run->settings];
        if (run->settings == MOST_SETTINGS)
            return fgmm__fail(FGMM_ERR_INPUT, "%s: more than %d settings", option, MOST_SETTINGS);
        snprintf(text, sizeof text, "%.*s", (int)length, at);
        bool fits = length < sizeof text;
        if (target_list != NULL && (!fits || !fgmm__parse_real(text, target)))
            return fgmm__fail(FGMM_ERR_INPUT, "%s %s: not a list of recalls such as 0.9,0.95", option, list);
        if (target_list == NULL &&
            (!fits || !fgmm__parse_count(text, &count) || count < 1 || count > INT32_MAX))
            return fgmm__fail(FGMM_ERR_INPUT, "%s %s: not a list of counts from 1 on, such as 1,2,4", option,
                              list);
        run->nprobe[run->settings++] = (int32_t)count;
        at += length;
        if (*at == ',')
            at++;
    }
    return run->settings > 0 ? FGMM_OK : fgmm__fail(FGMM_ERR_INPUT, "%s: the list is empty", option);
}

static fgmm_status check_combination(void)
{
    fgmm_status status = FGMM_OK;
    if (nprobe_list != NULL && target_list != NULL)
        FGMM_FAIL(FGMM_ERR_INPUT, "--nprobe and --recall-target exclude each other");
    if (learn && (nprobe_list != NULL || target_list != NULL || output != NULL || csv_file != NULL ||
                  truth_file != NULL))
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "--learn-stop writes a rule into the index and nothing else: give -k, --probe-by and "
                  "--max-probes alone with it");
    if (learn && centroid_sketch != 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "--centroid-sketch changes nothing that --learn-stop learns: leave it out");
    if (probe_by == FGMM_PROBE_POSTERIOR && centroid_sketch != 0)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "--centroid-sketch finds lists by their centroids, not --probe-by posterior");
    if (!learn && max_probes != 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "--max-probes belongs to --learn-stop");
cleanup:
    return status;
}

static fgmm_status check(struct run *run, int n_arguments)
{
    fgmm_status status = FGMM_OK;
    if (n_arguments < 2)
        FGMM_FAIL(FGMM_ERR_INPUT, "needs an index and queries: %s", usage);
    FGMM_TRY(fgmm__cmd_small_count("-k", k, &run->k));
    FGMM_TRY(check_combination());
    FGMM_TRY(parse_settings(run));
    if (output != NULL)
        FGMM_TRY(fgmm__cmd_check_output(output));
    if (csv_file != NULL)
        FGMM_TRY(fgmm__cmd_check_output(csv_file));
cleanup:
    return status;
}

static fgmm_status read_truth(struct run *run)
{
    fgmm_status status = FGMM_OK;
    if (truth_file == NULL)
        return FGMM_OK;
    FGMM_TRY(fgmm__knn_read(truth_file, &run->truth));
    if (run->truth.queries != run->n)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: neighbours of %lld queries, not of %lld", truth_file,
                  (long long)run->truth.queries, (long long)run->n);
    if (run->truth.k < run->k && run->truth.k < fgmm_index_rows(run->index))
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: holds %d neighbours a query, -k %d needs as many", truth_file,
                  run->truth.k, run->k);
cleanup:
    return status;
}

/* The rule is for one number of neighbours and one probing order. */
static fgmm_status read_rule(struct run *run, const char *path)
{
    fgmm_status status = FGMM_OK;
    double threshold;
    if (target_list == NULL)
        return FGMM_OK;
    if (fgmm_index_metric(run->index) == FGMM_IP)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: built with --metric ip: --recall-target goes by distances; give --nprobe", path);
    FGMM_TRY(fgmm__stop_read(run->index, &run->rule));
    if (run->rule.k != run->k)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: its stop rule was learnt for -k %d, not %d; learn it again with --learn-stop -k %d",
                  path, run->rule.k, run->k, run->k);
    if (probe_by >= 0 && (fgmm_probe_order)probe_by != run->rule.probe_by)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: its stop rule was learnt with the other --probe-by; leave the option out or learn the "
                  "rule again with --learn-stop",
                  path);
    if (run->rule.probe_by == FGMM_PROBE_POSTERIOR && centroid_sketch != 0)
        FGMM_FAIL(
            FGMM_ERR_INPUT,
            "%s: its stop rule was learnt with --probe-by posterior, and --centroid-sketch finds lists by "
            "their centroids; leave it out",
            path);
    for (int i = 0; i < run->settings; i++)
        FGMM_TRY(fgmm__stop_threshold(&run->rule, run->target[i], &threshold));
cleanup:
    return status;
}

static fgmm_status open_inputs(struct run *run, const char **arguments, int n_arguments)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(check(run, n_arguments));
    FGMM_TRY(fgmm_index_open(arguments[0], &run->index));
    FGMM_TRY(fgmm__index_need_vectors(run->index));
    if (learn && access(arguments[0], W_OK) != 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: --learn-stop would write into it, but: %s", arguments[0],
                  strerror(errno));
    FGMM_TRY(read_rule(run, arguments[0]));
    if (output != NULL)
        FGMM_TRY(fgmm__results_check(output, run->settings, fgmm_index_rows(run->index)));
    if (centroid_sketch > fgmm_index_dim(run->index))
        FGMM_FAIL(FGMM_ERR_INPUT, "--centroid-sketch %lld: must be 0 to the dimension of %s, %d",
                  (long long)centroid_sketch, arguments[0], fgmm_index_dim(run->index));
    if (metric >= 0 && (fgmm_metric)metric != fgmm_index_metric(run->index))
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: built with --metric %s", arguments[0],
                  fgmm_metric_name(fgmm_index_metric(run->index)));
    FGMM_TRY(fgmm__cmd_read_queries(arguments + 1, n_arguments - 1, fgmm_index_metric(run->index),
                                    fgmm_index_dim(run->index), arguments[0], &run->queries, &run->n));
    FGMM_TRY(read_truth(run));
    int64_t kept = output != NULL ? run->settings : 1;
    FGMM_ALLOC(run->ids, kept * run->n * run->k, "results");
    FGMM_ALLOC(run->distances, kept * run->n * run->k, "results");
cleanup:
    return status;
}

/* ---- what the user sees ---- */

struct line {
    int32_t nprobe; /* 0: the target counts */
    double target, lists;
    double recall; /* < 0: unknown */
    double scanned, distinct, full, sketches, centroids, queries_per_second;
};

/* Rows may be passed over: distances computed are told apart from different rows met. */
static bool skims(const struct run *run)
{
    return keep_all == 0 && run->index->sketch != NULL;
}

static void print_head(const struct run *run)
{
    if (target_list != NULL)
        printf("%8s  %12s", "target", "lists/query");
    else
        printf("%8s", "nprobe");
    printf("  %-9s  %14s  %14s", run->truth.ids != NULL ? "recall" : "", "scanned/query", "distinct/query");
    if (skims(run))
        printf("  %14s  %14s", "full/query", "sketches/query");
    if (centroid_sketch > 0)
        printf("  %15s", "centroids/query");
    printf("  %12s\n", "queries/s");
}

static void print_line(const struct run *run, const struct line *line)
{
    char recall[16] = "-";
    if (line->recall >= 0)
        snprintf(recall, sizeof recall, "%.4f", line->recall);
    if (line->nprobe > 0)
        printf("%8d", line->nprobe);
    else
        printf("%8g  %12.2f", line->target, line->lists);
    printf("  %-9s  %14.1f  %14.1f", recall, line->scanned, line->distinct);
    if (skims(run))
        printf("  %14.1f  %14.1f", line->full, line->sketches);
    if (centroid_sketch > 0)
        printf("  %15.1f", line->centroids);
    printf("  %12.0f\n", line->queries_per_second);
    fflush(stdout);
}

static void log_line(const struct run *run, const struct line *line)
{
    cJSON *event = fgmm__event_new("search");
    cJSON_AddNumberToObject(event, "k", run->k);
    cJSON_AddNumberToObject(event, "queries", (double)run->n);
    if (line->nprobe > 0)
        cJSON_AddNumberToObject(event, "nprobe", line->nprobe);
    else
        cJSON_AddNumberToObject(event, "recall_target", line->target);
    cJSON_AddNumberToObject(event, "lists", line->lists);
    if (line->recall >= 0)
        cJSON_AddNumberToObject(event, "recall", line->recall);
    cJSON_AddNumberToObject(event, "scanned", line->scanned);
    cJSON_AddNumberToObject(event, "distinct", line->distinct);
    if (skims(run)) {
        cJSON_AddNumberToObject(event, "full", line->full);
        cJSON_AddNumberToObject(event, "sketches", line->sketches);
        cJSON_AddNumberToObject(event, "sketch", run->index->sketch->m);
    }
    if (centroid_sketch > 0) {
        cJSON_AddNumberToObject(event, "centroids", line->centroids);
        cJSON_AddNumberToObject(event, "centroid_sketch", (double)centroid_sketch);
    }
    cJSON_AddNumberToObject(event, "queries_per_second", line->queries_per_second);
    fgmm__event_emit(event);
}

static fgmm_status write_csv(const struct run *run, const struct line *lines)
{
    FILE *file = fopen(csv_file, "w");
    if (file == NULL)
        return fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot be written: %s", csv_file, strerror(errno));
    fprintf(file, "%s,recall@%d,scanned,distinct,queries_per_second%s%s\n",
            target_list != NULL ? "recall_target,lists" : "nprobe", run->k,
            skims(run) ? ",full,sketches" : "", centroid_sketch > 0 ? ",centroids" : "");
    for (int i = 0; i < run->settings; i++) {
        if (lines[i].nprobe > 0)
            fprintf(file, "%d,", lines[i].nprobe);
        else
            fprintf(file, "%g,%.3f,", lines[i].target, lines[i].lists);
        if (lines[i].recall >= 0)
            fprintf(file, "%.6f", lines[i].recall);
        fprintf(file, ",%.3f,%.3f,%.1f", lines[i].scanned, lines[i].distinct, lines[i].queries_per_second);
        if (skims(run))
            fprintf(file, ",%.3f,%.3f", lines[i].full, lines[i].sketches);
        if (centroid_sketch > 0)
            fprintf(file, ",%.3f", lines[i].centroids);
        fprintf(file, "\n");
    }
    bool failed = ferror(file) != 0;
    if (fclose(file) != 0 || failed)
        return fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot be written: %s", csv_file, strerror(errno));
    return FGMM_OK;
}

static fgmm_status search_one(struct run *run, fgmm_searcher *searcher, int setting, int64_t *ids,
                              float *distances)
{
    fgmm_status status = FGMM_OK;
    double threshold;
    fgmm_search_report *report = &run->reports[setting];
    if (target_list == NULL)
        return fgmm__searcher_run(searcher, run->queries, run->n, run->k, run->nprobe[setting], ids,
                                  distances, report);
    FGMM_TRY(fgmm__stop_threshold(&run->rule, run->target[setting], &threshold));
    FGMM_TRY(fgmm__searcher_run_rule(searcher, &run->rule, threshold, run->queries, run->n, ids, distances,
                                     report));
cleanup:
    return status;
}

static fgmm_status search_all(struct run *run, fgmm_searcher *searcher, struct line *lines)
{
    fgmm_status status = FGMM_OK;
    bool speaker = fgmm_comm_rank(fgmm__cmd_comm()) == 0;
    if (speaker)
        print_head(run);
    for (int i = 0; i < run->settings; i++) {
        int64_t at = output != NULL ? i * run->n * run->k : 0;
        fgmm_search_report *report = &run->reports[i];
        FGMM_TRY(search_one(run, searcher, i, run->ids + at, run->distances + at));
        double recall = run->truth.ids == NULL
                            ? -1
                            : fgmm__recall(run->ids + at, run->k, run->truth.ids, run->truth.k, run->n);
        lines[i] = (struct line){.nprobe = run->nprobe[i],
                                 .target = run->target[i],
                                 .lists = report->lists,
                                 .recall = recall,
                                 .scanned = report->scanned,
                                 .distinct = report->distinct,
                                 .full = report->full,
                                 .sketches = report->sketches,
                                 .centroids = report->centroids,
                                 .queries_per_second = (double)run->n / report->seconds};
        if (speaker) {
            print_line(run, &lines[i]);
            log_line(run, &lines[i]);
        }
    }
cleanup:
    return status;
}

static void log_end(const struct run *run, const struct line *lines)
{
    cJSON *event = fgmm__event_new("end");
    double seconds = 0;
    for (int i = 0; i < run->settings; i++)
        seconds += (double)run->n / lines[i].queries_per_second;
    cJSON_AddStringToObject(event, "command", "search");
    cJSON_AddNumberToObject(event, "queries", (double)run->n);
    cJSON_AddNumberToObject(event, "seconds", seconds);
    fgmm__event_emit(event);
}

static fgmm_status write_outputs(const struct run *run, const struct line *lines)
{
    fgmm_status status = FGMM_OK;
    if (output != NULL)
        FGMM_TRY(fgmm__results_write(output, run->settings, run->n, run->k, run->ids, run->distances));
    if (csv_file != NULL)
        FGMM_TRY(write_csv(run, lines));
    log_end(run, lines);
cleanup:
    return status;
}

/* ---- learning when to stop ---- */

static fgmm_status learn_rule(struct run *run, fgmm_searcher *searcher)
{
    fgmm_status status = FGMM_OK;
    int32_t probes = MOST_PROBES;
    fgmm_comm *comm = fgmm__cmd_comm();
    if (max_probes > 0)
        FGMM_TRY(fgmm__cmd_small_count("--max-probes", max_probes, &probes));
    FGMM_TRY(fgmm__stop_learn(searcher, run->queries, run->n, run->k, probes, &run->rule));
    status = fgmm_comm_rank(comm) == 0 ? fgmm__stop_write(run->index, &run->rule) : FGMM_OK;
    FGMM_TRY(fgmm__comm_agree(comm, status));
    if (fgmm_comm_rank(comm) != 0)
        goto cleanup;
    printf("stop rule for -k %d learnt from %lld queries, at most %d lists a query\n%8s  %12s\n", run->rule.k,
           (long long)run->rule.queries, run->rule.max_probes, "target", "lists/query");
    for (int i = 0; i < FGMM_STOP_TARGETS; i++)
        printf("%8g  %12.2f\n", fgmm__stop_targets[i], run->rule.lists[i]);
cleanup:
    return status;
}

static int64_t my_queries; /* the rows that this rank holds */

static fgmm_status announce(const fgmm_device *device, int64_t no_rows, const char *residency)
{
    (void)no_rows;
    return fgmm__cmd_start_event("search", device, my_queries, residency);
}

fgmm_status fgmm__cmd_search(int argc, char **argv)
{
    fgmm_status status = FGMM_OK;
    const char **arguments = NULL;
    int n_arguments = 0;
    bool done;
    static struct run run;
    struct line lines[MOST_SETTINGS];
    fgmm_searcher *searcher = NULL;
    FGMM_ALLOC(arguments, argc, "arguments");
    FGMM_TRY(fgmm__cmd_parse(argc, argv, usage, description, table, arguments, &n_arguments, &done));
    if (done)
        goto cleanup;
    fgmm_comm *comm = fgmm__cmd_comm();
    FGMM_TRY(fgmm__comm_agree(comm, open_inputs(&run, arguments, n_arguments)));
    my_queries = run.n * (fgmm_comm_rank(comm) + 1) / fgmm_comm_size(comm) -
                 run.n * fgmm_comm_rank(comm) / fgmm_comm_size(comm);
    FGMM_TRY(fgmm__searcher_create(comm, run.index, (fgmm_backend_kind)fgmm__globals()->backend,
                                   fgmm__cmd_threads(), announce, &searcher));
    fgmm__searcher_device_memory(searcher, device_memory_bytes);
    fgmm_probe_order order = target_list != NULL ? run.rule.probe_by
                             : probe_by >= 0     ? (fgmm_probe_order)probe_by
                                                 : FGMM_PROBE_CENTROID;
    FGMM_TRY(fgmm__searcher_probe_by(searcher, order));
    fgmm__searcher_skip(searcher, keep_all == 0);
    FGMM_TRY(fgmm__searcher_centroid_sketch(searcher, (int32_t)centroid_sketch));
    if (learn) {
        status = learn_rule(&run, searcher);
        goto cleanup;
    }
    FGMM_TRY(search_all(&run, searcher, lines));
    if (fgmm_comm_rank(comm) == 0)
        status = write_outputs(&run, lines);
cleanup:
    fgmm__searcher_destroy(searcher);
    fgmm_index_close(run.index);
    fgmm__knn_free(&run.truth);
    free(run.queries);
    free(run.ids);
    free(run.distances);
    free(arguments);
    return status;
}
