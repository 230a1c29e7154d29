#define _GNU_SOURCE
#include "io/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "io/format.h"
#include "io/h5.h"

/* Every format ends up as a header, then rows at fixed places: plain, or each behind its dimension (vecs).
 * HDF5 makes file and dataset, and the rows are written where the dataset lies. */
typedef enum { LAYOUT_VECS, LAYOUT_BIN, LAYOUT_NPY, LAYOUT_H5 } layout;

static const struct {
    const char *extension;
    layout layout;
    fgmm_dtype dtype; /* of formats that have but one */
    bool any_dtype;
} kinds[] = {{".fvecs", LAYOUT_VECS, FGMM_F32, false}, {".bvecs", LAYOUT_VECS, FGMM_U8, false},
             {".fbin", LAYOUT_BIN, FGMM_F32, false},   {".f16bin", LAYOUT_BIN, FGMM_F16, false},
             {".u8bin", LAYOUT_BIN, FGMM_U8, false},   {".i8bin", LAYOUT_BIN, FGMM_I8, false},
             {".npy", LAYOUT_NPY, FGMM_F32, true},     {".h5", LAYOUT_H5, FGMM_F32, true},
             {".hdf5", LAYOUT_H5, FGMM_F32, true}};
enum {
    KINDS = sizeof kinds / sizeof *kinds,
    PIECE_BYTES = 1 << 20,
    H5_DATASET_RANK = 2,
    HEADER_BYTES = 64 << 10
};

struct fgmm_writer {
    char *path, *aside;
    int fd;
    layout layout;
    fgmm_dtype dtype;
    int64_t rows, written; /* rows promised, rows so far */
    int32_t dim;
    int64_t data_offset;
};

static int kind_of(const char *path)
{
    int kind = 0;
    while (kind < KINDS && !fgmm__has_extension(path, kinds[kind].extension))
        kind++;
    return kind;
}

fgmm_status fgmm__writer_dtype(const char *path, fgmm_dtype *dtype, int *fixed)
{
    int kind = kind_of(path);
    if (kind == KINDS)
        return fgmm__fail(
            FGMM_ERR_INPUT,
            "%s: unknown format; rows are written to .fvecs .bvecs .fbin .f16bin .u8bin .i8bin .npy .h5",
            path);
    *dtype = kinds[kind].dtype;
    *fixed = !kinds[kind].any_dtype;
    return FGMM_OK;
}

static int64_t row_bytes(const fgmm_writer *writer)
{
    return (int64_t)writer->dim * (int64_t)fgmm_dtype_bytes(writer->dtype);
}

static int64_t stride(const fgmm_writer *writer)
{
    return row_bytes(writer) + (writer->layout == LAYOUT_VECS ? (int64_t)sizeof(int32_t) : 0);
}

static fgmm_status write_at(const fgmm_writer *writer, const void *bytes, size_t n, int64_t offset)
{
    for (size_t done = 0; done < n;) {
        ssize_t put = pwrite(writer->fd, (const char *)bytes + done, n - done, (off_t)offset + (off_t)done);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot be written at byte %lld: %s", writer->path,
                              (long long)offset + (long long)done, strerror(put < 0 ? errno : ENOSPC));
        done += (size_t)put;
    }
    return FGMM_OK;
}

/* Space is asked for before anything is written, so that a disk too small is known at once and HDF5 never
 * meets a full one; not all file systems can. */
static fgmm_status reserve(const fgmm_writer *writer, int64_t header_bytes)
{
    int64_t total = header_bytes + writer->rows * stride(writer);
    bool reserved = fallocate(writer->fd, 0, 0, (off_t)total) == 0;
    if (!reserved && (errno == ENOSPC || errno == EFBIG || errno == EDQUOT))
        return fgmm__fail(FGMM_ERR_RUNTIME, "%s: needs %lld bytes: %s; free some or write elsewhere",
                          writer->path, (long long)total, strerror(errno));
    return FGMM_OK;
}

/* ---- headers ---- */

static fgmm_status begin_bin(fgmm_writer *writer)
{
    uint32_t header[2] = {(uint32_t)writer->rows,
                          (uint32_t)writer->dim}; /* of 2^32 rows and more the size tells */
    writer->data_offset = sizeof header;
    return write_at(writer, header, sizeof header, 0);
}

/* Version 1, padded with blanks to a multiple of 64 bytes, ended by a newline. */
static fgmm_status begin_npy(fgmm_writer *writer)
{
    static const char *const names[] = {
        [FGMM_F32] = "<f4", [FGMM_F16] = "<f2", [FGMM_U8] = "|u1", [FGMM_I8] = "|i1"};
    char header[192];
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\1\0", 8);
    int length = snprintf(header + 10, sizeof header - 10,
                          "{'descr': '%s', 'fortran_order': False, 'shape': (%lld, %d), }",
                          names[writer->dtype], (long long)writer->rows, writer->dim);
    header[10 + length] = ' ';
    int total = (10 + length + 1 + 63) / 64 * 64;
    header[8] = (char)(total - 10);
    header[9] = 0;
    header[total - 1] = '\n';
    writer->data_offset = total;
    return write_at(writer, header, (size_t)total, 0);
}

static fgmm_status begin_h5(fgmm_writer *writer)
{
    fgmm_status status = FGMM_OK;
    hid_t file = -1, dataset = -1;
    hsize_t shape[H5_DATASET_RANK] = {(hsize_t)writer->rows, (hsize_t)writer->dim};
    FGMM_TRY(fgmm__h5_create(writer->aside, NULL, &file));
    FGMM_TRY(
        fgmm__h5_dataset(file, "/train", fgmm__h5_type(writer->dtype), H5_DATASET_RANK, shape, &dataset));
    writer->data_offset = (int64_t)H5Dget_offset(dataset);
cleanup:
    fgmm__h5_lock();
    if (dataset >= 0)
        H5Dclose(dataset);
    fgmm__h5_unlock();
    fgmm_status closed = fgmm__h5_close(file, writer->path);
    return status != FGMM_OK ? status : closed;
}

/* ---- the writer ---- */

static void destroy(fgmm_writer *writer)
{
    if (writer->fd >= 0)
        close(writer->fd);
    free(writer->path);
    free(writer->aside);
    free(writer);
}

void fgmm__writer_abandon(fgmm_writer *writer)
{
    if (writer == NULL)
        return;
    if (writer->fd >= 0)
        unlink(writer->aside);
    destroy(writer);
}

static fgmm_status check_dtype(const char *path, fgmm_dtype dtype)
{
    fgmm_dtype held;
    int fixed;
    fgmm_status status = fgmm__writer_dtype(path, &held, &fixed);
    if (status == FGMM_OK && fixed && held != dtype)
        return fgmm__fail(FGMM_ERR_INPUT,
                          "%s: this format holds %s, the rows are %s; choose another extension or --dtype",
                          path, fgmm_dtype_name(held), fgmm_dtype_name(dtype));
    return status;
}

fgmm_status fgmm__writer_open(const char *path, int64_t rows, int32_t dim, fgmm_dtype dtype,
                              fgmm_writer **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_writer *writer = NULL;
    FGMM_TRY(check_dtype(path, dtype));
    if (rows < 1 || dim < 1 || rows > INT64_MAX / 8 / dim)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: %lld rows of dimension %d cannot be written", path, (long long)rows,
                  dim);
    FGMM_ALLOC(writer, 1, "a writer");
    *writer = (fgmm_writer){
        .fd = -1, .layout = kinds[kind_of(path)].layout, .dtype = dtype, .rows = rows, .dim = dim};
    writer->path = strdup(path);
    FGMM_TRY(fgmm__aside_name(path, &writer->aside));
    writer->fd = open(writer->aside, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (writer->fd < 0 || writer->path == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot be created: %s", path, strerror(errno));
    FGMM_TRY(reserve(writer, HEADER_BYTES));
    if (writer->layout == LAYOUT_BIN)
        FGMM_TRY(begin_bin(writer));
    else if (writer->layout == LAYOUT_NPY)
        FGMM_TRY(begin_npy(writer));
    else if (writer->layout == LAYOUT_H5)
        FGMM_TRY(begin_h5(writer));
    FGMM_TRY(reserve(writer, writer->data_offset)); /* HDF5 gave it back by emptying the file */
    *out = writer;
    writer = NULL;
cleanup:
    fgmm__writer_abandon(writer);
    return status;
}

static fgmm_status append_vecs(const fgmm_writer *writer, const char *rows, int64_t n)
{
    fgmm_status status = FGMM_OK;
    char *piece = NULL;
    int64_t bytes = row_bytes(writer), step = stride(writer),
            piece_rows = step < PIECE_BYTES ? PIECE_BYTES / step : 1;
    FGMM_ALLOC(piece, piece_rows * step, "a piece of a vecs file");
    for (int64_t first = 0; first < n; first += piece_rows) {
        int64_t count = n - first < piece_rows ? n - first : piece_rows;
        for (int64_t r = 0; r < count; r++) {
            memcpy(piece + r * step, &writer->dim, sizeof writer->dim);
            memcpy(piece + r * step + sizeof writer->dim, rows + (first + r) * bytes, (size_t)bytes);
        }
        FGMM_TRY(write_at(writer, piece, (size_t)(count * step), (writer->written + first) * step));
    }
cleanup:
    free(piece);
    return status;
}

fgmm_status fgmm__writer_append(fgmm_writer *writer, const void *rows, int64_t n)
{
    fgmm_status status;
    if (n > writer->rows - writer->written)
        return fgmm__fail(FGMM_ERR_RUNTIME, "%s: was opened for %lld rows and is given more", writer->path,
                          (long long)writer->rows);
    if (writer->layout == LAYOUT_VECS)
        status = append_vecs(writer, rows, n);
    else
        status = write_at(writer, rows, (size_t)(n * row_bytes(writer)),
                          writer->data_offset + writer->written * row_bytes(writer));
    if (status == FGMM_OK)
        writer->written += n;
    return status;
}

fgmm_status fgmm__writer_finish(fgmm_writer *writer)
{
    fgmm_status status = FGMM_OK;
    if (writer->written != writer->rows)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: was opened for %lld rows and got %lld", writer->path,
                  (long long)writer->rows, (long long)writer->written);
    if (writer->layout != LAYOUT_H5 && /* gives back what was reserved for the header */
        ftruncate(writer->fd, (off_t)(writer->data_offset + writer->rows * stride(writer))) != 0)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot be written: %s", writer->path, strerror(errno));
    if (writer->layout == LAYOUT_H5) /* the rows themselves are left out, as in an index */
        FGMM_TRY(fgmm__h5_seal(writer->aside, NULL, (uint64_t)writer->data_offset,
                               (uint64_t)(writer->data_offset + writer->rows * row_bytes(writer))));
    status = fgmm__aside_commit(writer->aside, writer->path);
cleanup:
    if (status != FGMM_OK)
        fgmm__writer_abandon(writer);
    else
        destroy(writer);
    return status;
}
