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

static const char head_of_curve[] = "model,algorithm,rule,replication,storage,probe_by,stop,sketch,centroids";

/* centroids: distances to them. */
static void write_head(FILE *file, const fgmm_eval_options *options, const fgmm_eval_curve *curve,
                       double centroids)
{
    const fgmm_eval_variant *variant = &curve->variant;
    quoted(file, options->names[variant->model]);
    fprintf(file, ",%s,%s,%g,%.6f,%s,%s,%d",
            fgmm_algorithm_name(fgmm_model_algorithm(options->models[variant->model])),
            fgmm__rule_name(variant->rule), variant->replication, curve->storage,
            fgmm__order_name(curve->probe_by), fgmm__stop_name(curve->learnt), curve->sketch);
    field(file, "%.7g", centroids);
}

static void write_curves(FILE *file, const fgmm_eval_options *options, const fgmm_eval_facts *facts,
                         const fgmm_eval_report *report)
{
    (void)facts;
    fprintf(file,
            "%s,setting,recall@1,recall@10,recall@100,lists,scanned,distinct,computed,seconds,"
            "centroid_sketch\n",
            head_of_curve);
    for (int32_t c = 0; c < report->n; c++) {
        const fgmm_eval_curve *curve = &report->curves[c];
        for (int32_t s = 0; s < curve->settings; s++) {
            const fgmm_eval_point *point = &curve->points[s];
            write_head(file, options, curve, point->centroids);
            field(file, "%.6g", curve->setting[s]);
            for (int i = 0; i < FGMM_EVAL_KS; i++)
                field(file, "%.6f", point->recall[i]);
            fprintf(file, ",%.4f,%.3f,%.3f,%.3f", point->lists, point->scanned, point->distinct,
                    point->computed);
            field(file, "%.3e", curve->seconds[s]);
            fprintf(file, ",%d\n", curve->centroid_sketch);
        }
    }
}

static void write_costs(FILE *file, const fgmm_eval_options *options, const fgmm_eval_facts *facts,
                        const fgmm_eval_report *report)
{
    (void)facts;
    fprintf(file,
            "%s,recall@10,lists,scanned,distinct,computed,computed_and_centroids,seconds,ratio,low,high,"
            "ratio_rows,"
            "training_computed_and_centroids,bytes,model_ratio,model_low,model_high,centroid_sketch\n",
            head_of_curve);
    for (int32_t c = 0; c < report->n; c++) {
        const fgmm_eval_curve *curve = &report->curves[c];
        for (int t = 0; t < FGMM_EVAL_TARGETS; t++) {
            const fgmm_eval_cost *cost = &curve->costs[t];
            write_head(file, options, curve, cost->centroids);
            field(file, "%g", fgmm__eval_targets[t]);
            field(file, "%.4f", cost->lists);
            field(file, "%.3f", cost->scanned);
            field(file, "%.3f", cost->distinct);
            field(file, "%.3f", cost->computed);
            field(file, "%.3f", cost->computed + cost->centroids);
            field(file, "%.3e", cost->seconds);
            field(file, "%.4f", cost->ratio);
            field(file, "%.4f", cost->low);
            field(file, "%.4f", cost->high);
            field(file, "%.4f", cost->ratio_rows);
            field(file, "%.3f", cost->training);
            field(file, "%.1f", curve->bytes);
            field(file, "%.4f", cost->model);
            field(file, "%.4f", cost->model_low);
            field(file, "%.4f", cost->model_high);
            fprintf(file, ",%d\n", curve->centroid_sketch);
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

static void add_points(cJSON *object, const fgmm_eval_curve *curve)
{
    cJSON *points = cJSON_AddArrayToObject(object, "curve");
    for (int32_t s = 0; s < curve->settings; s++) {
        const fgmm_eval_point *point = &curve->points[s];
        cJSON *one = new_object(points);
        put(one, curve->learnt ? "threshold" : "nprobe", curve->setting[s]);
        for (int i = 0; i < FGMM_EVAL_KS; i++) {
            char name[16];
            snprintf(name, sizeof name, "recall@%d", fgmm__eval_ks[i]);
            put(one, name, point->recall[i]);
        }
        put(one, "lists", point->lists);
        put(one, "scanned", point->scanned);
        put(one, "distinct", point->distinct);
        put(one, "computed", point->computed);
        put(one, "centroids", point->centroids);
        put(one, "seconds", curve->seconds[s]);
    }
}

static void add_costs(cJSON *object, const fgmm_eval_curve *curve)
{
    cJSON *costs = cJSON_AddArrayToObject(object, "costs");
    for (int t = 0; t < FGMM_EVAL_TARGETS; t++) {
        const fgmm_eval_cost *cost = &curve->costs[t];
        cJSON *one = new_object(costs);
        put(one, "recall@10", fgmm__eval_targets[t]);
        put(one, "lists", cost->lists);
        put(one, "scanned", cost->scanned);
        put(one, "distinct", cost->distinct);
        put(one, "computed", cost->computed);
        put(one, "computed_and_centroids", cost->computed + cost->centroids);
        put(one, "seconds", cost->seconds);
        put(one, "ratio", cost->ratio);
        put(one, "low", cost->low);
        put(one, "high", cost->high);
        put(one, "ratio_rows", cost->ratio_rows);
        put(one, "training_computed_and_centroids", cost->training);
        put(one, "model_ratio", cost->model);
        put(one, "model_low", cost->model_low);
        put(one, "model_high", cost->model_high);
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
