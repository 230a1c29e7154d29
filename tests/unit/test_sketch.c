/* Sketches: principal directions are orthonormal and those of the data, and no bound is ever above the
 * distance that searching computes, whatever the rows are like. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include "base/philox.h"
#include "base/status.h"
#include "ivf/pca.h"
#include "ivf/sketch.h"

static fgmm_comm *comm;

static double uniform(uint64_t *state)
{
    return fgmm__philox_uniform(7, FGMM_RNG_BENCH, (*state)++) - 0.5;
}

static double largest_fault(const double *basis, int32_t m, int32_t dim)
{
    double worst = 0;
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j <= i; j++) {
            double product = 0;
            for (int32_t d = 0; d < dim; d++)
                product += basis[i * dim + d] * basis[j * dim + d];
            worst = fmax(worst, fabs(product - (i == j)));
        }
    return worst;
}

/* ---- principal directions ---- */

static void principal_directions_are_those_of_largest_variance(void **state)
{
    (void)state;
    enum { N = 3000, DIM = 20, M = 4 };
    float *sample = malloc(N * DIM * sizeof *sample), *again = malloc(N * DIM * sizeof *again);
    double mean[DIM], basis[M * DIM], other_mean[DIM], other[M * DIM];
    uint64_t at = 0;
    /* Independent columns about 100 + d; the widest are 13, 2, 17 and 5, in this order. */
    for (int i = 0; i < N; i++)
        for (int d = 0; d < DIM; d++) {
            double width = d == 13   ? 60
                           : d == 2  ? 40
                           : d == 17 ? 25
                           : d == 5  ? 16
                                     : 8 * (d + 1) / (double)DIM;
            sample[i * DIM + d] = (float)(100 + d + width * uniform(&at));
        }
    memcpy(again, sample, N * DIM * sizeof *again);
    assert_int_equal(fgmm__pca(comm, sample, N, DIM, M, 1, mean, basis), FGMM_OK);
    assert_int_equal(fgmm__pca(comm, again, N, DIM, M, 3, other_mean, other), FGMM_OK);
    assert_memory_equal(mean, other_mean, sizeof mean);
    assert_memory_equal(basis, other, sizeof basis);
    assert_true(largest_fault(basis, M, DIM) < 1e-14);
    static const int wide[M] = {13, 2, 17, 5};
    for (int i = 0; i < M; i++)
        assert_true(fabs(basis[i * DIM + wide[i]]) > 0.98);
    for (int d = 0; d < DIM; d++)
        assert_true(fabs(mean[d] - 100 - d) < 2);
    free(sample);
    free(again);
}

static void directions_are_orthonormal_where_the_data_have_fewer(void **state)
{
    (void)state;
    enum { N = 50, DIM = 9 };
    float sample[N * DIM];
    double mean[DIM], basis[DIM * DIM];
    for (int rank = 0; rank < 3; rank++) { /* all equal, on a line, in a plane */
        uint64_t at = 0;
        for (int i = 0; i < N; i++) {
            double a = rank > 0 ? uniform(&at) : 0, b = rank > 1 ? uniform(&at) : 0;
            for (int d = 0; d < DIM; d++)
                sample[i * DIM + d] = (float)(1e6 * a * (d - 3) + b * (d % 2) + 5);
        }
        assert_int_equal(fgmm__pca(comm, sample, N, DIM, DIM, 1, mean, basis), FGMM_OK);
        assert_true(largest_fault(basis, DIM, DIM) < 1e-13);
    }
}

/* ---- bounds ---- */

enum { ROWS = 60, MOST_DIM = 70 };

/* As searching does. */
static double distance(const float *a, const float *b, int32_t dim)
{
    double sum = 0;
    for (int32_t d = 0; d < dim; d++)
        sum += ((double)a[d] - (double)b[d]) * ((double)a[d] - (double)b[d]);
    return sum;
}

/* No row is ruled out by a bound as large as its own distance. Returns the largest share of a distance that
 * sketches account for. */
static double never_too_high(const fgmm_sketch *sketch, const float *rows)
{
    int32_t m = sketch->m, dim = sketch->dim;
    float *stored = malloc(ROWS * (size_t)(m + 1) * sizeof *stored);
    double *query = malloc((size_t)(m + 1) * sizeof *query), best = 0;
    assert_int_equal(fgmm__sketch_rows(sketch, rows, FGMM_F32, ROWS, 2, stored), FGMM_OK);
    for (int q = 0; q < ROWS; q++) {
        double length = 0;
        fgmm__sketch_query(sketch, rows + q * dim, query);
        for (int c = 0; c <= m; c++)
            length += query[c] * query[c];
        for (int i = 0; i < ROWS; i++) {
            const float *row = stored + i * (m + 1);
            double apart = 0, its = 0, exact = distance(rows + i * dim, rows + q * dim, dim);
            for (int c = 0; c <= m; c++) {
                apart += ((double)row[c] - query[c]) * ((double)row[c] - query[c]);
                its += (double)row[c] * (double)row[c];
            }
            double slack = fgmm__sketch_slack(sketch, sqrt(length)) + fgmm__sketch_slack(sketch, sqrt(its));
            double least = fgmm__sketch_least(sketch, apart, slack);
            assert_false(apart > fgmm__sketch_limit(sketch, exact, slack));
            /* The other way round: below the distance, and hardly below what the sketches tell. */
            assert_true(least <= exact);
            assert_true(least == 0 || isinf(apart) || apart > fgmm__sketch_limit(sketch, least, slack));
            assert_true(sqrt(least) >= (sqrt(apart) - slack) * (1 - 1e-9) || isinf(apart) || apart < 1e-200);
            if (i != q && exact > 0 && isfinite(apart))
                best = fmax(best, apart / exact);
        }
    }
    free(stored);
    free(query);
    return best;
}

static fgmm_sketch *sketch_for(const float *rows, int32_t dim, int32_t m)
{
    fgmm_sketch *sketch = NULL;
    float *sample = malloc(ROWS * (size_t)dim * sizeof *sample);
    double *mean = malloc((size_t)dim * sizeof *mean),
           *basis = malloc((size_t)m * (size_t)dim * sizeof *basis);
    memcpy(sample, rows, ROWS * (size_t)dim * sizeof *sample);
    assert_int_equal(fgmm__pca(comm, sample, ROWS, dim, m, 1, mean, basis), FGMM_OK);
    assert_int_equal(fgmm__sketch_of(mean, basis, m, dim, "rows", &sketch), FGMM_OK);
    free(sample);
    free(mean);
    free(basis);
    return sketch;
}

static void a_bound_is_never_above_the_distance(void **state)
{
    (void)state;
    static const double offsets[] = {0, 1e3, 1e7, 1e-3}, widths[] = {1, 1e-30, 1e30, 1e-44, 3e38};
    static const int32_t dims[] = {1, 2, 17, MOST_DIM};
    float rows[ROWS * MOST_DIM];
    for (int c = 0; c < 4 * 5 * 4; c++) {
        int32_t dim = dims[c % 4];
        double width = widths[c / 4 % 5], offset = width == 1 ? offsets[c / 20] : 0;
        uint64_t at = (uint64_t)c << 20;
        for (int i = 0; i < ROWS; i++)
            for (int d = 0; d < dim; d++) {
                /* Falling variances; some rows equal, some a hair apart, some in the plane of the rest. */
                double value = offset + width * uniform(&at) / (1 + d);
                if (i % 7 == 3)
                    value = (double)rows[(i - 1) * dim + d];
                if (i % 7 == 5)
                    value = (double)rows[(i - 2) * dim + d] * (1 + (d == 0) * 0x1p-23);
                rows[i * dim + d] = (float)value;
            }
        for (int32_t m = 1; m <= dim; m = m == 1 ? (dim + 1) / 2 + 1 : dim - m > 0 ? dim : dim + 1) {
            if (m > dim)
                break;
            fgmm_sketch *sketch = sketch_for(rows, dim, m);
            double share = never_too_high(sketch, rows);
            if (width == 1 && m == dim)
                assert_true(share > 0.999);
            fgmm__sketch_destroy(sketch);
        }
    }
}

static void bytes_and_floats_of_equal_value_have_the_same_sketch(void **state)
{
    (void)state;
    enum { DIM = 16, M = 5 };
    float rows[ROWS * DIM], a[ROWS * (M + 1)], b[ROWS * (M + 1)];
    uint8_t bytes[ROWS * DIM];
    uint64_t at = 0;
    for (int i = 0; i < ROWS * DIM; i++) {
        bytes[i] = (uint8_t)(255 * (uniform(&at) + 0.5));
        rows[i] = bytes[i];
    }
    fgmm_sketch *sketch = sketch_for(rows, DIM, M);
    assert_int_equal(fgmm__sketch_rows(sketch, rows, FGMM_F32, ROWS, 1, a), FGMM_OK);
    assert_int_equal(fgmm__sketch_rows(sketch, bytes, FGMM_U8, ROWS, 3, b), FGMM_OK);
    assert_memory_equal(a, b, sizeof a);
    for (int i = 0; i < ROWS; i++) { /* the length is kept */
        double sum = 0, whole = 0;
        for (int c = 0; c <= M; c++)
            sum += (double)a[i * (M + 1) + c] * (double)a[i * (M + 1) + c];
        for (int d = 0; d < DIM; d++)
            whole +=
                ((double)rows[i * DIM + d] - sketch->mean[d]) * ((double)rows[i * DIM + d] - sketch->mean[d]);
        assert_true(fabs(sum - whole) < 1e-6 * whole);
    }
    fgmm__sketch_destroy(sketch);
}

static void a_basis_that_is_not_orthonormal_is_refused(void **state)
{
    (void)state;
    enum { DIM = 6, M = 2 };
    double mean[DIM] = {0}, basis[M * DIM] = {1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0};
    fgmm_sketch *sketch = NULL;
    assert_int_equal(fgmm__sketch_of(mean, basis, M, DIM, "f.h5", &sketch), FGMM_OK);
    fgmm__sketch_destroy(sketch);
    sketch = NULL;
    static const double faults[] = {1e-3, 1, -1, INFINITY, NAN};
    for (int i = 0; i < 5; i++) {
        basis[2] = faults[i];
        basis[DIM + 3] = faults[i];
        fgmm_error_clear();
        assert_int_equal(fgmm__sketch_of(mean, basis, M, DIM, "f.h5", &sketch), FGMM_ERR_INPUT);
        assert_non_null(strstr(fgmm_error_message(), "f.h5: damaged"));
        basis[2] = basis[DIM + 3] = 0;
    }
    mean[4] = NAN;
    fgmm_error_clear();
    assert_int_equal(fgmm__sketch_of(mean, basis, M, DIM, "f.h5", &sketch), FGMM_ERR_INPUT);
    fgmm_error_clear();
}

int main(int argc, char **argv)
{
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    if (fgmm_comm_create(MPI_COMM_WORLD, 60, &comm) != FGMM_OK)
        return 1;
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(principal_directions_are_those_of_largest_variance),
        cmocka_unit_test(directions_are_orthonormal_where_the_data_have_fewer),
        cmocka_unit_test(a_bound_is_never_above_the_distance),
        cmocka_unit_test(bytes_and_floats_of_equal_value_have_the_same_sketch),
        cmocka_unit_test(a_basis_that_is_not_orthonormal_is_refused),
    };
    int failed = cmocka_run_group_tests(cases, NULL, NULL);
    fgmm_comm_destroy(comm);
    MPI_Finalize();
    return failed;
}
