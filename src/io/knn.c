#include "io/knn.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "io/format.h"
#include "io/h5.h"
#include "io/writer.h"

enum { MAX_K = 1 << 20 };

void fgmm__knn_free(fgmm_knn *knn)
{
    free(knn->ids);
    free(knn->distances);
    *knn = (fgmm_knn){.ids = NULL};
}

static size_t cells(const fgmm_knn *knn)
{
    return (size_t)knn->queries * (size_t)knn->k;
}

/* ---- reading ---- */

static fgmm_status check_ids(const char *path, const fgmm_knn *knn)
{
    for (size_t i = 0; i < cells(knn); i++)
        if (knn->ids[i] < -1)
            return fgmm__fail(FGMM_ERR_INPUT,
                              "%s: query %lld has a neighbour numbered %lld; damaged, or of another format",
                              path, (long long)(i / (size_t)knn->k), (long long)knn->ids[i]);
    return FGMM_OK;
}

/* A bound on what a damaged header can make us allocate: the file holds at least 4 bytes a neighbour. */
static fgmm_status check_shape(const char *path, int64_t queries, int64_t k, int64_t bytes)
{
    if (queries < 1 || k < 1 || k > MAX_K || queries > bytes / 4 / k)
        return fgmm__fail(FGMM_ERR_INPUT,
                          "%s: %lld queries of %lld neighbours do not fit its %lld bytes; truncated or "
                          "damaged, fetch it again",
                          path, (long long)queries, (long long)k, (long long)bytes);
    return FGMM_OK;
}

static void widen(const int32_t *in, size_t n, int64_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = in[i];
}

static fgmm_status read_ibin(const fgmm_file *file, const char *path, fgmm_knn *knn)
{
    fgmm_status status = FGMM_OK;
    uint32_t header[2];
    int32_t *narrow = NULL;
    if (file->bytes < (int64_t)sizeof header)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: has %lld bytes, too few for a header of 8; truncated, fetch it again",
                  path, (long long)file->bytes);
    FGMM_TRY(fgmm__file_read(file, path, 0, header, sizeof header));
    int64_t data = file->bytes - (int64_t)sizeof header;
    FGMM_TRY(check_shape(path, header[0], header[1], data));
    knn->queries = header[0];
    knn->k = (int32_t)header[1];
    int64_t part = (int64_t)cells(knn) * 4;
    if (data != part && data != 2 * part)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: holds %lld bytes after its header, %u queries of %u neighbours need %lld (ids and "
                  "distances) or %lld (ids): "
                  "truncated or damaged, fetch it again",
                  path, (long long)data, header[0], header[1], (long long)(2 * part), (long long)part);
    FGMM_ALLOC(narrow, cells(knn), "neighbours");
    FGMM_ALLOC(knn->ids, cells(knn), "neighbours");
    FGMM_TRY(fgmm__file_read(file, path, sizeof header, narrow, (size_t)part));
    widen(narrow, cells(knn), knn->ids);
    if (data == 2 * part) {
        FGMM_ALLOC(knn->distances, cells(knn), "distances of neighbours");
        FGMM_TRY(fgmm__file_read(file, path, (int64_t)sizeof header + part, knn->distances, (size_t)part));
    }
cleanup:
    free(narrow);
    return status;
}

static fgmm_status read_ivecs(const fgmm_file *file, const char *path, fgmm_knn *knn)
{
    fgmm_status status = FGMM_OK;
    int32_t *rows = NULL, k = 0;
    if (file->bytes < 4)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: has %lld bytes, too few for a row; truncated, fetch it again", path,
                  (long long)file->bytes);
    FGMM_TRY(fgmm__file_read(file, path, 0, &k, sizeof k));
    int64_t stride = 4 + 4 * (int64_t)k;
    if (k < 1 || k > MAX_K || file->bytes % stride != 0)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: has %lld bytes, not a multiple of a row of %d neighbours; truncated or damaged, fetch "
                  "it again",
                  path, (long long)file->bytes, k);
    knn->queries = file->bytes / stride;
    knn->k = k;
    FGMM_ALLOC(rows, file->bytes / 4, "neighbours");
    FGMM_ALLOC(knn->ids, cells(knn), "neighbours");
    FGMM_TRY(fgmm__file_read(file, path, 0, rows, (size_t)file->bytes));
    for (int64_t q = 0; q < knn->queries; q++) {
        if (rows[q * (k + 1)] != k)
            FGMM_FAIL(FGMM_ERR_INPUT, "%s: row %lld has %d neighbours, row 0 has %d; damaged, fetch it again",
                      path, (long long)q, rows[q * (k + 1)], k);
        widen(rows + q * (k + 1) + 1, (size_t)k, knn->ids + q * k);
    }
cleanup:
    free(rows);
    return status;
}

static bool has_suffix_dataset(const char *path, char **file, const char **dataset)
{
    const char *colon = strstr(path, ":/");
    struct stat info;
    bool named = colon != NULL && stat(path, &info) != 0;
    *file = named ? strndup(path, (size_t)(colon - path)) : strdup(path);
    *dataset = named ? colon + 1 : NULL;
    return *file != NULL;
}

/* ann-benchmarks stores |x-q| and 1 - cos, which for unit lengths is half of |x-q|^2. */
static fgmm_status square_distances(hid_t file, fgmm_knn *knn)
{
    fgmm_status status = FGMM_OK;
    char says[256] = "";
    if (fgmm__h5_has(file, "distance"))
        FGMM_TRY(fgmm__h5_get_text(file, "distance", says, sizeof says));
    for (size_t i = 0; i < cells(knn); i++) {
        float *d = &knn->distances[i];
        *d = strcmp(says, "euclidean") == 0 ? *d * *d : strcmp(says, "angular") == 0 ? 2 * *d : *d;
    }
cleanup:
    return status;
}

static fgmm_status read_h5(const char *path, const char *file_name, const char *dataset, fgmm_knn *knn)
{
    fgmm_status status = FGMM_OK;
    hid_t file = -1;
    hsize_t shape[2], other[2];
    int rank, other_rank;
    bool sealed;
    FGMM_TRY(fgmm__h5_check_seal(file_name, &sealed));
    FGMM_TRY(fgmm__h5_open(file_name, NULL, &file));
    if (dataset == NULL)
        dataset = fgmm__h5_has_dataset(file, "/neighbors") ? "/neighbors" : "/ids";
    if (!fgmm__h5_has_dataset(file, dataset))
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: has no neighbours: neither /neighbors nor /ids; name a dataset: %s:/NAME", path,
                  file_name);
    FGMM_TRY(fgmm__h5_shape(file, dataset, 2, &rank, shape));
    if (rank != 2 || shape[0] < 1 || shape[1] < 1 || shape[1] > MAX_K || shape[0] > INT64_MAX / 16 / MAX_K)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: %s is not [queries, neighbours]", path, dataset);
    knn->queries = (int64_t)shape[0];
    knn->k = (int32_t)shape[1];
    FGMM_ALLOC(knn->ids, cells(knn), "neighbours");
    FGMM_TRY(fgmm__h5_read(file, dataset, H5T_NATIVE_INT64, cells(knn), knn->ids));
    if (fgmm__h5_has_dataset(file, "/distances")) {
        FGMM_TRY(fgmm__h5_shape(file, "/distances", 2, &other_rank, other));
        if (other_rank != 2 || other[0] != shape[0] || other[1] != shape[1])
            FGMM_FAIL(FGMM_ERR_INPUT, "%s: /distances has another shape than %s", path, dataset);
        FGMM_ALLOC(knn->distances, cells(knn), "distances of neighbours");
        FGMM_TRY(fgmm__h5_read(file, "/distances", H5T_NATIVE_FLOAT, cells(knn), knn->distances));
        FGMM_TRY(square_distances(file, knn));
    }
cleanup:
    fgmm__h5_close(file, path);
    return status;
}

fgmm_status fgmm__knn_read(const char *path, fgmm_knn *out)
{
    fgmm_status status = FGMM_OK;
    fgmm_knn knn = {.ids = NULL};
    fgmm_file file = {.fd = -1};
    char *file_name = NULL;
    const char *dataset;
    if (!has_suffix_dataset(path, &file_name, &dataset))
        FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory while opening %s", path);
    FGMM_TRY(fgmm__file_open(file_name, &file));
    if (fgmm__has_extension(path, ".ibin"))
        FGMM_TRY(read_ibin(&file, path, &knn));
    else if (fgmm__has_extension(path, ".ivecs"))
        FGMM_TRY(read_ivecs(&file, path, &knn));
    else if (fgmm__has_extension(file_name, ".h5") || fgmm__has_extension(file_name, ".hdf5"))
        FGMM_TRY(read_h5(path, file_name, dataset, &knn));
    else
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: unknown format; neighbours are read from .ibin, .ivecs and .h5", path);
    FGMM_TRY(check_ids(path, &knn));
    *out = knn;
    knn.ids = NULL;
    knn.distances = NULL;
cleanup:
    fgmm__knn_free(&knn);
    fgmm__file_close(&file);
    free(file_name);
    return status;
}

/* ---- writing ---- */

static fgmm_status narrow_ids(const char *path, const fgmm_knn *knn, int32_t **out)
{
    fgmm_status status = FGMM_OK;
    int32_t *narrow = NULL;
    FGMM_ALLOC(narrow, cells(knn), "neighbours");
    for (size_t i = 0; i < cells(knn); i++) {
        if (knn->ids[i] > INT32_MAX)
            FGMM_FAIL(FGMM_ERR_INPUT, "%s: holds 32-bit numbers, neighbour %lld does not fit; write .h5",
                      path, (long long)knn->ids[i]);
        narrow[i] = (int32_t)knn->ids[i];
    }
    *out = narrow;
    narrow = NULL;
cleanup:
    free(narrow);
    return status;
}

static bool put_ibin(FILE *file, const fgmm_knn *knn, const int32_t *narrow)
{
    uint32_t header[2] = {(uint32_t)knn->queries, (uint32_t)knn->k};
    return fwrite(header, sizeof header, 1, file) == 1 && fwrite(narrow, 4, cells(knn), file) == cells(knn) &&
           (knn->distances == NULL || fwrite(knn->distances, 4, cells(knn), file) == cells(knn));
}

static bool put_ivecs(FILE *file, const fgmm_knn *knn, const int32_t *narrow)
{
    for (int64_t q = 0; q < knn->queries; q++)
        if (fwrite(&knn->k, 4, 1, file) != 1 ||
            fwrite(narrow + q * knn->k, 4, (size_t)knn->k, file) != (size_t)knn->k)
            return false;
    return true;
}

static fgmm_status write_narrow(const char *path, const char *aside, const fgmm_knn *knn)
{
    fgmm_status status = FGMM_OK;
    int32_t *narrow = NULL;
    FILE *file = NULL;
    if (knn->queries > UINT32_MAX)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: cannot hold %lld queries; write .h5", path, (long long)knn->queries);
    FGMM_TRY(narrow_ids(path, knn, &narrow));
    file = fopen(aside, "wbe");
    if (file == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot be created: %s", path, strerror(errno));
    bool fine =
        fgmm__has_extension(path, ".ibin") ? put_ibin(file, knn, narrow) : put_ivecs(file, knn, narrow);
    fine = fclose(file) == 0 && fine;
    if (!fine)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot be written: %s", path, strerror(errno));
cleanup:
    free(narrow);
    return status;
}

static fgmm_status put_about(hid_t file, const fgmm_knn *knn, const fgmm_knn_about *about)
{
    static const char *const names[] = {
        [FGMM_L2] = "euclidean", [FGMM_COSINE] = "angular", [FGMM_IP] = "dot"};
    fgmm_status status = FGMM_OK;
    hsize_t shape[2] = {(hsize_t)knn->queries, (hsize_t)about->dim};
    FGMM_TRY(fgmm__h5_put_text(file, "distance", names[about->metric]));
    FGMM_TRY(fgmm__h5_put_text(file, "type", "dense"));
    FGMM_TRY(fgmm__h5_put_text(file, "point_type", "float"));
    FGMM_TRY(fgmm__h5_put_i64(file, "dimension", about->dim));
    FGMM_TRY(fgmm__h5_write(file, "/test", H5T_IEEE_F32LE, 2, shape, about->queries));
cleanup:
    return status;
}

static fgmm_status put_distances(hid_t file, const fgmm_knn *knn, const fgmm_knn_about *about)
{
    fgmm_status status = FGMM_OK;
    float *theirs = NULL;
    hsize_t shape[2] = {(hsize_t)knn->queries, (hsize_t)knn->k};
    FGMM_ALLOC(theirs, cells(knn), "distances of neighbours");
    for (size_t i = 0; i < cells(knn); i++) {
        float d = knn->distances[i];
        theirs[i] = about == NULL                  ? d
                    : about->metric == FGMM_L2     ? sqrtf(d)
                    : about->metric == FGMM_COSINE ? d / 2
                                                   : d;
    }
    FGMM_TRY(fgmm__h5_write(file, "/distances", H5T_IEEE_F32LE, 2, shape, theirs));
cleanup:
    free(theirs);
    return status;
}

static fgmm_status write_h5(const char *path, const char *aside, const fgmm_knn *knn,
                            const fgmm_knn_about *about)
{
    fgmm_status status = FGMM_OK;
    hid_t file = -1;
    hsize_t shape[2] = {(hsize_t)knn->queries, (hsize_t)knn->k};
    FGMM_TRY(fgmm__h5_create_small(aside, &file));
    FGMM_TRY(fgmm__h5_put_text(file, "format", "fgmm-knn"));
    FGMM_TRY(fgmm__h5_put_i64(file, "version", 1));
    FGMM_TRY(fgmm__h5_write(file, "/neighbors", H5T_STD_I64LE, 2, shape, knn->ids));
    if (knn->distances)
        FGMM_TRY(put_distances(file, knn, about));
    if (about)
        FGMM_TRY(put_about(file, knn, about));
    hid_t whole = file;
    file = -1;
    FGMM_TRY(fgmm__h5_close(whole, path));
    FGMM_TRY(fgmm__h5_seal(aside, NULL, 0, 0));
cleanup:
    fgmm__h5_close(file, path);
    return status;
}

fgmm_status fgmm__knn_write(const char *path, const fgmm_knn *knn, const fgmm_knn_about *about)
{
    fgmm_status status = FGMM_OK;
    char *aside = NULL;
    bool narrow = fgmm__has_extension(path, ".ibin") || fgmm__has_extension(path, ".ivecs");
    if (!narrow && !fgmm__has_extension(path, ".h5") && !fgmm__has_extension(path, ".hdf5"))
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: unknown format; neighbours are written to .ibin, .ivecs and .h5",
                  path);
    FGMM_TRY(fgmm__aside_name(path, &aside));
    status = narrow ? write_narrow(path, aside, knn) : write_h5(path, aside, knn, about);
    if (status == FGMM_OK)
        status = fgmm__aside_commit(aside, path);
    else
        unlink(aside);
cleanup:
    free(aside);
    return status;
}
