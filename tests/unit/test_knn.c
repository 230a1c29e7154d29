#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/philox.h"
#include "io/h5.h"
#include "io/knn.h"
#include "support/files.h"

#define ASSERT_OK(expression)                                                                                \
    do {                                                                                                     \
        fgmm_error_clear();                                                                                  \
        if ((expression) != FGMM_OK)                                                                         \
            fail_msg("%s", fgmm_error_message());                                                            \
    } while (0)

enum { QUERIES = 4, K = 3 };
static int64_t ids[QUERIES * K] = {5, 2, 9, 0, 1, -1, 2147483647, 7, 8, 3, -1, -1};
static float distances[QUERIES * K] = {0, 0.5f, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9};

static void assert_knn(const char *path, bool with_distances)
{
    fgmm_knn knn;
    ASSERT_OK(fgmm__knn_read(path, &knn));
    assert_int_equal(knn.queries, QUERIES);
    assert_int_equal(knn.k, K);
    assert_memory_equal(knn.ids, ids, sizeof ids);
    assert_int_equal(knn.distances != NULL, with_distances);
    if (with_distances)
        assert_memory_equal(knn.distances, distances, sizeof distances);
    fgmm__knn_free(&knn);
    assert_null(knn.ids);
}

static void assert_refused(const char *path, const char *word)
{
    fgmm_knn knn;
    fgmm_error_clear();
    assert_int_equal(fgmm__knn_read(path, &knn), FGMM_ERR_INPUT);
    if (!strstr(fgmm_error_message(), word))
        fail_msg("'%s' does not speak of '%s'", fgmm_error_message(), word);
}

static void neighbours_come_back_in_every_format(void **state)
{
    (void)state;
    const fgmm_knn whole = {QUERIES, K, ids, distances}, bare = {QUERIES, K, ids, NULL};
    static const char *const names[] = {"gt.ibin", "gt.ivecs", "gt.h5"};
    for (int i = 0; i < 3; i++) {
        const char *path = fgmm_test_path(names[i]);
        ASSERT_OK(fgmm__knn_write(path, &whole, NULL));
        assert_knn(path, i != 1);
        ASSERT_OK(fgmm__knn_write(path, &bare, NULL));
        assert_knn(path, false);
        assert_int_equal(fgmm_test_leftovers(path), 0);
    }
}

static void true_neighbours_are_written_as_ann_benchmarks_has_them_and_come_back_squared(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("truth.h5"), *names[] = {"euclidean", "angular", "dot"};
    float test[QUERIES * 2] = {1, 2, 3, 4, 5, 6, 7, 8}, back[QUERIES * 2], squares[QUERIES * K],
                         theirs[QUERIES * K];
    const fgmm_knn whole = {QUERIES, K, ids, squares};
    for (int i = 0; i < QUERIES * K; i++)
        squares[i] = distances[i] * distances[i];
    for (int metric = FGMM_L2; metric <= FGMM_IP; metric++) {
        fgmm_knn_about about = {.metric = (fgmm_metric)metric, .dim = 2, .queries = test};
        char text[32];
        int64_t dim;
        hid_t file = -1;
        fgmm_knn knn;
        ASSERT_OK(fgmm__knn_write(path, &whole, &about));
        ASSERT_OK(fgmm__h5_open(path, NULL, &file));
        ASSERT_OK(fgmm__h5_get_text(file, "distance", text, sizeof text));
        assert_string_equal(text, names[metric]);
        ASSERT_OK(fgmm__h5_get_text(file, "type", text, sizeof text));
        assert_string_equal(text, "dense");
        ASSERT_OK(fgmm__h5_get_i64(file, "dimension", &dim));
        assert_int_equal(dim, 2);
        ASSERT_OK(fgmm__h5_read(file, "/test", H5T_NATIVE_FLOAT, QUERIES * 2, back));
        assert_memory_equal(back, test, sizeof test);
        ASSERT_OK(fgmm__h5_read(file, "/distances", H5T_NATIVE_FLOAT, QUERIES * K, theirs));
        for (int i = 0; i < QUERIES * K; i++)
            assert_true(theirs[i] == (metric == FGMM_L2       ? distances[i]
                                      : metric == FGMM_COSINE ? squares[i] / 2
                                                              : squares[i]));
        ASSERT_OK(fgmm__h5_close(file, path));
        ASSERT_OK(fgmm__knn_read(path, &knn));
        assert_memory_equal(knn.ids, ids, sizeof ids);
        assert_memory_equal(knn.distances, squares, sizeof squares);
        fgmm__knn_free(&knn);
    }
}

static void ibin_is_the_layout_of_the_big_ann_benchmarks(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("layout.ibin");
    const fgmm_knn whole = {QUERIES, K, ids, distances};
    int32_t words[2 + 2 * QUERIES * K] = {QUERIES, K};
    size_t n;
    for (int i = 0; i < QUERIES * K; i++)
        words[2 + i] = (int32_t)ids[i];
    memcpy(words + 2 + QUERIES * K, distances, sizeof distances);
    ASSERT_OK(fgmm__knn_write(path, &whole, NULL));
    char *bytes = fgmm_test_read_file(path, &n);
    assert_int_equal(n, sizeof words);
    assert_memory_equal(bytes, words, n);
    free(bytes);
}

static void large_ids_need_64_bits(void **state)
{
    (void)state;
    int64_t large[1] = {1LL << 31};
    const fgmm_knn knn = {1, 1, large, NULL};
    const char *path = fgmm_test_path("large.ibin"), *wide = fgmm_test_path("large.h5");
    fgmm_knn back;
    unlink(path);
    fgmm_error_clear();
    assert_int_equal(fgmm__knn_write(path, &knn, NULL), FGMM_ERR_INPUT);
    assert_non_null(strstr(fgmm_error_message(), "2147483648"));
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(fgmm_test_leftovers(path), 0);
    fgmm_error_clear();
    assert_int_equal(fgmm__knn_write(fgmm_test_path("large.ivecs"), &knn, NULL), FGMM_ERR_INPUT);
    ASSERT_OK(fgmm__knn_write(wide, &knn, NULL));
    ASSERT_OK(fgmm__knn_read(wide, &back));
    assert_true(back.ids[0] == 1LL << 31);
    fgmm__knn_free(&back);
}

static void hdf5_of_other_programs_is_read(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("other.h5");
    char source[1024];
    hsize_t shape[2] = {QUERIES, K}, cube[3] = {2, QUERIES, K};
    int64_t twice[2 * QUERIES * K] = {0};
    int32_t narrow[QUERIES * K];
    double wide[QUERIES * K];
    hid_t file;
    for (int i = 0; i < QUERIES * K; i++) {
        narrow[i] = (int32_t)ids[i];
        wide[i] = distances[i];
    }
    ASSERT_OK(fgmm__h5_create(path, NULL, &file));
    ASSERT_OK(fgmm__h5_write(file, "ids", H5T_STD_I32LE, 2, shape, narrow));
    ASSERT_OK(fgmm__h5_write(file, "distances", H5T_IEEE_F64LE, 2, shape, wide));
    ASSERT_OK(fgmm__h5_write(file, "truth", H5T_STD_I32LE, 2, shape, narrow));
    ASSERT_OK(fgmm__h5_write(file, "cube", H5T_STD_I64LE, 3, cube, twice));
    ASSERT_OK(fgmm__h5_close(file, path));
    assert_knn(path, true);
    snprintf(source, sizeof source, "%s:/truth", path);
    assert_knn(source, true);
    snprintf(source, sizeof source, "%s:/cube", path);
    assert_refused(source, "more axes");
    snprintf(source, sizeof source, "%s:/none", path);
    assert_refused(source, "name a dataset");
}

static void bad_files_are_refused(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("bad.ibin"), *vecs = fgmm_test_path("bad.ivecs");
    int32_t words[10] = {2, 2, 1, 2, 3, 4};
    assert_refused(fgmm_test_path("absent.ibin"), "no such file");
    fgmm_test_write_file(path, words, 23);
    assert_refused(path, "truncated");
    fgmm_test_write_file(path, words, 28);
    assert_refused(path, "need 32");
    fgmm_test_write_file(path, words, 7);
    assert_refused(path, "too few");
    words[0] = -1;
    fgmm_test_write_file(path, words, sizeof words);
    assert_refused(path, "do not fit");
    words[0] = 2;
    words[3] = -9;
    fgmm_test_write_file(path, words, 24);
    assert_refused(path, "query 0 has a neighbour numbered -9");
    fgmm_test_write_file(vecs, words, 23);
    assert_refused(vecs, "not a multiple");
    fgmm_test_write_file(vecs, words, 24);
    assert_refused(vecs, "row 1 has -9");
    fgmm_test_write_file(fgmm_test_path("gt.txt"), words, 24);
    assert_refused(fgmm_test_path("gt.txt"), "unknown format");
    fgmm_knn knn = {1, 1, ids, NULL};
    fgmm_error_clear();
    assert_int_equal(fgmm__knn_write(fgmm_test_path("out.txt"), &knn, NULL), FGMM_ERR_INPUT);
}

static void random_bytes_never_crash(void **state)
{
    (void)state;
    int32_t words[40];
    for (uint64_t round = 0; round < 1000; round++) {
        const char *path = fgmm_test_path(round % 2 ? "fuzz.ibin" : "fuzz.ivecs");
        for (uint64_t i = 0; i < 40; i++)
            words[i] = (int32_t)fgmm__philox(round, FGMM_RNG_BENCH, i, 0).word[0] >> (round % 5 * 7);
        fgmm_test_write_file(path, words, 1 + fgmm__philox_below(1, FGMM_RNG_BENCH, round, sizeof words));
        fgmm_knn knn = {.ids = NULL};
        fgmm_error_clear();
        fgmm_status status = fgmm__knn_read(path, &knn);
        assert_true(status == FGMM_OK || (status == FGMM_ERR_INPUT && fgmm_error_message()[0]));
        fgmm__knn_free(&knn);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neighbours_come_back_in_every_format),
        cmocka_unit_test(true_neighbours_are_written_as_ann_benchmarks_has_them_and_come_back_squared),
        cmocka_unit_test(ibin_is_the_layout_of_the_big_ann_benchmarks),
        cmocka_unit_test(large_ids_need_64_bits),
        cmocka_unit_test(hdf5_of_other_programs_is_read),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(random_bytes_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
