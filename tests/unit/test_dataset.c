/* Datasets: many files as one array. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "base/philox.h"
#include "data/dataset.h"
#include "data/sample.h"
#include "io/h5.h"
#include "io/reader.h"
#include "support/files.h"
#include "support/rows.h"

enum { DIM = 5 };

static fgmm_dataset *open_all(const char *const *sources, int n, const fgmm_dataset_options *options)
{
    fgmm_dataset *dataset = NULL;
    fgmm_error_clear();
    if (fgmm_dataset_open(sources, n, options, &dataset) != FGMM_OK)
        fail_msg("%s", fgmm_error_message());
    return dataset;
}

static fgmm_dataset *open_one(const char *source)
{
    return open_all(&source, 1, NULL);
}

/* Opening fails as bad input, and the message holds both words. */
static void assert_refused(const char *const *sources, int n, const fgmm_dataset_options *options,
                           const char *a, const char *b)
{
    fgmm_dataset *dataset = NULL;
    fgmm_error_clear();
    assert_int_equal(fgmm_dataset_open(sources, n, options, &dataset), FGMM_ERR_INPUT);
    assert_null(dataset);
    if (strstr(fgmm_error_message(), a) == NULL || strstr(fgmm_error_message(), b) == NULL)
        fail_msg("'%s' does not speak of '%s' and '%s'", fgmm_error_message(), a, b);
}

/* Every row of the f32 dataset holds the test values of row first + i; read in uneven pieces. */
static void assert_rows(const fgmm_dataset *dataset, int64_t first, int64_t n)
{
    assert_int_equal(fgmm_dataset_rows(dataset), n);
    assert_int_equal(fgmm_dataset_dim(dataset), DIM);
    for (int64_t step = 1; step <= n + 1; step = 2 * step + 1) {
        float *rows = calloc((size_t)(step * DIM), sizeof *rows);
        for (int64_t begin = 0; begin < n; begin += step) {
            int64_t end = begin + step < n ? begin + step : n;
            assert_int_equal(fgmm_dataset_read(dataset, begin, end, rows), FGMM_OK);
            for (int64_t i = 0; i < (end - begin) * DIM; i++)
                assert_float_equal(rows[i],
                                   fgmm_test_value(FGMM_F32, first + begin + i / DIM, (int32_t)(i % DIM)), 0);
        }
        free(rows);
    }
}

static void write_fvecs(const char *path, int64_t begin, int64_t n)
{
    size_t row_bytes = sizeof(int32_t) + DIM * sizeof(float);
    char *bytes = calloc((size_t)n, row_bytes);
    for (int64_t i = 0; i < n; i++) {
        char *row = bytes + (size_t)i * row_bytes;
        memcpy(row, &(int32_t){DIM}, sizeof(int32_t));
        for (int32_t j = 0; j < DIM; j++)
            memcpy(row + sizeof(int32_t) + (size_t)j * sizeof(float),
                   &(float){fgmm_test_value(FGMM_F32, begin + i, j)}, sizeof(float));
    }
    fgmm_test_write_file(path, bytes, (size_t)n * row_bytes);
    free(bytes);
}

static float *make_rows(int64_t begin, int64_t n)
{
    float *rows = calloc((size_t)n * DIM, sizeof *rows);
    for (int64_t i = 0; i < n * DIM; i++)
        rows[i] = fgmm_test_value(FGMM_F32, begin + i / DIM, (int32_t)(i % DIM));
    return rows;
}

static void write_npy(const char *path, int64_t begin, int64_t n)
{
    size_t bytes = (size_t)n * DIM * sizeof(float);
    char *file = calloc(1, 128 + bytes);
    memcpy(file, "\x93NUMPY\x01\x00\x76\x00", 10);
    int length = snprintf(file + 10, 118,
                          "{'descr': '<f4', 'fortran_order': False, 'shape': (%" PRId64 ", %d), }", n, DIM);
    memset(file + 10 + length, ' ', (size_t)(117 - length));
    file[127] = '\n';
    float *rows = make_rows(begin, n);
    memcpy(file + 128, rows, bytes);
    fgmm_test_write_file(path, file, 128 + bytes);
    free(rows);
    free(file);
}

static void write_h5(const char *path, const char *name, int64_t begin, int64_t n, const char *distance)
{
    hid_t file;
    hsize_t shape[2] = {(hsize_t)n, DIM};
    float *rows = make_rows(begin, n);
    remove(path);
    assert_int_equal(fgmm__h5_create(path, NULL, &file), FGMM_OK);
    assert_int_equal(fgmm__h5_write(file, name, H5T_NATIVE_FLOAT, 2, shape, rows), FGMM_OK);
    if (distance != NULL)
        assert_int_equal(fgmm__h5_put_text(file, "distance", distance), FGMM_OK);
    assert_int_equal(fgmm__h5_close(file, path), FGMM_OK);
    free(rows);
}

static void files_of_all_formats_are_joined_in_the_order_given(void **state)
{
    (void)state;
    const char *sources[] = {fgmm_test_path("a.fbin"), fgmm_test_path("b.fvecs"), fgmm_test_path("c.npy"),
                             fgmm_test_path("d.h5")};
    fgmm_test_write_bin(sources[0], FGMM_F32, 0, 10, DIM);
    write_fvecs(sources[1], 10, 1);
    write_npy(sources[2], 11, 30);
    write_h5(sources[3], "train", 41, 9, NULL);
    fgmm_dataset *dataset = open_all(sources, 4, NULL);
    assert_rows(dataset, 0, 50);
    assert_int_equal(fgmm_dataset_dtype(dataset), FGMM_F32);
    int64_t row;
    assert_string_equal(fgmm__dataset_locate(dataset, 40, &row), sources[2]);
    assert_int_equal(row, 29);
    assert_string_equal(fgmm__dataset_locate(dataset, 41, &row), sources[3]);
    assert_int_equal(row, 0);
    char name[8192];
    snprintf(name, sizeof name, "%s, %s, %s, %s", sources[0], sources[1], sources[2], sources[3]);
    assert_string_equal(fgmm_dataset_name(dataset), name);
    fgmm_dataset_close(dataset);
}

static void a_range_of_rows_may_cross_files(void **state)
{
    (void)state;
    const char *sources[] = {fgmm_test_path("a.fbin"), fgmm_test_path("b.fvecs")};
    fgmm_test_write_bin(sources[0], FGMM_F32, 0, 10, DIM);
    write_fvecs(sources[1], 10, 10);
    fgmm_dataset *dataset = open_all(sources, 2, &(fgmm_dataset_options){.row_begin = 7, .row_end = 13});
    assert_rows(dataset, 7, 6);
    int64_t row;
    assert_string_equal(fgmm__dataset_locate(dataset, 3, &row), sources[1]);
    assert_int_equal(row, 0);
    float out[DIM];
    assert_int_equal(fgmm_dataset_read(dataset, 6, 7, out), FGMM_ERR_INPUT);
    fgmm_dataset_close(dataset);
    dataset = open_all(sources, 2, &(fgmm_dataset_options){.row_begin = 19, .row_end = -1});
    assert_rows(dataset, 19, 1);
    fgmm_dataset_close(dataset);

    assert_refused(sources, 2, &(fgmm_dataset_options){.row_begin = 0, .row_end = 21}, "0:21", "20");
    assert_refused(sources, 2, &(fgmm_dataset_options){.row_begin = 5, .row_end = 5}, "5:5", "20");
    assert_refused(sources, 2, &(fgmm_dataset_options){.row_begin = 20, .row_end = -1}, "20:20", "20");
}

static void folders_globs_and_lists_are_expanded(void **state)
{
    (void)state;
    const char *folder = fgmm_test_path("folder");
    mkdir(folder, 0777);
    mkdir(fgmm_test_path("folder/deeper"), 0777);
    fgmm_test_write_bin(fgmm_test_path("folder/part-2.fbin"), FGMM_F32, 8, 8, DIM);
    fgmm_test_write_bin(fgmm_test_path("folder/part-1.fbin"), FGMM_F32, 0, 8, DIM);
    fgmm_test_write_bin(fgmm_test_path("folder/.hidden.fbin"), FGMM_F32, 0, 8, DIM);
    fgmm_test_write_file(fgmm_test_path("folder/README"), "rows", 4);
    fgmm_dataset *dataset = open_one(folder);
    assert_rows(dataset, 0, 16);
    fgmm_dataset_close(dataset);
    dataset = open_one(fgmm_test_path("folder/part-?.f*"));
    assert_rows(dataset, 0, 16);
    fgmm_dataset_close(dataset);

    char list[4096];
    const char *path = fgmm_test_path("list");
    int length = snprintf(list, sizeof list, "# two parts\n\n%s\r\n  %s",
                          fgmm_test_path("folder/part-1.fbin"), fgmm_test_path("folder/part-2*"));
    fgmm_test_write_file(path, list, (size_t)length);
    snprintf(list, sizeof list, "@%s", path);
    dataset = open_one(list);
    assert_rows(dataset, 0, 16);
    fgmm_dataset_close(dataset);

    const char *nothing = fgmm_test_path("folder/*.npy");
    assert_refused(&nothing, 1, NULL, "*.npy", "no file matches");
    nothing = fgmm_test_path("folder/deeper");
    assert_refused(&nothing, 1, NULL, nothing, "no file");
    nothing = "@/no/such/list";
    assert_refused(&nothing, 1, NULL, "/no/such/list", "list");
    nothing = fgmm_test_path("missing.fbin");
    assert_refused(&nothing, 1, NULL, nothing, "");
    assert_refused(NULL, 0, NULL, "no data", "");
}

static void a_glob_may_name_a_dataset_inside_hdf5_files(void **state)
{
    (void)state;
    write_h5(fgmm_test_path("part-1.h5"), "rows", 0, 6, NULL);
    write_h5(fgmm_test_path("part-2.h5"), "rows", 6, 6, NULL);
    fgmm_dataset *dataset = open_one(fgmm_test_path("part-*.h5:/rows"));
    assert_rows(dataset, 0, 12);
    fgmm_dataset_close(dataset);
}

static void a_file_whose_name_looks_like_a_pattern_is_that_file(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("rows[1].fbin");
    fgmm_test_write_bin(path, FGMM_F32, 3, 4, DIM);
    fgmm_dataset *dataset = open_one(path);
    assert_rows(dataset, 3, 4);
    fgmm_dataset_close(dataset);
}

static void cosine_gives_floats_of_unit_length_for_every_type(void **state)
{
    (void)state;
    enum { N = 40, WIDE = 37 };
    const char *names[] = {"cos.fbin", "cos.f16bin", "cos.u8bin", "cos.i8bin"};
    for (int t = FGMM_F32; t <= FGMM_I8; t++) {
        const char *path = fgmm_test_path(names[t]);
        fgmm_test_write_bin(path, (fgmm_dtype)t, 0, N, WIDE);
        for (int32_t j = 0; j < WIDE; j++)
            fgmm_test_poke_bin(path, (fgmm_dtype)t, WIDE, 3, j, 0);
        fgmm_dataset *dataset =
            open_all(&path, 1, &(fgmm_dataset_options){.row_end = -1, .metric = FGMM_COSINE});
        assert_int_equal(fgmm_dataset_dtype(dataset), FGMM_F32);
        assert_int_equal(fgmm_dataset_metric(dataset), FGMM_COSINE);
        float rows[N][WIDE];
        assert_int_equal(fgmm_dataset_read(dataset, 0, N, rows), FGMM_OK);
        for (int64_t i = 0; i < N; i++) {
            double sum = 0;
            for (int32_t j = 0; j < WIDE; j++)
                sum += pow(fgmm_test_value((fgmm_dtype)t, i, j), 2);
            for (int32_t j = 0; j < WIDE; j++) {
                float expected = i == 3 ? 0 : (float)(fgmm_test_value((fgmm_dtype)t, i, j) / sqrt(sum));
                assert_float_equal(rows[i][j], expected, 1e-7);
            }
        }
        fgmm_dataset_close(dataset);
    }
}

static void files_that_differ_in_dimension_or_type_are_refused_by_name(void **state)
{
    (void)state;
    const char *sources[] = {fgmm_test_path("a.fbin"), fgmm_test_path("wide.fbin")};
    fgmm_test_write_bin(sources[0], FGMM_F32, 0, 10, DIM);
    fgmm_test_write_bin(sources[1], FGMM_F32, 0, 10, DIM + 1);
    assert_refused(sources, 2, NULL, sources[0], sources[1]);
    sources[1] = fgmm_test_path("bytes.u8bin");
    fgmm_test_write_bin(sources[1], FGMM_U8, 0, 10, DIM);
    assert_refused(sources, 2, NULL, sources[0], sources[1]);
}

static void angular_files_need_the_cosine_metric(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("angular.h5");
    write_h5(path, "train", 0, 10, "angular");
    assert_refused(&path, 1, NULL, path, "--metric cosine");
    assert_refused(&path, 1, &(fgmm_dataset_options){.row_end = -1, .metric = FGMM_IP}, path,
                   "--metric cosine");
    fgmm_dataset_close(open_all(&path, 1, &(fgmm_dataset_options){.row_end = -1, .metric = FGMM_COSINE}));
}

static void files_for_the_inner_product_need_its_metric_or_leave_to_do_without(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("product.h5"), *names[] = {"dot", "ip"};
    for (int i = 0; i < 2; i++) {
        write_h5(path, "train", 0, 10, names[i]);
        assert_refused(&path, 1, NULL, path, "--metric ip");
        fgmm_dataset_close(open_all(&path, 1, &(fgmm_dataset_options){.row_end = -1, .metric = FGMM_IP}));
        fgmm_dataset_close(open_all(&path, 1, &(fgmm_dataset_options){.row_end = -1, .dot_as_l2 = 1}));
    }
    write_h5(path, "train", 0, 10, "euclidean");
    fgmm_dataset_close(open_all(&path, 1, NULL));
    write_h5(path, "train", 0, 10, "jaccard");
    assert_refused(&path, 1, NULL, path, "jaccard");
}

static void assert_named(const fgmm_dataset *dataset, int64_t begin, int64_t end, const char *message)
{
    void *rows = calloc((size_t)(end - begin) * DIM, sizeof(float));
    fgmm_error_clear();
    assert_int_equal(fgmm_dataset_read(dataset, begin, end, rows), FGMM_OK);
    assert_int_equal(fgmm__dataset_check_finite(dataset, begin, end - begin, rows), FGMM_ERR_INPUT);
    assert_string_equal(fgmm_error_message(), message);
    free(rows);
}

static void values_that_are_not_finite_are_named_by_file_row_and_column(void **state)
{
    (void)state;
    const char *sources[] = {fgmm_test_path("first.fbin"), fgmm_test_path("second.fbin")};
    char message[2048];
    fgmm_test_write_bin(sources[0], FGMM_F32, 0, 10, DIM);
    fgmm_test_write_bin(sources[1], FGMM_F32, 10, 10, DIM);
    fgmm_test_poke_bin(sources[0], FGMM_F32, DIM, 8, 3, NAN);
    fgmm_test_poke_bin(sources[1], FGMM_F32, DIM, 2, 4, -INFINITY);
    for (int metric = FGMM_L2; metric <= FGMM_IP; metric++) {
        fgmm_dataset *dataset =
            open_all(sources, 2, &(fgmm_dataset_options){.row_end = -1, .metric = (fgmm_metric)metric});
        snprintf(message, sizeof message, "%s: row 8 holds a NaN (column 3)", sources[0]);
        assert_named(dataset, 0, 20, message);
        assert_named(dataset, 8, 9, message);
        snprintf(message, sizeof message,
                 "%s: row 2 holds an infinity (column 4; row 12 of the data as a whole)", sources[1]);
        assert_named(dataset, 9, 20, message);
        fgmm_dataset_close(dataset);
    }
}

static void a_sample_has_a_row_of_each_part_and_faults_are_named_by_their_own_rows(void **state)
{
    (void)state;
    enum { N = 7 };
    const char *sources[] = {fgmm_test_path("first.fbin"), fgmm_test_path("second.fbin")};
    fgmm_test_write_bin(sources[0], FGMM_F32, 0, 10, DIM);
    fgmm_test_write_bin(sources[1], FGMM_F32, 10, 10, DIM);
    fgmm_dataset_options options = {.row_begin = 3, .row_end = 19, .sample_rows = N, .sample_seed = 5};
    fgmm_dataset *dataset = open_all(sources, 2, &options), *all = open_all(sources, 2, NULL);
    float rows[N][DIM], one[DIM];
    assert_int_equal(fgmm_dataset_rows(dataset), N);
    assert_int_equal(fgmm_dataset_read(dataset, 0, N, rows), FGMM_OK);
    int64_t drawn[N];
    for (int64_t i = 0; i < N; i++) {
        drawn[i] = 3 + fgmm__sample_row(16, 5, FGMM_RNG_SAMPLE, i, N);
        assert_in_range(drawn[i], 3 + i * 16 / N, 3 + (i + 1) * 16 / N - 1);
        assert_int_equal(fgmm_dataset_read(all, drawn[i], drawn[i] + 1, one), FGMM_OK);
        assert_memory_equal(rows[i], one, sizeof one);
        assert_int_equal(fgmm_dataset_read(dataset, i, i + 1, one), FGMM_OK);
        assert_memory_equal(rows[i], one, sizeof one);
    }
    uint64_t fingerprint = fgmm__dataset_fingerprint(dataset);
    fgmm_dataset_close(dataset);
    options.sample_seed = 6;
    dataset = open_all(sources, 2, &options);
    assert_true(fgmm__dataset_fingerprint(dataset) != fingerprint);
    fgmm_dataset_close(dataset);
    fgmm_dataset_close(all);
    options.sample_rows = 17;
    assert_refused(sources, 2, &options, "17", "there are 16");

    char message[2048];
    int file = drawn[4] >= 10;
    fgmm_test_poke_bin(sources[file], FGMM_F32, DIM, drawn[4] - 10 * file, 2, NAN);
    options.sample_rows = N;
    options.sample_seed = 5;
    dataset = open_all(sources, 2, &options);
    assert_int_equal(fgmm_dataset_read(dataset, 4, 5, one), FGMM_OK);
    fgmm_error_clear();
    assert_int_equal(fgmm__dataset_check_finite(dataset, 4, 1, one), FGMM_ERR_INPUT);
    snprintf(message, sizeof message, "%s: row %d holds a NaN", sources[file], (int)(drawn[4] - 10 * file));
    assert_memory_equal(fgmm_error_message(), message, strlen(message));
    fgmm_dataset_close(dataset);
}

static void fingerprints_tell_data_apart(void **state)
{
    (void)state;
    const char *sources[] = {fgmm_test_path("a.fbin"), fgmm_test_path("b.fbin")},
               *swapped[] = {sources[1], sources[0]};
    fgmm_test_write_bin(sources[0], FGMM_F32, 0, 10, DIM);
    fgmm_test_write_bin(sources[1], FGMM_F32, 10, 10, DIM);
    const fgmm_dataset_options range = {.row_end = 19}, cosine = {.row_end = -1, .metric = FGMM_COSINE};
    fgmm_dataset *views[] = {open_all(sources, 2, NULL), open_all(swapped, 2, NULL),
                             open_all(sources, 1, NULL), open_all(sources, 2, &range),
                             open_all(sources, 2, &cosine)};
    fgmm_dataset *again = open_all(sources, 2, NULL);
    assert_true(fgmm__dataset_fingerprint(views[0]) == fgmm__dataset_fingerprint(again));
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < i; j++)
            assert_true(fgmm__dataset_fingerprint(views[i]) != fgmm__dataset_fingerprint(views[j]));
    for (int i = 0; i < 5; i++)
        fgmm_dataset_close(views[i]);
    fgmm_dataset_close(again);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(files_of_all_formats_are_joined_in_the_order_given),
        cmocka_unit_test(a_range_of_rows_may_cross_files),
        cmocka_unit_test(folders_globs_and_lists_are_expanded),
        cmocka_unit_test(a_glob_may_name_a_dataset_inside_hdf5_files),
        cmocka_unit_test(a_file_whose_name_looks_like_a_pattern_is_that_file),
        cmocka_unit_test(cosine_gives_floats_of_unit_length_for_every_type),
        cmocka_unit_test(files_that_differ_in_dimension_or_type_are_refused_by_name),
        cmocka_unit_test(angular_files_need_the_cosine_metric),
        cmocka_unit_test(files_for_the_inner_product_need_its_metric_or_leave_to_do_without),
        cmocka_unit_test(values_that_are_not_finite_are_named_by_file_row_and_column),
        cmocka_unit_test(a_sample_has_a_row_of_each_part_and_faults_are_named_by_their_own_rows),
        cmocka_unit_test(fingerprints_tell_data_apart),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
