/* .npy: magic, version, length of a header that is a Python dict literal, the rows in C order. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "io/format.h"

#define MAGIC "\x93NUMPY"
enum { MAGIC_BYTES = 6 };

static bool npy_probe(const char *source)
{
    return fgmm__has_extension(source, ".npy") || fgmm__has_magic(source, 0, MAGIC, MAGIC_BYTES);
}

const char *fgmm__npy_value(const char *header, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "'%s'", key);
    const char *at = strstr(header, quoted);
    if (at == NULL)
        return NULL;
    at += strlen(quoted);
    at += strspn(at, " ");
    if (*at++ != ':')
        return NULL;
    return at + strspn(at, " ");
}

/* "(10,)", "(10, 1)" */
bool fgmm__npy_length(const char *header, int64_t *length)
{
    char *end;
    const char *shape = fgmm__npy_value(header, "shape");
    if (shape == NULL || *shape != '(')
        return false;
    *length = strtoll(shape + 1, &end, 10);
    if (end == shape + 1 || *length < 0)
        return false;
    end += strspn(end, " ,");
    if (*end == '1')
        end += 1 + strspn(end + 1, " ,");
    return *end == ')';
}

static fgmm_status parse_dtype(const char *source, const char *header, fgmm_dtype *out)
{
    static const struct {
        const char *text;
        fgmm_dtype dtype;
    } known[] = {{"'<f4'", FGMM_F32}, {"'<f2'", FGMM_F16}, {"'|u1'", FGMM_U8}, {"'|i1'", FGMM_I8}};
    const char *value = fgmm__npy_value(header, "descr");
    for (size_t i = 0; value && i < sizeof known / sizeof *known; i++)
        if (strncmp(value, known[i].text, strlen(known[i].text)) == 0) {
            *out = known[i].dtype;
            return FGMM_OK;
        }
    int length = value ? (int)strcspn(value, ",}\n") : 0;
    return fgmm__fail(FGMM_ERR_INPUT,
                      "%s: element type %.*s is not read; save it as little-endian f4, f2, u1 or i1: "
                      "numpy.save(file, array.astype('<f4'))",
                      source, length > 24 ? 24 : length, value ? value : "");
}

/* (rows, dim) with optional spaces and trailing comma. */
static bool parse_shape(const char *value, int64_t shape[2])
{
    if (value == NULL || *value++ != '(')
        return false;
    for (int i = 0; i < 2; i++) {
        value += strspn(value, " ");
        shape[i] = 0;
        if (!isdigit((unsigned char)*value))
            return false;
        for (; isdigit((unsigned char)*value); value++)
            if (__builtin_mul_overflow(shape[i], 10, &shape[i]) ||
                __builtin_add_overflow(shape[i], *value - '0', &shape[i]))
                return false;
        value += strspn(value, " ");
        if (i == 0 && *value++ != ',')
            return false;
    }
    value += strspn(value, ", ");
    return *value == ')';
}

static fgmm_status parse_header(const char *source, const char *header, int64_t shape[2], fgmm_dtype *dtype)
{
    const char *order = fgmm__npy_value(header, "fortran_order"), *extent = fgmm__npy_value(header, "shape");
    if (order == NULL || extent == NULL || fgmm__npy_value(header, "descr") == NULL)
        return fgmm__fail(FGMM_ERR_INPUT,
                          "%s: its .npy header cannot be read; damaged, write it again with numpy.save",
                          source);
    fgmm_status status = parse_dtype(source, header, dtype);
    if (status != FGMM_OK)
        return status;
    if (!parse_shape(extent, shape)) {
        int length = (int)strcspn(extent, ")\n");
        return fgmm__fail(FGMM_ERR_INPUT, "%s: shape %.*s) is not [rows, dimension]; reshape it to two axes",
                          source, length > 60 ? 60 : length, extent);
    }
    if (strncmp(order, "False", 5) != 0)
        return fgmm__fail(
            FGMM_ERR_INPUT,
            "%s: is in Fortran order; save it in C order: numpy.save(file, numpy.ascontiguousarray(array))",
            source);
    if (shape[0] == 0)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: holds no rows", source);
    if (shape[1] < 1 || shape[1] > FGMM_MAX_DIM)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: dimension %lld is not between 1 and %d", source,
                          (long long)shape[1], FGMM_MAX_DIM);
    return FGMM_OK;
}

fgmm_status fgmm__npy_header(const char *source, const fgmm_file *file, char *text, int64_t *data_offset)
{
    fgmm_status status = FGMM_OK;
    unsigned char start[12] = {0};
    if (file->bytes < (int64_t)sizeof start)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: has %lld bytes, too few for an .npy header; truncated, fetch it again",
                  source, (long long)file->bytes);
    FGMM_TRY(fgmm__file_read(file, source, 0, start, sizeof start));
    if (memcmp(start, MAGIC, MAGIC_BYTES) != 0)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: does not begin as an .npy file does; damaged, or another format under this name",
                  source);
    int major = start[6];
    if (major < 1 || major > 3)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: .npy version %d is not known; write it again with numpy.save", source,
                  major);
    uint32_t length = start[8] | (uint32_t)start[9] << 8;
    if (major > 1)
        length |= (uint32_t)start[10] << 16 | (uint32_t)start[11] << 24;
    int64_t begin = major > 1 ? 12 : 10;
    if (length >= FGMM_NPY_HEADER || begin + (int64_t)length > file->bytes)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: its .npy header would take %u bytes; truncated or damaged, fetch it again", source,
                  length);
    FGMM_TRY(fgmm__file_read(file, source, begin, text, length));
    text[length] = '\0';
    *data_offset = begin + length;
cleanup:
    return status;
}

static fgmm_status npy_open(const char *source, fgmm_reader **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_flat_reader *reader = NULL;
    fgmm_file file = {.fd = -1};
    char *text = NULL;
    int64_t offset = 0, shape[2] = {0, 0}, needed;
    fgmm_dtype dtype = FGMM_F32;
    FGMM_ALLOC(text, FGMM_NPY_HEADER, "an .npy header");
    FGMM_TRY(fgmm__file_open(source, &file));
    FGMM_TRY(fgmm__npy_header(source, &file, text, &offset));
    FGMM_TRY(parse_header(source, text, shape, &dtype));
    if (__builtin_mul_overflow(shape[0], shape[1] * (int64_t)fgmm_dtype_bytes(dtype), &needed) ||
        needed != file.bytes - offset)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: holds %lld bytes of data, its header of %lld rows x %lld %s needs another number: "
                  "truncated or damaged, fetch or write it again",
                  source, (long long)(file.bytes - offset), (long long)shape[0], (long long)shape[1],
                  fgmm_dtype_name(dtype));
    FGMM_ALLOC(reader, 1, "a reader");
    *reader = (fgmm_flat_reader){
        .base = {.rows = shape[0], .dim = (int32_t)shape[1], .dtype = dtype, .fingerprint = file.fingerprint},
        .file = file,
        .data_offset = offset};
    file.fd = -1;
    *out = &reader->base;
cleanup:
    fgmm__file_close(&file);
    free(text);
    return status;
}

const fgmm_reader_type fgmm__npy_format = {"npy", npy_probe, npy_open, fgmm__flat_read, fgmm__flat_close};
