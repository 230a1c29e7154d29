/* What every screen promises, whichever serves a shape: a row that is not dense has all components within
 * keep_bits of its best in its list, and the bounds there hold. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "support/gpu.h"
#ifdef FGMM_HAVE_CUDA
#include "backend/cuda_backend.h"

typedef struct {
    fgmm_candidate *entries; /* [n][FGMM_CANDIDATES] */
    int32_t *counts;         /* [n] */
} lists;

static void *take(size_t n, size_t bytes)
{
    void *p = calloc(n + 1, bytes);
    assert_non_null(p);
    return p;
}

static void download(void *to, const void *from, size_t bytes)
{
    assert_int_equal(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), cudaSuccess);
}

/* The lists that an assignment of the rows, at most a chunk, leaves on the device. */
static lists screen(const fgmm_test_rows *rows, const fgmm_components *c)
{
    fgmm_backend *backend = fgmm_test_cuda();
    const fgmm__cuda_backend *cuda = (const fgmm__cuda_backend *)backend;
    size_t n = (size_t)rows->n;
    lists l = {take(n * FGMM_CANDIDATES, sizeof *l.entries), take(n, sizeof *l.counts)};
    int32_t *labels = take(n, sizeof *labels);
    const void *placed = fgmm_test_place(backend, rows);
    fgmm_tile tile = fgmm_test_tile(rows, placed, 0, rows->n);
    assert_int_equal(backend->ops->assign_begin(backend, c, 1), FGMM_OK);
    assert_int_equal(backend->ops->assign_tile(backend, &tile, labels, NULL, NULL), FGMM_OK);
    download(l.entries, cuda->buffers[BUFFER_CANDIDATES].pointer, n * FGMM_CANDIDATES * sizeof *l.entries);
    download(l.counts, cuda->buffers[BUFFER_COUNTS].pointer, n * sizeof *l.counts);
    fgmm_test_release(backend, placed);
    free(labels);
    return l;
}

static void lists_free(lists *l)
{
    free(l->entries);
    free(l->counts);
}

/* Whether the list of one row holds what it must; `seen` is [k] of zeros, and is again. */
static bool holds(const fgmm_candidate *entries, int32_t count, const double *l, double best, int32_t k,
                  double keep_bits, char *seen)
{
    bool good = true;
    double slack = 1e-9 * (1 + fabs(best)); /* of float64 */
    for (int32_t i = 0; i < count; i++) {
        int32_t c = entries[i].component;
        if (c < 0 || c >= k || seen[c] || (double)entries[i].upper < l[c] - slack - 1e-11 * fabs(l[c])) {
            print_error("entry %d: component %d, upper %.9g, exact %.9g\n", i, c, (double)entries[i].upper,
                        c >= 0 && c < k ? l[c] : NAN);
            good = false;
            break;
        }
        seen[c] = 1;
    }
    for (int32_t c = 0; good && c < k; c++)
        if (!seen[c] && l[c] > best - keep_bits + slack) {
            print_error("component %d is missing: %.9g of best %.9g\n", c, l[c], best);
            good = false;
        }
    for (int32_t c = 0; c < k; c++)
        seen[c] = 0;
    return good;
}

/* At most `most_dense` of the rows may be dense. Of many rows, some are looked at. */
static void check(const char *what, const fgmm_test_rows *rows, const fgmm_components *c, double most_dense)
{
    const fgmm__cuda_backend *cuda = (const fgmm__cuda_backend *)fgmm_test_cuda();
    lists found = screen(rows, c);
    double *l = take((size_t)c->k, sizeof *l), keep_bits = cuda->model.view.keep_bits;
    char *seen = take((size_t)c->k, 1);
    int64_t wrong = 0, dense = 0, entries = 0, looked = 0, step = rows->n > 10000 ? 7 : 1;
    for (int64_t i = 0; i < rows->n; i += step, looked++) {
        int32_t count = found.counts[i];
        assert_true(count >= 1 && count <= FGMM_DENSE_ROW);
        if (count == FGMM_DENSE_ROW) {
            dense++;
            continue;
        }
        double best = -INFINITY;
        fgmm_test_logits(c, rows->values + i * rows->dim, l);
        for (int32_t k = 0; k < c->k; k++)
            best = fmax(best, l[k]);
        entries += count;
        if (!holds(found.entries + i * FGMM_CANDIDATES, count, l, best, c->k, keep_bits, seen) &&
            wrong++ == 0)
            print_error("%s: row %ld, %d candidates\n", what, (long)i, count);
    }
    print_message("%s: screen %d, %.1f %% dense, %.2f candidates in a list\n", what, (int)cuda->model.screen,
                  100.0 * (double)dense / (double)looked,
                  (double)entries / fmax(1, (double)(looked - dense)));
    assert_int_equal(wrong, 0);
    assert_true((double)dense <= most_dense * (double)looked);
    free(l);
    free(seen);
    lists_free(&found);
}

static void name(char *what, size_t bytes, const char *kind, const fgmm_test_rows *rows,
                 const fgmm_components *c, double sigma)
{
    snprintf(what, bytes, "%s: %s n=%ld k=%d d=%d %s%s sigma %g", kind, fgmm_dtype_name(rows->dtype),
             (long)rows->n, c->k, c->dim, fgmm_covariance_name(c->shape), c->hard ? " hard" : "", sigma);
}

static void compare(fgmm_dtype dtype, int64_t n, int32_t k, int32_t dim, fgmm_covariance shape, bool hard,
                    double sigma, double most_dense)
{
    char what[160];
    fgmm_test_rows *rows = fgmm_test_rows_create(dtype, n, k, dim, sigma);
    fgmm_components *c = fgmm_test_components(shape, hard, k, dim, dtype, sigma);
    name(what, sizeof what, "plain", rows, c, sigma);
    check(what, rows, c, most_dense);
    fgmm__components_destroy(c);
    fgmm_test_rows_destroy(rows);
}

/* Separated mixtures: hardly a row may be dense, or the screen is of no use. */
static void lists_hold_all_that_matters(void **state)
{
    (void)state;
    const int32_t dims[] = {17, 40, 64, 100, 128, 130, 200, 768};
    const fgmm_dtype types[] = {FGMM_F32, FGMM_F16, FGMM_U8, FGMM_I8};
    for (int i = 0; i < 8; i++) {
        int32_t dim = dims[i], n = dim > 200 ? 140 : 300;
        compare(types[i % 4], n, 600, dim, FGMM_SPHERICAL, false, 3, 0.01);
        compare(types[(i + 1) % 4], n, 600, dim, FGMM_SPHERICAL, true, 3, 0.01);
        compare(types[(i + 2) % 4], n, 600, dim, FGMM_DIAG, false, 3, 0.01);
        if (dim <= 130)
            compare(types[(i + 3) % 4], 140, 300, dim, FGMM_TIED, false, 3, 0.01);
    }
    compare(FGMM_F32, 70, 270, 4096, FGMM_SPHERICAL, false, 3, 0.01);
    compare(FGMM_F16, 70, 270, 4095, FGMM_DIAG, false, 3, 0.01);
}

/* Blocks of Hopper's screens take several tiles of rows one after the other. */
static void lists_of_many_rows_hold_too(void **state)
{
    (void)state;
    compare(FGMM_F16, 40000, 260, 24, FGMM_DIAG, false, 3, 0.01);
    compare(FGMM_U8, 40000, 260, 20, FGMM_DIAG, false, 3, 0.01);
    compare(FGMM_F32, 40000, 260, 36, FGMM_TIED, false, 3, 0.01);
    compare(FGMM_F32, 40000, 260, 132, FGMM_SPHERICAL, false, 3, 0.01);
    compare(FGMM_F32, 70000, 260, 33, FGMM_SPHERICAL, false, 3, 0.01);
}

/* Overlapping and broad: lists may overflow, but must not lie. */
static void lists_of_overlapping_components_hold_too(void **state)
{
    (void)state;
    const double sigmas[] = {0.02, 12, 40, 200};
    for (int i = 0; i < 4; i++) {
        compare(FGMM_F32, 300, 300, 40, FGMM_DIAG, false, sigmas[i], 1);
        compare(FGMM_F32, 300, 300, 136, FGMM_DIAG, false, sigmas[i], 1);
        compare(FGMM_F16, 300, 300, 200, FGMM_SPHERICAL, false, sigmas[i], 1);
        compare(FGMM_F32, 300, 300, 64, FGMM_SPHERICAL, false, sigmas[i], 1);
        compare(FGMM_F32, 140, 300, 40, FGMM_TIED, false, sigmas[i], 1);
    }
}

static void scale_rows(fgmm_test_rows *rows, int64_t every, double by)
{
    for (int64_t i = 0; i < rows->n; i += every)
        for (int32_t d = 0; d < rows->dim; d++) {
            int64_t at = i * rows->dim + d;
            float *stored = (float *)rows->stored + at;
            *stored = (float)((double)*stored * by);
            rows->values[at] = *stored;
        }
}

/* Some rows far from everything, some components of variances from 1e-6 to 1e6 in some dimensions. */
static void extremes_are_held(void **state)
{
    (void)state;
    enum { K = 300, N = 300 };
    const int32_t dims[] = {40, 64, 136, 200};
    const fgmm_covariance shapes[] = {FGMM_SPHERICAL, FGMM_DIAG};
    for (int i = 0; i < 4; i++)
        for (int s = 0; s < 2; s++) {
            char what[160];
            int32_t dim = dims[i];
            fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_F32, N, K, dim, 3);
            fgmm_components *c = fgmm_test_components(shapes[s], false, K, dim, FGMM_F32, 3);
            scale_rows(rows, 5, 1e4);
            scale_rows(rows, 7, 1e-3);
            name(what, sizeof what, "far rows", rows, c, 3);
            check(what, rows, c, 1);
            for (int32_t k = 0; k < K; k += 3)
                for (int32_t d = 0; d < dim; d += 1 + k % 5)
                    c->factors[shapes[s] == FGMM_DIAG ? k * dim + d : k] *= exp2(k % 20 - 10);
            name(what, sizeof what, "mixed variances", rows, c, 3);
            check(what, rows, c, 1);
            for (int32_t k = 0; k < K; k++)
                for (int32_t d = 0; d < dim; d += 4)
                    c->factors[shapes[s] == FGMM_DIAG ? k * dim + d : k] = 850;
            name(what, sizeof what, "variances of 1e-6", rows, c, 3);
            check(what, rows, c, 1);
            for (int32_t k = 0; k < K; k += 2)
                c->offsets[k] = -INFINITY;
            name(what, sizeof what, "half of the weights zero", rows, c, 3);
            check(what, rows, c, 1);
            fgmm__components_destroy(c);
            fgmm_test_rows_destroy(rows);
        }
}

/* Components of a few equal rows here and there leave the other tiles their lower bounds. */
static void narrow_components_keep_to_themselves(void **state)
{
    (void)state;
    enum { K = 600, N = 900, EVERY = 25 };
    const int32_t dims[] = {40, 100, 128};
    for (int i = 0; i < 3; i++) {
        char what[160];
        fgmm_test_rows *rows = fgmm_test_rows_create(FGMM_F32, N, K, dims[i], 3);
        fgmm_components *c = fgmm_test_components(FGMM_SPHERICAL, false, K, dims[i], FGMM_F32, 3);
        for (int32_t k = 7; k < K; k += EVERY)
            c->factors[k] *= 0x1p14;
        name(what, sizeof what, "some narrow", rows, c, 3);
        check(what, rows, c, 2.0 / EVERY); /* their own rows are far from everything */
        fgmm__components_destroy(c);
        fgmm_test_rows_destroy(rows);
    }
}

static void stretched(fgmm_dtype dtype, int64_t n, int32_t k, int32_t dim, double condition, double sigma,
                      double most_dense)
{
    char what[160], kind[40];
    fgmm_components *c = fgmm_test_components(FGMM_FULL, false, k, dim, dtype, sigma);
    fgmm_test_stretch(c, condition, sigma);
    fgmm_test_rows *rows = fgmm_test_rows_of(c, dtype, n);
    snprintf(kind, sizeof kind, "condition %g", condition);
    name(what, sizeof what, kind, rows, c, sigma);
    check(what, rows, c, most_dense);
    fgmm__components_destroy(c);
    fgmm_test_rows_destroy(rows);
}

/* Full components from separated to overlapping. */
static void lists_of_full_components_hold(void **state)
{
    (void)state;
    const int32_t dims[] = {1, 3, 8, 17, 64, 65, 100, 128};
    const fgmm_dtype types[] = {FGMM_F32, FGMM_F16, FGMM_U8, FGMM_I8};
    const double conditions[] = {1, 1e2, 1e4, 1e6}, sigmas[] = {0.1, 5, 12, 40, 200};
    for (int i = 0; i < 8; i++) {
        stretched(FGMM_F32, 200, 150, dims[i], conditions[i % 4], 1, dims[i] > 32 ? 0.01 : 1);
        stretched(types[i % 4], 200, 70, dims[i], conditions[(i + 1) % 4], 3, dims[i] > 32 ? 0.01 : 1);
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 5; j++) {
            stretched(FGMM_F32, 300, 200, 24, conditions[i], sigmas[j], 1);
            stretched(FGMM_F32, 150, 150, 80, conditions[i], sigmas[j], 1);
        }
}

static int cases(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_of_full_components_hold),
        cmocka_unit_test(lists_hold_all_that_matters),
        cmocka_unit_test(lists_of_many_rows_hold_too),
        cmocka_unit_test(lists_of_overlapping_components_hold_too),
        cmocka_unit_test(extremes_are_held),
        cmocka_unit_test(narrow_components_keep_to_themselves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else
static int cases(void)
{
    return 0;
}
#endif

int main(int argc, char **argv)
{
    return fgmm_test_gpu_main(argc, argv, cases);
}
