/* Seeded samples at 1 to 4 ranks: the same rows whoever reads them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/philox.h"
#include "base/status.h"
#include "data/sample.h"
#include "support/files.h"
#include "support/rows.h"
#include "support/ranks.h"

enum { DIM = 11, ROWS = 6000 };

static char *path;

static fgmm_dataset *open_data(fgmm_dtype dtype)
{
    const char *const extensions[] = {"fbin", "f16bin", "u8bin", "i8bin"};
    char name[64];
    snprintf(name, sizeof name, "sample-%d.%s", size, extensions[dtype]);
    free(path);
    path = strdup(fgmm_test_path(name));
    if (rank == 0)
        fgmm_test_write_bin(path, dtype, 0, ROWS, DIM);
    MPI_Barrier(MPI_COMM_WORLD);
    fgmm_dataset *dataset = NULL;
    fgmm_error_clear();
    assert_true(on_all_ranks(fgmm_dataset_open((const char *const *)&path, 1, NULL, &dataset) == FGMM_OK));
    return dataset;
}

static void close_data(fgmm_dataset *dataset)
{
    fgmm_dataset_close(dataset);
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0)
        unlink(path);
}

static bool holds_rows(fgmm_dtype dtype, const int64_t *rows, int64_t count, const float *data)
{
    for (int64_t i = 0; i < count * DIM; i++) {
        if (data[i] != fgmm_test_value(dtype, rows[i / DIM], (int32_t)(i % DIM)))
            return false;
    }
    return true;
}

static void a_sample_has_one_row_of_each_stratum_and_its_values(void **state)
{
    (void)state;
    const int64_t counts[] = {1, 2, 7, 999, 5999, ROWS};
    for (int dtype = FGMM_F32; dtype <= FGMM_I8; dtype++) {
        fgmm_dataset *dataset = open_data((fgmm_dtype)dtype);
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            int64_t count = counts[c], *rows = NULL;
            float *data = NULL;
            bool ok = fgmm__sample_rows(dataset, comm, 42, FGMM_RNG_SAMPLE, count, &rows, &data) == FGMM_OK;
            for (int64_t i = 0; ok && i < count; i++)
                ok &= rows[i] >= i * ROWS / count && rows[i] < (i + 1) * ROWS / count;
            ok = ok && holds_rows((fgmm_dtype)dtype, rows, count, data);
            assert_true(on_all_ranks(ok));
            free(rows);
            free(data);
        }
        close_data(dataset);
    }
}

static void samples_depend_on_seed_and_purpose_alone(void **state)
{
    (void)state;
    fgmm_dataset *dataset = open_data(FGMM_U8);
    int64_t *rows[4] = {NULL};
    const uint64_t seeds[] = {1, 1, 2, 1};
    const uint32_t purposes[] = {FGMM_RNG_SAMPLE, FGMM_RNG_SAMPLE, FGMM_RNG_SAMPLE, FGMM_RNG_START_ROWS};
    bool ok = true;
    for (int i = 0; i < 4; i++)
        ok &= fgmm__sample_rows(dataset, comm, seeds[i], purposes[i], 100, &rows[i], NULL) == FGMM_OK;
    size_t bytes = 100 * sizeof(int64_t);
    ok = ok && memcmp(rows[0], rows[1], bytes) == 0 && memcmp(rows[0], rows[2], bytes) != 0 &&
         memcmp(rows[0], rows[3], bytes) != 0;
    /* Known numbers: rows that change between versions change every model. */
    ok = ok && rows[0][0] == (int64_t)fgmm__philox_below(1, FGMM_RNG_SAMPLE, 0, 60) &&
         rows[0][99] == 5940 + (int64_t)fgmm__philox_below(1, FGMM_RNG_SAMPLE, 99, 60);
    assert_true(on_all_ranks(ok));
    for (int i = 0; i < 4; i++)
        free(rows[i]);
    close_data(dataset);
}

static void named_rows_come_in_the_order_asked_for(void **state)
{
    (void)state;
    fgmm_dataset *dataset = open_data(FGMM_F16);
    const int64_t rows[] = {5999, 0, 17, 16, 3000, 3001, 3001, 1, 4095, 4096};
    float data[10 * DIM];
    bool ok =
        fgmm__gather_rows(dataset, comm, rows, 10, data) == FGMM_OK && holds_rows(FGMM_F16, rows, 10, data);
    assert_true(on_all_ranks(ok));
    close_data(dataset);
}

static void what_cannot_be_sampled_is_refused(void **state)
{
    (void)state;
    fgmm_dataset *dataset = open_data(FGMM_F32);
    int64_t *rows = NULL;
    float data[DIM];
    fgmm_error_clear();
    bool ok = fgmm__sample_rows(dataset, comm, 1, FGMM_RNG_SAMPLE, ROWS + 1, &rows, NULL) == FGMM_ERR_INPUT &&
              rows == NULL;
    ok &= strstr(fgmm_error_message(), "6001") != NULL;
    fgmm_error_clear();
    ok &= fgmm__gather_rows(dataset, comm, &(int64_t){ROWS}, 1, data) == FGMM_ERR_INPUT;
    assert_true(on_all_ranks(ok));
    close_data(dataset);
}

static void a_sampled_nan_is_named_alike_on_all_ranks(void **state)
{
    (void)state;
    fgmm_dataset *dataset = open_data(FGMM_F16);
    if (rank == 0)
        fgmm_test_poke_bin(path, FGMM_F16, DIM, 5000, 2, NAN);
    MPI_Barrier(MPI_COMM_WORLD);
    float *data = NULL;
    char expected[2048];
    snprintf(expected, sizeof expected, "%s: row 5000 holds a NaN (column 2)", path);
    bool ok = fgmm__sample_rows(dataset, comm, 1, FGMM_RNG_SAMPLE, ROWS, NULL, &data) == FGMM_ERR_INPUT &&
              data == NULL;
    ok &= strcmp(fgmm_error_message(), expected) == 0;
    assert_true(on_all_ranks(ok));
    close_data(dataset);
}

int main(int argc, char **argv)
{
    fgmm_test_ranks_start(&argc, &argv);
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(a_sample_has_one_row_of_each_stratum_and_its_values),
        cmocka_unit_test(samples_depend_on_seed_and_purpose_alone),
        cmocka_unit_test(named_rows_come_in_the_order_asked_for),
        cmocka_unit_test(what_cannot_be_sampled_is_refused),
        cmocka_unit_test(a_sampled_nan_is_named_alike_on_all_ranks),
    };
    int failed = cmocka_run_group_tests(cases, NULL, NULL);
    free(path);
    return fgmm_test_ranks_end(failed);
}
