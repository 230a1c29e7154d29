/* Lists in the order of the model's own view of a query: its components by their log-density there. Local. */
#ifndef FGMM_IVF_POSTERIOR_H
#define FGMM_IVF_POSTERIOR_H

#include "ivf/index.h"

typedef struct fgmm_posterior fgmm_posterior;

/* From the model that lies in the index. *out stays NULL for a k-means model: its order is that of the
 * centroids. */
fgmm_status fgmm__posterior_create(const fgmm_index *index, int threads, fgmm_posterior **out);
void fgmm__posterior_destroy(fgmm_posterior *posterior); /* accepts NULL */
/* The `nprobe` most likely components of each query, most likely first, ties to the smaller number; in
 * float64, one query as another, whatever their number. queries [n][dim], lists [n][nprobe]. */
fgmm_status fgmm__posterior_order(const fgmm_posterior *posterior, const float *queries, int64_t n,
                                  int32_t nprobe, int64_t *lists);

#endif
