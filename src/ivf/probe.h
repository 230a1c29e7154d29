/* What the ways of searching share: the lists of a batch of queries in probing order, and scanning a list for
 * all the queries that visit it. Local but for fgmm__comm_tick. */
#ifndef FGMM_IVF_PROBE_H
#define FGMM_IVF_PROBE_H

#include "ivf/coarse.h"
#include "ivf/distinct.h"
#include "ivf/posterior.h"
#include "ivf/scan.h"
#include "ivf/search.h"
#include "ivf/skim.h"
#include "ivf/top.h"
#include "ivf/workplace.h"

typedef struct fgmm_list_feed fgmm_list_feed;

struct fgmm_searcher {
    fgmm_comm *comm;
    const fgmm_index *index;
    fgmm_workplace place;
    fgmm_scan *scan;
    fgmm_lists *lists;
    fgmm_distinct *distinct; /* NULL where rows are in one list */
    fgmm_probe_order probe_by;
    fgmm_posterior *posterior; /* NULL: lists are probed by their centroids */
    fgmm_coarse *coarse;       /* which finds the nearest centroids; NULL: the backend, by all distances */
    bool skip;                 /* rows that the index's sketches rule out */
    /* Where the backend searches lists itself (device_search.h), from the first such search on. */
    fgmm_backend_lists *device_lists;
    fgmm_list_feed *feed;
    int64_t device_memory_bytes; /* cap on what they take; 0: none */
};

/* One batch of this rank's queries. */
typedef struct {
    const float *queries; /* [n][dim] */
    int64_t n;
    int32_t nprobe;
    int64_t *probes;   /* [n][nprobe] lists in probing order; where `near` finds them, those found so far */
    int64_t *begin;    /* [lists+1] where the queries of each list begin in `visitors` */
    int32_t *visitors; /* [n*nprobe] queries, list by list */
    fgmm_skim *skim;   /* what scans them; NULL: the backend, all rows */
    double *distances; /* [n][nprobe] squared, to the lists' centroids; NULL until measured */
    /* What finds the lists, one after the other; NULL: all are known. */
    fgmm_near_lists *near;
    int32_t *found; /* [n] by it, of each query */
} fgmm_probes;

/* Queries searched at once, so that neighbours and probes fit in memory. */
int64_t fgmm__batch_size(int32_t k, int32_t nprobe);

/* Hands the queries to the backend and chooses their lists; nprobe at most the number of lists. Where a
 * coarse order finds them, no list is found yet. skip: scans that go into one and the same top pass over rows
 * by the index's sketches. What it allocated is freed by fgmm__probes_free, after a failure too. */
fgmm_status fgmm__probes_choose(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t nprobe,
                                bool skip, fgmm_probes *probes);
void fgmm__probes_free(fgmm_probes *probes);
/* Finds the lists of some of the queries (some NULL: all) up to the first `count`, where a coarse order does.
 */
void fgmm__probes_find(const fgmm_searcher *searcher, fgmm_probes *probes, const int32_t *some,
                       int64_t n_some, int32_t count);
/* The distances to all centroids probed; where a coarse order finds the lists, it measures them as it does.
 */
fgmm_status fgmm__probes_measure(const fgmm_searcher *searcher, fgmm_probes *probes);
/* Numbers read of centroids and their sketches for query q so far; dim of them are a distance. */
int64_t fgmm__probes_numbers(const fgmm_searcher *searcher, const fgmm_probes *probes, int64_t q);
/* Groups by list the probes [from, to) of some of the queries (some NULL: all). */
void fgmm__probes_group(fgmm_probes *probes, int32_t lists, const int32_t *some, int64_t n_some, int32_t from,
                        int32_t to);
/* Scans every list that was grouped for its visitors. */
fgmm_status fgmm__probes_scan(fgmm_searcher *searcher, const fgmm_probes *probes, fgmm_top *top);

/* What a search did, summed over queries. */
typedef struct {
    int64_t lists, scanned, distinct, full, sketches;
    int64_t numbers; /* of centroids and their sketches, dim a distance */
    double seconds;  /* counting apart: a search that is not measured would not do it */
} fgmm_tally;

/* Adds the postings in the first `count` lists of query q, the different rows among them, and what of them
 * was computed: all different rows, or what skimming left. */
fgmm_status fgmm__probes_count(fgmm_searcher *searcher, const fgmm_probes *probes, int64_t q, int32_t count,
                               fgmm_tally *tally);

#endif
