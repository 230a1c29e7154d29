/* Rows drawn from a model: a row depends on the model, its number and the seed alone. Local. */
#ifndef FGMM_MODEL_DRAW_H
#define FGMM_MODEL_DRAW_H

#include "base/status.h"
#include "fgmm/model.h"

typedef struct fgmm_draw fgmm_draw;

/* The model stays the caller's. FGMM_ERR_INPUT where a covariance has no root. A k-means model is taken as
 * what its file says: spherical components of the clusters' shares and mean squared distances. */
fgmm_status fgmm__draw_create(const fgmm_model *model, uint64_t seed, fgmm_draw **out);
void fgmm__draw_destroy(fgmm_draw *draw); /* accepts NULL */
/* The component that row `row` is drawn from. */
int32_t fgmm__draw_component(const fgmm_draw *draw, int64_t row);
/* Row `row` into out [dim]; room: [dim]. Thread-safe. */
void fgmm__draw_row(const fgmm_draw *draw, int64_t row, double *room, float *out);

#endif
