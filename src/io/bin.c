/* .fbin .f16bin .u8bin .i8bin: u32 rows, u32 dimension, then the rows. Little-endian. */
#include <stdlib.h>
#include "io/format.h"

static const struct {
    const char *extension;
    fgmm_dtype dtype;
} kinds[] = {{".fbin", FGMM_F32}, {".f16bin", FGMM_F16}, {".u8bin", FGMM_U8}, {".i8bin", FGMM_I8}};
enum { KINDS = sizeof kinds / sizeof *kinds, HEADER = 8 };

static int kind_of(const char *source)
{
    int kind = 0;
    while (kind < KINDS && !fgmm__has_extension(source, kinds[kind].extension))
        kind++;
    return kind;
}

static bool bin_probe(const char *source)
{
    return kind_of(source) < KINDS;
}

/* The header's 32 bits cannot hold 2^32 rows and writers differ in what they put there, so such files say it
 * by their size. */
static fgmm_status check_size(const char *source, int64_t bytes, const uint32_t header[2], fgmm_dtype dtype,
                              int64_t *rows)
{
    if (header[1] == 0 || header[1] > FGMM_MAX_DIM)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: its header gives dimension %u; this is not a %s file", source,
                          header[1], kinds[kind_of(source)].extension);
    int64_t row_bytes = (int64_t)header[1] * (int64_t)fgmm_dtype_bytes(dtype);
    int64_t data = bytes - HEADER;
    bool whole = data % row_bytes == 0;
    *rows = data / row_bytes;
    if (whole && *rows > UINT32_MAX)
        return FGMM_OK;
    if (!whole || *rows != (int64_t)header[0])
        return fgmm__fail(FGMM_ERR_INPUT, "%s: has %lld bytes, its header of %u rows x %u %s needs %lld: %s",
                          source, (long long)bytes, header[0], header[1], fgmm_dtype_name(dtype),
                          (long long)(HEADER + (int64_t)header[0] * row_bytes),
                          *rows < (int64_t)header[0] ? "truncated; fetch it again"
                                                     : "does its extension name the right element type?");
    if (*rows == 0)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: holds no rows", source);
    return FGMM_OK;
}

static fgmm_status bin_open(const char *source, fgmm_reader **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_flat_reader *reader = NULL;
    fgmm_file file = {.fd = -1};
    uint32_t header[2];
    fgmm_dtype dtype = kinds[kind_of(source)].dtype;
    int64_t rows = 0;
    FGMM_TRY(fgmm__file_open(source, &file));
    if (file.bytes < HEADER)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: has %lld bytes, too few for a header of 8; truncated, fetch it again",
                  source, (long long)file.bytes);
    FGMM_TRY(fgmm__file_read(&file, source, 0, header, sizeof header));
    FGMM_TRY(check_size(source, file.bytes, header, dtype, &rows));
    FGMM_ALLOC(reader, 1, "a reader");
    *reader = (fgmm_flat_reader){
        .base = {.rows = rows, .dim = (int32_t)header[1], .dtype = dtype, .fingerprint = file.fingerprint},
        .file = file,
        .data_offset = HEADER};
    file.fd = -1;
    *out = &reader->base;
cleanup:
    fgmm__file_close(&file);
    return status;
}

const fgmm_reader_type fgmm__bin_format = {"bin", bin_probe, bin_open, fgmm__flat_read, fgmm__flat_close};
