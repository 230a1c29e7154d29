/* All pairs of query and row within a distance: products in expanded form rule most pairs out, the rest is
 * computed exactly. Where large inner products are asked for, minus the product stands for the distance. */
#include "backend/cpu_backend.h"

#include <cblas.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include "io/reader.h"

enum {
    QUERIES = 256,           /* a product */
    LEAST_PRODUCTS = 1 << 20 /* multiplications below which threads do not pay */
};

/* One thread's. */
typedef struct {
    double *rows;     /* [FGMM_BLOCK][dim] */
    double *norms;    /* [FGMM_BLOCK] */
    double *products; /* [FGMM_BLOCK][QUERIES] */
} scratch;

struct fgmm__cpu_queries {
    int64_t n;
    int32_t dim;
    bool inner;            /* products instead of distances */
    double *values;        /* [n][dim] */
    double *norms;         /* [n] squared */
    double *subset_values; /* [subset_room][dim] */
    double *subset_norms;
    int64_t subset_room;
    int threads;
    scratch *scratch; /* [threads] */
};

void fgmm__cpu_queries_destroy(fgmm__cpu_queries *queries)
{
    if (queries == NULL)
        return;
    free(queries->values);
    free(queries->norms);
    free(queries->subset_values);
    free(queries->subset_norms);
    for (int t = 0; queries->scratch != NULL && t < queries->threads; t++) {
        free(queries->scratch[t].rows);
        free(queries->scratch[t].norms);
        free(queries->scratch[t].products);
    }
    free(queries->scratch);
    free(queries);
}

static fgmm_status begin(fgmm_backend *backend, const float *queries, int64_t n, int32_t dim, bool inner)
{
    fgmm_status status = FGMM_OK;
    fgmm__cpu_backend *cpu = (fgmm__cpu_backend *)backend;
    fgmm__cpu_queries *q = NULL;
    fgmm__cpu_queries_destroy(cpu->queries);
    cpu->queries = NULL;
    FGMM_ALLOC(q, 1, "queries");
    q->n = n;
    q->dim = dim;
    q->inner = inner;
    q->threads = backend->threads;
    FGMM_ALLOC(q->values, (size_t)n * dim, "queries");
    FGMM_ALLOC(q->norms, n, "queries");
    FGMM_ALLOC(q->scratch, q->threads, "distances");
    for (int t = 0; t < q->threads; t++) {
        FGMM_ALLOC(q->scratch[t].rows, (size_t)FGMM_BLOCK * dim, "distances");
        FGMM_ALLOC(q->scratch[t].norms, FGMM_BLOCK, "distances");
        FGMM_ALLOC(q->scratch[t].products, (size_t)FGMM_BLOCK * QUERIES, "distances");
    }
    for (int64_t i = 0; i < n * dim; i++)
        q->values[i] = queries[i];
    for (int64_t i = 0; i < n; i++)
        q->norms[i] = fgmm__cpu_norm2(q->values + i * dim, dim);
    cpu->queries = q;
    q = NULL;
cleanup:
    fgmm__cpu_queries_destroy(q);
    return status;
}

fgmm_status fgmm__cpu_queries_begin(fgmm_backend *backend, const float *queries, int64_t n, int32_t dim)
{
    return begin(backend, queries, n, dim, false);
}

fgmm_status fgmm__cpu_products_begin(fgmm_backend *backend, const float *queries, int64_t n, int32_t dim)
{
    return begin(backend, queries, n, dim, true);
}

/* The queries of a call, side by side. */
static fgmm_status take_subset(fgmm__cpu_queries *q, const int32_t *subset, int32_t n, const double **values,
                               const double **norms)
{
    fgmm_status status = FGMM_OK;
    if (subset == NULL) {
        *values = q->values;
        *norms = q->norms;
        return FGMM_OK;
    }
    if (n > q->subset_room) {
        free(q->subset_values);
        free(q->subset_norms);
        q->subset_values = q->subset_norms = NULL;
        q->subset_room = 0;
        FGMM_ALLOC(q->subset_values, (size_t)n * q->dim, "queries");
        FGMM_ALLOC(q->subset_norms, n, "queries");
        q->subset_room = n;
    }
    for (int32_t i = 0; i < n; i++) {
        memcpy(q->subset_values + (size_t)i * q->dim, q->values + (size_t)subset[i] * q->dim,
               sizeof(double) * q->dim);
        q->subset_norms[i] = q->norms[subset[i]];
    }
    *values = q->subset_values;
    *norms = q->subset_norms;
cleanup:
    return status;
}

/* Squared distance, terms added in the order of dimensions: the value users see. */
static double ordered_distance(const double *a, const double *b, int32_t dim)
{
    double sum = 0;
    for (int32_t d = 0; d < dim; d++)
        sum += (a[d] - b[d]) * (a[d] - b[d]);
    return sum;
}

static double ordered_product(const double *a, const double *b, int32_t dim)
{
    double sum = 0;
    for (int32_t d = 0; d < dim; d++)
        sum += a[d] * b[d];
    return sum;
}

/* What a pair must not exceed, from its two norms and its product: share (|x|^2 + |q|^2) - factor x.q. */
typedef struct {
    double share, factor;
} expanded;

/* The expanded distance, less its error and that of the ordered sum: rounding of two norms, a product and the
 * sum, relative to |x|^2 + |q|^2, which is at least twice |x||q|, generously. */
static expanded expand(bool inner, int32_t dim)
{
    double growth = (dim + 16) * 0x1p-50;
    return inner ? (expanded){-growth, 1} : (expanded){1 - growth, 2};
}

/* Where the expanded distance is within the bound. */
FGMM_CLONES static int32_t find_within(const double *products, const double *norms, const double *bounds,
                                       double norm, expanded form, int32_t n, int32_t *found)
{
    enum { GROUP = 16 };
    int32_t count = 0;
    for (int32_t j = 0; j < n; j += GROUP) {
        int32_t end = j + GROUP < n ? j + GROUP : n;
        int64_t any = 0;
#pragma omp simd reduction(+ : any)
        for (int32_t i = j; i < end; i++)
            any += (norm + norms[i]) * form.share - form.factor * products[i] <= bounds[i];
        if (any == 0)
            continue;
        for (int32_t i = j; i < end; i++) {
            found[count] = i;
            count += (norm + norms[i]) * form.share - form.factor * products[i] <= bounds[i];
        }
    }
    return count;
}

/* Everything a thread needs to know of the call. */
typedef struct {
    const double *queries, *norms, *bounds; /* of the subset */
    int32_t n_queries, dim;
    bool inner;
    fgmm_hit *hits;
    int64_t capacity, *n_hits;
} search;

static void emit(const search *s, const fgmm_hit *hits, int32_t n)
{
    int64_t at;
#pragma omp atomic capture
    {
        at = *s->n_hits;
        *s->n_hits += n;
    }
    for (int32_t i = 0; i < n && at + i < s->capacity; i++)
        s->hits[at + i] = hits[i];
}

/* Rows of one block against all queries. */
static void search_block(const search *s, scratch *w, int32_t first, int32_t n_rows)
{
    int32_t dim = s->dim, found[QUERIES];
    fgmm_hit hits[QUERIES];
    expanded form = expand(s->inner, dim);
    for (int32_t i = 0; i < n_rows; i++)
        w->norms[i] = fgmm__cpu_norm2(w->rows + (size_t)i * dim, dim);
    for (int32_t begin = 0; begin < s->n_queries; begin += QUERIES) {
        int32_t n = s->n_queries - begin < QUERIES ? s->n_queries - begin : QUERIES;
        const double *queries = s->queries + (size_t)begin * dim;
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n_rows, n, dim, 1, w->rows, dim, queries, dim, 0,
                    w->products, QUERIES);
        for (int32_t i = 0; i < n_rows; i++) {
            int32_t candidates = find_within(w->products + (size_t)i * QUERIES, s->norms + begin,
                                             s->bounds + begin, w->norms[i], form, n, found);
            int32_t n_hits = 0;
            for (int32_t j = 0; j < candidates; j++) {
                const double *row = w->rows + (size_t)i * dim, *query = queries + (size_t)found[j] * dim;
                double distance =
                    s->inner ? -ordered_product(row, query, dim) : ordered_distance(row, query, dim);
                if (distance <= s->bounds[begin + found[j]])
                    hits[n_hits++] = (fgmm_hit){begin + found[j], first + i, distance};
            }
            if (n_hits > 0)
                emit(s, hits, n_hits);
        }
    }
}

fgmm_status fgmm__cpu_neighbors(fgmm_backend *backend, const int32_t *subset, int32_t n_subset,
                                const double *bounds, const void *rows, fgmm_dtype dtype, int32_t n_rows,
                                fgmm_hit *hits, int64_t capacity, int64_t *n_hits)
{
    fgmm_status status = FGMM_OK;
    fgmm__cpu_queries *q = ((fgmm__cpu_backend *)backend)->queries;
    search s = {.bounds = bounds,
                .dim = q->dim,
                .inner = q->inner,
                .hits = hits,
                .capacity = capacity,
                .n_hits = n_hits};
    *n_hits = 0;
    s.n_queries = subset == NULL ? (int32_t)q->n : n_subset;
    FGMM_TRY(take_subset(q, subset, n_subset, &s.queries, &s.norms));
    bool worthwhile = (double)n_rows * s.n_queries * q->dim > LEAST_PRODUCTS;
#pragma omp parallel for num_threads(q->threads) schedule(dynamic, 1) if (worthwhile)
    for (int32_t first = 0; first < n_rows; first += FGMM_BLOCK) {
        scratch *w = &q->scratch[omp_get_thread_num()];
        int32_t n = n_rows - first < FGMM_BLOCK ? n_rows - first : FGMM_BLOCK;
        const char *from = (const char *)rows + (size_t)first * q->dim * fgmm_dtype_bytes(dtype);
        fgmm__to_f64(dtype, from, (size_t)n * q->dim, w->rows);
        search_block(&s, w, first, n);
    }
cleanup:
    return status;
}
