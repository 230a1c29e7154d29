#include "data/range.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include "io/reader.h"

/* Rows of one thread's turn: enough to be worth its overhead, few enough to share evenly. */
enum { TURN_ROWS = 256 };

/* What one thread has seen, in the type that rows are compared in: their own, f16 as f32. */
typedef struct {
    void *low, *high; /* [dim] */
    float *row;       /* [dim]: an f16 row, widened */
    bool any, nan;
} partial;

struct fgmm_range {
    fgmm_dtype dtype;
    int32_t dim;
    int n_threads;
    partial *partials; /* [n_threads] */
};

fgmm_status fgmm__range_create(fgmm_dtype dtype, int32_t dim, fgmm_range **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_range *range = NULL;
    *out = NULL;
    FGMM_ALLOC(range, 1, "the range of the data");
    range->dtype = dtype;
    range->dim = dim;
    FGMM_ALLOC(range->partials, omp_get_max_threads(), "the range of the data");
    range->n_threads = omp_get_max_threads();
    for (int i = 0; i < range->n_threads; i++) {
        partial *p = &range->partials[i];
        FGMM_TRY(fgmm__alloc((size_t)dim, sizeof(float), "the range of the data", &p->low));
        FGMM_TRY(fgmm__alloc((size_t)dim, sizeof(float), "the range of the data", &p->high));
        FGMM_ALLOC(p->row, dim, "the range of the data");
    }
    *out = range;
    range = NULL;
cleanup:
    fgmm__range_destroy(range);
    return status;
}

void fgmm__range_destroy(fgmm_range *range)
{
    if (range == NULL)
        return;
    for (int i = 0; i < range->n_threads; i++) {
        free(range->partials[i].low);
        free(range->partials[i].high);
        free(range->partials[i].row);
    }
    free(range->partials);
    free(range);
}

/* A NaN is neither smaller nor larger than anything: it is found by itself, an infinity as the end of a
 * range. */
static void add_f32(const float *restrict row, int32_t dim, float *restrict low, float *restrict high,
                    bool *nan)
{
    int unequal = 0;
#pragma omp simd reduction(| : unequal)
    for (int32_t j = 0; j < dim; j++) {
        float x = row[j];
        low[j] = x < low[j] ? x : low[j];
        high[j] = x > high[j] ? x : high[j];
        unequal |= x != x;
    }
    *nan |= unequal != 0;
}

static void add_u8(const uint8_t *restrict row, int32_t dim, uint8_t *restrict low, uint8_t *restrict high)
{
#pragma omp simd
    for (int32_t j = 0; j < dim; j++) {
        low[j] = row[j] < low[j] ? row[j] : low[j];
        high[j] = row[j] > high[j] ? row[j] : high[j];
    }
}

static void add_i8(const int8_t *restrict row, int32_t dim, int8_t *restrict low, int8_t *restrict high)
{
#pragma omp simd
    for (int32_t j = 0; j < dim; j++) {
        low[j] = row[j] < low[j] ? row[j] : low[j];
        high[j] = row[j] > high[j] ? row[j] : high[j];
    }
}

static void add_row(const fgmm_range *range, partial *p, const void *row)
{
    int32_t dim = range->dim;
    switch (range->dtype) {
    case FGMM_F32:
        add_f32(row, dim, p->low, p->high, &p->nan);
        break;
    case FGMM_F16:
        fgmm__to_f32(FGMM_F16, row, (size_t)dim, p->row);
        add_f32(p->row, dim, p->low, p->high, &p->nan);
        break;
    case FGMM_U8:
        add_u8(row, dim, p->low, p->high);
        break;
    case FGMM_I8:
        add_i8(row, dim, p->low, p->high);
        break;
    }
}

/* The first row a thread sees is both ends. */
static void begin_with(const fgmm_range *range, partial *p, const void *row)
{
    size_t dim = (size_t)range->dim;
    if (range->dtype == FGMM_F16) {
        fgmm__to_f32(FGMM_F16, row, dim, p->low);
        memcpy(p->high, p->low, dim * sizeof(float));
    } else {
        memcpy(p->low, row, dim * fgmm_dtype_bytes(range->dtype));
        memcpy(p->high, row, dim * fgmm_dtype_bytes(range->dtype));
    }
    p->any = true;
}

static bool is_finite(const fgmm_range *range, const partial *p)
{
    if (range->dtype == FGMM_U8 || range->dtype == FGMM_I8 || !p->any)
        return true;
    if (p->nan)
        return false;
    const float *low = p->low, *high = p->high;
    for (int32_t j = 0; j < range->dim; j++) {
        if (!isfinite(low[j]) || !isfinite(high[j]))
            return false;
    }
    return true;
}

bool fgmm__range_add(fgmm_range *range, const void *rows, int64_t n)
{
    size_t row_bytes = (size_t)range->dim * fgmm_dtype_bytes(range->dtype);
    bool finite = true;
#pragma omp parallel num_threads(range->n_threads) reduction(&& : finite)
    {
        partial *p = &range->partials[omp_get_thread_num()];
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < n; first += TURN_ROWS) {
            int64_t end = first + TURN_ROWS < n ? first + TURN_ROWS : n;
            for (int64_t i = first; i < end; i++) {
                const char *row = (const char *)rows + (size_t)i * row_bytes;
                if (!p->any)
                    begin_with(range, p, row);
                add_row(range, p, row);
            }
        }
        finite = is_finite(range, p);
    }
    return finite;
}

static double value_at(const fgmm_range *range, const void *values, int32_t j)
{
    switch (range->dtype) {
    case FGMM_U8:
        return ((const uint8_t *)values)[j];
    case FGMM_I8:
        return ((const int8_t *)values)[j];
    default:
        return ((const float *)values)[j];
    }
}

void fgmm__range_get(const fgmm_range *range, double *min, double *max)
{
    for (int32_t j = 0; j < range->dim; j++) {
        double low = INFINITY, high = -INFINITY;
        for (int i = 0; i < range->n_threads; i++) {
            const partial *p = &range->partials[i];
            if (p->any) {
                low = fmin(low, value_at(range, p->low, j));
                high = fmax(high, value_at(range, p->high, j));
            }
        }
        /* Which of -0 and +0 came first depends on threads: both count as +0. */
        min[j] = low + 0.0;
        max[j] = high + 0.0;
    }
}
