/* Searching where the backend keeps the lists in its own memory and does all of a batch itself. Local. */
#ifndef FGMM_IVF_DEVICE_SEARCH_H
#define FGMM_IVF_DEVICE_SEARCH_H

#include "ivf/probe.h"

/* Whether the backend searches lists itself, for so many neighbours. */
bool fgmm__device_search_serves(const fgmm_backend *backend, int32_t k);

/* Gives the lists to the backend, unless it has them. They are read through searcher->lists. */
fgmm_status fgmm__device_search_open(fgmm_searcher *searcher);
/* One batch, as fgmm_search; queries are searched and counted. */
fgmm_status fgmm__device_search(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                                int32_t nprobe, int64_t *ids, float *distances, fgmm_tally *tally);
/* One batch of any points: the `kept` nearest lists of each ([n][kept], kept >= nprobe), and the k nearest
 * rows in the first nprobe of those, nearest first (ids [n][k], -1 where there are fewer). */
fgmm_status fgmm__device_search_near(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                                     int32_t nprobe, int32_t kept, int64_t *ids, int32_t *lists);

#endif
