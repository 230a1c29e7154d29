/* Rows in HDF5: FILE.h5:/dataset, by default /train, else the only dataset of two axes. Contiguous datasets
 * are read from the file directly, by any thread; chunked and compressed ones through the library, one thread
 * at a time. */
#define _GNU_SOURCE /* asprintf */

#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "io/format.h"
#include "io/h5.h"
#include "io/h5_describe.h"

typedef struct {
    fgmm_flat_reader flat;
    hid_t h5, dataset; /* -1 where the rows are read directly */
} h5_reader;

/* ---- the source's two parts ---- */

static bool is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

/* Where the dataset's name begins in "FILE:/dataset", NULL without one. A colon in the name of an existing
 * file is part of the name. */
static const char *dataset_part(const char *source)
{
    if (is_file(source))
        return NULL;
    const char *at = NULL;
    for (const char *next = strstr(source, ":/"); next != NULL; next = strstr(next + 1, ":/"))
        at = next;
    return at ? at + 1 : NULL;
}

static char *file_part(const char *source)
{
    const char *dataset = dataset_part(source);
    return dataset ? strndup(source, (size_t)(dataset - 1 - source)) : strdup(source);
}

static bool h5_probe(const char *source)
{
    char *path = file_part(source);
    bool ours =
        path && (fgmm__has_extension(path, ".h5") || fgmm__has_extension(path, ".hdf5") || fgmm__is_h5(path));
    free(path);
    return ours;
}

/* ---- the dataset ---- */

typedef struct {
    char first[256], second[256];
    int found;
} matrices;

static herr_t note_matrix(hid_t group, const char *name, const H5L_info_t *link, void *out)
{
    matrices *seen = out;
    (void)link;
    hid_t object = H5Oopen(group, name, H5P_DEFAULT);
    if (object < 0)
        return 0; /* a dangling link */
    if (H5Iget_type(object) == H5I_DATASET) {
        hid_t space = H5Dget_space(object);
        if (H5Sget_simple_extent_ndims(space) == 2) {
            snprintf(seen->found ? seen->second : seen->first, sizeof seen->first, "/%s", name);
            seen->found++;
        }
        H5Sclose(space);
    }
    H5Oclose(object);
    return 0;
}

static fgmm_status choose_dataset(hid_t h5, const char *source, char *name, size_t size)
{
    const char *asked = dataset_part(source);
    matrices seen = {.found = 0};
    if (asked) {
        snprintf(name, size, "%s", asked);
        return fgmm__h5_has_dataset(h5, name)
                   ? FGMM_OK
                   : fgmm__fail(FGMM_ERR_INPUT, "%s: the file has no dataset %s; h5ls -r lists what is there",
                                source, asked);
    }
    snprintf(name, size, "/train");
    if (fgmm__h5_has_dataset(h5, name))
        return FGMM_OK;
    H5Lvisit(h5, H5_INDEX_NAME, H5_ITER_INC, note_matrix, &seen);
    if (seen.found == 0)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: has no dataset of rows (two axes)", source);
    if (seen.found > 1)
        return fgmm__fail(FGMM_ERR_INPUT,
                          "%s: has several datasets (%s, %s%s) and none is /train; name one: %s:%s", source,
                          seen.first, seen.second, seen.found > 2 ? ", ..." : "", source, seen.first);
    snprintf(name, size, "%s", seen.first);
    return FGMM_OK;
}

static bool dtype_of(hid_t type, fgmm_dtype *dtype)
{
    size_t bytes = H5Tget_size(type);
    H5T_class_t kind = H5Tget_class(type);
    if (kind == H5T_FLOAT && (bytes == 4 || bytes == 2))
        *dtype = bytes == 4 ? FGMM_F32 : FGMM_F16;
    else if (kind == H5T_INTEGER && bytes == 1)
        *dtype = H5Tget_sign(type) == H5T_SGN_NONE ? FGMM_U8 : FGMM_I8;
    else
        return false;
    return true;
}

static fgmm_status describe_dataset(hid_t dataset, const char *source, fgmm_reader *out)
{
    fgmm_status status = FGMM_OK;
    hsize_t shape[2];
    hid_t space = H5Dget_space(dataset), type = H5Dget_type(dataset);
    if (H5Sget_simple_extent_ndims(space) != 2)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: the dataset has %d axes, rows need two: [rows, dimension]", source,
                  H5Sget_simple_extent_ndims(space));
    H5Sget_simple_extent_dims(space, shape, NULL);
    if (!dtype_of(type, &out->dtype))
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: elements of the dataset are %zu-byte %s; store them as f4, f2, u1 or i1", source,
                  H5Tget_size(type),
                  H5Tget_class(type) == H5T_FLOAT     ? "floats"
                  : H5Tget_class(type) == H5T_INTEGER ? "integers"
                                                      : "compounds or texts");
    if (shape[0] == 0 || shape[1] == 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: the dataset holds no rows", source);
    if (shape[1] > FGMM_MAX_DIM || shape[0] > INT64_MAX / (FGMM_MAX_DIM * 8))
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: the dataset's shape of %llu x %llu is too large", source,
                  (unsigned long long)shape[0], (unsigned long long)shape[1]);
    out->rows = (int64_t)shape[0];
    out->dim = (int32_t)shape[1];
cleanup:
    H5Sclose(space);
    H5Tclose(type);
    return status;
}

/* Where the rows lie one after another in the file, or -1: chunked, compact, elsewhere, or of another byte
 * order. */
static int64_t contiguous_offset(hid_t dataset, const fgmm_reader *reader)
{
    hid_t creation = H5Dget_create_plist(dataset), type = H5Dget_type(dataset);
    bool plain = H5Pget_layout(creation) == H5D_CONTIGUOUS && H5Pget_external_count(creation) == 0 &&
                 H5Tequal(type, fgmm__h5_type(reader->dtype)) > 0;
    haddr_t offset = plain ? H5Dget_offset(dataset) : HADDR_UNDEF;
    H5Pclose(creation);
    H5Tclose(type);
    return offset == HADDR_UNDEF ? -1 : (int64_t)offset;
}

/* The attribute of files in the ann-benchmarks layout; texts too long to be a distance's name are not. */
static void read_distance(hid_t object, char *out, size_t size)
{
    char text[256];
    if (!fgmm__h5_has(object, "distance"))
        return;
    hid_t attribute = H5Aopen(object, "distance", H5P_DEFAULT), type = H5Aget_type(attribute);
    bool is_text = H5Tget_class(type) == H5T_STRING;
    H5Tclose(type);
    H5Aclose(attribute);
    if (!is_text || fgmm__h5_get_text(object, "distance", text, sizeof text) != FGMM_OK ||
        strlen(text) >= size)
        return;
    strcpy(out, text);
}

/* ---- the reader ---- */

static fgmm_status open_locked(const char *source, const char *path, h5_reader *reader)
{
    fgmm_status status = FGMM_OK;
    char name[512];
    bool sealed;
    fgmm_reader *base = &reader->flat.base;
    FGMM_TRY(fgmm__file_open(path, &reader->flat.file));
    if (!fgmm__is_h5(path))
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: does not begin as an HDF5 file does; damaged, or another format under this name",
                  path);
    FGMM_TRY(fgmm__h5_check_seal(path, &sealed));
    FGMM_TRY(fgmm__h5_open(path, NULL, &reader->h5));
    FGMM_TRY(choose_dataset(reader->h5, source, name, sizeof name));
    reader->dataset = H5Dopen2(reader->h5, name, H5P_DEFAULT);
    if (reader->dataset < 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: dataset %s cannot be opened; damaged", source, name);
    FGMM_TRY(describe_dataset(reader->dataset, source, base));
    read_distance(reader->h5, base->distance, sizeof base->distance);
    read_distance(reader->dataset, base->distance, sizeof base->distance);
    base->fingerprint = reader->flat.file.fingerprint;
    reader->flat.data_offset = contiguous_offset(reader->dataset, base);
    if (reader->flat.data_offset >= 0) {
        int64_t bytes = base->rows * base->dim * (int64_t)fgmm_dtype_bytes(base->dtype);
        if (reader->flat.data_offset + bytes > reader->flat.file.bytes)
            FGMM_FAIL(FGMM_ERR_INPUT, "%s: ends inside dataset %s; truncated, fetch it again", source, name);
    }
cleanup:
    return status;
}

static void close_h5(h5_reader *reader)
{
    if (reader->dataset >= 0)
        H5Dclose(reader->dataset);
    if (reader->h5 >= 0)
        H5Fclose(reader->h5);
    reader->dataset = reader->h5 = -1;
}

static void h5_close(fgmm_reader *base)
{
    h5_reader *reader = (h5_reader *)base;
    fgmm__h5_lock();
    close_h5(reader);
    fgmm__h5_unlock();
    fgmm__file_close(&reader->flat.file);
    free(reader);
}

static fgmm_status h5_open(const char *source, fgmm_reader **out)
{
    fgmm_status status = FGMM_OK;
    h5_reader *reader = NULL;
    char *path = file_part(source);
    if (path == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory while opening %s", source);
    FGMM_ALLOC(reader, 1, "a reader");
    *reader = (h5_reader){.flat.file.fd = -1, .h5 = -1, .dataset = -1};
    fgmm__h5_lock();
    status = open_locked(source, path, reader);
    if (status == FGMM_OK && reader->flat.data_offset >= 0)
        close_h5(reader);
    fgmm__h5_unlock();
    if (status == FGMM_OK) {
        *out = &reader->flat.base;
        reader = NULL;
    }
cleanup:
    if (reader)
        h5_close(&reader->flat.base);
    free(path);
    return status;
}

static fgmm_status read_through_library(const h5_reader *reader, int64_t begin, int64_t end, void *out)
{
    hsize_t start[2] = {(hsize_t)begin, 0},
            count[2] = {(hsize_t)(end - begin), (hsize_t)reader->flat.base.dim};
    fgmm__h5_lock();
    hid_t file_space = H5Dget_space(reader->dataset), memory_space = H5Screate_simple(2, count, NULL);
    H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, count, NULL);
    herr_t result = H5Dread(reader->dataset, fgmm__h5_type(reader->flat.base.dtype), memory_space, file_space,
                            H5P_DEFAULT, out);
    H5Sclose(memory_space);
    H5Sclose(file_space);
    fgmm__h5_unlock();
    return result >= 0 ? FGMM_OK
                       : fgmm__fail(FGMM_ERR_RUNTIME,
                                    "%s: rows %lld to %lld cannot be read; damaged, or compressed by a "
                                    "filter that is not installed",
                                    reader->flat.base.source, (long long)begin, (long long)end - 1);
}

static fgmm_status h5_read(const fgmm_reader *base, int64_t begin, int64_t end, void *out)
{
    const h5_reader *reader = (const h5_reader *)base;
    return reader->flat.data_offset >= 0 ? fgmm__flat_read(base, begin, end, out)
                                         : read_through_library(reader, begin, end, out);
}

/* ---- queries ---- */

static fgmm_status has_test(const char *path, bool *has)
{
    fgmm_status status = FGMM_OK;
    hid_t file = H5I_INVALID_HID;
    bool sealed;
    *has = false;
    FGMM_TRY(fgmm__h5_check_seal(path, &sealed));
    FGMM_TRY(fgmm__h5_open(path, NULL, &file));
    *has = fgmm__h5_has_dataset(file, "/test");
cleanup:
    fgmm__h5_close(file, path);
    return status;
}

fgmm_status fgmm__queries_source(const char *source, char **out)
{
    fgmm_status status = FGMM_OK;
    bool test = false;
    if (is_file(source) && fgmm__is_h5(source)) {
        fgmm__h5_lock();
        status = has_test(source, &test);
        fgmm__h5_unlock();
        FGMM_TRY(status);
    }
    if (asprintf(out, "%s%s", source, test ? ":/test" : "") < 0)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory while opening %s", source);
cleanup:
    return status;
}

const fgmm_reader_type fgmm__h5_format = {"h5", h5_probe, h5_open, h5_read, h5_close};
