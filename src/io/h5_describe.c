#include "io/h5_describe.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "io/format.h"
#include "io/h5.h"

enum { TEXT_BYTES = 1024 };

typedef struct {
    void (*line)(const char *key, const char *value, void *data);
    void *data;
    hid_t object;       /* whose attributes are gone through */
    const char *prefix; /* its name and a slash, "" for the root */
} describer;

bool fgmm__is_h5(const char *path)
{
    for (int64_t at = 0; at <= 8192; at = at ? 2 * at : 512)
        if (fgmm__has_magic(path, at, "\x89HDF\r\n\x1a\n", 8))
            return true;
    return false;
}

fgmm_status fgmm__h5_kind(const char *path, char *format, size_t size, bool *sealed)
{
    fgmm_status status = FGMM_OK;
    hid_t file = -1;
    format[0] = '\0';
    FGMM_TRY(fgmm__h5_check_seal(path, sealed));
    FGMM_TRY(fgmm__h5_open(path, NULL, &file));
    if (fgmm__h5_has(file, "format"))
        FGMM_TRY(fgmm__h5_get_text(file, "format", format, size));
cleanup:
    fgmm__h5_close(file, path);
    return status;
}

/* ---- attributes ---- */

/* The value of a scalar attribute as text; false for arrays and compounds. */
static bool print_attribute(hid_t object, const char *name, char *text)
{
    int64_t integer;
    double real;
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    H5T_class_t kind = H5Tget_class(type);
    bool scalar = H5Sget_simple_extent_npoints(space) == 1;
    H5Sclose(space);
    H5Tclose(type);
    H5Aclose(attribute);
    if (!scalar)
        return false;
    if (kind == H5T_STRING)
        return fgmm__h5_get_text(object, name, text, TEXT_BYTES) == FGMM_OK;
    if (kind == H5T_FLOAT && fgmm__h5_get_f64(object, name, &real) == FGMM_OK)
        return snprintf(text, TEXT_BYTES, "%.10g", real) > 0;
    if (kind == H5T_INTEGER && fgmm__h5_get_i64(object, name, &integer) == FGMM_OK)
        return snprintf(text, TEXT_BYTES, "%" PRId64, integer) > 0;
    return false;
}

static herr_t describe_attribute(hid_t object, const char *name, const H5A_info_t *info, void *out)
{
    const describer *describe = out;
    char key[TEXT_BYTES], value[TEXT_BYTES];
    (void)object;
    (void)info;
    snprintf(key, sizeof key, "%s%s", describe->prefix, name);
    if (print_attribute(describe->object, name, value))
        describe->line(key, value, describe->data);
    return 0;
}

static void describe_attributes(const describer *describe, hid_t object, const char *prefix)
{
    describer here = *describe;
    here.object = object;
    here.prefix = prefix;
    H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_INC, NULL, describe_attribute, &here);
}

/* ---- datasets ---- */

static void print_type(hid_t type, char *text, size_t size)
{
    H5T_class_t kind = H5Tget_class(type);
    const char *name = kind == H5T_FLOAT                   ? "float"
                       : kind == H5T_STRING                ? "text"
                       : kind != H5T_INTEGER               ? "compound"
                       : H5Tget_sign(type) == H5T_SGN_NONE ? "uint"
                                                           : "int";
    bool number = kind == H5T_FLOAT || kind == H5T_INTEGER;
    if (number)
        snprintf(text, size, "%s%zu", name, 8 * H5Tget_size(type));
    else
        snprintf(text, size, "%s", name);
}

static void print_dataset(hid_t dataset, char *text, size_t size)
{
    hsize_t shape[H5S_MAX_RANK];
    char type_name[32];
    hid_t space = H5Dget_space(dataset), type = H5Dget_type(dataset);
    int rank = H5Sget_simple_extent_dims(space, shape, NULL);
    size_t at = 0;
    print_type(type, type_name, sizeof type_name);
    for (int i = 0; i < rank && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%llu", i ? " x " : "", (unsigned long long)shape[i]);
    if (at < size)
        snprintf(text + at, size - at, "%s%s", rank > 0 ? " " : "", type_name);
    H5Sclose(space);
    H5Tclose(type);
}

static herr_t describe_object(hid_t root, const char *name, const H5L_info_t *link, void *out)
{
    const describer *describe = out;
    char text[TEXT_BYTES];
    hid_t object = H5Oopen(root, name, H5P_DEFAULT);
    (void)link;
    if (object < 0)
        return 0; /* a dangling link */
    if (H5Iget_type(object) == H5I_DATASET) {
        print_dataset(object, text, sizeof text);
        describe->line(name, text, describe->data);
    }
    snprintf(text, sizeof text, "%s/", name);
    describe_attributes(describe, object, text);
    H5Oclose(object);
    return 0;
}

/* ---- lists of an index ---- */

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static fgmm_status describe_lists(const describer *describe, hid_t file)
{
    fgmm_status status = FGMM_OK;
    uint64_t *sizes = NULL;
    hsize_t shape[1];
    int rank;
    char text[128];
    FGMM_TRY(fgmm__h5_shape(file, "list_offsets", 1, &rank, shape));
    if (rank != 1 || shape[0] < 2)
        goto cleanup;
    size_t lists = shape[0] - 1;
    FGMM_ALLOC(sizes, shape[0], "sizes of lists");
    FGMM_TRY(fgmm__h5_read(file, "list_offsets", H5T_NATIVE_UINT64, shape[0], sizes));
    for (size_t i = 0; i < lists; i++)
        sizes[i] = sizes[i + 1] - sizes[i];
    qsort(sizes, lists, sizeof *sizes, compare);
    snprintf(text, sizeof text, "min %" PRIu64 ", median %" PRIu64 ", p99 %" PRIu64 ", max %" PRIu64,
             sizes[0], sizes[lists / 2], sizes[(lists * 99 + 99) / 100 - 1], sizes[lists - 1]);
    describe->line("list sizes", text, describe->data);
cleanup:
    free(sizes);
    return status;
}

fgmm_status fgmm__h5_describe(const char *path, void (*line)(const char *key, const char *value, void *data),
                              void *data)
{
    fgmm_status status = FGMM_OK;
    hid_t file = -1;
    describer describe = {.line = line, .data = data, .prefix = ""};
    fgmm__h5_lock();
    FGMM_TRY(fgmm__h5_open(path, NULL, &file));
    hid_t root = H5Gopen2(file, "/", H5P_DEFAULT);
    describe_attributes(&describe, root, "");
    H5Lvisit(root, H5_INDEX_NAME, H5_ITER_INC, describe_object, &describe);
    H5Gclose(root);
    if (fgmm__h5_has_dataset(file, "list_offsets"))
        FGMM_TRY(describe_lists(&describe, file));
cleanup:
    fgmm__h5_close(file, path);
    fgmm__h5_unlock();
    return status;
}
