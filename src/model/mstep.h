/* The M-step: new weights, means and covariances from reduced statistics. A deterministic function, done
 * alike on every rank. */
#ifndef FGMM_MODEL_MSTEP_H
#define FGMM_MODEL_MSTEP_H

#include "model/stats.h"

/* Components that hold fewer rows than this (sum of responsibilities) are starved. */
#define FGMM_STARVED_ROWS 1e-3

/* model: updated in place; its means are those of `components`, about which the moments were taken. rows: of
 * the whole dataset. scatter: [dim][dim] for tied covariances, else NULL. starved: [k] flags. A starved
 * component keeps its old parameters (its weight is 0). Local. */
fgmm_status fgmm__mstep(fgmm_model *model, const fgmm_components *components, const fgmm_stats *stats,
                        const fgmm_grid *grid, int64_t rows, const double *scatter, double reg_covar,
                        bool *starved);

#endif
