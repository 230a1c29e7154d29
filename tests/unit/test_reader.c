#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/philox.h"
#include "io/h5.h"
#include "io/reader.h"
#include "io/writer.h"
#include "support/files.h"

enum { ROWS = 301, DIM = 7 };

#define ASSERT_OK(expression)                                                                                \
    do {                                                                                                     \
        fgmm_error_clear();                                                                                  \
        if ((expression) != FGMM_OK)                                                                         \
            fail_msg("%s", fgmm_error_message());                                                            \
    } while (0)

/* The file (or spec) is refused as input, and the one line names it and says `word`. */
static void assert_refused(const char *path, const char *word)
{
    fgmm_reader *reader = NULL;
    fgmm_error_clear();
    assert_int_equal(fgmm__reader_open(path, &reader), FGMM_ERR_INPUT);
    assert_null(reader);
    if (!strstr(fgmm_error_message(), word) || !strstr(fgmm_error_message(), path) ||
        strchr(fgmm_error_message(), '\n'))
        fail_msg("'%s' does not speak of '%s' and %s", fgmm_error_message(), word, path);
}

static void assert_bytes_refused(const char *name, const void *bytes, size_t n, const char *word)
{
    const char *path = fgmm_test_path(name);
    fgmm_test_write_file(path, bytes, n);
    assert_refused(path, word);
}

static void fill(char *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        rows[i] = (char)fgmm__philox(5, FGMM_RNG_BENCH, i, 0).word[0];
}

/* Reads ranges of a file whose rows are known. */
static void assert_holds(const char *path, fgmm_dtype dtype, const char *rows)
{
    static const int64_t ranges[][2] = {{0, ROWS}, {0, 1}, {ROWS - 1, ROWS}, {17, 204}, {5, 5}};
    size_t row = DIM * fgmm_dtype_bytes(dtype);
    char *out = malloc(ROWS * row);
    fgmm_reader *reader = NULL;
    ASSERT_OK(fgmm__reader_open(path, &reader));
    assert_int_equal(reader->rows, ROWS);
    assert_int_equal(reader->dim, DIM);
    assert_int_equal(reader->dtype, dtype);
    assert_string_equal(reader->distance, "");
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        size_t n = (size_t)(ranges[i][1] - ranges[i][0]);
        ASSERT_OK(fgmm__reader_read(reader, ranges[i][0], ranges[i][1], out));
        assert_memory_equal(out, rows + (size_t)ranges[i][0] * row, n * row);
    }
    fgmm_error_clear();
    assert_int_equal(fgmm__reader_read(reader, 0, ROWS + 1, out), FGMM_ERR_INPUT);
    fgmm__reader_close(reader);
    free(out);
}

static void what_is_written_is_read_back_in_every_format(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        fgmm_dtype dtype;
    } files[] = {{"a.fvecs", FGMM_F32}, {"a.bvecs", FGMM_U8}, {"a.fbin", FGMM_F32}, {"a.f16bin", FGMM_F16},
                 {"a.u8bin", FGMM_U8},  {"a.i8bin", FGMM_I8}, {"f4.npy", FGMM_F32}, {"f2.npy", FGMM_F16},
                 {"u1.npy", FGMM_U8},   {"i1.npy", FGMM_I8},  {"f4.h5", FGMM_F32},  {"f2.h5", FGMM_F16},
                 {"u1.hdf5", FGMM_U8},  {"i1.h5", FGMM_I8}};
    char rows[ROWS * DIM * 4];
    fill(rows, sizeof rows);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        const char *path = fgmm_test_path(files[i].name);
        size_t row = DIM * fgmm_dtype_bytes(files[i].dtype);
        fgmm_writer *writer = NULL;
        unlink(path);
        ASSERT_OK(fgmm__writer_open(path, ROWS, DIM, files[i].dtype, &writer));
        ASSERT_OK(fgmm__writer_append(writer, rows, 100));
        assert_int_not_equal(access(path, F_OK), 0); /* not there before it is whole */
        ASSERT_OK(fgmm__writer_append(writer, rows + 100 * row, ROWS - 100));
        ASSERT_OK(fgmm__writer_finish(writer));
        assert_int_equal(fgmm_test_leftovers(path), 0);
        assert_holds(path, files[i].dtype, rows);
    }
}

static void a_writer_keeps_its_promises(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("promise.fbin");
    fgmm_writer *writer = NULL;
    float rows[4] = {0};
    unlink(path);
    fgmm_error_clear();
    assert_int_equal(fgmm__writer_open(path, 2, 2, FGMM_U8, &writer), FGMM_ERR_INPUT);
    assert_int_equal(fgmm__writer_open(fgmm_test_path("promise.txt"), 2, 2, FGMM_U8, &writer),
                     FGMM_ERR_INPUT);
    assert_int_equal(fgmm__writer_open(fgmm_test_path("nowhere/promise.fbin"), 2, 2, FGMM_F32, &writer),
                     FGMM_ERR_RUNTIME);
    ASSERT_OK(fgmm__writer_open(path, 2, 2, FGMM_F32, &writer));
    ASSERT_OK(fgmm__writer_append(writer, rows, 1));
    assert_int_equal(fgmm__writer_append(writer, rows, 2), FGMM_ERR_RUNTIME);
    assert_int_equal(fgmm__writer_finish(writer), FGMM_ERR_RUNTIME);
    ASSERT_OK(fgmm__writer_open(path, 2, 2, FGMM_F32, &writer));
    fgmm__writer_abandon(writer);
    fgmm__writer_abandon(NULL);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(fgmm_test_leftovers(path), 0);
}

static void a_full_disk_is_told_before_rows_are_written(void **state)
{
    (void)state;
    static const char *const names[] = {"full.fbin", "full.fvecs", "full.npy", "full.h5"};
    struct rlimit old, small;
    fgmm_status statuses[4];
    bool named[4];
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 1 << 20;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    for (int i = 0; i < 4; i++) {
        const char *path = fgmm_test_path(names[i]);
        fgmm_writer *writer = NULL;
        fgmm_error_clear();
        statuses[i] = fgmm__writer_open(path, 1 << 20, 4, FGMM_F32, &writer);
        named[i] = strstr(fgmm_error_message(), names[i]) != NULL;
    }
    setrlimit(RLIMIT_FSIZE, &old);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(statuses[i], FGMM_ERR_RUNTIME);
        assert_true(named[i]);
        assert_int_equal(fgmm_test_leftovers(fgmm_test_path(names[i])), 0);
    }
}

static void missing_empty_and_unknown_files_are_refused(void **state)
{
    (void)state;
    assert_refused(fgmm_test_path("missing.fbin"), "no such file");
    assert_refused(fgmm_test_path("missing.npy"), "no such file");
    assert_refused(fgmm_test_path("missing.h5"), "no such file");
    assert_refused(fgmm_test_path("missing.thing"), "no such file");
    assert_bytes_refused("empty.fvecs", "", 0, "empty");
    assert_bytes_refused("empty.u8bin", "", 0, "empty");
    assert_bytes_refused("empty.npy", "", 0, "empty");
    assert_bytes_refused("empty.h5", "", 0, "empty");
    assert_bytes_refused("rows.csv", "1,2,3\n", 6, "unknown format");
    assert_bytes_refused("neighbours.ivecs", "\2\0\0\0\1\0\0\0\2\0\0\0", 12, "no rows of data");
    mkdir(fgmm_test_path("folder.fbin"), 0777);
    assert_refused(fgmm_test_path("folder.fbin"), "folder");
    assert_refused("/dev/zero", "regular file");
}

static void bin_sizes_must_match_their_header(void **state)
{
    (void)state;
    struct {
        uint32_t rows, dim;
        float values[6];
    } file = {3, 2, {0}};
    assert_bytes_refused("short.fbin", &file, 8 + 23, "truncated");
    assert_bytes_refused("short.fbin", &file, 8 + 16, "truncated");
    assert_bytes_refused("short.fbin", &file, 5, "too few");
    file.rows = 2;
    assert_bytes_refused("long.fbin", &file, sizeof file, "element type");
    file.rows = 6;
    assert_bytes_refused("half.fbin", &file, sizeof file, "needs 56");
    file.rows = 0;
    assert_bytes_refused("none.fbin", &file, 8, "no rows");
    file.dim = 0;
    assert_bytes_refused("flat.fbin", &file, sizeof file, "dimension 0");
}

static void files_of_more_rows_than_32_bits_count_by_their_size(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("billions.u8bin");
    const int64_t rows = (1LL << 32) + 5;
    uint32_t header[2] = {5, 1}; /* the low bits, as some writers leave them */
    fgmm_reader *reader = NULL;
    uint8_t last[2] = {0};
    fgmm_test_write_file(path, header, sizeof header);
    if (truncate(path, 8 + rows) != 0)
        skip();
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "\7\x9", 2, 8 + rows - 2), 2);
    close(fd);
    ASSERT_OK(fgmm__reader_open(path, &reader));
    assert_true(reader->rows == rows);
    ASSERT_OK(fgmm__reader_read(reader, rows - 2, rows, last));
    assert_true(last[0] == 7 && last[1] == 9);
    fgmm__reader_close(reader);
    unlink(path);
}

static void vecs_rows_must_all_have_one_dimension(void **state)
{
    (void)state;
    int32_t rows[6] = {2, 0, 0, 3, 0, 0};
    const char *path = fgmm_test_path("mixed.fvecs");
    fgmm_reader *reader = NULL;
    float out[4];
    assert_bytes_refused("cut.fvecs", rows, 23, "truncated");
    fgmm_test_write_file(path, rows, sizeof rows);
    ASSERT_OK(fgmm__reader_open(path, &reader));
    assert_int_equal(fgmm__reader_read(reader, 0, 2, out), FGMM_ERR_INPUT);
    assert_non_null(strstr(fgmm_error_message(), "row 1 says dimension 3"));
    fgmm__reader_close(reader);
    rows[0] = -2;
    assert_bytes_refused("negative.fvecs", rows, sizeof rows, "dimension -2");
    assert_bytes_refused("tiny.bvecs", rows, 3, "too few");
}

static void a_file_that_shrinks_while_it_is_read_is_a_run_time_failure(void **state)
{
    (void)state;
    const char *path = fgmm_test_path("shrinks.u8bin");
    uint8_t bytes[8 + 100] = {10, 0, 0, 0, 10, 0, 0, 0}, out[100];
    fgmm_reader *reader = NULL;
    fgmm_test_write_file(path, bytes, sizeof bytes);
    ASSERT_OK(fgmm__reader_open(path, &reader));
    assert_int_equal(truncate(path, 50), 0);
    assert_int_equal(fgmm__reader_read(reader, 0, 10, out), FGMM_ERR_RUNTIME);
    assert_non_null(strstr(fgmm_error_message(), "shrinks.u8bin: ends at byte 50"));
    fgmm__reader_close(reader);
}

static size_t make_npy(char *out, int version, const char *header, size_t data)
{
    size_t length = strlen(header), begin = version > 1 ? 12 : 10;
    memset(out, 0, begin);
    memcpy(out, "\x93NUMPY", 6);
    out[6] = (char)version;
    out[8] = (char)(length & 255);
    out[9] = (char)(length >> 8);
    memcpy(out + begin, header, length);
    memset(out + begin + length, 1, data);
    return begin + length + data;
}

static void assert_npy_refused(const char *header, size_t data, const char *word)
{
    char bytes[1024];
    assert_bytes_refused("bad.npy", bytes, make_npy(bytes, 1, header, data), word);
}

static void npy_headers_are_understood_or_refused_with_a_remedy(void **state)
{
    (void)state;
    static const char good[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }\n";
    char bytes[1024];
    for (int version = 1; version <= 2; version++) {
        const char *path = fgmm_test_path("good.npy"), *renamed = fgmm_test_path("good.array");
        size_t n = make_npy(bytes, version, good, 24);
        fgmm_reader *reader = NULL;
        fgmm_test_write_file(path, bytes, n);
        fgmm_test_write_file(renamed, bytes, n); /* known by its magic */
        ASSERT_OK(fgmm__reader_open(path, &reader));
        assert_true(reader->rows == 3 && reader->dim == 2 && reader->dtype == FGMM_F32);
        fgmm__reader_close(reader);
        ASSERT_OK(fgmm__reader_open(renamed, &reader));
        fgmm__reader_close(reader);
    }
    assert_npy_refused(good, 23, "truncated");
    assert_npy_refused(good, 25, "another number");
    assert_npy_refused("{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2), }\n", 24,
                       "ascontiguousarray");
    assert_npy_refused("{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }\n", 48, "astype");
    assert_npy_refused("{'descr': '>f4', 'fortran_order': False, 'shape': (3, 2), }\n", 24, "'>f4'");
    assert_npy_refused("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 2), }\n", 24,
                       "element type");
    assert_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }\n", 24, "reshape");
    assert_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 2), }\n", 24, "reshape");
    assert_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 2), }\n", 0, "no rows");
    assert_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 2), }\n", 24,
                       "reshape");
    assert_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 2), }\n", 24,
                       "another number");
    assert_npy_refused("nothing", 24, "cannot be read");
    assert_bytes_refused("magic.npy", "\x93NUMPX\1\0aaaaaaaaaaaaaa", 22, "does not begin");
    assert_bytes_refused("future.npy", "\x93NUMPY\7\0aaaaaaaaaaaaaa", 22, "version 7");
    assert_bytes_refused("cut.npy", "\x93NUMPY\1\0v\0{'descr'", 18, "truncated");
}

/* Random bytes behind true beginnings: refused or read, never a crash. */
static void random_headers_never_crash(void **state)
{
    (void)state;
    static const char *const names[] = {"fuzz.fvecs", "fuzz.bvecs", "fuzz.fbin", "fuzz.f16bin",
                                        "fuzz.u8bin", "fuzz.i8bin", "fuzz.npy",  "fuzz.bytes"};
    static const char npy[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }\n";
    int refused = 0;
    for (uint64_t round = 0; round < 2000; round++) {
        char bytes[256];
        const char *path = fgmm_test_path(names[round % 8]);
        size_t n = 1 + fgmm__philox(1, FGMM_RNG_BENCH, round, 0).word[0] % sizeof bytes;
        fill(bytes, n);
        if (round % 8 >= 6 && round % 3)
            n = make_npy(bytes, 1 + (int)(round % 2), npy, 24);
        for (int flips = 0; flips < 4; flips++) {
            fgmm_philox p = fgmm__philox(2, FGMM_RNG_BENCH, round, (uint32_t)flips);
            bytes[p.word[0] % n] = (char)p.word[1];
        }
        if (round % 8 < 6 && n > 4 && round % 3)
            memset(bytes + 2, 0, 2);
        fgmm_test_write_file(path, bytes, n);
        fgmm_reader *reader = NULL;
        fgmm_error_clear();
        fgmm_status status = fgmm__reader_open(path, &reader);
        if (status == FGMM_OK) {
            char *out = malloc((size_t)(reader->rows * reader->dim) * fgmm_dtype_bytes(reader->dtype));
            fgmm__reader_read(reader, 0, reader->rows, out);
            free(out);
            fgmm__reader_close(reader);
        } else {
            assert_int_equal(status, FGMM_ERR_INPUT);
            assert_int_not_equal(fgmm_error_message()[0], '\0');
            refused++;
        }
    }
    assert_in_range(refused, 500, 2000);
}

static void fingerprints_tell_contents_apart(void **state)
{
    (void)state;
    uint8_t bytes[8 + 6] = {3, 0, 0, 0, 2, 0, 0, 0, 1, 2, 3, 4, 5, 6};
    const char *path = fgmm_test_path("print.u8bin");
    uint64_t prints[3];
    struct stat info;
    for (int i = 0; i < 3; i++) {
        fgmm_reader *reader = NULL;
        bytes[13] = i == 2 ? 7 : 6;
        if (i != 1)
            fgmm_test_write_file(path, bytes, sizeof bytes);
        if (i == 0) {
            assert_int_equal(stat(path, &info), 0);
        } else { /* the same time, so that contents alone differ */
            struct timespec times[2] = {info.st_atim, info.st_mtim};
            assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
        }
        ASSERT_OK(fgmm__reader_open(path, &reader));
        prints[i] = reader->fingerprint;
        fgmm__reader_close(reader);
    }
    assert_true(prints[0] == prints[1]);
    assert_true(prints[0] != prints[2]);
}

static void names_tell_what_is_data(void **state)
{
    (void)state;
    assert_true(fgmm__reader_knows("x.fbin") && fgmm__reader_knows("X.FVECS") &&
                fgmm__reader_knows("a/b.h5:/test") && fgmm__reader_knows("synth:n=1") &&
                fgmm__reader_knows("x.npy"));
    assert_false(fgmm__reader_knows("notes.txt") || fgmm__reader_knows("fbin") || fgmm__reader_knows(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_back_in_every_format),
        cmocka_unit_test(a_writer_keeps_its_promises),
        cmocka_unit_test(a_full_disk_is_told_before_rows_are_written),
        cmocka_unit_test(missing_empty_and_unknown_files_are_refused),
        cmocka_unit_test(bin_sizes_must_match_their_header),
        cmocka_unit_test(files_of_more_rows_than_32_bits_count_by_their_size),
        cmocka_unit_test(vecs_rows_must_all_have_one_dimension),
        cmocka_unit_test(a_file_that_shrinks_while_it_is_read_is_a_run_time_failure),
        cmocka_unit_test(npy_headers_are_understood_or_refused_with_a_remedy),
        cmocka_unit_test(random_headers_never_crash),
        cmocka_unit_test(fingerprints_tell_contents_apart),
        cmocka_unit_test(names_tell_what_is_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
