/* Which components matter for the rows of a block: log-densities of all components by products in chunks, a
 * scan that keeps those near the row's largest, and a second look at the few that are left in difference
 * form. */
#include "backend/cpu_backend.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* So many candidates of a row are computed again even if the expanded form is good enough. */
enum { CHECKED_AT_MOST = 16 };
static const double GOOD_ENOUGH = 1e-7; /* bits */

fgmm_status fgmm__cpu_pairs_reserve(fgmm__cpu_pairs *pairs, size_t more)
{
    if (pairs->n + more <= pairs->capacity)
        return FGMM_OK;
    size_t capacity = pairs->n + more + pairs->capacity / 2;
    fgmm__cpu_pair *at = realloc(pairs->at, capacity * sizeof *at);
    if (at == NULL)
        return fgmm__fail(FGMM_ERR_RUNTIME, "out of memory: %.3f GiB for responsibilities",
                          (double)(capacity * sizeof *at) / (1 << 30));
    pairs->at = at;
    pairs->capacity = capacity;
    return FGMM_OK;
}

void fgmm__cpu_pairs_free(fgmm__cpu_pairs *pairs)
{
    free(pairs->at);
    memset(pairs, 0, sizeof *pairs);
}

/* ---- a thread's workspace ---- */

fgmm_status fgmm__cpu_work_create(const fgmm__cpu_model *model, int32_t top, fgmm__cpu_work **out)
{
    fgmm_status status = FGMM_OK;
    fgmm__cpu_work *w = NULL;
    size_t rows = (size_t)model->block_rows;
    FGMM_ALLOC(w, 1, "a thread's workspace");
    w->top = top;
    FGMM_ALLOC(w->logits, rows * model->chunk, "a thread's workspace");
    FGMM_ALLOC(w->scratch, rows * model->dim, "a thread's workspace");
    FGMM_ALLOC(w->x2, rows, "a thread's workspace");
    FGMM_ALLOC(w->best, rows, "a thread's workspace");
    FGMM_ALLOC(w->limits, rows, "a thread's workspace");
    FGMM_ALLOC(w->ranked, rows * top, "a thread's workspace");
    FGMM_ALLOC(w->found, model->chunk, "a thread's workspace");
    FGMM_ALLOC(w->starts, rows + 1, "a thread's workspace");
    *out = w;
    w = NULL;
cleanup:
    fgmm__cpu_work_destroy(w);
    return status;
}

void fgmm__cpu_work_destroy(fgmm__cpu_work *w)
{
    if (w == NULL)
        return;
    free(w->logits);
    free(w->scratch);
    free(w->x2);
    free(w->best);
    free(w->limits);
    free(w->ranked);
    free(w->found);
    free(w->starts);
    fgmm__cpu_pairs_free(&w->gathered);
    fgmm__cpu_pairs_free(&w->sorted);
    free(w);
}

int64_t fgmm__cpu_work_bytes(int32_t k, int32_t dim)
{
    return 8 * (int64_t)fgmm__cpu_block_rows(k) * (fgmm__cpu_chunk(k) + (int64_t)dim);
}

/* ---- log-densities of one chunk ---- */

/* What does not depend on the component: the rows in the space of centres, or their squares. */
static const double *prepare_rows(const fgmm__cpu_model *m, fgmm__cpu_work *w, const double *x, int32_t rows)
{
    size_t values = (size_t)m->block_rows * m->dim;
    const double *y = x;
    if (m->shape == FGMM_TIED) {
        memcpy(w->scratch, x, sizeof(double) * values);
        cblas_dtrmm(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit, m->block_rows, m->dim,
                    1, m->factors, m->dim, w->scratch, m->dim);
        y = w->scratch;
    } else if (m->shape == FGMM_DIAG) {
        for (size_t i = 0; i < values; i++)
            w->scratch[i] = x[i] * x[i];
    }
    for (int32_t i = 0; i < rows; i++)
        w->x2[i] = fgmm__cpu_norm2(y + (size_t)i * m->dim, m->dim);
    return y;
}

/* Full: y = (x - mean) U, l = offset - |y|^2; no cancellation. */
static void full_logits(const fgmm__cpu_model *m, fgmm__cpu_work *w, const double *x, int32_t rows,
                        int32_t first, int32_t count)
{
    int32_t dim = m->dim;
    for (int32_t j = 0; j < count; j++) {
        size_t k = (size_t)(first + j);
        const double *mean = m->means + k * dim;
        for (int32_t i = 0; i < m->block_rows; i++)
            for (int32_t d = 0; d < dim; d++)
                w->scratch[(size_t)i * dim + d] = x[(size_t)i * dim + d] - mean[d];
        cblas_dtrmm(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit, m->block_rows, dim, 1,
                    m->factors + k * dim * dim, dim, w->scratch, dim);
        for (int32_t i = 0; i < rows; i++)
            w->logits[(size_t)i * m->chunk + j] =
                m->offsets[k] - fgmm__cpu_norm2(w->scratch + (size_t)i * dim, dim);
    }
}

/* The part of l that products give; `finish` adds the rest. y: rows in the space of centres. */
static void chunk_products(const fgmm__cpu_model *m, fgmm__cpu_work *w, const double *x, const double *y,
                           int32_t rows, int32_t first, int32_t count)
{
    size_t at = (size_t)first * m->dim;
    double beta = 0;
    if (m->shape == FGMM_FULL) {
        full_logits(m, w, x, rows, first, count);
        return;
    }
    if (m->shape == FGMM_DIAG) {
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m->block_rows, count, m->dim, -1, w->scratch,
                    m->dim, m->quadratic + at, m->dim, 0, w->logits, m->chunk);
        beta = 1;
    }
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m->block_rows, count, m->dim, 1, y, m->dim,
                m->linear + at, m->dim, beta, w->logits, m->chunk);
}

/* l += constant - scale |x|^2; returns the largest. A maximum does not depend on the order. */
FGMM_CLONES static double finish_spheres(double *restrict l, const double *restrict constants,
                                         const double *restrict scales, double x2, int32_t n)
{
    double best = -INFINITY;
#pragma omp simd reduction(max : best)
    for (int32_t j = 0; j < n; j++) {
        l[j] = l[j] + constants[j] - scales[j] * x2;
        best = l[j] > best ? l[j] : best;
    }
    return best;
}

FGMM_CLONES static double finish_constants(double *restrict l, const double *restrict constants, int32_t n)
{
    double best = -INFINITY;
#pragma omp simd reduction(max : best)
    for (int32_t j = 0; j < n; j++) {
        l[j] = l[j] + constants[j];
        best = l[j] > best ? l[j] : best;
    }
    return best;
}

static double largest(const double *l, int32_t n)
{
    double best = -INFINITY;
    for (int32_t j = 0; j < n; j++)
        best = l[j] > best ? l[j] : best;
    return best;
}

/* Indices of values >= threshold, ascending. Most groups hold none. */
FGMM_CLONES static int32_t find_above(const double *l, int32_t n, double threshold, int32_t *found)
{
    enum { GROUP = 32 };
    int32_t count = 0, j = 0;
    for (; j + GROUP <= n; j += GROUP) {
        double best = -INFINITY;
#pragma omp simd reduction(max : best)
        for (int32_t i = 0; i < GROUP; i++)
            best = l[j + i] > best ? l[j + i] : best;
        if (best < threshold)
            continue;
        for (int32_t i = j; i < j + GROUP; i++) {
            found[count] = i;
            count += l[i] >= threshold;
        }
    }
    for (; j < n; j++) {
        found[count] = j;
        count += l[j] >= threshold;
    }
    return count;
}

/* ---- candidates ---- */

/* Twice the error of an expanded l of this row: two of them that compare wrongly differ by less. */
static inline double row_slack(const fgmm__cpu_model *m, double x2)
{
    return m->shape == FGMM_FULL ? 0 : 2 * (m->slack_row * x2 + m->slack_constant);
}

/* Below this no l of the row matters: neither by mass nor by rank. */
static inline double threshold_of(const fgmm__cpu_model *m, const fgmm__cpu_work *w, int32_t row)
{
    double slack = row_slack(m, w->x2[row]), best = w->best[row];
    double last = w->top > 1 ? w->ranked[(size_t)row * w->top + w->top - 1] : best;
    double by_mass = m->hard ? INFINITY : best - m->margin - slack;
    return fmin(by_mass, last - slack);
}

static void rank_value(double *ranked, int32_t top, double value)
{
    int32_t at = top - 1;
    if (value <= ranked[at])
        return;
    for (; at > 0 && ranked[at - 1] < value; at--)
        ranked[at] = ranked[at - 1];
    ranked[at] = value;
}

/* Scans one row's logits of a chunk; with top > 1 in pieces, so that the threshold rises on the way. */
static fgmm_status gather_row(const fgmm__cpu_model *m, fgmm__cpu_work *w, int32_t row, int32_t first,
                              int32_t count)
{
    const double *l = w->logits + (size_t)row * m->chunk;
    int32_t piece = w->top > 1 ? 128 : count;
    for (int32_t begin = 0; begin < count; begin += piece) {
        int32_t n = count - begin < piece ? count - begin : piece;
        int32_t found = find_above(l + begin, n, threshold_of(m, w, row), w->found);
        if (found == 0)
            continue;
        fgmm_status status = fgmm__cpu_pairs_reserve(&w->gathered, (size_t)found);
        if (status != FGMM_OK)
            return status;
        fgmm__cpu_pair *to = w->gathered.at + w->gathered.n;
        for (int32_t j = 0; j < found; j++) {
            int32_t at = begin + w->found[j];
            to[j] = (fgmm__cpu_pair){first + at, row, l[at]};
            if (w->top > 1)
                rank_value(w->ranked + (size_t)row * w->top, w->top, l[at]);
        }
        w->gathered.n += (size_t)found;
    }
    return FGMM_OK;
}

/* The gathered pairs lie by row, then component, and no threshold has risen since. */
static inline bool gathered_at_once(const fgmm__cpu_model *m)
{
    return m->k <= m->chunk;
}

/* Drops what fell below its row's threshold since it was gathered. */
static void compact(const fgmm__cpu_model *m, fgmm__cpu_work *w, int32_t rows)
{
    size_t kept = 0;
    for (int32_t i = 0; i < rows; i++)
        w->limits[i] = threshold_of(m, w, i);
    for (size_t i = 0; i < w->gathered.n; i++) {
        fgmm__cpu_pair pair = w->gathered.at[i];
        w->gathered.at[kept] = pair;
        kept += pair.value >= w->limits[pair.row];
    }
    w->gathered.n = kept;
}

static fgmm_status gather(const fgmm__cpu_model *m, fgmm__cpu_work *w, const double *x, const double *y,
                          int32_t rows)
{
    fgmm_status status = FGMM_OK;
    size_t after_compaction = 0;
    w->gathered.n = 0;
    for (int32_t i = 0; i < rows; i++)
        w->best[i] = -INFINITY;
    for (int32_t i = 0; i < rows * w->top; i++)
        w->ranked[i] = -INFINITY;
    for (int32_t first = 0; first < m->k; first += m->chunk) {
        int32_t count = m->k - first < m->chunk ? m->k - first : m->chunk;
        chunk_products(m, w, x, y, rows, first, count);
        for (int32_t i = 0; i < rows; i++) {
            double *l = w->logits + (size_t)i * m->chunk;
            double best = m->scales != NULL
                              ? finish_spheres(l, m->constants + first, m->scales + first, w->x2[i], count)
                          : m->constants != NULL ? finish_constants(l, m->constants + first, count)
                                                 : largest(l, count);
            if (best > w->best[i])
                w->best[i] = best;
            FGMM_TRY(gather_row(m, w, i, first, count));
        }
        bool more = first + count < m->k;
        if (more && w->gathered.n > 2 * after_compaction + 4 * (size_t)m->block_rows) {
            compact(m, w, rows);
            after_compaction = w->gathered.n;
        }
    }
    if (!gathered_at_once(m) || w->top > 1)
        compact(m, w, rows);
cleanup:
    return status;
}

/* By row, then k: chunks came in order of k, so a stable counting sort by row is enough. */
static fgmm_status sort_by_row(const fgmm__cpu_model *m, fgmm__cpu_work *w, int32_t rows)
{
    memset(w->starts, 0, sizeof *w->starts * ((size_t)rows + 1));
    for (size_t i = 0; i < w->gathered.n; i++)
        w->starts[w->gathered.at[i].row + 1]++;
    for (int32_t i = 0; i < rows; i++)
        w->starts[i + 1] += w->starts[i];
    if (gathered_at_once(m)) {
        fgmm__cpu_pairs sorted = w->gathered;
        w->gathered = w->sorted;
        w->sorted = sorted;
        return FGMM_OK;
    }
    w->sorted.n = 0;
    fgmm_status status = fgmm__cpu_pairs_reserve(&w->sorted, w->gathered.n);
    if (status != FGMM_OK)
        return status;
    for (size_t i = 0; i < w->gathered.n; i++)
        w->sorted.at[w->starts[w->gathered.at[i].row]++] = w->gathered.at[i];
    memmove(w->starts + 1, w->starts, sizeof *w->starts * (size_t)rows);
    w->starts[0] = 0;
    w->sorted.n = w->gathered.n;
    return FGMM_OK;
}

static void check_rows(const fgmm__cpu_model *m, fgmm__cpu_work *w, const double *y, int32_t rows)
{
    for (int32_t i = 0; i < rows; i++) {
        size_t n = w->starts[i + 1] - w->starts[i];
        if (!m->hard && n > CHECKED_AT_MOST && row_slack(m, w->x2[i]) < GOOD_ENOUGH)
            continue;
        for (size_t j = w->starts[i]; j < w->starts[i + 1]; j++)
            w->sorted.at[j].value = fgmm__cpu_exact_logit(m, y + (size_t)i * m->dim, w->sorted.at[j].k);
    }
}

fgmm_status fgmm__cpu_candidates(const fgmm__cpu_model *m, fgmm__cpu_work *w, const double *x, int32_t rows)
{
    fgmm_status status = FGMM_OK;
    const double *y = prepare_rows(m, w, x, rows);
    FGMM_TRY(gather(m, w, x, y, rows));
    FGMM_TRY(sort_by_row(m, w, rows));
    if (m->shape != FGMM_FULL)
        check_rows(m, w, y, rows);
cleanup:
    return status;
}

/* ---- responsibilities ---- */

/* 2^x for x <= 0: 2^n by the exponent, the rest (|f| <= 1/2) by exp's series to its 13th term (below 4e-18).
 */
static inline double exp2_nonpositive(double x)
{
    static const double shifter = 0x1.8p52;
    x = x < -1000 ? -1000 : x;
    union {
        double real;
        int64_t bits;
    } n = {x + shifter}, power;
    double f = (x - (n.real - shifter)) * 0.693147180559945309417;
    double p = 1.0 / 6227020800.0;
    p = p * f + 1.0 / 479001600.0;
    p = p * f + 1.0 / 39916800.0;
    p = p * f + 1.0 / 3628800.0;
    p = p * f + 1.0 / 362880.0;
    p = p * f + 1.0 / 40320.0;
    p = p * f + 1.0 / 5040.0;
    p = p * f + 1.0 / 720.0;
    p = p * f + 1.0 / 120.0;
    p = p * f + 1.0 / 24.0;
    p = p * f + 1.0 / 6.0;
    p = p * f + 0.5;
    p = p * f + 1.0;
    p = p * f + 1.0;
    power.bits = (int64_t)((uint64_t)(n.bits + 1023) << 52);
    return p * power.real;
}

FGMM_CLONES static void exponentials(fgmm__cpu_pair *pairs, size_t n, double best)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        pairs[i].value = exp2_nonpositive(pairs[i].value - best);
}

double fgmm__cpu_normalise(fgmm__cpu_pair *pairs, size_t n)
{
    double best = pairs[0].value, sum = 0;
    for (size_t i = 1; i < n; i++)
        best = pairs[i].value > best ? pairs[i].value : best;
    exponentials(pairs, n, best);
    for (size_t i = 0; i < n; i++)
        sum += pairs[i].value;
    double inverse = 1 / sum;
    for (size_t i = 0; i < n; i++)
        pairs[i].value *= inverse;
    return best + log2(sum);
}
