/* Model files: HDF5 that h5py opens, with scikit-learn's names and shapes. */
#include "model/model.h"

#include "base/version.h"
#include "io/h5.h"
#include "io/writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MODEL_VERSION = 1 };

static int covariance_shape(const fgmm_model *model, hsize_t *shape)
{
    hsize_t k = (hsize_t)model->k, dim = (hsize_t)model->dim;
    switch (model->covariance) {
    case FGMM_SPHERICAL:
        shape[0] = k;
        return 1;
    case FGMM_DIAG:
        shape[0] = k, shape[1] = dim;
        return 2;
    case FGMM_TIED:
        shape[0] = shape[1] = dim;
        return 2;
    case FGMM_FULL:
        break;
    }
    shape[0] = k, shape[1] = shape[2] = dim;
    return 3;
}

static fgmm_status put_scores(const fgmm_model *model, hid_t file)
{
    fgmm_status status = FGMM_OK;
    double n = (double)model->n_rows;
    if (model->algorithm == FGMM_KMEANS)
        return fgmm__h5_put_f64(file, "inertia", -model->log_likelihood * n);
    double total = -2 * model->log_likelihood * n, p = fgmm__model_parameters(model);
    FGMM_TRY(fgmm__h5_put_f64(file, "log_likelihood", model->log_likelihood));
    FGMM_TRY(fgmm__h5_put_f64(file, "bic", total + p * log(n)));
    FGMM_TRY(fgmm__h5_put_f64(file, "aic", total + 2 * p));
cleanup:
    return status;
}

static fgmm_status put_attributes(const fgmm_model *model, hid_t file)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(fgmm__h5_put_text(file, "format", "fgmm-model"));
    FGMM_TRY(fgmm__h5_put_i64(file, "version", MODEL_VERSION));
    FGMM_TRY(fgmm__h5_put_text(file, "algorithm", fgmm_algorithm_name(model->algorithm)));
    FGMM_TRY(fgmm__h5_put_text(file, "covariance_type", fgmm_covariance_name(model->covariance)));
    FGMM_TRY(fgmm__h5_put_text(file, "metric", fgmm_metric_name(model->metric)));
    FGMM_TRY(fgmm__h5_put_i64(file, "n_iter", model->n_iter));
    FGMM_TRY(fgmm__h5_put_i64(file, "converged", model->converged));
    FGMM_TRY(fgmm__h5_put_i64(file, "n_rows", model->n_rows));
    FGMM_TRY(fgmm__h5_put_i64(file, "seed", (int64_t)model->seed));
    FGMM_TRY(fgmm__h5_put_text(file, "data", model->data != NULL ? model->data : ""));
    FGMM_TRY(fgmm__h5_put_text(file, "backend", model->backend));
    FGMM_TRY(fgmm__h5_put_text(file, "fgmm_version", FGMM_VERSION));
    FGMM_TRY(fgmm__h5_put_text(file, "commit", FGMM_COMMIT));
    FGMM_TRY(put_scores(model, file));
cleanup:
    return status;
}

fgmm_status fgmm__model_put(const fgmm_model *model, int64_t group)
{
    fgmm_status status = FGMM_OK;
    hid_t file = group, history = -1;
    hsize_t k = (hsize_t)model->k, n_iter = (hsize_t)model->n_iter, shape[3];
    hsize_t means[2] = {k, (hsize_t)model->dim}, origin[1] = {(hsize_t)model->dim};
    FGMM_TRY(put_attributes(model, file));
    FGMM_TRY(fgmm__h5_write(file, "weights", H5T_NATIVE_DOUBLE, 1, &k, model->weights));
    FGMM_TRY(fgmm__h5_write(file, "means", H5T_NATIVE_DOUBLE, 2, means, model->means));
    int rank = covariance_shape(model, shape);
    FGMM_TRY(fgmm__h5_write(file, "covariances", H5T_NATIVE_DOUBLE, rank, shape, model->covariances));
    FGMM_TRY(fgmm__h5_write(file, "origin", H5T_NATIVE_DOUBLE, 1, origin, model->origin));
    FGMM_TRY(fgmm__h5_group(file, "history", &history));
    FGMM_TRY(fgmm__h5_write(history,
                            model->algorithm == FGMM_KMEANS ? "mean_squared_distance" : "log_likelihood",
                            H5T_NATIVE_DOUBLE, 1, &n_iter, model->history));
    FGMM_TRY(fgmm__h5_write(history, "seconds", H5T_NATIVE_DOUBLE, 1, &n_iter, model->history_seconds));
cleanup:
    if (history >= 0)
        H5Gclose(history);
    return status;
}

/* The index of `name` among names(0..count-1), or -1. */
static int find_name(const char *name, const char *(*names)(int), int count)
{
    for (int i = 0; i < count; i++)
        if (strcmp(name, names(i)) == 0)
            return i;
    return -1;
}

static const char *algorithm_name(int i)
{
    return fgmm_algorithm_name((fgmm_algorithm)i);
}

static const char *covariance_name(int i)
{
    return fgmm_covariance_name((fgmm_covariance)i);
}

static const char *metric_name(int i)
{
    return fgmm_metric_name((fgmm_metric)i);
}

/* Kind and shape of the model in `file`; everything is checked before memory is taken. */
static fgmm_status get_header(hid_t file, const char *name, fgmm_model *header)
{
    fgmm_status status = FGMM_OK;
    char text[64];
    int64_t version = 0;
    int rank = 0;
    hsize_t shape[3] = {0}, expected[3];
    FGMM_TRY(fgmm__h5_get_text(file, "format", text, sizeof text));
    FGMM_TRY(fgmm__h5_get_i64(file, "version", &version));
    if (strcmp(text, "fgmm-model") != 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: not a model but a file of format %s; make one with fgmm fit", name,
                  text);
    if (version != MODEL_VERSION)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: a model of version %lld, this program reads version %d", name,
                  (long long)version, MODEL_VERSION);
    FGMM_TRY(fgmm__h5_get_text(file, "algorithm", text, sizeof text));
    int algorithm = find_name(text, algorithm_name, 2);
    if (algorithm < 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: unknown algorithm `%s`", name, text);
    FGMM_TRY(fgmm__h5_get_text(file, "covariance_type", text, sizeof text));
    int covariance = find_name(text, covariance_name, 4);
    if (covariance < 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: unknown covariance type `%s`", name, text);
    strcpy(text, "l2");
    if (fgmm__h5_has(file, "metric"))
        FGMM_TRY(fgmm__h5_get_text(file, "metric", text, sizeof text));
    int metric = find_name(text, metric_name, 2);
    if (metric < 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: unknown metric `%s`", name, text);
    FGMM_TRY(fgmm__h5_shape(file, "means", 3, &rank, shape));
    if (rank != 2 || shape[0] < 1 || shape[1] < 1 || shape[0] > INT32_MAX || shape[1] > 1 << 20)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: `means` is not a matrix of components by dimensions", name);
    *header = (fgmm_model){.algorithm = algorithm,
                           .covariance = covariance,
                           .metric = metric,
                           .k = (int32_t)shape[0],
                           .dim = (int32_t)shape[1]};
    FGMM_TRY(fgmm__h5_shape(file, "covariances", 3, &rank, shape));
    bool same = covariance_shape(header, expected) == rank;
    for (int i = 0; i < rank && same; i++)
        same = shape[i] == expected[i];
    if (!same)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: the shape of `covariances` does not fit `means` and covariance type %s", name, text);
cleanup:
    return status;
}

static fgmm_status check_values(const fgmm_model *model, const char *name)
{
    double sum = 0;
    for (int32_t k = 0; k < model->k; k++) {
        if (!(model->weights[k] >= 0) || !isfinite(model->weights[k]))
            return fgmm__fail(FGMM_ERR_INPUT, "%s: weight %d is not a share (%g)", name, k,
                              model->weights[k]);
        sum += model->weights[k];
    }
    if (!(fabs(sum - 1) < 1e-3))
        return fgmm__fail(FGMM_ERR_INPUT, "%s: the weights add up to %g, not 1", name, sum);
    for (size_t i = 0; i < (size_t)model->k * model->dim; i++)
        if (!isfinite(model->means[i]))
            return fgmm__fail(FGMM_ERR_INPUT, "%s: the mean of component %zu is not finite", name,
                              i / (size_t)model->dim);
    return FGMM_OK;
}

static fgmm_status get_history(hid_t file, fgmm_model *model)
{
    fgmm_status status = FGMM_OK;
    const char *path =
        model->algorithm == FGMM_KMEANS ? "history/mean_squared_distance" : "history/log_likelihood";
    double *values = NULL, *seconds = NULL;
    int rank = 0;
    hsize_t n = 0;
    if (!fgmm__h5_has_dataset(file, path))
        goto cleanup;
    FGMM_TRY(fgmm__h5_shape(file, path, 1, &rank, &n));
    if (n == 0)
        goto cleanup;
    FGMM_ALLOC(values, n, "a model's history");
    FGMM_ALLOC(seconds, n, "a model's history");
    FGMM_TRY(fgmm__h5_read(file, path, H5T_NATIVE_DOUBLE, n, values));
    FGMM_TRY(fgmm__h5_read(file, "history/seconds", H5T_NATIVE_DOUBLE, n, seconds));
    for (hsize_t i = 0; i < n; i++)
        FGMM_TRY(fgmm__model_push_history(model, values[i], seconds[i]));
cleanup:
    free(values);
    free(seconds);
    return status;
}

/* What a model written by somebody else may lack. */
static fgmm_status get_optional(hid_t file, fgmm_model *model)
{
    fgmm_status status = FGMM_OK;
    int64_t value = 0;
    char text[4096];
    if (fgmm__h5_has_dataset(file, "origin"))
        FGMM_TRY(fgmm__h5_read(file, "origin", H5T_NATIVE_DOUBLE, (size_t)model->dim, model->origin));
    if (fgmm__h5_has(file, "converged")) {
        FGMM_TRY(fgmm__h5_get_i64(file, "converged", &value));
        model->converged = value != 0;
    }
    if (fgmm__h5_has(file, "n_rows"))
        FGMM_TRY(fgmm__h5_get_i64(file, "n_rows", &model->n_rows));
    if (fgmm__h5_has(file, "seed")) {
        FGMM_TRY(fgmm__h5_get_i64(file, "seed", &value));
        model->seed = (uint64_t)value;
    }
    if (fgmm__h5_has(file, "log_likelihood"))
        FGMM_TRY(fgmm__h5_get_f64(file, "log_likelihood", &model->log_likelihood));
    if (fgmm__h5_has(file, "inertia") && model->n_rows > 0) {
        FGMM_TRY(fgmm__h5_get_f64(file, "inertia", &model->log_likelihood));
        model->log_likelihood /= -(double)model->n_rows;
    }
    if (fgmm__h5_has(file, "backend")) {
        FGMM_TRY(fgmm__h5_get_text(file, "backend", text, sizeof text));
        snprintf(model->backend, sizeof model->backend, "%.7s", text);
    }
    if (fgmm__h5_has(file, "data")) {
        FGMM_TRY(fgmm__h5_get_text(file, "data", text, sizeof text));
        if ((model->data = strdup(text)) == NULL)
            FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory: a model's names");
    }
    FGMM_TRY(get_history(file, model));
cleanup:
    return status;
}

fgmm_status fgmm__model_get(int64_t group, const char *name, fgmm_model **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_model header = {0}, *model = NULL;
    hid_t file = group;
    FGMM_TRY(get_header(file, name, &header));
    FGMM_TRY(fgmm__model_create(header.algorithm, header.covariance, header.k, header.dim, &model));
    model->metric = header.metric;
    size_t k = (size_t)model->k, dim = (size_t)model->dim;
    FGMM_TRY(fgmm__h5_read(file, "weights", H5T_NATIVE_DOUBLE, k, model->weights));
    FGMM_TRY(fgmm__h5_read(file, "means", H5T_NATIVE_DOUBLE, k * dim, model->means));
    FGMM_TRY(fgmm__h5_read(file, "covariances", H5T_NATIVE_DOUBLE,
                           fgmm__covariance_count(model->covariance, model->k, model->dim),
                           model->covariances));
    FGMM_TRY(check_values(model, name));
    FGMM_TRY(get_optional(file, model));
    *out = model;
    model = NULL;
cleanup:
    fgmm_model_destroy(model);
    return status;
}

fgmm_status fgmm_model_read(const char *path, fgmm_model **out)
{
    fgmm_status status = FGMM_OK;
    hid_t file = -1;
    bool sealed;
    FGMM_TRY(fgmm__h5_check_seal(path, &sealed));
    FGMM_TRY(fgmm__h5_open(path, NULL, &file));
    FGMM_TRY(fgmm__model_get(file, path, out));
cleanup:
    if (file >= 0)
        fgmm__h5_close(file, path);
    return status;
}

fgmm_status fgmm_model_write(const fgmm_model *model, const char *path)
{
    fgmm_status status = FGMM_OK;
    hid_t file = -1;
    char *aside = NULL;
    FGMM_TRY(fgmm__aside_name(path, &aside));
    FGMM_TRY(fgmm__h5_create_small(aside, &file));
    FGMM_TRY(fgmm__model_put(model, file));
    status = fgmm__h5_close(file, aside);
    file = -1;
    if (status != FGMM_OK)
        goto cleanup;
    FGMM_TRY(fgmm__h5_seal(aside, NULL, 0, 0));
    FGMM_TRY(fgmm__aside_commit(aside, path));
cleanup:
    if (file >= 0)
        fgmm__h5_close(file, aside);
    if (status != FGMM_OK && aside != NULL)
        unlink(aside);
    free(aside);
    return status;
}
