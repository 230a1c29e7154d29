/* Searching in rounds: every query that goes on probes its next list, so that it can stop after any of them.
 */
#ifndef FGMM_IVF_ADAPTIVE_H
#define FGMM_IVF_ADAPTIVE_H

#include "ivf/probe.h"
#include "ivf/stop.h"

/* Searches one batch of this rank's queries until each falls under the threshold. */
fgmm_status fgmm__adaptive_search(fgmm_searcher *searcher, const fgmm_stop_rule *rule, double threshold,
                                  const float *queries, int64_t n, int64_t *ids, float *distances,
                                  fgmm_tally *tally);
/* What one batch of queries meets list by list: x and to_come as fgmm__stop_fit takes them. */
fgmm_status fgmm__adaptive_trace(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                                 int32_t max_probes, float *x, int32_t *to_come);

/* What sketches leave of it: costs [n][max_probes] after 1, 2, ... max_probes lists of a search for k rows.
 * The index has sketches. */
fgmm_status fgmm__adaptive_costs(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                                 int32_t max_probes, fgmm_skim_cost *costs);

#endif
