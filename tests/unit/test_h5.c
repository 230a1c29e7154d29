#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "base/philox.h"
#include "io/h5.h"
#include "support/files.h"

#define ASSERT_OK(expression)                                                                                \
    do {                                                                                                     \
        fgmm_error_clear();                                                                                  \
        if ((expression) != FGMM_OK)                                                                         \
            fail_msg("%s", fgmm_error_message());                                                            \
    } while (0)

enum { VALUES = 3000 };

static void write_sample_to(const char *path, bool small)
{
    hid_t file = -1, group = -1;
    hsize_t shape[2] = {VALUES / 3, 3};
    double values[VALUES];
    for (int i = 0; i < VALUES; i++)
        values[i] = i * 0.5;
    ASSERT_OK(small ? fgmm__h5_create_small(path, &file) : fgmm__h5_create(path, NULL, &file));
    ASSERT_OK(fgmm__h5_put_text(file, "format", "fgmm-test"));
    ASSERT_OK(fgmm__h5_put_i64(file, "version", -7));
    ASSERT_OK(fgmm__h5_put_f64(file, "tau", 0.125));
    ASSERT_OK(fgmm__h5_write(file, "means", H5T_IEEE_F64LE, 2, shape, values));
    ASSERT_OK(fgmm__h5_group(file, "history", &group));
    ASSERT_OK(fgmm__h5_write(group, "seconds", H5T_IEEE_F64LE, 1, shape, values));
    H5Gclose(group);
    ASSERT_OK(fgmm__h5_close(file, path));
}

static void write_sample(const char *path)
{
    write_sample_to(path, true);
}

static void values_come_back_as_they_were_put(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("values.h5");
    hid_t file = -1;
    char text[32];
    int64_t integer;
    double real, values[VALUES];
    int rank;
    hsize_t shape[4];
    write_sample(path);
    ASSERT_OK(fgmm__h5_open(path, NULL, &file));
    ASSERT_OK(fgmm__h5_get_text(file, "format", text, sizeof text));
    assert_string_equal(text, "fgmm-test");
    ASSERT_OK(fgmm__h5_get_i64(file, "version", &integer));
    assert_true(integer == -7);
    ASSERT_OK(fgmm__h5_get_f64(file, "tau", &real));
    assert_true(real == 0.125);
    assert_true(fgmm__h5_has(file, "tau") && !fgmm__h5_has(file, "rho"));
    assert_true(fgmm__h5_has_dataset(file, "/history/seconds") && fgmm__h5_has_dataset(file, "means"));
    assert_false(fgmm__h5_has_dataset(file, "history") || fgmm__h5_has_dataset(file, "future/seconds"));
    ASSERT_OK(fgmm__h5_shape(file, "means", 4, &rank, shape));
    assert_int_equal(rank, 2);
    assert_true(shape[0] == VALUES / 3 && shape[1] == 3);
    ASSERT_OK(fgmm__h5_read(file, "means", H5T_NATIVE_DOUBLE, VALUES, values));
    for (int i = 0; i < VALUES; i++)
        assert_true(values[i] == i * 0.5);
    ASSERT_OK(fgmm__h5_close(file, path));
}

static void variable_length_texts_are_read(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("variable.h5"), *value = "diag";
    hid_t file = -1, type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    char text[8], tight[4];
    ASSERT_OK(fgmm__h5_create(path, NULL, &file));
    H5Tset_size(type, H5T_VARIABLE);
    hid_t attribute = H5Acreate2(file, "covariance_type", type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, type, &value);
    H5Aclose(attribute);
    H5Tclose(type);
    H5Sclose(space);
    ASSERT_OK(fgmm__h5_get_text(file, "covariance_type", text, sizeof text));
    assert_string_equal(text, "diag");
    fgmm_error_clear();
    assert_int_equal(fgmm__h5_get_text(file, "covariance_type", tight, sizeof tight), FGMM_ERR_INPUT);
    ASSERT_OK(fgmm__h5_close(file, path));
}

static void what_is_missing_or_of_another_kind_is_refused_by_name(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("refused.h5");
    hid_t file = -1;
    char text[32];
    int64_t integer;
    int rank;
    hsize_t shape[1];
    double values[4];
    write_sample(path);
    ASSERT_OK(fgmm__h5_open(path, NULL, &file));
    const fgmm_status statuses[] = {fgmm__h5_get_text(file, "metric", text, sizeof text),
                                    fgmm__h5_get_text(file, "version", text, sizeof text),
                                    fgmm__h5_get_i64(file, "format", &integer),
                                    fgmm__h5_shape(file, "means", 1, &rank, shape),
                                    fgmm__h5_read(file, "means", H5T_NATIVE_DOUBLE, 4, values),
                                    fgmm__h5_read(file, "none", H5T_NATIVE_DOUBLE, 4, values)};
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
        assert_int_equal(statuses[i], FGMM_ERR_INPUT);
    assert_non_null(strstr(fgmm_error_message(), "refused.h5: attribute \"metric\""));
    ASSERT_OK(fgmm__h5_close(file, path));
    fgmm_error_clear();
    assert_int_equal(fgmm__h5_open(fgmm_test_path("absent.h5"), NULL, &file), FGMM_ERR_INPUT);
}

static void equal_contents_make_equal_files(void **state)
{
    (void)state;
    const char *first = fgmm_test_path("same_a.h5"), *second = fgmm_test_path("same_b.h5");
    size_t n, m;
    write_sample(first);
    ASSERT_OK(fgmm__h5_seal(first, NULL, 0, 0));
    sleep(1); /* a time kept in an object would differ now */
    write_sample(second);
    ASSERT_OK(fgmm__h5_seal(second, NULL, 0, 0));
    char *a = fgmm_test_read_file(first, &n), *b = fgmm_test_read_file(second, &m);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n);
    free(a);
    free(b);
}

static void a_file_made_in_memory_equals_one_made_on_disk(void **state)
{
    (void)state;
    const char *memory = fgmm_test_path("memory.h5"), *disk = fgmm_test_path("disk.h5");
    size_t n, m;
    write_sample_to(memory, true);
    write_sample_to(disk, false);
    char *a = fgmm_test_read_file(memory, &n), *b = fgmm_test_read_file(disk, &m);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n);
    free(a);
    free(b);
    fgmm_error_clear();
    hid_t file;
    assert_int_equal(fgmm__h5_create_small(fgmm_test_path("nowhere/x.h5"), &file), FGMM_ERR_RUNTIME);
}

static void a_sealed_file_is_told_from_an_unsealed_one(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("seal.h5");
    bool sealed = true;
    write_sample(path);
    ASSERT_OK(fgmm__h5_check_seal(path, &sealed));
    assert_false(sealed);
    ASSERT_OK(fgmm__h5_seal(path, NULL, 0, 0));
    ASSERT_OK(fgmm__h5_check_seal(path, &sealed));
    assert_true(sealed);
}

static void assert_damaged(const char *path)
{
    bool sealed;
    fgmm_error_clear();
    assert_int_equal(fgmm__h5_check_seal(path, &sealed), FGMM_ERR_INPUT);
    assert_non_null(strstr(fgmm_error_message(), "damaged"));
}

static void any_changed_byte_of_a_sealed_file_is_noticed(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("flips.h5"), *damaged = fgmm_test_path("flipped.h5");
    size_t n;
    write_sample(path);
    ASSERT_OK(fgmm__h5_seal(path, NULL, 0, 0));
    char *bytes = fgmm_test_read_file(path, &n);
    for (uint64_t i = 0; i < 300 + 64; i++) { /* the block's own fields, then places anywhere */
        uint64_t at = i < 64 ? i : fgmm__philox_below(1, FGMM_RNG_BENCH, i, n);
        bytes[at] ^= (char)(1 << i % 8);
        fgmm_test_write_file(damaged, bytes, n);
        assert_damaged(damaged);
        bytes[at] ^= (char)(1 << i % 8);
    }
    fgmm_test_write_file(damaged, bytes, n - 1);
    assert_damaged(damaged);
    fgmm_test_write_file(damaged, bytes, 600);
    assert_damaged(damaged);
    free(bytes);
}

static void bytes_left_out_of_the_hash_may_change(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("skip.h5");
    size_t n;
    bool sealed;
    write_sample(path);
    ASSERT_OK(fgmm__h5_seal(path, NULL, 1000, 2000));
    char *bytes = fgmm_test_read_file(path, &n);
    bytes[1000] ^= 1;
    bytes[1999] ^= 1;
    fgmm_test_write_file(path, bytes, n);
    ASSERT_OK(fgmm__h5_check_seal(path, &sealed));
    bytes[2000] ^= 1;
    fgmm_test_write_file(path, bytes, n);
    assert_damaged(path);
    free(bytes);
    fgmm_error_clear();
    assert_int_equal(fgmm__h5_seal(path, NULL, 100, 2000), FGMM_ERR_RUNTIME);
}

static void a_hash_goes_over_pieces_of_64_mib(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("large.h5");
    hid_t file = -1, dataset = -1;
    hsize_t shape[1] = {150 << 20};
    bool sealed;
    ASSERT_OK(fgmm__h5_create(path, NULL, &file));
    ASSERT_OK(fgmm__h5_dataset(file, "sparse", H5T_STD_U8LE, 1, shape, &dataset));
    H5Dclose(dataset);
    ASSERT_OK(fgmm__h5_close(file, path));
    ASSERT_OK(fgmm__h5_seal(path, NULL, (60 << 20), (140 << 20)));
    ASSERT_OK(fgmm__h5_check_seal(path, &sealed));
    assert_true(sealed);
    unlink(path);
}

static void no_space_is_a_failure_and_no_crash(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("full.h5");
    struct rlimit old, small;
    hid_t file = -1;
    hsize_t shape[1] = {100000};
    double *values = calloc(shape[0], sizeof *values);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    fgmm_error_clear();
    assert_int_equal(fgmm__h5_create_small(path, &file), FGMM_OK);
    ASSERT_OK(fgmm__h5_write(file, "values", H5T_IEEE_F64LE, 1, shape, values));
    fgmm_status closed = fgmm__h5_close(file, path);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(closed, FGMM_ERR_RUNTIME);
    assert_non_null(strstr(fgmm_error_message(), "full.h5"));
    free(values);
}

static void half_precision_is_a_type_of_its_own(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("half.h5");
    hid_t file = -1;
    hsize_t shape[1] = {4};
    uint16_t halves[4] = {0x3c00, 0xc000, 0x0001, 0x7bff}, back[4];
    float floats[4];
    ASSERT_OK(fgmm__h5_create(path, NULL, &file));
    ASSERT_OK(fgmm__h5_write(file, "h", fgmm__h5_type(FGMM_F16), 1, shape, halves));
    ASSERT_OK(fgmm__h5_read(file, "h", fgmm__h5_type(FGMM_F16), 4, back));
    ASSERT_OK(fgmm__h5_read(file, "h", H5T_NATIVE_FLOAT, 4, floats));
    assert_memory_equal(halves, back, sizeof halves);
    assert_true(floats[0] == 1 && floats[1] == -2 && floats[2] == 0x1p-24f && floats[3] == 65504);
    ASSERT_OK(fgmm__h5_close(file, path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_come_back_as_they_were_put),
        cmocka_unit_test(variable_length_texts_are_read),
        cmocka_unit_test(what_is_missing_or_of_another_kind_is_refused_by_name),
        cmocka_unit_test(equal_contents_make_equal_files),
        cmocka_unit_test(a_file_made_in_memory_equals_one_made_on_disk),
        cmocka_unit_test(a_sealed_file_is_told_from_an_unsealed_one),
        cmocka_unit_test(any_changed_byte_of_a_sealed_file_is_noticed),
        cmocka_unit_test(bytes_left_out_of_the_hash_may_change),
        cmocka_unit_test(a_hash_goes_over_pieces_of_64_mib),
        cmocka_unit_test(half_precision_is_a_type_of_its_own),
        cmocka_unit_test(no_space_is_a_failure_and_no_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
