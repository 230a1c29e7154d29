/* Expectation-maximisation over the shards of all ranks; Lloyd's k-means is its hard case. */
#ifndef FGMM_EM_EM_H
#define FGMM_EM_EM_H

#include "backend/backend.h"
#include "data/shard.h"
#include "model/mstep.h"

typedef struct fgmm_em fgmm_em;
struct fgmm_em {
    fgmm_comm *comm;
    fgmm_backend *backend;
    const fgmm_dataset *dataset;
    fgmm_shard *shard;       /* loaded */
    const double *min, *max; /* [dim] range of all rows */
    int64_t max_iter;
    double tol, reg_covar;
    const char *name; /* of the phase, for progress: "k-means start", "iteration" */
    /* Called by every rank after each complete iteration (stopped = false) and once when a stop was asked for
     * (true), with the last complete parameters (NULL: there are none yet). Its status counts at the next
     * agreement. May be NULL. */
    fgmm_status (*save)(void *context, const fgmm_model *model, bool stopped);
    void *context;
};

/* Collective. Runs iterations from model->n_iter on until convergence or max_iter, then judges the final
 * parameters by one last E-step (log-likelihood; k-means: also weights and covariances of the final
 * centroids). model: start parameters, updated in place, history appended. FGMM_STOPPED after save(...,
 * true). */
fgmm_status fgmm__em_run(fgmm_em *em, fgmm_model *model);

/* Collective. Parameters from means alone: one hard assignment of all rows to the nearest mean, then an
 * M-step. Stop as above. */
fgmm_status fgmm__em_from_means(fgmm_em *em, fgmm_model *model);

/* ---- parts, one file each ---- */

/* pass.c. Collective: one E-step over all rows; *grid and *stats are created for it. want_sums false: the
 * log-likelihood alone. */
fgmm_status fgmm__em_pass(fgmm_em *em, const fgmm_components *components, fgmm_moment moment, bool want_sums,
                          const char *label, fgmm_grid **grid, fgmm_stats **stats);
/* pass.c. Collective: sum of (x-origin)(x-origin)' over all rows, [dim][dim], malloc'd into *out. */
fgmm_status fgmm__em_scatter(fgmm_em *em, const fgmm_model *model, double **out);

/* repair.c. Collective: re-seeds the flagged components from the rows that `components` explain worst (by
 * log-density, then row number), names them in a warning, and renormalises the weights. */
fgmm_status fgmm__em_repair(fgmm_em *em, const fgmm_components *components, const bool *flagged,
                            fgmm_model *model);

#endif
