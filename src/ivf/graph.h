/* Which rows are near to each row: the n nearest others among the rows of its nearest lists, and these lists
 * in the order in which a search probes them. Found by searching hard lists with their own rows. */
#ifndef FGMM_IVF_GRAPH_H
#define FGMM_IVF_GRAPH_H

#include "ivf/ivf.h"

enum {
    FGMM_GRAPH_SEARCHED = 24, /* nearest lists whose rows are looked at */
    FGMM_GRAPH_KEPT = 32      /* nearest lists that are remembered */
};

/* This rank's share: an equal part of the rows in the order of their lists, not those of its shard. */
typedef struct {
    int64_t rows;
    int32_t n, kept; /* kept: FGMM_GRAPH_KEPT, or K where there are fewer lists */
    int64_t
        *nearest;   /* [rows][n] row numbers, nearest first, ties to the smaller; -1 where there are fewer */
    int32_t *lists; /* [rows][kept] by the distance to the centroid, ties to the smaller number */
} fgmm_graph;

/* Collective. Builds hard lists with vectors in a file beside `path` that has no name any more once all ranks
 * have opened it, and searches them. options: the resources, and the bounds of build; n nearest rows:
 * options->neighbors. Memory: 8 n + 128 bytes a row, shared by the ranks; FGMM_ERR_INPUT where that is above
 * the cap of host memory. */
fgmm_status fgmm__graph_create(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_model *model,
                               const char *path, const fgmm_build_options *options, fgmm_graph **out);
void fgmm__graph_destroy(fgmm_graph *graph); /* accepts NULL */

#endif
