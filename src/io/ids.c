#include "io/ids.h"

#include <stdlib.h>
#include <string.h>
#include "io/format.h"

struct fgmm_ids {
    char *path;
    fgmm_file file;
    int64_t rows, data_offset;
};

static fgmm_status open_npy(fgmm_ids *ids)
{
    fgmm_status status = FGMM_OK;
    char *text = NULL;
    FGMM_ALLOC(text, FGMM_NPY_HEADER, "an .npy header");
    FGMM_TRY(fgmm__npy_header(ids->path, &ids->file, text, &ids->data_offset));
    const char *type = fgmm__npy_value(text, "descr");
    if (type == NULL || strncmp(type, "'<i8'", 5) != 0)
        FGMM_FAIL(
            FGMM_ERR_INPUT,
            "%s: ids are little-endian 64-bit numbers; save them so: numpy.save(file, ids.astype('<i8'))",
            ids->path);
    if (!fgmm__npy_length(text, &ids->rows))
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: ids are an array with one axis; save them so: numpy.save(file, ids.ravel())",
                  ids->path);
cleanup:
    free(text);
    return status;
}

static fgmm_status open_i64bin(fgmm_ids *ids)
{
    fgmm_status status = FGMM_OK;
    uint32_t header[2] = {0, 0};
    ids->data_offset = sizeof header;
    if (ids->file.bytes < ids->data_offset)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: has %lld bytes, too few for a header of 8; truncated, write it again",
                  ids->path, (long long)ids->file.bytes);
    FGMM_TRY(fgmm__file_read(&ids->file, ids->path, 0, header, sizeof header));
    ids->rows = header[0];
    if (header[1] != 1)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: its header gives %u ids a row; it is u32 rows, u32 1, then the ids",
                  ids->path, header[1]);
cleanup:
    return status;
}

fgmm_status fgmm__ids_open(const char *path, int64_t rows, fgmm_ids **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_ids *ids = NULL;
    FGMM_ALLOC(ids, 1, "ids");
    ids->file.fd = -1;
    ids->path = strdup(path);
    if (ids->path == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory");
    bool npy = fgmm__has_extension(path, ".npy");
    if (!npy && !fgmm__has_extension(path, ".i64bin"))
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: ids are read from .npy ('<i8') and .i64bin (u32 rows, u32 1, i64 ids)",
                  path);
    FGMM_TRY(fgmm__file_open(path, &ids->file));
    FGMM_TRY(npy ? open_npy(ids) : open_i64bin(ids));
    if (ids->rows != rows)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: holds %lld ids, the data have %lld rows", path, (long long)ids->rows,
                  (long long)rows);
    int64_t here = ids->file.bytes - ids->data_offset;
    if (here % (int64_t)sizeof(int64_t) != 0 || here / (int64_t)sizeof(int64_t) != rows)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: its header gives %lld ids, its %lld bytes of data are another number: "
                  "truncated or damaged, write it again",
                  path, (long long)rows, (long long)here);
    *out = ids;
    ids = NULL;
cleanup:
    fgmm__ids_close(ids);
    return status;
}

void fgmm__ids_close(fgmm_ids *ids)
{
    if (ids == NULL)
        return;
    fgmm__file_close(&ids->file);
    free(ids->path);
    free(ids);
}

fgmm_status fgmm__ids_read(const fgmm_ids *ids, int64_t begin, int64_t end, int64_t *out)
{
    fgmm_status status =
        fgmm__file_read(&ids->file, ids->path, ids->data_offset + begin * (int64_t)sizeof *out, out,
                        (size_t)(end - begin) * sizeof *out);
    for (int64_t i = 0; i < end - begin && status == FGMM_OK; i++)
        if (out[i] < 0)
            status = fgmm__fail(FGMM_ERR_INPUT, "%s: the id of row %lld is negative (%lld)", ids->path,
                                (long long)(begin + i), (long long)out[i]);
    return status;
}
