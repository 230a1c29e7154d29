/* When to stop probing: after p lists, a regression learnt from queries tells how many of the k nearest rows
 * are still to come, and the query stops when that falls under a threshold chosen for the recall wanted. */
#ifndef FGMM_IVF_STOP_H
#define FGMM_IVF_STOP_H

#include <stdbool.h>
#include "ivf/poisson.h"
#include "ivf/search.h"

enum {
    FGMM_STOP_FEATURES = 9,
    FGMM_STOP_TARGETS = 5,
    FGMM_STOP_NEAR = 4 /* lists whose distances are known before the first is probed */
};
extern const double fgmm__stop_targets[FGMM_STOP_TARGETS]; /* of recall, ascending */

typedef struct {
    int32_t k;          /* neighbours a query it was learnt for */
    int32_t max_probes; /* no query probes more lists */
    fgmm_probe_order probe_by;
    int64_t queries; /* learnt from */
    fgmm_poisson to_come;
    double thresholds[FGMM_STOP_TARGETS]; /* of the expected rows to come, for each target */
    double lists[FGMM_STOP_TARGETS];      /* mean lists that the training queries probed under it */
} fgmm_stop_rule;

/* Where a query stands. Distances are squared. */
typedef struct {
    double first, near;   /* to the first list's centroid; mean to the first FGMM_STOP_NEAR lists' */
    int32_t probes;       /* lists probed */
    int64_t rows;         /* postings scanned in them */
    int32_t probes_since; /* since the k nearest changed */
    int64_t rows_since;
    double recent; /* rows that came among the k nearest, halved with every probe */
} fgmm_stop_state;

/* distances: [n_lists] to the centroids of the query's lists in probing order. */
void fgmm__stop_begin(fgmm_stop_state *state, const double *distances, int32_t n_lists);
/* A list of `rows` postings was scanned and brought `inserted` rows among the k nearest. */
void fgmm__stop_advance(fgmm_stop_state *state, int64_t rows, int32_t inserted);
/* next: distance to the centroid of the next list; kth: to the k-th nearest row so far. */
void fgmm__stop_features(const fgmm_stop_state *state, double next, double kth, float *x);

/* The threshold for a recall between the first and the last target, interpolated; FGMM_ERR_INPUT outside. */
fgmm_status fgmm__stop_threshold(const fgmm_stop_rule *rule, double target, double *threshold);

/* Fits a rule (whose k, max_probes, probe_by and queries are set) to what queries met. x:
 * [queries][max_probes-1][features] after 1, 2, ... max_probes-1 lists; to_come: [queries][max_probes-1] rows
 * of the k nearest not yet found, -1 where fewer than k rows were. Local, the same on every rank. */
fgmm_status fgmm__stop_fit(const float *x, const int32_t *to_come, fgmm_stop_rule *rule);

/* Collective. Learns the rule from queries whose nearest rows are searched in their first max_probes lists.
 * queries [n][dim] on every rank. The searcher's probing order is the rule's. */
fgmm_status fgmm__stop_learn(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                             int32_t max_probes, fgmm_stop_rule *rule);

/* Its parts, for those who want what it learns from. Local: refuses what cannot be learnt from or held in
 * memory. */
fgmm_status fgmm__stop_check(const fgmm_index *index, int64_t n, int32_t k, int32_t max_probes);
/* Local. What n queries of this rank meet, x and to_come as in fgmm__stop_fit; max_probes at most the number
 * of lists. */
fgmm_status fgmm__stop_trace(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t k,
                             int32_t max_probes, float *x, int32_t *to_come);
/* Collective. fgmm__stop_fit to all ranks' shares of the rule's queries: rank r of R brings the trace of
 * queries [n r/R, n (r+1)/R). */
fgmm_status fgmm__stop_fit_shares(fgmm_comm *comm, const float *my_x, const int32_t *my_to_come,
                                  fgmm_stop_rule *rule);

/* Collective. As fgmm__searcher_run, with a threshold in place of nprobe; the searcher's probing order must
 * be the rule's. */
fgmm_status fgmm__searcher_run_rule(fgmm_searcher *searcher, const fgmm_stop_rule *rule, double threshold,
                                    const float *queries, int64_t n, int64_t *ids, float *distances,
                                    fgmm_search_report *report);

/* The rule in an index. Writing replaces the one that is there and leaves the vectors where they are; an
 * index whose writer was killed in between is refused as damaged. Local: rank 0 writes. */
fgmm_status fgmm__stop_write(const fgmm_index *index, const fgmm_stop_rule *rule);
/* FGMM_ERR_INPUT with the remedy when the index has none. */
fgmm_status fgmm__stop_read(const fgmm_index *index, fgmm_stop_rule *rule);

#endif
