/* The k nearest of many queries, gathered in any order: one bounded heap a query, the farthest on top. Nearer
 * means a smaller distance, ties to the smaller id, so the outcome does not depend on the order of pushes.
 * Local. */
#ifndef FGMM_IVF_TOP_H
#define FGMM_IVF_TOP_H

#include <stdbool.h>
#include <stdint.h>
#include "backend/backend.h"
#include "base/status.h"

typedef struct {
    int64_t n; /* queries */
    int32_t k;
    bool repeats;        /* the same id may be pushed twice and counts once */
    int32_t *count;      /* [n] */
    fgmm_neighbor *heap; /* [n][k] */
} fgmm_top;

fgmm_status fgmm__top_create(int64_t n, int32_t k, bool repeats, fgmm_top **out);
void fgmm__top_destroy(fgmm_top *top); /* accepts NULL */

void fgmm__top_push(fgmm_top *top, int64_t query, double distance, int64_t id);
/* What a distance must not exceed to be kept: that of the k-th, infinity while there are fewer. */
double fgmm__top_bound(const fgmm_top *top, int64_t query);
/* Sorts every query's neighbours, nearest first. Afterwards nothing may be pushed. */
void fgmm__top_sort(fgmm_top *top);
/* The sorted neighbours of queries [0, n) as [n][k] arrays, -1 and infinity where fewer; distances may be
 * NULL. */
void fgmm__top_read(const fgmm_top *top, int64_t *ids, float *distances);

#endif
