/* The model as the library sees it. Arrays are float64, host memory, row-major. */
#ifndef FGMM_MODEL_MODEL_H
#define FGMM_MODEL_MODEL_H

#include <stdbool.h>
#include "base/status.h"
#include "fgmm/model.h"

struct fgmm_model {
    fgmm_algorithm algorithm;
    fgmm_covariance covariance; /* k-means: FGMM_SPHERICAL */
    fgmm_metric metric;
    int32_t k, dim;
    double *weights;     /* [k], sum 1 */
    double *means;       /* [k][dim] */
    double *covariances; /* fgmm__covariance_count(covariance, k, dim) values */
    double *origin;      /* [dim]: arithmetic is done on x - origin */
    /* how it was fitted */
    int64_t n_iter;
    bool converged;
    double log_likelihood; /* mean a row, nats, of the stored parameters; k-means: -(inertia / n_rows) */
    int64_t n_rows;
    uint64_t seed;
    char *data;      /* names, owned, may be NULL */
    char backend[8]; /* "cpu", "cuda", "" */
    double *history; /* [n_iter]: log-likelihood (k-means: -inertia a row) of the parameters that entered
                        iteration i */
    double *history_seconds; /* [n_iter] */
};

/* [k], [k][dim], [dim][dim], [k][dim][dim] -> number of values */
size_t fgmm__covariance_count(fgmm_covariance covariance, int32_t k, int32_t dim);
/* Zeroed arrays; history is empty. */
fgmm_status fgmm__model_create(fgmm_algorithm algorithm, fgmm_covariance covariance, int32_t k, int32_t dim,
                               fgmm_model **out);
fgmm_status fgmm__model_copy(const fgmm_model *model, fgmm_model **out);
/* Appends one entry to the histories. */
fgmm_status fgmm__model_push_history(fgmm_model *model, double log_likelihood, double seconds);
/* Free parameters (for bic and aic): as scikit-learn counts them. */
double fgmm__model_parameters(const fgmm_model *model);

/* [k][dim] means rounded to floats, as indexes hold them; malloc'd into *out. */
fgmm_status fgmm__model_centroids(const fgmm_model *model, float **out);

/* model_file.c: the model's groups and attributes inside an open HDF5 file or group (hid_t as int64_t),
 * shared by model files, checkpoints and indexes. `name` is the file's, for messages. */
fgmm_status fgmm__model_put(const fgmm_model *model, int64_t group);
fgmm_status fgmm__model_get(int64_t group, const char *name, fgmm_model **out);

#endif
