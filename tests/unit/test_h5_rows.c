#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "io/h5.h"
#include "io/reader.h"
#include "io/writer.h"
#include "support/files.h"

enum { ROWS = 100, DIM = 3 };
static float values[ROWS * DIM];

#define ASSERT_OK(expression)                                                                                \
    do {                                                                                                     \
        fgmm_error_clear();                                                                                  \
        if ((expression) != FGMM_OK)                                                                         \
            fail_msg("%s", fgmm_error_message());                                                            \
    } while (0)

static int fill_values(void **state)
{
    (void)state;
    for (int i = 0; i < ROWS * DIM; i++)
        values[i] = (float)i;
    return 0;
}

/* As other programs write: no user block. */
static hid_t plain_file(const char *path)
{
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(file >= 0);
    return file;
}

static hid_t put(hid_t file, const char *name, hid_t type, int rank, const hsize_t *shape, hid_t creation)
{
    hid_t space = H5Screate_simple(rank, shape, NULL);
    hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    assert_true(dataset >= 0);
    H5Sclose(space);
    if (H5Tget_class(type) == H5T_FLOAT && rank == 2)
        assert_true(H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
    return dataset;
}

static void put_rows(hid_t file, const char *name, hid_t type)
{
    hsize_t shape[2] = {ROWS, DIM};
    H5Dclose(put(file, name, type, 2, shape, H5P_DEFAULT));
}

static void put_distance(hid_t object, const char *value)
{
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, H5T_VARIABLE);
    hid_t attribute = H5Acreate2(object, "distance", type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, type, &value);
    H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
}

static void assert_rows(const char *source, const char *distance)
{
    fgmm_reader *reader = NULL;
    float out[ROWS * DIM];
    ASSERT_OK(fgmm__reader_open(source, &reader));
    assert_true(reader->rows == ROWS && reader->dim == DIM && reader->dtype == FGMM_F32);
    assert_string_equal(reader->distance, distance);
    ASSERT_OK(fgmm__reader_read(reader, 0, ROWS, out));
    assert_memory_equal(out, values, sizeof values);
    ASSERT_OK(fgmm__reader_read(reader, 41, 43, out));
    assert_memory_equal(out, values + 41 * DIM, 2 * DIM * sizeof(float));
    fgmm__reader_close(reader);
}

static void assert_refused(const char *source, const char *word)
{
    fgmm_reader *reader = NULL;
    fgmm_error_clear();
    assert_int_equal(fgmm__reader_open(source, &reader), FGMM_ERR_INPUT);
    if (!strstr(fgmm_error_message(), word))
        fail_msg("'%s' does not speak of '%s'", fgmm_error_message(), word);
}

static void datasets_are_found_by_name_by_habit_or_alone(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("names.h5");
    char source[1024];
    hsize_t flat[1] = {5};
    hid_t file = plain_file(path);
    H5Gclose(H5Gcreate2(file, "deep", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    put_rows(file, "deep/rows", H5T_IEEE_F32LE);
    H5Dclose(put(file, "flat", H5T_STD_I64LE, 1, flat, H5P_DEFAULT));
    H5Fflush(file, H5F_SCOPE_GLOBAL);
    H5Fclose(file);
    assert_rows(path, ""); /* the only one of two axes */
    snprintf(source, sizeof source, "%s:/deep/rows", path);
    assert_rows(source, "");
    snprintf(source, sizeof source, "%s:/deep/none", path);
    assert_refused(source, "no dataset /deep/none");
    snprintf(source, sizeof source, "%s:/flat", path);
    assert_refused(source, "1 axes");

    file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    put_rows(file, "test", H5T_IEEE_F32LE);
    H5Fclose(file);
    assert_refused(path, "several datasets (/deep/rows, /test)");
    file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    put_rows(file, "train", H5T_IEEE_F32LE);
    H5Fclose(file);
    assert_rows(path, "");
}

static void queries_are_the_test_rows_where_there_are_such(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("benchmark.h5"), *folder = fgmm_test_path(".");
    char named[1024], *source = NULL;
    hid_t file = plain_file(path);
    put_rows(file, "train", H5T_IEEE_F32LE);
    H5Fclose(file);
    ASSERT_OK(fgmm__queries_source(path, &source));
    assert_string_equal(source, path);
    free(source);
    file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    put_rows(file, "test", H5T_IEEE_F32LE);
    H5Fclose(file);
    ASSERT_OK(fgmm__queries_source(path, &source));
    snprintf(named, sizeof named, "%s:/test", path);
    assert_string_equal(source, named);
    assert_rows(source, "");
    free(source);
    snprintf(named, sizeof named, "%s:/train", path);
    const char *others[] = {named, folder, "synth:n=3,d=2,k=1", "missing.h5"};
    for (int i = 0; i < 4; i++) {
        ASSERT_OK(fgmm__queries_source(others[i], &source));
        assert_string_equal(source, others[i]);
        free(source);
    }
}

static void a_distance_is_noticed_on_file_and_dataset(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("angular.h5");
    for (int where = 0; where < 3; where++) {
        hid_t file = plain_file(path);
        put_rows(file, "train", H5T_IEEE_F32LE);
        hid_t dataset = H5Dopen2(file, "train", H5P_DEFAULT);
        put_distance(where == 0 ? dataset : file, where == 2 ? "euclidean" : "angular");
        H5Dclose(dataset);
        H5Fclose(file);
        assert_rows(path, where < 2 ? "angular" : "euclidean");
    }
}

static void chunked_compressed_and_big_endian_rows_go_through_the_library(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("chunked.h5");
    hsize_t shape[2] = {ROWS, DIM}, chunk[2] = {16, 2};
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE), file = plain_file(path);
    H5Pset_chunk(creation, 2, chunk);
    H5Pset_shuffle(creation);
    if (H5Zfilter_avail(H5Z_FILTER_DEFLATE) > 0)
        H5Pset_deflate(creation, 4);
    H5Dclose(put(file, "train", H5T_IEEE_F32LE, 2, shape, creation));
    H5Pclose(creation);
    H5Fclose(file);
    assert_rows(path, "");
    file = plain_file(path);
    put_rows(file, "train", H5T_IEEE_F32BE);
    H5Fclose(file);
    assert_rows(path, "");
}

static void other_element_types_and_shapes_are_refused(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("types.h5");
    const struct {
        hid_t type;
        int rank;
        hsize_t shape[3];
        const char *word;
    } cases[] = {{H5T_IEEE_F64LE, 2, {ROWS, DIM}, "8-byte floats"},
                 {H5T_STD_I32LE, 2, {ROWS, DIM}, "4-byte integers"},
                 {H5T_STD_U16LE, 2, {ROWS, DIM}, "store them as"},
                 {H5T_IEEE_F32LE, 3, {4, 2, 2}, "3 axes"},
                 {H5T_IEEE_F32LE, 2, {0, DIM}, "no rows"},
                 {H5T_STD_U8LE, 2, {1, (1 << 20) + 1}, "too large"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        hid_t file = plain_file(path);
        H5Dclose(put(file, "train", cases[i].type, cases[i].rank, cases[i].shape, H5P_DEFAULT));
        H5Fclose(file);
        assert_refused(path, cases[i].word);
    }
    hid_t file = plain_file(path);
    H5Fclose(file);
    assert_refused(path, "no dataset of rows");
}

static void truncated_and_damaged_files_are_refused(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("damaged.h5"), *sealed = fgmm_test_path("sealed.h5");
    fgmm_writer *writer = NULL;
    size_t n;
    hid_t file = plain_file(path);
    put_rows(file, "train", H5T_IEEE_F32LE);
    H5Fclose(file);
    char *bytes = fgmm_test_read_file(path, &n);
    fgmm_test_write_file(path, bytes, n - 64);
    free(bytes);
    assert_refused(path, "truncated");
    fgmm_test_write_file(path, "not an HDF5 file", 16);
    assert_refused(path, "does not begin as");

    ASSERT_OK(fgmm__writer_open(sealed, ROWS, DIM, FGMM_F32, &writer));
    ASSERT_OK(fgmm__writer_append(writer, values, ROWS));
    ASSERT_OK(fgmm__writer_finish(writer));
    assert_rows(sealed, "");
    bytes = fgmm_test_read_file(sealed, &n);
    bytes[600] ^= 4;
    fgmm_test_write_file(sealed, bytes, n);
    free(bytes);
    assert_refused(sealed, "damaged");
}

int main(void)
{
    fgmm__h5_quiet();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(datasets_are_found_by_name_by_habit_or_alone),
        cmocka_unit_test(queries_are_the_test_rows_where_there_are_such),
        cmocka_unit_test(a_distance_is_noticed_on_file_and_dataset),
        cmocka_unit_test(chunked_compressed_and_big_endian_rows_go_through_the_library),
        cmocka_unit_test(other_element_types_and_shapes_are_refused),
        cmocka_unit_test(truncated_and_damaged_files_are_refused),
    };
    return cmocka_run_group_tests(tests, fill_values, NULL);
}
