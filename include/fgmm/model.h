/* A mixture (or k-means) model: parameters in float64 on the host, and what is known of how it was fitted. */
#ifndef FGMM_MODEL_H
#define FGMM_MODEL_H

#include "fgmm/status.h"
#include "fgmm/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fgmm_model fgmm_model;

/* Local. Reads a model file (HDF5; one written by fgmm, whose hash is checked before HDF5 opens it, or any
 * file with the attributes format, version, algorithm, covariance_type and the datasets weights, means,
 * covariances). FGMM_ERR_INPUT names file and fault. */
fgmm_status fgmm_model_read(const char *path, fgmm_model **out);
/* Local (call on one rank). Written beside `path`, fsynced, renamed. */
fgmm_status fgmm_model_write(const fgmm_model *model, const char *path);
void fgmm_model_destroy(fgmm_model *model); /* accepts NULL */

fgmm_algorithm fgmm_model_algorithm(const fgmm_model *model);
fgmm_covariance fgmm_model_covariance(const fgmm_model *model);
fgmm_metric fgmm_model_metric(const fgmm_model *model);
int32_t fgmm_model_k(const fgmm_model *model);
int32_t fgmm_model_dim(const fgmm_model *model);
const double *fgmm_model_weights(const fgmm_model *model); /* [k] */
const double *fgmm_model_means(const fgmm_model *model);   /* [k][dim] */
const double *
fgmm_model_covariances(const fgmm_model *model); /* [k], [k][dim], [dim][dim] or [k][dim][dim] */
double
fgmm_model_log_likelihood(const fgmm_model *model); /* mean a row in nats; k-means: minus the inertia a row */

#ifdef __cplusplus
}
#endif
#endif
