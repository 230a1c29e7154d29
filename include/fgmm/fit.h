/* Fitting a model: expectation-maximisation (or Lloyd's k-means) over the shards of all ranks. */
#ifndef FGMM_FIT_H
#define FGMM_FIT_H

#include "fgmm/comm.h"
#include "fgmm/dataset.h"
#include "fgmm/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    FGMM_INIT_KMEANSPP,
    FGMM_INIT_KMEANS,
    FGMM_INIT_RANDOM,
    FGMM_INIT_MODEL,
    FGMM_INIT_PARALLEL /* k-means|| */
} fgmm_init;

typedef struct {
    fgmm_algorithm algorithm;
    fgmm_covariance covariance;
    int32_t k;
    int64_t max_iter;
    double tol; /* nats a row; k-means: share of the mean squared distance; 0 never stops */
    double reg_covar;
    fgmm_init init;
    const char *init_model; /* path for FGMM_INIT_MODEL */
    uint64_t seed;
    int32_t n_init;      /* fits with the seeds seed, seed + 1, ...: the one of the largest log-likelihood
                            (k-means: the least mean squared distance) is kept, the first of equal ones; 1 */
    const char *weights; /* a file of a weight a row (data/weights.h), taken relative to their mean; NULL:
                            each row counts as one. On the CPU alone */
    /* where it runs */
    fgmm_backend_kind backend;
    int threads; /* 0: size of the affinity mask */
    fgmm_residency residency;
    int64_t device_memory_bytes, host_memory_bytes; /* caps a rank, 0: automatic */
    int64_t tile_rows;                              /* 0: by size */
    /* checkpoints; NULL path: none */
    const char *checkpoint;
    double checkpoint_seconds;
    int resume;
} fgmm_fit_options;

void fgmm_fit_defaults(fgmm_fit_options *options); /* the command line's defaults; k stays 0 */

/* Collective: every rank passes the same dataset and options; the model (the same on all ranks) is the
 * caller's. FGMM_STOPPED: a checkpoint was written. */
fgmm_status fgmm_fit(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_fit_options *options,
                     fgmm_model **out);

#ifdef __cplusplus
}
#endif
#endif
