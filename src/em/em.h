/* Expectation-maximisation over the shards of all ranks; Lloyd's k-means is its hard case. */
#ifndef FGMM_EM_EM_H
#define FGMM_EM_EM_H

#include "backend/backend.h"
#include "data/shard.h"
#include "data/weights.h"
#include "model/mstep.h"

typedef struct fgmm_em fgmm_em;
struct fgmm_em {
    fgmm_comm *comm;
    fgmm_backend *backend;
    const fgmm_dataset *dataset;
    fgmm_shard *shard;           /* loaded */
    const fgmm_weights *weights; /* of rows, loaded; NULL: each counts as one */
    const double *min, *max;     /* [dim] range of all rows */
    int64_t max_iter;
    double tol, reg_covar;
    const char *name; /* of the phase, for progress: "k-means start", "iteration" */
    /* Called with the last complete parameters after iterations at which this rank finds save_is_due (stopped
     * = false), and by every rank once when a stop was asked for (true; NULL: there are none yet). Its status
     * counts at the next agreement. May be NULL. */
    fgmm_status (*save)(void *context, const fgmm_model *model, bool stopped);
    bool (*save_is_due)(void *context);
    void *context;
    /* Of fgmm__em_run: the parameters live with the backend, and those of the model are behind them. */
    bool loaded, behind;
};

/* What an iteration found. */
typedef struct {
    double mean_log; /* of the parameters that entered it: a row, in nats; hard: minus the mean squared
                        distance */
    int64_t rows, pairs;
    bool repaired; /* a component was re-seeded */
} fgmm_em_found;

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
/* pass.c. Collective: the rows of an E-step that was begun with status `begun`. */
fgmm_status fgmm__em_walk(fgmm_em *em, const char *label, fgmm_status begun);
/* pass.c. Collective: sum of (x-origin)(x-origin)' over all rows, [dim][dim], malloc'd into *out. */
fgmm_status fgmm__em_scatter(fgmm_em *em, const fgmm_model *model, double **out);

/* em.c. Mean of a sum of log2-densities over rows, in nats; hard: minus the mean squared distance. */
double fgmm__em_mean_log(double sum, int64_t rows, bool hard);
/* em.c. Collective: the M-step on the host, a look at the new covariances, and the repair of components that
 * starved or are not positive definite. The model is changed when all of it is done, and not before. */
fgmm_status fgmm__em_maximise(fgmm_em *em, fgmm_model *model, const fgmm_components *components,
                              const fgmm_stats *stats, const fgmm_grid *grid, const double *scatter,
                              bool *repaired);

/* resident.c. An iteration whose parameters stay with the backend, where that serves the model. */
bool fgmm__em_resident_serves(const fgmm_em *em, const fgmm_model *model);
/* Collective. */
fgmm_status fgmm__em_resident_iterate(fgmm_em *em, fgmm_model *model, const char *label,
                                      fgmm_em_found *found);
/* Local: brings the model's parameters up to date. */
fgmm_status fgmm__em_resident_fetch(fgmm_em *em, fgmm_model *model);

/* repair.c. Collective: re-seeds the flagged components from the rows that `components` explain worst (by
 * log-density, then row number), names them in a warning, and renormalises the weights. */
fgmm_status fgmm__em_repair(fgmm_em *em, const fgmm_components *components, const bool *flagged,
                            fgmm_model *model);

#endif
