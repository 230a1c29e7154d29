/* fgmm info: what a file holds, a line a fact. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "cmd/cmd.h"
#include "io/h5_describe.h"
#include "io/knn.h"
#include "io/reader.h"

static const char usage[] = "fgmm info FILE";
static const char description[] =
    "Says what FILE holds, one `key: value` a line: rows of any format (FILE.h5:/dataset and synth: specs "
    "too), models, "
    "checkpoints, indexes, neighbours. Files with a hash are checked against it.";

static void print_line(const char *key, const char *value, void *data)
{
    (void)data;
    printf("%s: %s\n", key, value);
}

/* ---- rows ---- */

static void print_bytes(double bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    int unit = 0;
    for (; bytes >= 1024 && unit < 4; unit++)
        bytes /= 1024;
    printf("data: %.*f %s\n", unit ? 2 : 0, bytes, units[unit]);
}

static void print_rows(const fgmm_reader *reader)
{
    printf("rows: %lld\ndimension: %d\ndtype: %s\n", (long long)reader->rows, reader->dim,
           fgmm_dtype_name(reader->dtype));
    print_bytes((double)reader->rows * reader->dim * (double)fgmm_dtype_bytes(reader->dtype));
    const char *distance = reader->distance;
    if (distance[0] != '\0')
        printf("distance: %s%s\n", distance,
               strcmp(distance, "angular") == 0                              ? " (use --metric cosine)"
               : strcmp(distance, "dot") == 0 || strcmp(distance, "ip") == 0 ? " (use --metric ip)"
                                                                             : "");
}

static fgmm_status info_rows(const char *source)
{
    fgmm_status status = FGMM_OK;
    fgmm_reader *reader = NULL;
    FGMM_TRY(fgmm__reader_open(source, &reader));
    printf("file: %s\nkind: rows (%s)\n", source, reader->type->name);
    print_rows(reader);
cleanup:
    fgmm__reader_close(reader);
    return status;
}

/* ---- neighbours ---- */

static fgmm_status info_neighbours(const char *path)
{
    fgmm_status status = FGMM_OK;
    fgmm_knn knn = {.ids = NULL};
    int64_t largest = -1;
    FGMM_TRY(fgmm__knn_read(path, &knn));
    for (int64_t i = 0; i < knn.queries * knn.k; i++)
        largest = knn.ids[i] > largest ? knn.ids[i] : largest;
    printf("file: %s\nkind: neighbours\nqueries: %lld\nk: %d\ndistances: %s\nlargest id: %lld\n", path,
           (long long)knn.queries, knn.k, knn.distances ? "yes" : "no", (long long)largest);
cleanup:
    fgmm__knn_free(&knn);
    return status;
}

/* ---- HDF5 ---- */

static const char *kind_of(const char *format)
{
    static const struct {
        const char *format, *kind;
    } kinds[] = {{"fgmm-model", "model"},
                 {"fgmm-checkpoint", "checkpoint of a fit"},
                 {"fgmm-build", "checkpoint of a build"},
                 {"fgmm-ivf", "index"},
                 {"fgmm-knn", "neighbours"}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(format, kinds[i].format) == 0)
            return kinds[i].kind;
    return format;
}

/* Flags and phases, which files hold as numbers, in words. */
static void print_fgmm_line(const char *key, const char *value, void *data)
{
    static const char *const phases[] = {"before the first iteration", "k-means of the start",
                                         "iterations of the fit"};
    const char *slash = strrchr(key, '/'), *last = slash ? slash + 1 : key;
    bool flag = strcmp(last, "stopped") == 0 || strcmp(last, "converged") == 0;
    if (flag)
        value = strcmp(value, "0") == 0 ? "no" : "yes";
    if (strcmp(key, "phase") == 0 && value[0] >= '0' && value[0] <= '2' && value[1] == '\0')
        value = phases[value[0] - '0'];
    if (strcmp(key, "format") != 0)
        print_line(key, value, data);
}

static fgmm_status info_h5(const char *path)
{
    fgmm_status status = FGMM_OK;
    fgmm_reader *reader = NULL;
    char format[64];
    bool sealed;
    FGMM_TRY(fgmm__h5_kind(path, format, sizeof format, &sealed));
    bool ours = strncmp(format, "fgmm-", 5) == 0;
    if (!ours && fgmm__reader_open(path, &reader) != FGMM_OK)
        fgmm_error_clear(); /* not a file of rows: its contents are listed all the same */
    printf("file: %s\nkind: %s\nhash: %s\n", path,
           ours     ? kind_of(format)
           : reader ? "rows (h5)"
                    : "HDF5 without rows to read by default",
           sealed ? "right" : "none");
    if (reader)
        print_rows(reader);
    FGMM_TRY(fgmm__h5_describe(path, ours ? print_fgmm_line : print_line, NULL));
cleanup:
    fgmm__reader_close(reader);
    return status;
}

static bool ends_in(const char *path, const char *extension)
{
    size_t n = strlen(path), m = strlen(extension);
    return n > m && strcmp(path + n - m, extension) == 0;
}

static fgmm_status info(const char *path)
{
    if (ends_in(path, ".ibin") || ends_in(path, ".ivecs"))
        return info_neighbours(path);
    return fgmm__is_h5(path) ? info_h5(path) : info_rows(path);
}

fgmm_status fgmm__cmd_info(int argc, char **argv)
{
    fgmm_status status = FGMM_OK;
    const char **files = NULL;
    int n = 0;
    bool done = false;
    const fgmm_option table[] = {{NULL, FGMM_OPT_FLAG, NULL, NULL, NULL}};
    FGMM_ALLOC(files, argc, "the arguments");
    FGMM_TRY(fgmm__cmd_parse(argc, argv, usage, description, table, files, &n, &done));
    if (done)
        goto cleanup;
    if (n != 1)
        FGMM_FAIL(FGMM_ERR_INPUT, "one file is needed; usage: %s", usage);
    if (fgmm_comm_rank(fgmm__cmd_comm()) == 0)
        status = info(files[0]);
cleanup:
    free(files);
    return status;
}
