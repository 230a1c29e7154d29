#include "ivf/spill.h"

#include <math.h>
#include <stdlib.h>

/* Backends put centroids in the order of distances that are good to far less than this share. */
#define ORDER_SLACK 0x1p-10

static const double *mean_of(const fgmm_spill *spill, int32_t list)
{
    return spill->means + (size_t)list * (size_t)spill->dim;
}

static double squared_distance(const double *a, const double *b, int32_t dim)
{
    double sum = 0;
    for (int32_t d = 0; d < dim; d++)
        sum += (a[d] - b[d]) * (a[d] - b[d]);
    return sum;
}

/* ---- soar ---- */

typedef struct {
    const double *x, *first; /* the row, the centroid of its first list */
    double first_distance;
    int32_t first_list, list; /* list: the best so far, -1 before */
    double score;
} second_list;

/* Scores a list; returns its squared distance. */
static double try_second(const fgmm_spill *spill, second_list *s, int32_t list)
{
    const double *mean = mean_of(spill, list);
    double distance = 0, product = 0;
    for (int32_t d = 0; d < spill->dim; d++) {
        double residual = s->x[d] - mean[d];
        distance += residual * residual;
        product += residual * (s->x[d] - s->first[d]);
    }
    double score = distance;
    if (s->first_distance > 0)
        score += spill->lambda * (product * product) / s->first_distance;
    if (s->list < 0 || score < s->score || (score == s->score && list < s->list)) {
        s->list = list;
        s->score = score;
    }
    return distance;
}

/* A score is at least the squared distance. So, going from near to far, the best is found as soon as the
 * distance is above the best score: no list further out, and none that the backend did not name, can have as
 * small a score. Where the nearest end before that, all centroids are looked at. */
static fgmm_spilled spill_soar(const fgmm_spill *spill, const double *x, const int32_t *nearest, int32_t top,
                               int32_t *lists, double *keys)
{
    second_list s = {.x = x, .first = mean_of(spill, lists[0]), .first_list = lists[0], .list = -1};
    fgmm_spilled out = {.count = 1, .known = INFINITY};
    s.first_distance = squared_distance(x, s.first, spill->dim);
    bool settled = top >= spill->k;
    for (int32_t i = 0; i < top && i < spill->k; i++) {
        if (nearest[i] == s.first_list)
            continue;
        double distance = try_second(spill, &s, nearest[i]);
        settled = settled || distance * (1 - ORDER_SLACK) > s.score;
        if (distance * (1 - ORDER_SLACK) > s.score)
            break;
    }
    out.looked_all = !settled;
    for (int32_t j = 0; j < spill->k && !settled; j++)
        if (j != s.first_list)
            try_second(spill, &s, j);
    if (s.list < 0) /* there is one list */
        return out;
    lists[1] = s.list;
    keys[1] = s.first_distance > 0 ? s.score / s.first_distance : INFINITY;
    out.count = 2;
    return out;
}

/* ---- closure ---- */

static int by_distance(const void *a, const void *b)
{
    const fgmm_near_list *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->list > y->list) - (x->list < y->list);
}

static bool nearer_to_one_taken(const fgmm_spill *spill, const fgmm_near_list *candidate,
                                const int32_t *lists, int32_t count)
{
    const double *mean = mean_of(spill, candidate->list);
    for (int32_t t = 0; t < count; t++)
        if (squared_distance(mean, mean_of(spill, lists[t]), spill->dim) < candidate->distance)
            return true;
    return false;
}

/* least 0: the row is where a centroid is, and no other is within any factor of that. */
static double ratio_of(double distance, double least)
{
    return distance > least ? distance / least : 1;
}

static bool beyond(const fgmm_spill *spill, double ratio)
{
    return ratio > spill->ratio || ratio == INFINITY;
}

/* Takes lists out of `n` sorted ones. From `bound` on there may be others that are not here: coming so far
 * settles the row only where the rule ends before. */
static int32_t take(const fgmm_spill *spill, const fgmm_near_list *near, int32_t n, double bound,
                    int32_t *lists, double *keys, bool *settled)
{
    int32_t count = 1;
    double least = near[0].distance;
    *settled = true;
    for (int32_t i = 0; i < n && count < spill->most; i++) {
        double distance = near[i].distance, ratio = ratio_of(distance, least);
        if (distance >= bound) {
            *settled = beyond(spill, ratio_of(bound, least));
            return count;
        }
        if (beyond(spill, ratio))
            return count;
        if (near[i].list == lists[0] || nearer_to_one_taken(spill, &near[i], lists, count))
            continue;
        lists[count] = near[i].list;
        keys[count++] = ratio;
    }
    return count;
}

static void sort_by_distance(const fgmm_spill *spill, const double *x, const int32_t *numbers, int32_t n,
                             fgmm_near_list *near)
{
    for (int32_t i = 0; i < n; i++) {
        near[i].list = numbers == NULL ? i : numbers[i];
        near[i].distance = squared_distance(x, mean_of(spill, near[i].list), spill->dim);
    }
    qsort(near, (size_t)n, sizeof *near, by_distance);
}

static fgmm_spilled spill_closure(const fgmm_spill *spill, const double *x, const int32_t *nearest,
                                  int32_t top, fgmm_near_list *work, int32_t *lists, double *keys)
{
    fgmm_spilled out = {.known = INFINITY};
    int32_t n = top < spill->k ? top : spill->k;
    bool settled;
    sort_by_distance(spill, x, nearest, n, work);
    double bound = n < spill->k ? work[n - 1].distance * (1 - ORDER_SLACK) : INFINITY;
    out.count = take(spill, work, n, bound, lists, keys, &settled);
    if (settled)
        return out;
    if (!spill->exhaustive) {
        out.known = ratio_of(bound, work[0].distance);
        return out;
    }
    out.looked_all = true;
    sort_by_distance(spill, x, NULL, spill->k, work);
    out.count = take(spill, work, spill->k, INFINITY, lists, keys, &settled);
    return out;
}

fgmm_spilled fgmm__spill(const fgmm_spill *spill, const double *x, const int32_t *nearest, int32_t top,
                         fgmm_near_list *work, int32_t *lists, double *keys)
{
    if (spill->rule == FGMM_ASSIGN_SOAR)
        return spill_soar(spill, x, nearest, top, lists, keys);
    return spill_closure(spill, x, nearest, top, work, lists, keys);
}
