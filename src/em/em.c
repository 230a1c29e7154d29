#include "em/em.h"

#include "base/clock.h"
#include "base/event.h"
#include "base/log.h"
#include "model/covariance.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

double fgmm__em_mean_log(double sum, int64_t rows, bool hard)
{
    double mean = sum / (double)rows;
    return hard ? -fabs(mean) : mean * M_LN2; /* -0, so that no distance is printed as -0 */
}

static double mean_log(const fgmm_stats *stats, const fgmm_grid *grid, const fgmm_components *components)
{
    return fgmm__em_mean_log(fgmm__stats_log(stats, grid), *stats->rows, components->hard);
}

/* Gives a model the parameters of another one of its shape, which takes its own. */
static void swap_parameters(fgmm_model *model, fgmm_model *other)
{
    fgmm_model held = *model;
    model->weights = other->weights;
    model->means = other->means;
    model->covariances = other->covariances;
    other->weights = held.weights;
    other->means = held.means;
    other->covariances = held.covariances;
}

fgmm_status fgmm__em_maximise(fgmm_em *em, fgmm_model *model, const fgmm_components *components,
                              const fgmm_stats *stats, const fgmm_grid *grid, const double *scatter,
                              bool *repaired)
{
    fgmm_status status = FGMM_OK;
    bool *flagged = NULL;
    int32_t *bad = NULL, n_bad = 0;
    fgmm_model *next = NULL;
    fgmm_components *tried = NULL;
    *repaired = false;
    FGMM_ALLOC(flagged, model->k, "component flags");
    FGMM_ALLOC(bad, model->k, "component numbers");
    FGMM_TRY(fgmm__model_copy(model, &next));
    FGMM_TRY(fgmm__mstep(next, components, stats, grid, *stats->rows, scatter, em->reg_covar, flagged));
    FGMM_TRY(fgmm__components_create(next, false, bad, &n_bad, &tried));
    if (n_bad > 0 && model->covariance == FGMM_TIED)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "the tied covariance is not positive definite: raise --reg-covar");
    for (int32_t i = 0; i < n_bad; i++)
        flagged[bad[i]] = true;
    for (int32_t k = 0; k < model->k; k++)
        *repaired = *repaired || flagged[k];
    if (*repaired)
        FGMM_TRY(fgmm__em_repair(em, components, flagged, next));
    swap_parameters(model, next);
cleanup:
    fgmm__components_destroy(tried);
    fgmm_model_destroy(next);
    free(flagged);
    free(bad);
    return status;
}

static void report_iteration(const fgmm_em *em, const fgmm_model *model, const fgmm_em_found *found)
{
    bool kmeans = model->algorithm == FGMM_KMEANS;
    int64_t i = model->n_iter - 1;
    double rows = (double)found->rows, seconds = model->history_seconds[i];
    double value = kmeans ? -model->history[i] : model->history[i];
    cJSON *event = fgmm__event_new("iteration");
    cJSON_AddStringToObject(event, "phase", em->name);
    cJSON_AddNumberToObject(event, "iteration", (double)model->n_iter);
    cJSON_AddNumberToObject(event, kmeans ? "mean_squared_distance" : "log_likelihood", value);
    cJSON_AddNumberToObject(event, "pairs_per_row", (double)found->pairs / rows);
    cJSON_AddNumberToObject(event, "seconds", seconds);
    cJSON_AddNumberToObject(event, "rows_per_s", rows / seconds);
    cJSON_AddBoolToObject(event, "repaired", found->repaired);
    fgmm__event_emit(event);
    fgmm__detail("%s %lld: %s %.9g, %.3f s, %.4g rows/s", em->name, (long long)model->n_iter,
                 kmeans ? "mean squared distance" : "mean log-likelihood", value, seconds, rows / seconds);
}

static bool settled(const fgmm_em *em, const fgmm_model *model)
{
    int64_t n = model->n_iter;
    if (n < 2)
        return false;
    double change = fabs(model->history[n - 1] - model->history[n - 2]);
    double scale = model->algorithm == FGMM_KMEANS ? fabs(model->history[n - 2]) : 1;
    return change < em->tol * scale;
}

/* The E-step on the backend, the M-step on the host. */
static fgmm_status iterate_here(fgmm_em *em, fgmm_model *model, const double *scatter, const char *label,
                                fgmm_em_found *found)
{
    fgmm_status status = FGMM_OK;
    fgmm_components *components = NULL;
    fgmm_grid *grid = NULL;
    fgmm_stats *stats = NULL;
    fgmm_moment moment = FGMM_MOMENT_NONE;
    if (model->algorithm == FGMM_GMM)
        moment = fgmm__covariance_type(model->covariance)->moment;
    FGMM_TRY(fgmm__components_create(model, false, NULL, NULL, &components));
    FGMM_TRY(fgmm__em_pass(em, components, moment, true, label, &grid, &stats));
    found->mean_log = mean_log(stats, grid, components);
    found->rows = *stats->rows;
    found->pairs = *stats->pairs;
    FGMM_TRY(fgmm__em_maximise(em, model, components, stats, grid, scatter, &found->repaired));
cleanup:
    fgmm__components_destroy(components);
    fgmm__grid_destroy(grid);
    fgmm__stats_destroy(stats);
    return status;
}

/* One iteration: E-step, M-step, test. */
static fgmm_status iterate(fgmm_em *em, fgmm_model *model, const double *scatter)
{
    fgmm_status status = FGMM_OK;
    fgmm_em_found found = {0};
    char label[96];
    double start = fgmm__seconds();
    snprintf(label, sizeof label, "%s %lld/%lld", em->name, (long long)model->n_iter + 1,
             (long long)em->max_iter);
    if (fgmm__em_resident_serves(em, model))
        FGMM_TRY(fgmm__em_resident_iterate(em, model, label, &found));
    else
        FGMM_TRY(iterate_here(em, model, scatter, label, &found));
    FGMM_TRY(fgmm__model_push_history(model, found.mean_log, fgmm__seconds() - start));
    model->converged = !found.repaired && settled(em, model);
    report_iteration(em, model, &found);
cleanup:
    return status;
}

/* What is said of the stored parameters: their log-likelihood; for k-means also the clusters' shares and mean
 * squared distances. */
static fgmm_status judge(fgmm_em *em, fgmm_model *model)
{
    fgmm_status status = FGMM_OK;
    fgmm_components *components = NULL;
    fgmm_grid *grid = NULL;
    fgmm_stats *stats = NULL;
    bool kmeans = model->algorithm == FGMM_KMEANS;
    FGMM_TRY(fgmm__em_resident_fetch(em, model));
    FGMM_TRY(fgmm__components_create(model, false, NULL, NULL, &components));
    FGMM_TRY(fgmm__em_pass(em, components, kmeans ? FGMM_MOMENT_SPHERICAL : FGMM_MOMENT_NONE, kmeans,
                           "final E-step", &grid, &stats));
    model->log_likelihood = mean_log(stats, grid, components);
    model->n_rows = *stats->rows;
    for (int32_t k = 0; k < model->k && kmeans; k++) {
        double n = fgmm__stats_n(stats, grid, k);
        model->weights[k] = n / (double)model->n_rows;
        model->covariances[k] = n > 0 ? fgmm__stats_q(stats, grid, k, 0) / n / model->dim : 0;
    }
cleanup:
    fgmm__components_destroy(components);
    fgmm__grid_destroy(grid);
    fgmm__stats_destroy(stats);
    return status;
}

/* Hands the last complete parameters to `save` when the run was asked to stop. model NULL: there are none. */
static fgmm_status save_if_stopped(fgmm_em *em, fgmm_model *model, fgmm_status status)
{
    if (status != FGMM_STOPPED || em->save == NULL)
        return status;
    fgmm_status saved = model != NULL ? fgmm__em_resident_fetch(em, model) : FGMM_OK;
    if (saved == FGMM_OK)
        saved = em->save(em->context, model, true);
    saved = fgmm__comm_agree(em->comm, saved);
    return saved == FGMM_OK ? FGMM_STOPPED : saved;
}

/* Local: hands the parameters of a complete iteration to `save` when that is due. */
static fgmm_status save_if_due(fgmm_em *em, fgmm_model *model)
{
    if (em->save == NULL || !em->save_is_due(em->context))
        return FGMM_OK;
    fgmm_status status = fgmm__em_resident_fetch(em, model);
    return status != FGMM_OK ? status : em->save(em->context, model, false);
}

fgmm_status fgmm__em_run(fgmm_em *em, fgmm_model *model)
{
    fgmm_status status = FGMM_OK, saved = FGMM_OK;
    double *scatter = NULL;
    em->loaded = em->behind = false;
    if (model->algorithm == FGMM_GMM && model->covariance == FGMM_TIED)
        FGMM_TRY(fgmm__em_scatter(em, model, &scatter));
    while (!model->converged && model->n_iter < em->max_iter) {
        status = iterate(em, model, scatter);
        FGMM_TRY(fgmm__comm_agree(em->comm, status != FGMM_OK ? status : saved));
        saved = save_if_due(em, model);
    }
    status = judge(em, model);
    FGMM_TRY(fgmm__comm_agree(em->comm, status != FGMM_OK ? status : saved));
cleanup:
    status = save_if_stopped(em, model, status);
    free(scatter);
    return status;
}

fgmm_status fgmm__em_from_means(fgmm_em *em, fgmm_model *model)
{
    fgmm_status status = FGMM_OK;
    fgmm_components *components = NULL;
    fgmm_grid *grid = NULL;
    fgmm_stats *stats = NULL;
    double *scatter = NULL;
    bool repaired;
    if (model->covariance == FGMM_TIED)
        FGMM_TRY(fgmm__em_scatter(em, model, &scatter));
    FGMM_TRY(fgmm__components_create(model, true, NULL, NULL, &components));
    FGMM_TRY(fgmm__em_pass(em, components, fgmm__covariance_type(model->covariance)->moment, true,
                           "first assignment", &grid, &stats));
    FGMM_TRY(fgmm__em_maximise(em, model, components, stats, grid, scatter, &repaired));
cleanup:
    status = save_if_stopped(em, NULL, fgmm__comm_agree(em->comm, status));
    fgmm__components_destroy(components);
    fgmm__grid_destroy(grid);
    fgmm__stats_destroy(stats);
    free(scatter);
    return status;
}
