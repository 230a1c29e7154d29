/* What queries meet in an index, list by list, so that any number of lists and any threshold of the stop rule
 * can be judged afterwards without searching again. */
#ifndef FGMM_EVAL_TRACE_H
#define FGMM_EVAL_TRACE_H

#include "eval/curve.h"
#include "ivf/adaptive.h"

/* Queries to judge or to learn by, with their exact neighbours; the same on all ranks. */
typedef struct {
    int64_t n;
    const float *rows;    /* [n][dim] */
    const int64_t *truth; /* [n][truth_k] row numbers, nearest first */
    int32_t truth_k;
} fgmm_eval_queries;

/* Of this rank's queries [n r/R, n (r+1)/R) of the whole. */
typedef struct {
    int64_t n;
    int32_t lists;          /* probed in all */
    int32_t dim, centroids; /* of the index */
    int32_t truth_k;        /* neighbours looked for */
    int64_t *scanned;       /* [n][lists] postings in the first 1, 2, ... lists */
    int64_t *distinct;      /* [n][lists] different rows among them */
    int32_t *found_at; /* [n][truth_k] lists after which the neighbour was met; INT32_MAX: not in these */
    int64_t *numbers;  /* [n][lists] read to find the first 1, 2, ... lists by sketches of the centroids */
    fgmm_skim_cost *costs; /* [n][lists] of the index's sketches; NULL where it has none */
    float *x;              /* [n][lists-1][FGMM_STOP_FEATURES] as fgmm__stop_trace; NULL where lists is 1 */
    int32_t *to_come;      /* [n][lists-1] */
} fgmm_eval_trace;

/* Collective. k: neighbours that the stop rule counts. */
fgmm_status fgmm__trace(fgmm_searcher *searcher, const fgmm_eval_queries *queries, int32_t lists, int32_t k,
                        fgmm_eval_trace *out);
void fgmm__trace_free(fgmm_eval_trace *trace); /* of a zeroed one, too */

/* How an index is searched. */
typedef struct {
    fgmm_probe_order order;
    int32_t sketch;          /* coordinates of the rows' sketches; 0: as if there were none */
    int32_t centroid_sketch; /* of the centroids' (the searcher's when it was traced); 0 likewise */
} fgmm_eval_way;

/* Collective: the whole table, on every rank, at fixed numbers of lists, ascending. */
fgmm_status fgmm__trace_fixed(fgmm_comm *comm, const fgmm_eval_trace *trace, const fgmm_eval_queries *queries,
                              const int32_t *nprobe, int32_t settings, const fgmm_eval_way *way,
                              fgmm_eval_table *out);
/* ... and under the stop rule at thresholds, descending. */
fgmm_status fgmm__trace_learnt(fgmm_comm *comm, const fgmm_eval_trace *trace,
                               const fgmm_eval_queries *queries, const fgmm_stop_rule *rule,
                               const double *thresholds, int32_t settings, const fgmm_eval_way *way,
                               fgmm_eval_table *out);

#endif
