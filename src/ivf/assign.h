/* A pass that assigns the rows of this rank's shard to components, tile by tile. */
#ifndef FGMM_IVF_ASSIGN_H
#define FGMM_IVF_ASSIGN_H

#include "ivf/labels.h"
#include "ivf/workplace.h"

typedef struct {
    fgmm_workplace *place;
    fgmm_backend *backend;
    const fgmm_labels *known; /* rows in its blocks are left out; NULL: none */
    fgmm_components *components;
    int32_t top;
    int64_t capacity;        /* rows the arrays hold */
    fgmm_tile whole;         /* the shard's tile of which `tile` is a slice, so that the arrays stay small */
    fgmm_tile tile;          /* the rows the arrays are about; rows 0: the pass is over */
    int32_t *labels;         /* [rows][top], most likely first, -1 where there are fewer components */
    float *responsibilities; /* [rows][top] */
    double *log_density;     /* [rows] base 2; hard components: minus the squared distance */
    void *copy;              /* of the tile's rows, where they lie on the device */
} fgmm_assigner;

/* Local. Starts the pass with the model's components; nearest, and a k-means model: with its means alone. */
fgmm_status fgmm__assigner_create(fgmm_workplace *place, const fgmm_model *model, bool nearest, int32_t top,
                                  fgmm_assigner **out);
/* Local. Assigns the tiles of another one's pass, on the place's second backend. */
fgmm_status fgmm__assigner_create_second(fgmm_workplace *place, const fgmm_model *model, bool nearest,
                                         int32_t top, fgmm_assigner **out);
/* Local, before the first tile: rows that are in blocks of `known` are left out; so are their tiles' bounds.
 */
fgmm_status fgmm__assigner_leave_out(fgmm_assigner *assigner, const fgmm_labels *known);
void fgmm__assigner_destroy(fgmm_assigner *assigner); /* accepts NULL */
/* Local. The next slice of a tile and its labels. FGMM_STOPPED on request. */
fgmm_status fgmm__assigner_next(fgmm_assigner *assigner);
/* Local. The labels of the rows that `first` has just assigned. */
fgmm_status fgmm__assigner_follow(fgmm_assigner *second, const fgmm_assigner *first);
/* Local. The rows of the tile in host memory ([rows][dim] of the data's type), valid until the next tile. */
fgmm_status fgmm__assigner_host_rows(fgmm_assigner *assigner, const void **rows);
/* How many of the first labels of row i count under the threshold: at least one. */
int32_t fgmm__assigner_kept(const fgmm_assigner *assigner, int64_t i, double tau);

/* Local: refuses lists for one metric from a model of another: ip takes a model of l2. */
fgmm_status fgmm__check_metric(fgmm_metric fitted, fgmm_metric wanted);
/* Local: refuses a model that does not fit the data (dimension, metric) or cannot be used for lists. */
fgmm_status fgmm__check_model(const fgmm_dataset *dataset, const fgmm_model *model);

#endif
