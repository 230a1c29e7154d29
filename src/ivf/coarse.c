#include "ivf/coarse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clones.h"
#include "ivf/sketch.h"

enum {
    GROUP = 16,       /* centroids whose first bounds are computed side by side */
    FIRST = 4,        /* coordinates of the first level; every further one has as many as all before it */
    MOST_LEVELS = 24, /* of doublings from FIRST to any dimension */
    SAMPLE = 8192,    /* centroids that the directions are taken from */
    BATCH_BYTES = 256 << 20
};

/* A level's sketch of a centroid is its first m[level] coordinates and the length of the rest. Since lengths
 * of rests differ by no more than the rests do, it is no farther off than the whole sketch. */
struct fgmm_coarse {
    const fgmm_index *index;
    fgmm_sketch *sketch;
    int32_t levels, m[MOST_LEVELS];
    float *columns;             /* [groups][m[0]+1][GROUP] the first level, coordinate by coordinate */
    float *values[MOST_LEVELS]; /* from the second level on: [K][m[l]-m[l-1]+1] what it adds, then the rest */
    double slack;               /* of any centroid's sketch */
};

/* ---- sketches of the centroids ---- */

void fgmm__coarse_destroy(fgmm_coarse *coarse)
{
    if (coarse == NULL)
        return;
    fgmm__sketch_destroy(coarse->sketch);
    free(coarse->columns);
    for (int32_t l = 0; l < MOST_LEVELS; l++)
        free(coarse->values[l]);
    free(coarse);
}

static fgmm_status fit_sketch(fgmm_comm *comm, const fgmm_index *index, int32_t m, int threads,
                              fgmm_sketch **out)
{
    fgmm_status status = FGMM_OK;
    float *sample = NULL;
    size_t dim = (size_t)index->dim;
    int64_t n = index->k < SAMPLE ? index->k : SAMPLE;
    FGMM_ALLOC(sample, (size_t)n * dim, "sketches of centroids");
    for (int64_t i = 0; i < n; i++) /* spread over all of them */
        memcpy(sample + (size_t)i * dim, index->centroids + (size_t)(i * index->k / n) * dim,
               dim * sizeof *sample);
    FGMM_TRY(fgmm__sketch_fit(comm, sample, n, index->dim, m, threads, out));
cleanup:
    free(sample);
    return status;
}

/* From the whole sketch: rests[l] is the length of all that level l leaves out. */
static void measure_rests(const fgmm_coarse *coarse, const double *sketch, double *rests)
{
    int32_t at = coarse->m[coarse->levels - 1];
    double sum = sketch[at] * sketch[at];
    for (int32_t l = coarse->levels - 1; l >= 0; l--) {
        while (at > coarse->m[l]) {
            at--;
            sum += sketch[at] * sketch[at];
        }
        rests[l] = sqrt(sum);
    }
}

/* Centroid j into the tables; returns the length of its sketch. */
static double place(fgmm_coarse *coarse, int32_t j, double *sketch)
{
    double rests[MOST_LEVELS], sum = 0;
    int32_t first = coarse->m[0];
    fgmm__sketch_query(coarse->sketch, coarse->index->centroids + (int64_t)j * coarse->index->dim, sketch);
    measure_rests(coarse, sketch, rests);
    float *column = coarse->columns + (int64_t)(j / GROUP) * (first + 1) * GROUP + j % GROUP;
    for (int32_t c = 0; c <= first; c++)
        column[c * GROUP] = (float)(c < first ? sketch[c] : rests[0]);
    for (int32_t l = 1; l < coarse->levels; l++) {
        int32_t from = coarse->m[l - 1], width = coarse->m[l] - from + 1;
        float *values = coarse->values[l] + (int64_t)j * width;
        for (int32_t c = 0; c < width; c++)
            values[c] = (float)(c < width - 1 ? sketch[from + c] : rests[l]);
    }
    for (int32_t c = 0; c <= coarse->sketch->m; c++)
        sum += sketch[c] * sketch[c];
    return sqrt(sum);
}

static fgmm_status fill_tables(fgmm_coarse *coarse, int threads)
{
    fgmm_status status = FGMM_OK;
    int32_t k = coarse->index->k, groups = (k + GROUP - 1) / GROUP;
    double *room = NULL, longest = 0;
    size_t width = (size_t)coarse->sketch->m + 1;
    FGMM_ALLOC(room, (size_t)threads * width, "sketches of centroids");
    FGMM_ALLOC(coarse->columns, (int64_t)groups * (coarse->m[0] + 1) * GROUP, "sketches of centroids");
    for (int32_t l = 1; l < coarse->levels; l++)
        FGMM_ALLOC(coarse->values[l], (int64_t)k * (coarse->m[l] - coarse->m[l - 1] + 1),
                   "sketches of centroids");
#pragma omp parallel for num_threads(threads) schedule(static) reduction(max : longest)
    for (int32_t t = 0; t < threads; t++)
        for (int32_t j = (int32_t)((int64_t)k * t / threads); j < (int64_t)k * (t + 1) / threads; j++)
            longest = fmax(longest, place(coarse, j, room + (size_t)t * width));
    coarse->slack = fgmm__sketch_slack(coarse->sketch, longest);
cleanup:
    free(room);
    return status;
}

fgmm_status fgmm__coarse_create(fgmm_comm *comm, const fgmm_index *index, int32_t m, int threads,
                                fgmm_coarse **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_coarse *coarse = NULL;
    if (m < 1 || m > index->dim)
        FGMM_FAIL(FGMM_ERR_INPUT, "--centroid-sketch %d: must be 0 to the dimension of the rows, %d", m,
                  index->dim);
    if (index->metric == FGMM_IP)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: built with --metric ip: sketches of centroids bound distances; leave "
                  "--centroid-sketch out",
                  index->path);
    FGMM_ALLOC(coarse, 1, "sketches of centroids");
    coarse->index = index;
    for (int32_t c = FIRST; c < m; c *= 2)
        coarse->m[coarse->levels++] = c;
    coarse->m[coarse->levels++] = m;
    FGMM_TRY(fit_sketch(comm, index, m, threads, &coarse->sketch));
    FGMM_TRY(fill_tables(coarse, threads));
    *out = coarse;
    coarse = NULL;
cleanup:
    fgmm__coarse_destroy(coarse);
    return status;
}

/* ---- a batch of queries ---- */

/* The first list of a group: its distance is at least `least`; at level `levels` it is that. */
typedef struct {
    double least;
    int32_t list, level;
} outlook;

struct fgmm_near_lists {
    const fgmm_coarse *coarse;
    const float *queries;
    double *sketches; /* [n][m+1] of the queries */
    double *rests;    /* [n][levels] */
    double *slacks;   /* [n] with the centroids' */
    double *least;    /* [n][groups][GROUP] of every list; infinite: none, or told already */
    double *inside;   /* [n][groups][GROUP] squared difference of the coordinates looked at */
    uint8_t *level;   /* [n][groups][GROUP] looked at */
    outlook *heaps;   /* [n][groups] what comes first at the root */
    int64_t *numbers; /* [n] */
};

static int64_t groups_of(const fgmm_coarse *coarse)
{
    return (coarse->index->k + GROUP - 1) / GROUP;
}

int64_t fgmm__coarse_batch(const fgmm_coarse *coarse)
{
    const int64_t group_bytes = GROUP * (2 * sizeof(double) + 1) + sizeof(outlook);
    int64_t n = BATCH_BYTES / (groups_of(coarse) * group_bytes);
    return n < 1 ? 1 : n;
}

void fgmm__near_lists_destroy(fgmm_near_lists *near)
{
    if (near == NULL)
        return;
    free(near->sketches);
    free(near->rests);
    free(near->slacks);
    free(near->least);
    free(near->inside);
    free(near->level);
    free(near->heaps);
    free(near->numbers);
    free(near);
}

/* A bound above zero is below its list's distance, and bounds of zero are looked at in the order of numbers:
 * so of equal distances that of the smaller number comes first. */
static bool before(const outlook *a, const outlook *b)
{
    return a->least != b->least ? a->least < b->least : a->list < b->list;
}

static void sift(outlook *heap, int64_t n, int64_t at)
{
    outlook moved = heap[at];
    for (int64_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &moved))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

/* What comes first in a group. */
static outlook first_of(const fgmm_near_lists *near, int64_t query, int64_t group)
{
    int64_t at = (query * groups_of(near->coarse) + group) * GROUP;
    int32_t best = 0;
    for (int32_t i = 1; i < GROUP; i++)
        best = near->least[at + i] < near->least[at + best] ? i : best;
    return (outlook){.least = near->least[at + best],
                     .list = (int32_t)group * GROUP + best,
                     .level = near->level[at + best]};
}

/* Squared differences of a query's first coordinates from those of a group, and of the rests. */
FGMM_CLONES static void compare_group(const double *query, double rest, const float *columns, int32_t m,
                                      double *inside, double *apart)
{
    memset(inside, 0, GROUP * sizeof *inside);
    for (int32_t c = 0; c < m; c++) {
#pragma omp simd
        for (int32_t i = 0; i < GROUP; i++) {
            double difference = (double)columns[c * GROUP + i] - query[c];
            inside[i] += difference * difference;
        }
    }
#pragma omp simd
    for (int32_t i = 0; i < GROUP; i++) {
        double difference = (double)columns[m * GROUP + i] - rest;
        apart[i] = inside[i] + difference * difference;
    }
}

/* The first level of every list. */
static void look(fgmm_near_lists *near, int64_t query)
{
    const fgmm_coarse *coarse = near->coarse;
    int32_t k = coarse->index->k, m = coarse->sketch->m, first = coarse->m[0];
    int64_t groups = groups_of(coarse), at = query * groups * GROUP;
    double *sketch = near->sketches + query * (m + 1), *rests = near->rests + query * coarse->levels;
    double sum = 0, apart[GROUP];
    outlook *heap = near->heaps + query * groups;
    fgmm__sketch_query(coarse->sketch, near->queries + query * coarse->index->dim, sketch);
    measure_rests(coarse, sketch, rests);
    for (int32_t c = 0; c <= m; c++)
        sum += sketch[c] * sketch[c];
    near->slacks[query] = coarse->slack + fgmm__sketch_slack(coarse->sketch, sqrt(sum));
    for (int64_t group = 0; group < groups; group++, at += GROUP) {
        compare_group(sketch, rests[0], coarse->columns + group * GROUP * (first + 1), first,
                      near->inside + at, apart);
        fgmm__sketch_leasts(coarse->sketch, apart, GROUP, near->slacks[query], near->least + at);
        for (int64_t i = k - group * GROUP; i < GROUP; i++)
            near->least[at + i] = INFINITY;
        heap[group] = first_of(near, query, group);
    }
    for (int64_t group = groups / 2 - 1; group >= 0; group--)
        sift(heap, groups, group);
    near->numbers[query] = (int64_t)m * coarse->index->dim + (int64_t)k * (first + 1);
}

fgmm_status fgmm__near_lists_create(const fgmm_coarse *coarse, const float *queries, int64_t n, int threads,
                                    fgmm_near_lists **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_near_lists *near = NULL;
    int64_t groups = groups_of(coarse);
    FGMM_ALLOC(near, 1, "lists of queries");
    near->coarse = coarse;
    near->queries = queries;
    FGMM_ALLOC(near->sketches, n * (coarse->sketch->m + 1), "lists of queries");
    FGMM_ALLOC(near->rests, n * coarse->levels, "lists of queries");
    FGMM_ALLOC(near->slacks, n, "lists of queries");
    FGMM_ALLOC(near->least, n * groups * GROUP, "lists of queries");
    FGMM_ALLOC(near->inside, n * groups * GROUP, "lists of queries");
    FGMM_ALLOC(near->level, n * groups * GROUP, "lists of queries");
    FGMM_ALLOC(near->heaps, n * groups, "lists of queries");
    FGMM_ALLOC(near->numbers, n, "lists of queries");
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t query = 0; query < n; query++)
        look(near, query);
    *out = near;
    near = NULL;
cleanup:
    fgmm__near_lists_destroy(near);
    return status;
}

/* ---- the next list ---- */

/* In the order of dimensions, as backends compute it. */
static double distance_to(const fgmm_near_lists *near, int64_t query, int32_t list)
{
    const fgmm_index *index = near->coarse->index;
    const float *q = near->queries + query * index->dim, *c = index->centroids + (int64_t)list * index->dim;
    double sum = 0;
    for (int32_t d = 0; d < index->dim; d++)
        sum += ((double)q[d] - (double)c[d]) * ((double)q[d] - (double)c[d]);
    return sum;
}

/* A list gets its next level, or its distance. */
static void look_closer(fgmm_near_lists *near, int64_t query, int32_t list)
{
    const fgmm_coarse *coarse = near->coarse;
    int64_t at = query * groups_of(coarse) * GROUP + list;
    int32_t level = ++near->level[at];
    if (level == coarse->levels) {
        near->least[at] = distance_to(near, query, list);
        near->numbers[query] += coarse->index->dim;
        return;
    }
    int32_t from = coarse->m[level - 1], width = coarse->m[level] - from + 1;
    const float *values = coarse->values[level] + (int64_t)list * width;
    const double *sketch = near->sketches + query * (coarse->sketch->m + 1) + from;
    double rest = (double)values[width - 1] - near->rests[query * coarse->levels + level];
    for (int32_t c = 0; c < width - 1; c++)
        near->inside[at] += ((double)values[c] - sketch[c]) * ((double)values[c] - sketch[c]);
    near->least[at] = fgmm__sketch_least(coarse->sketch, near->inside[at] + rest * rest, near->slacks[query]);
    near->numbers[query] += width;
}

int32_t fgmm__near_lists_next(fgmm_near_lists *near, int64_t query, double *distance)
{
    int32_t levels = near->coarse->levels;
    int64_t groups = groups_of(near->coarse);
    outlook *heap = near->heaps + query * groups, next;
    do {
        next = heap[0];
        if (next.level < levels)
            look_closer(near, query, next.list);
        else
            near->least[query * groups * GROUP + next.list] = INFINITY;
        heap[0] = first_of(near, query, next.list / GROUP);
        sift(heap, groups, 0);
    } while (next.level < levels);
    *distance = next.least;
    return next.list;
}

int64_t fgmm__near_lists_numbers(const fgmm_near_lists *near, int64_t query)
{
    return near->numbers[query];
}
