/* The arithmetic of judging: a curve of recall against cost from what each query found and paid, the cost at
 * a recall, and both over resampled queries. Local; nothing here knows of indexes. */
#ifndef FGMM_EVAL_CURVE_H
#define FGMM_EVAL_CURVE_H

#include <stdint.h>
#include "base/status.h"

enum { FGMM_EVAL_KS = 3, FGMM_EVAL_TARGETS = 5, FGMM_EVAL_JUDGED = 1 /* of fgmm__eval_ks: recall@10 */ };
extern const int32_t fgmm__eval_ks[FGMM_EVAL_KS];          /* 1, 10, 100 neighbours a query */
extern const double fgmm__eval_targets[FGMM_EVAL_TARGETS]; /* of recall@10, ascending */

/* One query at one setting (a number of lists, or a threshold of the stop rule). */
typedef struct {
    int32_t hits[FGMM_EVAL_KS]; /* of the first 1, 10, 100 true neighbours */
    int32_t lists;
    int64_t scanned, distinct; /* vectors met; rows met */
    int64_t work; /* numbers read of rows, sketches and their directions: dim a distance, m + 1 a sketch */
    int64_t centroids; /* ... of centroids and of sketches of theirs */
} fgmm_eval_cell;

/* All queries at all settings, from the cheapest to the dearest. Hits and costs of a query do not fall from
 * one setting to the next. */
typedef struct {
    int64_t queries;
    int32_t settings;
    int32_t dim;                  /* of a row: numbers a distance takes */
    int32_t wanted[FGMM_EVAL_KS]; /* true neighbours that a query has; 0: not known that far */
    fgmm_eval_cell *cells;        /* [queries][settings] */
} fgmm_eval_table;

/* Means over queries at one setting. */
typedef struct {
    double recall[FGMM_EVAL_KS]; /* NaN where it is not known */
    double lists, scanned, distinct;
    double computed;  /* distances: work / dim */
    double centroids; /* distances to them, likewise */
} fgmm_eval_point;

fgmm_status fgmm__table_create(int64_t queries, int32_t settings, int32_t dim, const int32_t *wanted,
                               fgmm_eval_table *out);
void fgmm__table_free(fgmm_eval_table *table); /* of a zeroed or a created one */
/* Appends the queries of another table of the same settings. */
fgmm_status fgmm__table_append(fgmm_eval_table *table, const fgmm_eval_table *further);
/* points: [settings] */
void fgmm__table_means(const fgmm_eval_table *table, fgmm_eval_point *points);

/* Where a curve reaches a recall: between settings `at` - 1 and `at`, the share `share` of the way; at = 0:
 * already at the cheapest setting. at = -1: nowhere. */
typedef struct {
    int32_t at;
    double share;
} fgmm_eval_place;
/* recall: [n], not falling. */
fgmm_eval_place fgmm__curve_find(const double *recall, int32_t n, double target);
/* What was paid there, linear between settings; NaN where the recall is not reached. cost: [n] */
double fgmm__curve_cost(const double *cost, fgmm_eval_place place);

/* Distances a query, to rows and centroids, at each target of recall@10, over `resamples` drawings of as many
 * queries as there are, with replacement. out: [resamples][FGMM_EVAL_TARGETS], NaN where a drawing does not
 * reach the target. Drawing r of n queries is a function of (seed, r, n) alone, so that two curves over the
 * same queries are drawn alike and their ratios are paired. */
fgmm_status fgmm__table_resample(const fgmm_eval_table *table, uint64_t seed, int32_t resamples, int threads,
                                 double *out);
/* How often each of n queries is drawn; counts: [n] */
void fgmm__draw(uint64_t seed, int32_t drawing, int64_t n, int32_t *counts);

/* The middle 95 % of n values, which are sorted in place; both NaN when one is NaN or there is none. */
void fgmm__interval(double *values, int32_t n, double *low, double *high);

#endif
