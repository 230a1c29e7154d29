#include "eval/eval.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "eval/judge.h"

void fgmm__eval_free(fgmm_eval_report *report)
{
    for (int32_t c = 0; c < report->n; c++) {
        free(report->curves[c].setting);
        free(report->curves[c].points);
        free(report->curves[c].seconds);
        free(report->curves[c].drawn);
    }
    free(report->curves);
    *report = (fgmm_eval_report){.n = 0};
}

/* ---- one index ---- */

static void remove_index(fgmm_comm *comm, const char *path)
{
    if (fgmm_comm_rank(comm) == 0)
        unlink(path);
}

static fgmm_status build(fgmm_judge *judge, const fgmm_dataset *dataset, const fgmm_eval_variant *variant,
                         fgmm_started *started)
{
    const fgmm_eval_options *options = judge->options;
    fgmm_build_options how;
    fgmm_build_report built;
    fgmm_build_defaults(&how);
    how.rule = variant->rule;
    how.max_lists = options->max_lists;
    if (options->neighbors > 0)
        how.neighbors = options->neighbors;
    if (options->lambda >= 0)
        how.lambda = options->lambda;
    how.sketch = options->sketch;
    how.replication = variant->rule == FGMM_ASSIGN_HARD ? 0 : variant->replication;
    how.resources = options->resources;
    fgmm_status status = fgmm__build(judge->comm, dataset, options->models[variant->model], options->index,
                                     &how, started, &built);
    if (status == FGMM_OK) {
        judge->storage = (double)built.postings / (double)fgmm_dataset_rows(dataset);
        judge->build_seconds = built.seconds;
    }
    return status;
}

/* Both ways of stopping for every order of probing. */
static fgmm_status judge_orders(fgmm_judge *judge, const fgmm_eval_variant *variant, bool is_reference)
{
    fgmm_status status = FGMM_OK;
    const fgmm_eval_options *options = judge->options;
    bool kmeans = fgmm_model_algorithm(options->models[variant->model]) == FGMM_KMEANS;
    for (int order = FGMM_PROBE_CENTROID; order <= FGMM_PROBE_POSTERIOR; order++) {
        bool wanted = options->orders[order];
        if (order == FGMM_PROBE_CENTROID) /* with k-means there is one order */
            wanted = wanted || kmeans || is_reference;
        else
            wanted = wanted && !kmeans;
        if (wanted)
            FGMM_TRY(fgmm__judge(judge, variant, (fgmm_probe_order)order));
    }
cleanup:
    return status;
}

static fgmm_status judge_variant(fgmm_judge *judge, const fgmm_dataset *dataset, int32_t v,
                                 fgmm_started *started)
{
    fgmm_status status = FGMM_OK;
    const fgmm_eval_options *options = judge->options;
    const fgmm_eval_variant *variant = &options->plan.variants[v];
    fgmm_index *index = NULL;
    FGMM_TRY(build(judge, dataset, variant, started));
    FGMM_TRY(fgmm__comm_agree(judge->comm, fgmm_index_open(options->index, &index)));
    FGMM_TRY(fgmm__searcher_create(judge->comm, index, options->resources.backend, options->resources.threads,
                                   NULL, &judge->searcher));
    snprintf(judge->what, sizeof judge->what, "judge %d/%d", v + 1, options->plan.n);
    FGMM_TRY(judge_orders(judge, variant, v == 0));
cleanup:
    fgmm__searcher_destroy(judge->searcher);
    judge->searcher = NULL;
    fgmm_index_close(index);
    remove_index(judge->comm, options->index);
    return status;
}

/* ---- all ---- */

/* What a model's lists bring beside those of the reference's under the same rule. */
static fgmm_status compare_models(const fgmm_eval_options *options, fgmm_eval_report *report)
{
    fgmm_status status = FGMM_OK;
    int32_t reference = options->plan.reference_model;
    for (int32_t c = 0; c < report->n; c++)
        for (int t = 0; t < FGMM_EVAL_TARGETS; t++) {
            fgmm_eval_cost *cost = &report->curves[c].costs[t];
            int32_t twin =
                report->curves[c].variant.model != reference ? fgmm__eval_twin(report, c, reference) : -1;
            cost->model = cost->model_low = cost->model_high = NAN;
            if (twin >= 0)
                FGMM_TRY(fgmm__eval_compare(report, twin, c, t, &cost->model, &cost->model_low,
                                            &cost->model_high));
        }
cleanup:
    return status;
}

fgmm_status fgmm__eval(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_eval_options *options,
                       const fgmm_eval_queries *test, const fgmm_eval_queries *train, fgmm_started *started,
                       fgmm_eval_told *told, fgmm_eval_report *out)
{
    enum { CURVES_A_VARIANT = 16 }; /* two orders, two ways of stopping, with and without either sketches */
    fgmm_status status = FGMM_OK;
    fgmm_eval_report report = {.resamples = options->resamples};
    fgmm_judge judge = {
        .comm = comm, .options = options, .test = test, .train = train, .told = told, .report = &report};
    status = fgmm__alloc((size_t)options->plan.n * CURVES_A_VARIANT, sizeof *report.curves, "the report",
                         (void **)&report.curves);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    for (int32_t v = 0; v < options->plan.n; v++)
        FGMM_TRY(judge_variant(&judge, dataset, v, v == 0 ? started : NULL));
    FGMM_TRY(fgmm__comm_agree(comm, compare_models(options, &report)));
    *out = report;
    report = (fgmm_eval_report){.n = 0};
cleanup:
    fgmm__eval_free(&report);
    return fgmm__stopped_without_trace(status, "the report");
}
