#include "eval/report_file.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/version.h"
#include "io/writer.h"
#include "ivf/rules.h"

const char *fgmm__order_name(fgmm_probe_order order)
{
    return order == FGMM_PROBE_POSTERIOR ? "posterior" : "centroid";
}

const char *fgmm__stop_name(bool learnt)
{
    return learnt ? "learnt" : "fixed";
}

/* ---- CSV ---- */

/* An unknown number is an empty field. */
static void field(FILE *file, const char *format, double value)
{
    fputc(',', file);
    if (!isnan(value))
        fprintf(file, format, value);
}

/* Names of files may hold commas and quotes. */
static void quoted(FILE *file, const char *text)
{
    fputc('"', file);
    for (; *text != '\0'; text++) {
        if (*text == '"')
            fputc('"', file);
        fputc(*text, file);
    }
    fputc('"', file);
}

/* ---- what is told of a point and of a cost, in CSV and in JSON ---- */

typedef struct {
    const char *name, *format;
} column;

static const column point_columns[] = {{"recall@1", "%.6f"}, {"recall@10", "%.6f"}, {"recall@100", "%.6f"},
                                       {"lists", "%.4f"},    {"scanned", "%.3f"},   {"distinct", "%.3f"},
                                       {"computed", "%.3f"}, {"seconds", "%.3e"}};
static const column cost_columns[] = {{"lists", "%.4f"},
                                      {"scanned", "%.3f"},
                                      {"distinct", "%.3f"},
                                      {"computed", "%.3f"},
                                      {"computed_and_centroids", "%.3f"},
                                      {"seconds", "%.3e"},
                                      {"ratio", "%.4f"},
                                      {"low", "%.4f"},
                                      {"high", "%.4f"},
                                      {"ratio_rows", "%.4f"},
                                      {"training_computed_and_centroids", "%.3f"},
                                      {"bytes", "%.1f"},
                                      {"model_ratio", "%.4f"},
                                      {"model_low", "%.4f"},
                                      {"model_high", "%.4f"}};
enum {
    POINT_COLUMNS = sizeof point_columns / sizeof *point_columns,
    COST_COLUMNS = sizeof cost_columns / sizeof *cost_columns
};

/* values: [POINT_COLUMNS] */
static void point_values(const fgmm_eval_curve *curve, int32_t setting, double *values)
{
    const fgmm_eval_point *point = &curve->points[setting];
    for (int i = 0; i < FGMM_EVAL_KS; i++)
        *values++ = point->recall[i];
    *values++ = point->lists;
    *values++ = point->scanned;
    *values++ = point->distinct;
    *values++ = point->computed;
    *values = curve->seconds[setting];
}

/* values: [COST_COLUMNS] */
static void cost_values(const fgmm_eval_curve *curve, int target, double *values)
{
    const fgmm_eval_cost *cost = &curve->costs[target];
    const double all[COST_COLUMNS] = {
        cost->lists,    cost->scanned, cost->distinct, cost->computed,  cost->computed + cost->centroids,
        cost->seconds,  cost->ratio,   cost->low,      cost->high,      cost->ratio_rows,
        cost->training, curve->bytes,  cost->model,    cost->model_low, cost->model_high};
    memcpy(values, all, sizeof all);
}

/* ---- lines of CSV ---- */

static void write_names(FILE *file, const char *first, const column *columns, int n)
{
    fprintf(file, "model,algorithm,rule,replication,storage,probe_by,stop,sketch,centroids,%s", first);
    for (int i = 0; i < n; i++)
        fprintf(file, ",%s", columns[i].name);
    fprintf(file, ",centroid_sketch\n");
}

/* centroids: distances to them. */
static void write_line(FILE *file, const fgmm_eval_options *options, const fgmm_eval_curve *curve,
                       double centroids, double first, const column *columns, int n, const double *values)
{
    const fgmm_eval_variant *variant = &curve->variant;
    quoted(file, options->names[variant->model]);
    fprintf(file, ",%s,%s,%g,%.6f,%s,%s,%d",
            fgmm_algorithm_name(fgmm_model_algorithm(options->models[variant->model])),
            fgmm__rule_name(variant->rule), variant->replication, curve->storage,
            fgmm__order_name(curve->probe_by), fgmm__stop_name(curve->learnt), curve->sketch);
    field(file, "%.7g", centroids);
    field(file, "%.6g", first);
    for (int i = 0; i < n; i++)
        field(file, columns[i].format, values[i]);
    fprintf(file, ",%d\n", curve->centroid_sketch);
}

static void write_curves(FILE *file, const fgmm_eval_options *options, const fgmm_eval_facts *facts,
                         const fgmm_eval_report *report)
{
    (void)facts;
    write_names(file, "setting", point_columns, POINT_COLUMNS);
    for (int32_t c = 0; c < report->n; c++) {
        const fgmm_eval_curve *curve = &report->curves[c];
        for (int32_t s = 0; s < curve->settings; s++) {
            double values[POINT_COLUMNS];
            point_values(curve, s, values);
            write_line(file, options, curve, curve->points[s].centroids, curve->setting[s], point_columns,
                       POINT_COLUMNS, values);
        }
    }
}

static void write_costs(FILE *file, const fgmm_eval_options *options, const fgmm_eval_facts *facts,
                        const fgmm_eval_report *report)
{
    (void)facts;
    write_names(file, "recall@10", cost_columns, COST_COLUMNS);
    for (int32_t c = 0; c < report->n; c++) {
        const fgmm_eval_curve *curve = &report->curves[c];
        for (int t = 0; t < FGMM_EVAL_TARGETS; t++) {
            double values[COST_COLUMNS];
            cost_values(curve, t, values);
            write_line(file, options, curve, curve->costs[t].centroids, fgmm__eval_targets[t], cost_columns,
                       COST_COLUMNS, values);
        }
    }
}

/* ---- JSON ---- */

static cJSON *new_object(cJSON *array)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToArray(array, object);
    return object;
}

static void put(cJSON *object, const char *name, double value) /* an unknown number is null */
{
    cJSON_AddNumberToObject(object, name, value);
}

static void describe(cJSON *object, const fgmm_eval_options *options, const fgmm_eval_curve *curve)
{
    const fgmm_eval_variant *variant = &curve->variant;
    cJSON_AddStringToObject(object, "model", options->names[variant->model]);
    cJSON_AddStringToObject(object, "rule", fgmm__rule_name(variant->rule));
    put(object, "replication", variant->replication);
    put(object, "storage", curve->storage);
    cJSON_AddStringToObject(object, "probe_by", fgmm__order_name(curve->probe_by));
    cJSON_AddStringToObject(object, "stop", fgmm__stop_name(curve->learnt));
    put(object, "sketch", curve->sketch);
    put(object, "centroid_sketch", curve->centroid_sketch);
}

static void put_columns(cJSON *object, const column *columns, int n, const double *values)
{
    for (int i = 0; i < n; i++)
        put(object, columns[i].name, values[i]);
}

static void add_points(cJSON *object, const fgmm_eval_curve *curve)
{
    cJSON *points = cJSON_AddArrayToObject(object, "curve");
    for (int32_t s = 0; s < curve->settings; s++) {
        double values[POINT_COLUMNS];
        cJSON *one = new_object(points);
        point_values(curve, s, values);
        put(one, curve->learnt ? "threshold" : "nprobe", curve->setting[s]);
        put_columns(one, point_columns, POINT_COLUMNS, values);
        put(one, "centroids", curve->points[s].centroids);
    }
}

static void add_costs(cJSON *object, const fgmm_eval_curve *curve)
{
    cJSON *costs = cJSON_AddArrayToObject(object, "costs");
    for (int t = 0; t < FGMM_EVAL_TARGETS; t++) {
        double values[COST_COLUMNS];
        cJSON *one = new_object(costs);
        cost_values(curve, t, values);
        put(one, "recall@10", fgmm__eval_targets[t]);
        put_columns(one, cost_columns, COST_COLUMNS, values);
        put(one, "centroids", curve->costs[t].centroids);
    }
}

/* What the thresholds learnt for each recall reach on the test queries. */
static void add_targets(cJSON *object, const fgmm_eval_curve *curve)
{
    cJSON *targets = cJSON_AddArrayToObject(object, "learnt_targets");
    for (int t = 0; t < FGMM_EVAL_TARGETS; t++) {
        const fgmm_eval_point *point = &curve->points[curve->target_at[t]];
        cJSON *one = new_object(targets);
        put(one, "target", fgmm__eval_targets[t]);
        put(one, "threshold", curve->setting[curve->target_at[t]]);
        put(one, "recall@10", point->recall[FGMM_EVAL_JUDGED]);
        put(one, "lists", point->lists);
        put(one, "distinct", point->distinct);
        put(one, "computed", point->computed);
        put(one, "centroids", point->centroids);
    }
}

static void add_curve(cJSON *curves, const fgmm_eval_options *options, const fgmm_eval_curve *curve)
{
    cJSON *object = new_object(curves);
    describe(object, options, curve);
    put(object, "bytes", curve->bytes);
    put(object, "build_seconds", options->repeats > 0 ? curve->build_seconds : NAN);
    add_costs(object, curve);
    if (curve->learnt)
        add_targets(object, curve);
    add_points(object, curve);
}

static void add_models(cJSON *root, const fgmm_eval_options *options)
{
    cJSON *models = cJSON_AddArrayToObject(root, "models");
    for (int32_t m = 0; m < options->n_models; m++) {
        const fgmm_model *model = options->models[m];
        cJSON *object = new_object(models);
        cJSON_AddStringToObject(object, "name", options->names[m]);
        cJSON_AddStringToObject(object, "algorithm", fgmm_algorithm_name(fgmm_model_algorithm(model)));
        cJSON_AddStringToObject(object, "covariance_type",
                                fgmm_covariance_name(fgmm_model_covariance(model)));
        put(object, "k", fgmm_model_k(model));
    }
}

static void add_chosen(cJSON *root, bool sketches, const fgmm_eval_options *options,
                       const fgmm_eval_facts *facts, const fgmm_eval_report *report)
{
    cJSON *chosen =
        cJSON_AddArrayToObject(root, sketches ? "chosen_in_training_with_sketches" : "chosen_in_training");
    for (int t = 0; t < FGMM_EVAL_TARGETS; t++) {
        int32_t c = fgmm__eval_choose(report, t, facts->most_storage, sketches);
        cJSON *object = new_object(chosen);
        put(object, "recall@10", fgmm__eval_targets[t]);
        if (c < 0)
            continue;
        describe(object, options, &report->curves[c]);
        put(object, "ratio", report->curves[c].costs[t].ratio);
        put(object, "low", report->curves[c].costs[t].low);
        put(object, "high", report->curves[c].costs[t].high);
    }
}

static cJSON *make_json(const fgmm_eval_options *options, const fgmm_eval_facts *facts,
                        const fgmm_eval_report *report)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "format", "fgmm-eval");
    cJSON_AddStringToObject(root, "fgmm_version", FGMM_VERSION);
    cJSON_AddStringToObject(root, "commit", FGMM_COMMIT);
    cJSON_AddStringToObject(root, "data", facts->data);
    put(root, "rows", (double)facts->rows);
    put(root, "dim", facts->dim);
    put(root, "queries", (double)facts->queries);
    put(root, "training_queries", (double)facts->training_queries);
    put(root, "max_probes", options->max_probes);
    put(root, "max_lists", options->max_lists);
    if (options->lambda >= 0)
        put(root, "lambda", options->lambda);
    if (options->neighbors > 0)
        put(root, "neighbors", options->neighbors);
    put(root, "resamples", options->resamples);
    put(root, "seed", (double)options->seed);
    put(root, "most_storage", facts->most_storage);
    add_models(root, options);
    cJSON_AddBoolToObject(root, "cross", options->cross);
    if (!options->cross)
        add_chosen(root, false, options, facts, report);
    if (!options->cross && options->sketch > 0)
        add_chosen(root, true, options, facts, report);
    cJSON *curves = cJSON_AddArrayToObject(root, "curves");
    for (int32_t c = 0; c < report->n; c++)
        add_curve(curves, options, &report->curves[c]);
    return root;
}

static void write_json(FILE *file, const fgmm_eval_options *options, const fgmm_eval_facts *facts,
                       const fgmm_eval_report *report)
{
    cJSON *root = make_json(options, facts, report);
    char *text = cJSON_Print(root);
    if (text != NULL)
        fprintf(file, "%s\n", text);
    free(text);
    cJSON_Delete(root);
}

/* ---- files ---- */

typedef void write_report(FILE *file, const fgmm_eval_options *options, const fgmm_eval_facts *facts,
                          const fgmm_eval_report *report);

static fgmm_status write_file(const char *base, const char *ending, write_report *write,
                              const fgmm_eval_options *options, const fgmm_eval_facts *facts,
                              const fgmm_eval_report *report)
{
    fgmm_status status = FGMM_OK;
    size_t length = strlen(base) + strlen(ending) + 1;
    char *path = NULL, *aside = NULL;
    FILE *file = NULL;
    FGMM_ALLOC(path, length, "the name of a report");
    snprintf(path, length, "%s%s", base, ending);
    FGMM_TRY(fgmm__aside_name(path, &aside));
    file = fopen(aside, "w");
    if (file == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot be written: %s", path, strerror(errno));
    write(file, options, facts, report);
    bool empty = ftell(file) <= 0, failed = ferror(file) != 0;
    failed = fclose(file) != 0 || failed || empty;
    file = NULL;
    if (failed) {
        status = fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot be written: %s", path,
                            empty ? "out of memory" : strerror(errno));
        remove(aside);
        goto cleanup;
    }
    FGMM_TRY(fgmm__aside_commit(aside, path));
cleanup:
    free(path);
    free(aside);
    return status;
}

fgmm_status fgmm__report_write(const char *base, const fgmm_eval_options *options,
                               const fgmm_eval_facts *facts, const fgmm_eval_report *report)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(write_file(base, ".csv", write_curves, options, facts, report));
    FGMM_TRY(write_file(base, "-costs.csv", write_costs, options, facts, report));
    FGMM_TRY(write_file(base, ".json", write_json, options, facts, report));
cleanup:
    return status;
}
