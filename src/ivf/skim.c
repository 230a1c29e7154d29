#include "ivf/skim.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/clones.h"
#include "io/reader.h"

enum {
    GROUP = 64,              /* rows whose sketches are compared at once */
    LEAST_PRODUCTS = 1 << 18 /* coordinates compared below which threads do not pay */
};

/* Rows whose distance to a query was computed: open addressing, at most half full. */
typedef struct {
    int64_t *ids; /* [slots] complements of ids; 0: free */
    uint64_t slots, n;
} seen_set;

struct fgmm_skim {
    const fgmm_index *index;
    const float *queries; /* [n][dim] */
    int64_t n;
    int threads;
    double *sketches; /* [n][m+1] of the queries */
    double *slacks;   /* [n] of them */
    fgmm_skim_cost *costs;
    seen_set *seen; /* [n]; NULL where rows are in one list */
    float **rows;   /* [threads][dim] a row as floats */
    /* of the piece */
    float *columns; /* [groups][m+1][GROUP] sketches of its rows */
    int64_t columns_room;
    double slack; /* at most any row's */
};

void fgmm__skim_destroy(fgmm_skim *skim)
{
    if (skim == NULL)
        return;
    for (int64_t q = 0; skim->seen != NULL && q < skim->n; q++)
        free(skim->seen[q].ids);
    for (int t = 0; skim->rows != NULL && t < skim->threads; t++)
        free(skim->rows[t]);
    free(skim->sketches);
    free(skim->slacks);
    free(skim->costs);
    free(skim->seen);
    free(skim->rows);
    free(skim->columns);
    free(skim);
}

static double length_of(const double *sketch, int32_t m)
{
    double sum = 0;
    for (int32_t c = 0; c <= m; c++)
        sum += sketch[c] * sketch[c];
    return sqrt(sum);
}

fgmm_status fgmm__skim_create(const fgmm_index *index, const float *queries, int64_t n, int threads,
                              fgmm_skim **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_skim *skim = NULL;
    int32_t m = index->sketch->m;
    FGMM_ALLOC(skim, 1, "sketches of queries");
    skim->index = index;
    skim->queries = queries;
    skim->n = n;
    skim->threads = threads;
    FGMM_ALLOC(skim->sketches, n * (m + 1), "sketches of queries");
    FGMM_ALLOC(skim->slacks, n, "sketches of queries");
    FGMM_ALLOC(skim->costs, n, "sketches of queries");
    if (index->multi)
        FGMM_ALLOC(skim->seen, n, "sketches of queries");
    FGMM_ALLOC(skim->rows, threads, "sketches of queries");
    for (int t = 0; t < threads; t++)
        FGMM_ALLOC(skim->rows[t], index->dim, "sketches of queries");
    for (int64_t q = 0; q < n; q++) {
        double *sketch = skim->sketches + q * (m + 1);
        fgmm__sketch_query(index->sketch, queries + q * index->dim, sketch);
        skim->slacks[q] = fgmm__sketch_slack(index->sketch, length_of(sketch, m));
    }
    *out = skim;
    skim = NULL;
cleanup:
    fgmm__skim_destroy(skim);
    return status;
}

fgmm_skim_cost fgmm__skim_cost_of(const fgmm_skim *skim, int64_t query)
{
    return skim->costs[query];
}

/* ---- rows that were computed ---- */

static uint64_t slot_of(const seen_set *set, int64_t id)
{
    uint64_t slot = (uint64_t)id * UINT64_C(0x9E3779B97F4A7C15) >> 20;
    while (set->ids[slot & (set->slots - 1)] != 0 && set->ids[slot & (set->slots - 1)] != ~id)
        slot++;
    return slot & (set->slots - 1);
}

static fgmm_status make_larger(seen_set *set)
{
    fgmm_status status = FGMM_OK;
    seen_set larger = {.slots = set->slots > 0 ? 2 * set->slots : 256, .n = set->n};
    FGMM_ALLOC(larger.ids, larger.slots, "rows that were met");
    for (uint64_t i = 0; i < set->slots; i++)
        if (set->ids[i] != 0)
            larger.ids[slot_of(&larger, ~set->ids[i])] = set->ids[i];
    free(set->ids);
    *set = larger;
cleanup:
    return status;
}

/* *first: the row was not there before. */
static fgmm_status meet(seen_set *set, int64_t id, bool *first)
{
    if (2 * (set->n + 1) > set->slots) {
        fgmm_status status = make_larger(set);
        if (status != FGMM_OK)
            return status;
    }
    uint64_t slot = slot_of(set, id);
    *first = set->ids[slot] == 0;
    set->n += *first;
    set->ids[slot] = ~id;
    return FGMM_OK;
}

/* ---- the sketches of a piece ---- */

/* Group by group and, within one, coordinate by coordinate; the last group is filled up with zeros. */
static fgmm_status turn(fgmm_skim *skim, const fgmm_lists *piece)
{
    fgmm_status status = FGMM_OK;
    int32_t width = skim->index->sketch->m + 1;
    int64_t groups = (piece->n + GROUP - 1) / GROUP;
    double longest = 0;
    if (groups > skim->columns_room) {
        free(skim->columns);
        skim->columns = NULL;
        skim->columns_room = 0;
        FGMM_ALLOC(skim->columns, groups * width * GROUP, "sketches of rows");
        skim->columns_room = groups;
    }
    memset(skim->columns + (groups - 1) * width * GROUP, 0, (size_t)(width * GROUP) * sizeof *skim->columns);
    for (int64_t i = 0; i < piece->n; i++) {
        const float *sketch = piece->sketches + i * width;
        double sum = 0;
        for (int32_t c = 0; c < width; c++) {
            skim->columns[(i / GROUP * width + c) * GROUP + i % GROUP] = sketch[c];
            sum += (double)sketch[c] * (double)sketch[c];
        }
        longest = sum > longest || isnan(sum) ? sum : longest;
    }
    skim->slack = fgmm__sketch_slack(skim->index->sketch, sqrt(longest));
cleanup:
    return status;
}

/* Squared differences of a query's sketch from those of a group. */
FGMM_CLONES static void compare(const double *query, const float *columns, int32_t width, double *out)
{
    memset(out, 0, GROUP * sizeof *out);
    for (int32_t c = 0; c < width; c++) {
#pragma omp simd
        for (int32_t i = 0; i < GROUP; i++) {
            double difference = (double)columns[c * GROUP + i] - query[c];
            out[i] += difference * difference;
        }
    }
}

/* ---- one query ---- */

/* In any order of additions. */
FGMM_CLONES static double quick_distance(const float *a, const float *b, int32_t dim)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int32_t d = 0; d < dim; d++)
        sum += ((double)a[d] - (double)b[d]) * ((double)a[d] - (double)b[d]);
    return sum;
}

/* In the order of dimensions, as backends compute it: what users see. */
static double ordered_distance(const float *a, const float *b, int32_t dim)
{
    double sum = 0;
    for (int32_t d = 0; d < dim; d++)
        sum += ((double)a[d] - (double)b[d]) * ((double)a[d] - (double)b[d]);
    return sum;
}

static void offer(fgmm_skim *skim, fgmm_top *top, int32_t query, const fgmm_lists *piece, int64_t i)
{
    const fgmm_index *index = skim->index;
    int32_t dim = index->dim;
    const float *x = (const float *)piece->vectors + i * dim, *q = skim->queries + (int64_t)query * dim;
    if (index->dtype != FGMM_F32) {
        float *row = skim->rows[omp_get_thread_num()];
        fgmm__to_f32(index->dtype,
                     (const char *)piece->vectors + (size_t)(i * dim) * fgmm_dtype_bytes(index->dtype),
                     (size_t)dim, row);
        x = row;
    }
    double growth = (dim + 16) * 0x1p-50; /* of the rounding of both sums, generously */
    skim->costs[query].full++;
    if (quick_distance(x, q, dim) * (1 - growth) <= fgmm__top_bound(top, query))
        fgmm__top_push(top, query, ordered_distance(x, q, dim), piece->ids[i]);
}

static fgmm_status skim_group(fgmm_skim *skim, fgmm_top *top, int32_t query, const fgmm_lists *piece,
                              int64_t begin)
{
    fgmm_status status = FGMM_OK;
    const fgmm_sketch *sketch = skim->index->sketch;
    int32_t width = sketch->m + 1;
    int64_t end = begin + GROUP < piece->n ? begin + GROUP : piece->n;
    double slack = skim->slack + skim->slacks[query], bound = INFINITY, limit = INFINITY, apart[GROUP];
    compare(skim->sketches + (int64_t)query * width, skim->columns + begin * width, width, apart);
    for (int64_t i = begin; i < end; i++) {
        bool first = true;
        if (fgmm__top_bound(top, query) != bound) {
            bound = fgmm__top_bound(top, query);
            limit = fgmm__sketch_limit(sketch, bound, slack);
        }
        skim->costs[query].sketches += bound < INFINITY;
        if (apart[i - begin] > limit)
            continue;
        if (skim->seen != NULL)
            FGMM_TRY(meet(&skim->seen[query], piece->ids[i], &first));
        if (first)
            offer(skim, top, query, piece, i);
    }
cleanup:
    return status;
}

fgmm_status fgmm__skim_rows(fgmm_skim *skim, fgmm_top *top, const int32_t *visitors, int32_t n,
                            const fgmm_lists *piece)
{
    fgmm_status status = turn(skim, piece);
    if (status != FGMM_OK)
        return status;
    bool failed = false, worthwhile = (double)n * (double)piece->n * skim->index->sketch->m > LEAST_PRODUCTS;
#pragma omp parallel for num_threads(skim->threads) schedule(dynamic, 1) reduction(||                        \
                                                                                   : failed) if (worthwhile)
    for (int32_t v = 0; v < n; v++)
        for (int64_t begin = 0; begin < piece->n && !failed; begin += GROUP)
            failed = skim_group(skim, top, visitors[v], piece, begin) != FGMM_OK;
    return failed ? FGMM_ERR_RUNTIME : FGMM_OK;
}
