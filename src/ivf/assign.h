/* A pass that assigns the rows of this rank's shard to components, tile by tile. */
#ifndef FGMM_IVF_ASSIGN_H
#define FGMM_IVF_ASSIGN_H

#include "ivf/workplace.h"

typedef struct {
    fgmm_workplace *place;
    fgmm_components *components;
    int32_t top;
    int64_t capacity;        /* rows the arrays hold */
    fgmm_tile tile;          /* the rows the arrays are about; rows 0: the pass is over */
    int32_t *labels;         /* [rows][top], most likely first, -1 where there are fewer components */
    float *responsibilities; /* [rows][top] */
    double *log_density;     /* [rows] base 2; hard components: minus the squared distance */
} fgmm_assigner;

/* Local. Starts the pass with the model's components (a k-means model: the nearest mean). */
fgmm_status fgmm__assigner_create(fgmm_workplace *place, const fgmm_model *model, int32_t top,
                                  fgmm_assigner **out);
void fgmm__assigner_destroy(fgmm_assigner *assigner); /* accepts NULL */
/* Local. The next tile and its labels. FGMM_STOPPED on request. */
fgmm_status fgmm__assigner_next(fgmm_assigner *assigner);
/* How many of the first labels of row i count under the threshold: at least one. */
int32_t fgmm__assigner_kept(const fgmm_assigner *assigner, int64_t i, double tau);

/* Local: refuses a model that does not fit the data (dimension, metric) or cannot be used for lists. */
fgmm_status fgmm__check_model(const fgmm_dataset *dataset, const fgmm_model *model);

#endif
