#include "model/model.h"

#include "model/covariance.h"

#include <stdlib.h>
#include <string.h>

size_t fgmm__covariance_count(fgmm_covariance covariance, int32_t k, int32_t dim)
{
    return fgmm__covariance_type(covariance)->count(k, dim);
}

double fgmm__model_parameters(const fgmm_model *model)
{
    double k = model->k;
    return fgmm__covariance_type(model->covariance)->free_parameters(model->k, model->dim) + k * model->dim +
           k - 1;
}

fgmm_status fgmm__model_create(fgmm_algorithm algorithm, fgmm_covariance covariance, int32_t k, int32_t dim,
                               fgmm_model **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_model *model = NULL;
    FGMM_ALLOC(model, 1, "a model");
    model->algorithm = algorithm;
    model->covariance = covariance;
    model->k = k;
    model->dim = dim;
    FGMM_ALLOC(model->weights, k, "weights");
    FGMM_ALLOC(model->means, (size_t)k * dim, "means");
    FGMM_ALLOC(model->covariances, fgmm__covariance_count(covariance, k, dim), "covariances");
    FGMM_ALLOC(model->origin, dim, "the origin");
    *out = model;
    model = NULL;
cleanup:
    fgmm_model_destroy(model);
    return status;
}

void fgmm_model_destroy(fgmm_model *model)
{
    if (model == NULL)
        return;
    free(model->weights);
    free(model->means);
    free(model->covariances);
    free(model->origin);
    free(model->data);
    free(model->history);
    free(model->history_seconds);
    free(model);
}

fgmm_status fgmm__model_copy(const fgmm_model *model, fgmm_model **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_model *copy = NULL;
    size_t k = (size_t)model->k, dim = (size_t)model->dim;
    FGMM_TRY(fgmm__model_create(model->algorithm, model->covariance, model->k, model->dim, &copy));
    memcpy(copy->weights, model->weights, k * sizeof(double));
    memcpy(copy->means, model->means, k * dim * sizeof(double));
    memcpy(copy->covariances, model->covariances,
           fgmm__covariance_count(model->covariance, model->k, model->dim) * sizeof(double));
    memcpy(copy->origin, model->origin, dim * sizeof(double));
    copy->metric = model->metric;
    copy->converged = model->converged;
    copy->log_likelihood = model->log_likelihood;
    copy->n_rows = model->n_rows;
    copy->seed = model->seed;
    memcpy(copy->backend, model->backend, sizeof copy->backend);
    if (model->data != NULL && (copy->data = strdup(model->data)) == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory: a model's names");
    for (int64_t i = 0; i < model->n_iter; i++)
        FGMM_TRY(fgmm__model_push_history(copy, model->history[i], model->history_seconds[i]));
    *out = copy;
    copy = NULL;
cleanup:
    fgmm_model_destroy(copy);
    return status;
}

fgmm_status fgmm__model_push_history(fgmm_model *model, double log_likelihood, double seconds)
{
    size_t n = (size_t)model->n_iter + 1;
    double *values = realloc(model->history, n * sizeof *values);
    if (values != NULL)
        model->history = values;
    double *times = realloc(model->history_seconds, n * sizeof *times);
    if (times != NULL)
        model->history_seconds = times;
    if (values == NULL || times == NULL)
        return fgmm__fail(FGMM_ERR_RUNTIME, "out of memory: the history of %zu iterations", n);
    model->history[n - 1] = log_likelihood;
    model->history_seconds[n - 1] = seconds;
    model->n_iter = (int64_t)n;
    return FGMM_OK;
}

fgmm_algorithm fgmm_model_algorithm(const fgmm_model *model)
{
    return model->algorithm;
}

fgmm_covariance fgmm_model_covariance(const fgmm_model *model)
{
    return model->covariance;
}

fgmm_metric fgmm_model_metric(const fgmm_model *model)
{
    return model->metric;
}

int32_t fgmm_model_k(const fgmm_model *model)
{
    return model->k;
}

int32_t fgmm_model_dim(const fgmm_model *model)
{
    return model->dim;
}

const double *fgmm_model_weights(const fgmm_model *model)
{
    return model->weights;
}

const double *fgmm_model_means(const fgmm_model *model)
{
    return model->means;
}

const double *fgmm_model_covariances(const fgmm_model *model)
{
    return model->covariances;
}

double fgmm_model_log_likelihood(const fgmm_model *model)
{
    return model->log_likelihood;
}

fgmm_status fgmm__model_centroids(const fgmm_model *model, float **out)
{
    fgmm_status status = FGMM_OK;
    size_t values = (size_t)model->k * (size_t)model->dim;
    FGMM_ALLOC(*out, values, "centroids");
    for (size_t i = 0; i < values; i++)
        (*out)[i] = (float)model->means[i];
cleanup:
    return status;
}
