/* A whole fit: open what computes, load the shard, make or resume a start, run EM with checkpoints. */
#include "fit/fit.h"

#include "base/log.h"
#include "base/stop.h"
#include "checkpoint/checkpoint.h"
#include "data/dataset.h"
#include "em/em.h"
#include "init/init.h"
#include "model/covariance.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

/* The k-means that makes a start is brief: it need not settle. */
enum { START_KMEANS_ITERATIONS = 25 };
static const double start_kmeans_tol = 1e-3;

typedef struct {
    const fgmm_dataset *dataset;
    const fgmm_fit_options *options;
    fgmm_comm *comm;
    fgmm_device *device;
    fgmm_backend *backend;
    fgmm_shard *shard;
    double *min, *max, *origin; /* [dim] */
    fgmm_phase phase;
    fgmm_checkpoint resumed; /* phase START and no model where nothing is resumed */
    uint64_t options_hash;
    double last_saved_seconds;
} fit;

void fgmm_fit_defaults(fgmm_fit_options *options)
{
    *options = (fgmm_fit_options){
        .algorithm = FGMM_GMM,
        .covariance = FGMM_SPHERICAL,
        .max_iter = 100,
        .tol = 1e-3,
        .reg_covar = 1e-6,
        .init = FGMM_INIT_KMEANSPP,
        .checkpoint_seconds = 60,
    };
}

/* Options that decide the path of the fit; --tol and --max-iter only say where it ends. */
static uint64_t hash_options(const fgmm_fit_options *o, uint64_t init_model_hash)
{
    struct {
        uint64_t words[8];
    } key = {{(uint64_t)o->algorithm, (uint64_t)o->covariance, (uint64_t)o->k, (uint64_t)o->init, o->seed, init_model_hash}};
    memcpy(&key.words[6], &o->reg_covar, sizeof(double));
    return XXH3_64bits(&key, sizeof key);
}

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
