/* Copies of rows where the rows that need them look. y needs x when x is among the rows near y (ivf/graph.h);
 * a list serves y by its place r in the order in which y's nearest lists are probed: 32 - r, from 32 for the
 * first (r = 0) down to 1, and nothing from the 32nd on. y is served by the best of the lists that x is in.
 * What a further list of x gains is by how much it serves those that need x better, summed over them: a whole
 * number. A row takes lists in the order of their gains, given those it has (ties to the smaller number).
 *
 * The key of a copy is 1/(gain + u), with 0 <= u < 1 the fraction of the row's number times the golden ratio:
 * of the many copies of equal gain, a replication keeps those of rows spread evenly over the data. */
#ifndef FGMM_IVF_NEED_H
#define FGMM_IVF_NEED_H

#include "ivf/graph.h"
#include "ivf/labels.h"
#include "ivf/workplace.h"

/* Chooses the lists of a row that `n` rows need. lists: [most], lists[0] is its first; gains: [most], from 1
 * on. needers: [n][1 + kept], of each the first element is scratch, the others its nearest lists in order.
 * work: [k], zero before and after. Returns how many lists; at least one, at most `most`. Local. */
int32_t fgmm__need_choose(int32_t *needers, int64_t n, int32_t kept, int32_t most, int64_t *work,
                          int32_t *lists, int64_t *gains);
double fgmm__need_key(int64_t row, int64_t gain);

/* Collective. Appends the lists of the shard's rows, at most `most` each, and their keys. first: [rows of the
 * shard] their first lists; k: lists in all. The rows' needs come in windows of at most window_bytes a rank
 * (0: chosen; a single row's may be larger). Memory beside it: 4 bytes a row. */
fgmm_status fgmm__need_assign(fgmm_workplace *place, const fgmm_graph *graph, const int32_t *first, int32_t k,
                              int32_t most, int64_t window_bytes, fgmm_labels *labels);

#endif
