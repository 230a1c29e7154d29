#include "eval/curve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"

const int32_t fgmm__eval_ks[FGMM_EVAL_KS] = {1, 10, 100};
const double fgmm__eval_targets[FGMM_EVAL_TARGETS] = {0.8, 0.9, 0.95, 0.98, 0.99};

fgmm_status fgmm__table_create(int64_t queries, int32_t settings, int32_t dim, const int32_t *wanted,
                               fgmm_eval_table *out)
{
    *out = (fgmm_eval_table){.queries = queries, .settings = settings, .dim = dim};
    memcpy(out->wanted, wanted, sizeof out->wanted);
    return fgmm__alloc((size_t)queries * (size_t)settings, sizeof *out->cells, "a curve",
                       (void **)&out->cells);
}

void fgmm__table_free(fgmm_eval_table *table)
{
    free(table->cells);
    *table = (fgmm_eval_table){.queries = 0};
}

fgmm_status fgmm__table_append(fgmm_eval_table *table, const fgmm_eval_table *further)
{
    size_t cells = (size_t)table->queries * (size_t)table->settings,
           more = (size_t)further->queries * (size_t)further->settings;
    fgmm_eval_cell *all = realloc(table->cells, (cells + more) * sizeof *all);
    if (all == NULL)
        return fgmm__fail(FGMM_ERR_RUNTIME, "out of memory for a curve");
    memcpy(all + cells, further->cells, more * sizeof *all);
    table->cells = all;
    table->queries += further->queries;
    return FGMM_OK;
}

/* ---- means ---- */

void fgmm__table_means(const fgmm_eval_table *table, fgmm_eval_point *points)
{
    double n = (double)table->queries;
    for (int32_t s = 0; s < table->settings; s++) {
        int64_t hits[FGMM_EVAL_KS] = {0}, lists = 0, scanned = 0, distinct = 0, work = 0, centroids = 0;
        for (int64_t q = 0; q < table->queries; q++) {
            const fgmm_eval_cell *cell = &table->cells[q * table->settings + s];
            for (int i = 0; i < FGMM_EVAL_KS; i++)
                hits[i] += cell->hits[i];
            lists += cell->lists;
            scanned += cell->scanned;
            distinct += cell->distinct;
            work += cell->work;
            centroids += cell->centroids;
        }
        points[s] = (fgmm_eval_point){.lists = (double)lists / n,
                                      .scanned = (double)scanned / n,
                                      .distinct = (double)distinct / n,
                                      .computed = (double)work / (n * table->dim),
                                      .centroids = (double)centroids / (n * table->dim)};
        for (int i = 0; i < FGMM_EVAL_KS; i++)
            points[s].recall[i] =
                table->wanted[i] > 0 ? (double)hits[i] / (n * (double)table->wanted[i]) : NAN;
    }
}

/* ---- the cost at a recall ---- */

fgmm_eval_place fgmm__curve_find(const double *recall, int32_t n, double target)
{
    int32_t at = 0;
    while (at < n && recall[at] < target)
        at++;
    if (at == n)
        return (fgmm_eval_place){.at = -1};
    if (at == 0)
        return (fgmm_eval_place){.at = 0};
    return (fgmm_eval_place){.at = at, .share = (target - recall[at - 1]) / (recall[at] - recall[at - 1])};
}

double fgmm__curve_cost(const double *cost, fgmm_eval_place place)
{
    if (place.at < 0)
        return NAN;
    if (place.at == 0)
        return cost[0];
    return cost[place.at - 1] + place.share * (cost[place.at] - cost[place.at - 1]);
}

/* ---- resampling ---- */

void fgmm__draw(uint64_t seed, int32_t drawing, int64_t n, int32_t *counts)
{
    memset(counts, 0, (size_t)n * sizeof *counts);
    for (int64_t i = 0; i < n; i++) {
        uint64_t index = (uint64_t)drawing << 40 | (uint64_t)i;
        int64_t query = (int64_t)(fgmm__philox_uniform(seed, FGMM_RNG_BOOTSTRAP, index) * (double)n);
        counts[query < n ? query : n - 1]++;
    }
}

/* One thread's room: the table's columns that matter are the sums over the drawn queries. */
typedef struct {
    int32_t *counts;       /* [queries] */
    int64_t *hits, *paid;  /* [settings] */
    double *recall, *cost; /* [settings] */
} drawing_room;

static void free_room(drawing_room *room)
{
    free(room->counts);
    free(room->hits);
    free(room->paid);
    free(room->recall);
    free(room->cost);
}

static fgmm_status make_room(const fgmm_eval_table *table, drawing_room *room)
{
    fgmm_status status = FGMM_OK;
    FGMM_ALLOC(room->counts, table->queries, "resampling");
    FGMM_ALLOC(room->hits, table->settings, "resampling");
    FGMM_ALLOC(room->paid, table->settings, "resampling");
    FGMM_ALLOC(room->recall, table->settings, "resampling");
    FGMM_ALLOC(room->cost, table->settings, "resampling");
cleanup:
    return status;
}

static void resample_once(const fgmm_eval_table *table, uint64_t seed, int32_t drawing, drawing_room *room,
                          double *out)
{
    int32_t settings = table->settings;
    memset(room->hits, 0, (size_t)settings * sizeof *room->hits);
    memset(room->paid, 0, (size_t)settings * sizeof *room->paid);
    fgmm__draw(seed, drawing, table->queries, room->counts);
    for (int64_t q = 0; q < table->queries; q++) {
        int64_t count = room->counts[q];
        const fgmm_eval_cell *cells = table->cells + q * settings;
        if (count == 0)
            continue;
        for (int32_t s = 0; s < settings; s++) {
            room->hits[s] += count * cells[s].hits[FGMM_EVAL_JUDGED];
            room->paid[s] += count * (cells[s].work + cells[s].centroids);
        }
    }
    double n = (double)table->queries, wanted = n * table->wanted[FGMM_EVAL_JUDGED];
    for (int32_t s = 0; s < settings; s++) {
        room->recall[s] = (double)room->hits[s] / wanted;
        room->cost[s] = (double)room->paid[s] / (n * table->dim);
    }
    for (int t = 0; t < FGMM_EVAL_TARGETS; t++)
        out[t] =
            fgmm__curve_cost(room->cost, fgmm__curve_find(room->recall, settings, fgmm__eval_targets[t]));
}

fgmm_status fgmm__table_resample(const fgmm_eval_table *table, uint64_t seed, int32_t resamples, int threads,
                                 double *out)
{
    fgmm_status status = FGMM_OK;
#pragma omp parallel num_threads(threads)
    {
        drawing_room room = {.counts = NULL};
        fgmm_status made = make_room(table, &room);
#pragma omp for schedule(static)
        for (int32_t r = 0; r < resamples; r++)
            if (made == FGMM_OK)
                resample_once(table, seed, r, &room, out + (int64_t)r * FGMM_EVAL_TARGETS);
        if (made != FGMM_OK) {
#pragma omp atomic write
            status = made;
        }
        free_room(&room);
    }
    return status;
}

/* ---- intervals ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Linear between the values' ranks. */
static double quantile(const double *sorted, int32_t n, double share)
{
    double place = share * (n - 1);
    int32_t below = (int32_t)place;
    if (below >= n - 1)
        return sorted[n - 1];
    return sorted[below] + (place - below) * (sorted[below + 1] - sorted[below]);
}

void fgmm__interval(double *values, int32_t n, double *low, double *high)
{
    *low = *high = NAN;
    for (int32_t i = 0; i < n; i++)
        if (isnan(values[i]))
            return;
    if (n < 1)
        return;
    qsort(values, (size_t)n, sizeof *values, by_value);
    *low = quantile(values, n, 0.025);
    *high = quantile(values, n, 0.975);
}
