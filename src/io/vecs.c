/* .fvecs .bvecs: each row is i32 dimension, then its values. */
#include <stdlib.h>
#include <string.h>
#include "io/format.h"

enum { PREFIX_BYTES = 4, PIECE_BYTES = 1 << 20 };

typedef struct {
    fgmm_reader base;
    fgmm_file file;
} vecs_reader;

static bool vecs_probe(const char *source)
{
    return fgmm__has_extension(source, ".fvecs") || fgmm__has_extension(source, ".bvecs") ||
           fgmm__has_extension(source, ".ivecs");
}

static fgmm_status check_size(const char *source, int64_t bytes, int32_t dim, fgmm_dtype dtype)
{
    if (dim < 1 || dim > FGMM_MAX_DIM)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: its first row says dimension %d; damaged, or not a vecs file",
                          source, dim);
    int64_t stride = PREFIX_BYTES + (int64_t)dim * (int64_t)fgmm_dtype_bytes(dtype);
    if (bytes % stride != 0)
        return fgmm__fail(
            FGMM_ERR_INPUT,
            "%s: has %lld bytes, not a multiple of the %lld that a row of %d %s takes: truncated, or of "
            "another element type than its extension says; fetch or write it again",
            source, (long long)bytes, (long long)stride, dim, fgmm_dtype_name(dtype));
    return FGMM_OK;
}

static fgmm_status vecs_open(const char *source, fgmm_reader **out)
{
    fgmm_status status = FGMM_OK;
    vecs_reader *reader = NULL;
    fgmm_file file = {.fd = -1};
    int32_t dim;
    fgmm_dtype dtype = fgmm__has_extension(source, ".bvecs") ? FGMM_U8 : FGMM_F32;
    FGMM_TRY(fgmm__file_open(source, &file));
    if (fgmm__has_extension(source, ".ivecs"))
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: .ivecs holds 32-bit integers, which are neighbours' numbers and no rows of data; give "
                  ".fvecs or .bvecs",
                  source);
    if (file.bytes < PREFIX_BYTES)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: has %lld bytes, too few for a row; truncated, fetch it again", source,
                  (long long)file.bytes);
    FGMM_TRY(fgmm__file_read(&file, source, 0, &dim, sizeof dim));
    FGMM_TRY(check_size(source, file.bytes, dim, dtype));
    int64_t rows = file.bytes / (PREFIX_BYTES + (int64_t)dim * (int64_t)fgmm_dtype_bytes(dtype));
    FGMM_ALLOC(reader, 1, "a reader");
    *reader = (vecs_reader){
        .base = {.rows = rows, .dim = dim, .dtype = dtype, .fingerprint = file.fingerprint}, .file = file};
    file.fd = -1;
    *out = &reader->base;
cleanup:
    fgmm__file_close(&file);
    return status;
}

/* Reads pieces with the prefixes, checks these and leaves them out. */
static fgmm_status vecs_read(const fgmm_reader *reader, int64_t begin, int64_t end, void *out)
{
    fgmm_status status = FGMM_OK;
    const vecs_reader *vecs = (const vecs_reader *)reader;
    char *piece = NULL;
    int64_t row_bytes = (int64_t)reader->dim * (int64_t)fgmm_dtype_bytes(reader->dtype),
            stride = row_bytes + PREFIX_BYTES;
    int64_t piece_rows = stride < PIECE_BYTES ? PIECE_BYTES / stride : 1;
    if (piece_rows > end - begin)
        piece_rows = end - begin;
    FGMM_ALLOC(piece, piece_rows * stride, "a piece of a vecs file");
    for (int64_t first = begin; first < end; first += piece_rows) {
        int64_t n = end - first < piece_rows ? end - first : piece_rows;
        FGMM_TRY(fgmm__file_read(&vecs->file, reader->source, first * stride, piece, (size_t)(n * stride)));
        for (int64_t r = 0; r < n; r++) {
            int32_t dim;
            memcpy(&dim, piece + r * stride, sizeof dim);
            if (dim != reader->dim)
                FGMM_FAIL(FGMM_ERR_INPUT,
                          "%s: row %lld says dimension %d, row 0 says %d; damaged, fetch or write it again",
                          reader->source, (long long)(first + r), dim, reader->dim);
            memcpy((char *)out + (first - begin + r) * row_bytes, piece + r * stride + PREFIX_BYTES,
                   (size_t)row_bytes);
        }
    }
cleanup:
    free(piece);
    return status;
}

static void vecs_close(fgmm_reader *reader)
{
    vecs_reader *vecs = (vecs_reader *)reader;
    fgmm__file_close(&vecs->file);
    free(vecs);
}

const fgmm_reader_type fgmm__vecs_format = {"vecs", vecs_probe, vecs_open, vecs_read, vecs_close};
