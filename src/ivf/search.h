/* Searching an index with several settings, the backend opened once. */
#ifndef FGMM_IVF_SEARCH_H
#define FGMM_IVF_SEARCH_H

#include "ivf/index.h"
#include "ivf/ivf.h"

typedef struct fgmm_searcher fgmm_searcher;

/* Collective. The index stays the caller's. started: may be NULL; the rows it tells are none. */
fgmm_status fgmm__searcher_create(fgmm_comm *comm, const fgmm_index *index, fgmm_backend_kind backend,
                                  int threads, fgmm_started *started, fgmm_searcher **out);
void fgmm__searcher_destroy(fgmm_searcher *searcher); /* accepts NULL */

/* In which order the lists of a query are probed: by the distance to the centroid, or by the log-density that
 * the index's mixture gives the query (for a k-means model the same). */
typedef enum { FGMM_PROBE_CENTROID, FGMM_PROBE_POSTERIOR } fgmm_probe_order;
/* Collective. Of the searches that follow; by centroid until then. */
fgmm_status fgmm__searcher_probe_by(fgmm_searcher *searcher, fgmm_probe_order order);

/* Local. Whether rows are passed over by the index's sketches (ivf/skim.h), in the searches that follow:
 * until then, wherever it has any. */
void fgmm__searcher_skip(fgmm_searcher *searcher, bool skip);

/* Collective. The lists of the searches that follow are found by sketches of the centroids of m coordinates
 * (ivf/coarse.h), on the host; 0, as until then: by all distances. Probing by a mixture's posterior computes
 * them all whatever this says. FGMM_ERR_INPUT: m is above the dimension, or the index is for inner products.
 */
fgmm_status fgmm__searcher_centroid_sketch(fgmm_searcher *searcher, int32_t m);
/* Queries of a rank searched at once, so that all that is kept of them fits in memory. */
int64_t fgmm__searcher_batch(const fgmm_searcher *searcher, int32_t k, int32_t nprobe);

/* Local. A cap on the GPU memory that lists take (0: what is free), for the first search and after. */
void fgmm__searcher_device_memory(fgmm_searcher *searcher, int64_t bytes);

/* Collective. As fgmm_search. */
fgmm_status fgmm__searcher_run(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                               int32_t nprobe, int64_t *ids, float *distances, fgmm_search_report *report);

/* Share of the true k neighbours that were found: mean over queries. found: [n][k]; truth: [n][truth_k], its
 * first k count (entries of -1 do not). */
double fgmm__recall(const int64_t *found, int32_t k, const int64_t *truth, int32_t truth_k, int64_t n);

#endif
