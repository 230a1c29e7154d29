#include "eval/judge.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "ivf/index.h"

/* ---- a curve from its tables ---- */

static fgmm_status curve_create(const fgmm_judge *judge, const fgmm_eval_variant *variant,
                                const fgmm_eval_way *way, bool learnt, const double *setting,
                                int32_t settings, fgmm_eval_curve *curve)
{
    fgmm_status status = FGMM_OK;
    *curve = (fgmm_eval_curve){.variant = *variant,
                               .probe_by = way->order,
                               .sketch = way->sketch,
                               .centroid_sketch = way->centroid_sketch,
                               .learnt = learnt,
                               .storage = judge->storage,
                               .build_seconds = judge->build_seconds,
                               .settings = settings};
    const fgmm_index *index = judge->searcher->index;
    double row_bytes = (double)index->dim * (double)fgmm_dtype_bytes(index->dtype);
    curve->bytes =
        judge->storage * (row_bytes + (way->sketch > 0 ? (way->sketch + 1.0) * (double)sizeof(float) : 0));
    FGMM_ALLOC(curve->setting, settings, "a curve");
    FGMM_ALLOC(curve->points, settings, "a curve");
    FGMM_ALLOC(curve->seconds, settings, "a curve");
    FGMM_ALLOC(curve->drawn, (int64_t)judge->options->resamples * FGMM_EVAL_TARGETS, "a curve");
    memcpy(curve->setting, setting, (size_t)settings * sizeof *setting);
    for (int32_t s = 0; s < settings; s++)
        curve->seconds[s] = NAN;
cleanup:
    return status;
}

typedef struct {
    double recall[FGMM_EVAL_MOST_SETTINGS], lists[FGMM_EVAL_MOST_SETTINGS], scanned[FGMM_EVAL_MOST_SETTINGS],
        distinct[FGMM_EVAL_MOST_SETTINGS], computed[FGMM_EVAL_MOST_SETTINGS],
        centroids[FGMM_EVAL_MOST_SETTINGS];
} columns;

static void split(const fgmm_eval_point *points, int32_t n, columns *out)
{
    for (int32_t s = 0; s < n; s++) {
        out->recall[s] = points[s].recall[FGMM_EVAL_JUDGED];
        out->lists[s] = points[s].lists;
        out->scanned[s] = points[s].scanned;
        out->distinct[s] = points[s].distinct;
        out->computed[s] = points[s].computed;
        out->centroids[s] = points[s].centroids;
    }
}

static void cost_at_targets(fgmm_eval_curve *curve)
{
    columns c;
    split(curve->points, curve->settings, &c);
    for (int t = 0; t < FGMM_EVAL_TARGETS; t++) {
        fgmm_eval_place place = fgmm__curve_find(c.recall, curve->settings, fgmm__eval_targets[t]);
        curve->costs[t] = (fgmm_eval_cost){.lists = fgmm__curve_cost(c.lists, place),
                                           .scanned = fgmm__curve_cost(c.scanned, place),
                                           .distinct = fgmm__curve_cost(c.distinct, place),
                                           .computed = fgmm__curve_cost(c.computed, place),
                                           .centroids = fgmm__curve_cost(c.centroids, place),
                                           .seconds = NAN,
                                           .training = NAN};
    }
}

static fgmm_status cost_in_training(const fgmm_eval_table *table, fgmm_eval_curve *curve)
{
    fgmm_status status = FGMM_OK;
    fgmm_eval_point *points = NULL;
    columns c;
    FGMM_ALLOC(points, table->settings, "a curve");
    fgmm__table_means(table, points);
    split(points, table->settings, &c);
    for (int t = 0; t < FGMM_EVAL_TARGETS; t++) {
        fgmm_eval_place place = fgmm__curve_find(c.recall, table->settings, fgmm__eval_targets[t]);
        curve->costs[t].training = fgmm__curve_cost(c.computed, place) + fgmm__curve_cost(c.centroids, place);
    }
cleanup:
    free(points);
    return status;
}

/* Where every query is judged, none is left to train by. */
static fgmm_status fill(const fgmm_judge *judge, fgmm_eval_table *test, const fgmm_eval_table *train,
                        fgmm_eval_curve *curve)
{
    fgmm_status status = FGMM_OK;
    const fgmm_eval_options *options = judge->options;
    if (options->cross)
        FGMM_TRY(fgmm__table_append(test, train));
    fgmm__table_means(test, curve->points);
    cost_at_targets(curve);
    if (!options->cross)
        FGMM_TRY(cost_in_training(train, curve));
    FGMM_TRY(fgmm__table_resample(test, options->seed, options->resamples,
                                  judge->searcher->place.backend->threads, curve->drawn));
cleanup:
    return status;
}

/* ---- time, which takes real searches ---- */

/* A search of the setting: found must be what the trace foretold. */
static fgmm_status time_setting(const fgmm_judge *judge, const fgmm_stop_rule *rule, fgmm_eval_curve *curve,
                                int32_t s, int64_t *ids, float *distances)
{
    fgmm_status status = FGMM_OK;
    const fgmm_eval_queries *test = judge->test;
    const fgmm_eval_point *point = &curve->points[s];
    int32_t k = fgmm__eval_ks[FGMM_EVAL_JUDGED];
    fgmm_search_report report = {.seconds = 0};
    curve->seconds[s] = INFINITY;
    for (int32_t i = 0; i < judge->options->repeats; i++) {
        FGMM_TRY(rule != NULL ? fgmm__searcher_run_rule(judge->searcher, rule, curve->setting[s], test->rows,
                                                        test->n, ids, distances, &report)
                              : fgmm__searcher_run(judge->searcher, test->rows, test->n, k,
                                                   (int32_t)curve->setting[s], ids, distances, &report));
        curve->seconds[s] = fmin(curve->seconds[s], report.seconds / (double)test->n);
        fgmm__progress_add(test->n);
    }
    double computed =
        report.full + report.sketches * (curve->sketch + 1) / judge->searcher->index->dim + curve->sketch;
    if (fabs(computed - point->computed) > 1e-9 * point->computed ||
        fabs(report.centroids - point->centroids) > 1e-9 * point->centroids ||
        fabs(report.distinct - point->distinct) > 1e-9 * point->distinct ||
        fabs(report.scanned - point->scanned) > 1e-9 * point->scanned)
        FGMM_FAIL(
            FGMM_ERR_RUNTIME,
            "%s: a search met %.3f rows a query and computed %.3f distances and %.3f to centroids, foretold "
            "were %.3f, %.3f and %.3f: this is a fault of the program's",
            judge->options->index, report.distinct, computed, report.centroids, point->distinct,
            point->computed, point->centroids);
    double recall = fgmm__recall(ids, k, test->truth, test->truth_k, test->n);
    if (fabs(recall - point->recall[FGMM_EVAL_JUDGED]) > 1e-3)
        fgmm__warn(
            "the true neighbours given are not the nearest in float64: searching returns %.4f of them, "
            "its lists hold %.4f",
            recall, point->recall[FGMM_EVAL_JUDGED]);
cleanup:
    return status;
}

/* Between timed settings time grows as the lists do, and beyond the last in their proportion. */
static double seconds_after(const fgmm_eval_curve *curve, double lists)
{
    double x[FGMM_EVAL_MOST_SETTINGS], y[FGMM_EVAL_MOST_SETTINGS];
    int32_t n = 0;
    for (int32_t s = 0; s < curve->settings; s++)
        if (!isnan(curve->seconds[s])) {
            x[n] = curve->points[s].lists;
            y[n++] = curve->seconds[s];
        }
    if (n == 0 || isnan(lists))
        return NAN;
    if (lists > x[n - 1])
        return y[n - 1] * lists / x[n - 1];
    return fgmm__curve_cost(y, fgmm__curve_find(x, n, lists));
}

static bool worth_timing(const fgmm_eval_curve *curve, int32_t s)
{
    if (curve->learnt) {
        for (int t = 0; t < FGMM_EVAL_TARGETS; t++)
            if (curve->target_at[t] == s)
                return true;
        return false;
    }
    const double enough = 0.995;
    int32_t nprobe = (int32_t)curve->setting[s];
    bool power = (nprobe & (nprobe - 1)) == 0, reached = s > 0;
    for (int32_t before = s - 1; reached && before >= 0; before--) /* the last power of two sufficed? */
        if ((((int32_t)curve->setting[before]) & ((int32_t)curve->setting[before] - 1)) == 0) {
            reached = curve->points[before].recall[FGMM_EVAL_JUDGED] >= enough;
            break;
        }
    return power && !reached;
}

static fgmm_status time_curve(const fgmm_judge *judge, const fgmm_stop_rule *rule, fgmm_eval_curve *curve)
{
    fgmm_status status = FGMM_OK;
    int64_t *ids = NULL, slots = judge->test->n * fgmm__eval_ks[FGMM_EVAL_JUDGED];
    float *distances = NULL;
    int32_t timed = 0;
    if (judge->options->repeats == 0)
        return FGMM_OK;
    status = fgmm__alloc((size_t)slots, sizeof *ids, "results", (void **)&ids);
    if (status == FGMM_OK)
        status = fgmm__alloc((size_t)slots, sizeof *distances, "results", (void **)&distances);
    FGMM_TRY(fgmm__comm_agree(judge->comm, status));
    for (int32_t s = 0; s < curve->settings; s++)
        timed += worth_timing(curve, s);
    fgmm__progress_begin(judge->what, "queries", judge->test->n * judge->options->repeats * timed);
    for (int32_t s = 0; s < curve->settings; s++)
        if (worth_timing(curve, s))
            FGMM_TRY(time_setting(judge, rule, curve, s, ids, distances));
    for (int t = 0; t < FGMM_EVAL_TARGETS; t++)
        curve->costs[t].seconds = seconds_after(curve, curve->costs[t].lists);
cleanup:
    fgmm__progress_end();
    free(ids);
    free(distances);
    return status;
}

/* ---- against the reference ---- */

static fgmm_status hold_against_reference(const fgmm_judge *judge, fgmm_eval_curve *curve)
{
    fgmm_status status = FGMM_OK;
    fgmm_eval_report *report = judge->report;
    const fgmm_eval_curve *reference = &report->curves[0];
    for (int t = 0; t < FGMM_EVAL_TARGETS; t++) {
        fgmm_eval_cost *cost = &curve->costs[t];
        FGMM_TRY(fgmm__eval_compare(report, 0, report->n - 1, t, &cost->ratio, &cost->low, &cost->high));
        cost->ratio_rows = reference->costs[t].computed / cost->computed;
    }
cleanup:
    return fgmm__comm_agree(judge->comm, status);
}

/* ---- the two ways of stopping ---- */

/* The curve is the report's from here on, whatever happens to it. */
static fgmm_eval_curve *next_curve(const fgmm_judge *judge)
{
    return &judge->report->curves[judge->report->n++];
}

static fgmm_status judge_fixed(const fgmm_judge *judge, const fgmm_eval_variant *variant,
                               const fgmm_eval_way *way, const fgmm_eval_trace *test,
                               const fgmm_eval_trace *train)
{
    fgmm_status status = FGMM_OK;
    fgmm_eval_table test_table = {.queries = 0}, train_table = {.queries = 0};
    fgmm_eval_curve *curve = next_curve(judge);
    int32_t nprobe[FGMM_EVAL_MOST_SETTINGS], settings = fgmm__plan_nprobe(test->lists, nprobe);
    double setting[FGMM_EVAL_MOST_SETTINGS];
    for (int32_t s = 0; s < settings; s++)
        setting[s] = nprobe[s];
    FGMM_TRY(fgmm__trace_fixed(judge->comm, test, judge->test, nprobe, settings, way, &test_table));
    FGMM_TRY(fgmm__trace_fixed(judge->comm, train, judge->train, nprobe, settings, way, &train_table));
    status = curve_create(judge, variant, way, false, setting, settings, curve);
    if (status == FGMM_OK)
        status = fill(judge, &test_table, &train_table, curve);
    FGMM_TRY(fgmm__comm_agree(judge->comm, status));
    FGMM_TRY(time_curve(judge, NULL, curve));
    FGMM_TRY(hold_against_reference(judge, curve));
    judge->told(judge->options, curve);
cleanup:
    fgmm__table_free(&test_table);
    fgmm__table_free(&train_table);
    return status;
}

/* Fits the rule to what some of the queries met. */
static fgmm_status learn(const fgmm_judge *judge, const fgmm_eval_way *way, const fgmm_eval_trace *trace,
                         const fgmm_eval_queries *queries, fgmm_stop_rule *rule)
{
    *rule = (fgmm_stop_rule){.k = fgmm__eval_ks[FGMM_EVAL_JUDGED],
                             .max_probes = trace->lists,
                             .probe_by = way->order,
                             .queries = queries->n};
    return fgmm__stop_fit_shares(judge->comm, trace->x, trace->to_come, rule);
}

/* Both parts' queries are judged at the same thresholds; a target's is the middle of what they learnt. */
static void meet_halfway(fgmm_stop_rule *rule, const fgmm_stop_rule *other)
{
    for (int t = 0; t < FGMM_STOP_TARGETS; t++)
        rule->thresholds[t] = sqrt(rule->thresholds[t] * other->thresholds[t]);
}

static fgmm_status judge_learnt(const fgmm_judge *judge, const fgmm_eval_variant *variant,
                                const fgmm_eval_way *way, const fgmm_eval_trace *test,
                                const fgmm_eval_trace *train)
{
    fgmm_status status = FGMM_OK;
    fgmm_comm *comm = judge->comm;
    fgmm_eval_table test_table = {.queries = 0}, train_table = {.queries = 0};
    fgmm_eval_curve *curve = next_curve(judge);
    fgmm_stop_rule rule, other;
    double thresholds[FGMM_EVAL_MOST_SETTINGS];
    FGMM_TRY(learn(judge, way, train, judge->train, &rule));
    other = rule; /* of the training queries themselves, unless they are to be judged */
    if (judge->options->cross) {
        FGMM_TRY(learn(judge, way, test, judge->test, &other));
        meet_halfway(&rule, &other);
    }
    int32_t settings = fgmm__plan_thresholds(&rule, thresholds);
    FGMM_TRY(fgmm__trace_learnt(comm, test, judge->test, &rule, thresholds, settings, way, &test_table));
    FGMM_TRY(fgmm__trace_learnt(comm, train, judge->train, &other, thresholds, settings, way, &train_table));
    status = curve_create(judge, variant, way, true, thresholds, settings, curve);
    if (status == FGMM_OK)
        status = fill(judge, &test_table, &train_table, curve);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    for (int t = 0; t < FGMM_EVAL_TARGETS; t++)
        while (thresholds[curve->target_at[t]] > rule.thresholds[t])
            curve->target_at[t]++;
    FGMM_TRY(time_curve(judge, &rule, curve));
    FGMM_TRY(hold_against_reference(judge, curve));
    judge->told(judge->options, curve);
cleanup:
    fgmm__table_free(&test_table);
    fgmm__table_free(&train_table);
    return status;
}

/* Both ways of stopping. */
static fgmm_status judge_way(const fgmm_judge *judge, const fgmm_eval_variant *variant,
                             const fgmm_eval_way *way, const fgmm_eval_trace *test,
                             const fgmm_eval_trace *train)
{
    fgmm_status status = FGMM_OK;
    fgmm__searcher_skip(judge->searcher, way->sketch > 0);
    FGMM_TRY(fgmm__searcher_centroid_sketch(judge->searcher, way->centroid_sketch));
    FGMM_TRY(judge_fixed(judge, variant, way, test, train));
    if (test->lists > 1)
        FGMM_TRY(judge_learnt(judge, variant, way, test, train));
cleanup:
    return status;
}

fgmm_status fgmm__judge(fgmm_judge *judge, const fgmm_eval_variant *variant, fgmm_probe_order order)
{
    fgmm_status status = FGMM_OK;
    const fgmm_eval_options *options = judge->options;
    int32_t k = judge->searcher->index->k, lists = options->max_probes < k ? options->max_probes : k,
            neighbors = fgmm__eval_ks[FGMM_EVAL_JUDGED];
    fgmm_eval_trace test = {.n = 0}, train = {.n = 0};
    FGMM_TRY(fgmm__searcher_probe_by(judge->searcher, order));
    FGMM_TRY(fgmm__searcher_centroid_sketch(judge->searcher, options->centroid_sketch));
    fgmm__progress_begin(judge->what, "queries",
                         (judge->test->n + judge->train->n) / fgmm_comm_size(judge->comm));
    FGMM_TRY(fgmm__trace(judge->searcher, judge->train, lists, neighbors, &train));
    FGMM_TRY(fgmm__trace(judge->searcher, judge->test, lists, neighbors, &test));
    fgmm__progress_end();
    for (int sketched = 0; sketched <= (options->sketch > 0); sketched++)
        for (int coarse = 0; coarse <= (options->centroid_sketch > 0 && judge->searcher->posterior == NULL);
             coarse++) {
            fgmm_eval_way way = {.order = order,
                                 .sketch = sketched ? options->sketch : 0,
                                 .centroid_sketch = coarse ? options->centroid_sketch : 0};
            FGMM_TRY(judge_way(judge, variant, &way, &test, &train));
        }
cleanup:
    fgmm__progress_end();
    fgmm__trace_free(&test);
    fgmm__trace_free(&train);
    return status;
}
