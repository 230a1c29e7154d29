/* Writing an index from all ranks: rank 0 lays the file out and reserves its space, then all ranks write
 * their regions. */
#include "ivf/index.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/h5.h"
#include "io/writer.h"
#include "model/model.h"

enum { SLICE_BYTES = 512 << 20 }; /* a rank and write; MPI-IO under HDF5 counts in ints */

struct fgmm_index_writer {
    fgmm_comm *comm;
    char *path;
    char *aside;                 /* the name it has until it is whole; rank 0 made it, all know it */
    bool exists;                 /* rank 0: there is a file to remove on failure */
    hid_t file;                  /* parallel, open for writing; < 0 when closed */
    hid_t ids, primary, vectors; /* datasets; < 0 where absent */
    hid_t transfer;              /* collective */
    fgmm_dtype dtype;
    int32_t k, dim;
    int64_t file_bytes;
    uint64_t skip_begin, skip_end; /* the vectors: bytes the seal leaves out */
};

static void close_file(fgmm_index_writer *writer)
{
    hid_t *datasets[] = {&writer->ids, &writer->primary, &writer->vectors};
    for (int i = 0; i < 3; i++) {
        if (*datasets[i] >= 0)
            H5Dclose(*datasets[i]);
        *datasets[i] = H5I_INVALID_HID;
    }
    if (writer->transfer >= 0)
        H5Pclose(writer->transfer);
    writer->transfer = H5I_INVALID_HID;
}

static void destroy(fgmm_index_writer *writer)
{
    free(writer->path);
    free(writer->aside);
    free(writer);
}

void fgmm__index_abandon(fgmm_index_writer *writer)
{
    if (writer == NULL)
        return;
    close_file(writer);
    if (writer->file >= 0)
        H5Fclose(writer->file);
    if (writer->exists)
        unlink(writer->aside);
    destroy(writer);
}

/* ---- layout: rank 0 ---- */

/* A dataset whose place in the file is fixed now and whose values come later. */
static fgmm_status add_dataset(hid_t file, const char *name, hid_t type, int rank, const hsize_t *shape)
{
    hid_t dataset = H5I_INVALID_HID;
    fgmm_status status = fgmm__h5_dataset(file, name, type, rank, shape, &dataset);
    if (dataset >= 0)
        H5Dclose(dataset);
    return status;
}

static fgmm_status put_attributes(hid_t file, const fgmm_index_layout *layout)
{
    fgmm_status status = FGMM_OK;
    bool hard = layout->rule == FGMM_ASSIGN_HARD;
    FGMM_TRY(fgmm__h5_put_text(file, "format", "fgmm-ivf"));
    FGMM_TRY(fgmm__h5_put_i64(file, "version", FGMM_INDEX_VERSION));
    FGMM_TRY(fgmm__h5_put_text(file, "metric", fgmm_metric_name(fgmm_model_metric(layout->model))));
    FGMM_TRY(fgmm__h5_put_text(file, "dtype", fgmm_dtype_name(layout->dtype)));
    FGMM_TRY(fgmm__h5_put_i64(file, "n_rows", layout->rows));
    FGMM_TRY(fgmm__h5_put_i64(file, "n_postings", layout->postings));
    FGMM_TRY(fgmm__h5_put_text(file, "assign", hard ? "hard" : "tau"));
    FGMM_TRY(fgmm__h5_put_f64(file, "tau", hard ? 0 : layout->tau));
    FGMM_TRY(fgmm__h5_put_i64(file, "max_lists", hard ? 1 : layout->max_lists));
cleanup:
    return status;
}

static fgmm_status put_model(hid_t file, const fgmm_model *model)
{
    fgmm_status status = FGMM_OK;
    float *centroids = NULL;
    hid_t group = H5I_INVALID_HID;
    hsize_t shape[2] = {(hsize_t)fgmm_model_k(model), (hsize_t)fgmm_model_dim(model)};
    const double *means = fgmm_model_means(model);
    FGMM_ALLOC(centroids, shape[0] * shape[1], "centroids");
    for (size_t i = 0; i < shape[0] * shape[1]; i++)
        centroids[i] = (float)means[i];
    FGMM_TRY(fgmm__h5_write(file, "centroids", H5T_NATIVE_FLOAT, 2, shape, centroids));
    FGMM_TRY(fgmm__h5_group(file, "model", &group));
    FGMM_TRY(fgmm__model_put(model, (int64_t)group));
cleanup:
    if (group >= 0)
        H5Gclose(group);
    free(centroids);
    return status;
}

static fgmm_status put_layout(fgmm_index_writer *writer, hid_t file, const fgmm_index_layout *layout)
{
    fgmm_status status = FGMM_OK;
    hsize_t lists = (hsize_t)writer->k, offsets = lists + 1;
    hsize_t postings[2] = {(hsize_t)layout->postings, (hsize_t)writer->dim};
    hid_t type = H5I_INVALID_HID;
    FGMM_TRY(put_attributes(file, layout));
    FGMM_TRY(put_model(file, layout->model));
    FGMM_TRY(fgmm__h5_write(file, "list_offsets", H5T_NATIVE_UINT64, 1, &offsets, layout->offsets));
    FGMM_TRY(add_dataset(file, "ids", H5T_NATIVE_INT64, 1, postings));
    if (layout->rule != FGMM_ASSIGN_HARD)
        FGMM_TRY(add_dataset(file, "primary", H5T_NATIVE_UINT8, 1, postings));
    if (layout->vectors) {
        type = fgmm__h5_type(layout->dtype);
        FGMM_TRY(add_dataset(file, "list_hashes", H5T_NATIVE_UINT64, 1, &lists));
        FGMM_TRY(add_dataset(file, "vectors", type, 2, postings));
    }
cleanup:
    return status;
}

/* Takes the file's blocks on disk now, so that a full disk is met before the long work and by one rank. */
static fgmm_status reserve(fgmm_index_writer *writer)
{
    fgmm_status status = FGMM_OK;
    struct stat info;
    int file = open(writer->aside, O_RDWR | O_CLOEXEC);
    if (file < 0 || fstat(file, &info) != 0)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot reserve space: %s", writer->path, strerror(errno));
    writer->file_bytes = info.st_size;
    int code = posix_fallocate(file, 0, info.st_size);
    if (code == ENOSPC || code == EFBIG || code == EDQUOT)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: no space left: the index needs %.3f GiB (%lld bytes)", writer->path,
                  (double)info.st_size / (1 << 30), (long long)info.st_size);
    if (code != 0 && code != EOPNOTSUPP && code != EINVAL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot reserve space: %s", writer->path, strerror(code));
cleanup:
    if (file >= 0)
        close(file);
    return status;
}

static fgmm_status lay_out(fgmm_index_writer *writer, const fgmm_index_layout *layout)
{
    fgmm_status status = FGMM_OK;
    hid_t file = H5I_INVALID_HID;
    writer->exists = true;
    FGMM_TRY(fgmm__h5_create(writer->aside, NULL, &file));
    status = put_layout(writer, file, layout);
    fgmm_status closed = fgmm__h5_close(file, writer->aside);
    FGMM_TRY(status != FGMM_OK ? status : closed);
    FGMM_TRY(reserve(writer));
cleanup:
    return status;
}

/* ---- writing: all ranks ---- */

static fgmm_status open_datasets(fgmm_index_writer *writer, const fgmm_index_layout *layout)
{
    fgmm_status status = FGMM_OK;
    writer->transfer = H5Pcreate(H5P_DATASET_XFER);
    if (writer->transfer < 0 || H5Pset_dxpl_mpio(writer->transfer, H5FD_MPIO_COLLECTIVE) < 0)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot ask HDF5 for collective writes", writer->path);
    writer->ids = H5Dopen2(writer->file, "ids", H5P_DEFAULT);
    if (layout->rule != FGMM_ASSIGN_HARD)
        writer->primary = H5Dopen2(writer->file, "primary", H5P_DEFAULT);
    if (layout->vectors) {
        writer->vectors = H5Dopen2(writer->file, "vectors", H5P_DEFAULT);
        haddr_t at = H5Dget_offset(writer->vectors);
        if (at == HADDR_UNDEF)
            FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot find the place of the vectors in the file", writer->path);
        writer->skip_begin = at;
        writer->skip_end =
            at + (uint64_t)layout->postings * (uint64_t)writer->dim * fgmm_dtype_bytes(layout->dtype);
    }
    if (writer->ids < 0 || (layout->rule != FGMM_ASSIGN_HARD && writer->primary < 0))
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot open the index's datasets", writer->path);
cleanup:
    return status;
}

fgmm_status fgmm__index_create(fgmm_comm *comm, const char *path, const fgmm_index_layout *layout,
                               fgmm_index_writer **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_index_writer *writer = NULL;
    char name[PATH_MAX] = "";
    status = fgmm__alloc(1, sizeof *writer, "writing an index", (void **)&writer);
    if (status == FGMM_OK) {
        *writer = (fgmm_index_writer){.comm = comm,
                                      .file = H5I_INVALID_HID,
                                      .ids = H5I_INVALID_HID,
                                      .primary = H5I_INVALID_HID,
                                      .vectors = H5I_INVALID_HID,
                                      .transfer = H5I_INVALID_HID,
                                      .dtype = layout->dtype,
                                      .k = fgmm_model_k(layout->model),
                                      .dim = fgmm_model_dim(layout->model)};
        writer->path = strdup(path);
        if (writer->path == NULL)
            status = fgmm__fail(FGMM_ERR_RUNTIME, "out of memory");
    }
    if (status == FGMM_OK && fgmm_comm_rank(comm) == 0) {
        status = fgmm__aside_name(path, &writer->aside);
        if (status == FGMM_OK)
            status = lay_out(writer, layout);
        if (status == FGMM_OK)
            snprintf(name, sizeof name, "%s", writer->aside);
    }
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_bcast(comm, name, sizeof name, 0));
    FGMM_TRY(fgmm__comm_bcast(comm, &writer->file_bytes, sizeof writer->file_bytes, 0));
    if (writer->aside == NULL)
        writer->aside = strdup(name);
    FGMM_TRY(fgmm__comm_agree(comm, writer->aside == NULL ? fgmm__fail(FGMM_ERR_RUNTIME, "out of memory")
                                                          : FGMM_OK));
    FGMM_TRY(fgmm__comm_agree(comm, fgmm__h5_open_write(writer->aside, comm, &writer->file)));
    FGMM_TRY(fgmm__comm_agree(comm, open_datasets(writer, layout)));
    *out = writer;
    writer = NULL;
cleanup:
    fgmm__index_abandon(writer);
    return status;
}

/* Rows [begin, begin+n) of a dataset of `dim` columns (0: one-dimensional); a rank with n = 0 takes part with
 * nothing. */
static fgmm_status write_rows(fgmm_index_writer *writer, hid_t dataset, hid_t type, int64_t begin, int64_t n,
                              int32_t dim, const void *data)
{
    int rank = dim > 0 ? 2 : 1;
    hsize_t start[2] = {(hsize_t)begin, 0}, count[2] = {(hsize_t)n, (hsize_t)dim}, one[2] = {1, (hsize_t)dim};
    hid_t target = H5Dget_space(dataset), memory = H5Screate_simple(rank, n > 0 ? count : one, NULL);
    bool written = target >= 0 && memory >= 0;
    if (written && n > 0)
        written = H5Sselect_hyperslab(target, H5S_SELECT_SET, start, NULL, count, NULL) >= 0;
    else if (written)
        written = H5Sselect_none(target) >= 0 && H5Sselect_none(memory) >= 0;
    /* The write is collective: a rank whose selection failed still has to take part, or the others wait for
     * it. */
    char nothing[8] = {0};
    if (!written && target >= 0 && memory >= 0) {
        H5Sselect_none(target);
        H5Sselect_none(memory);
    }
    if (H5Dwrite(dataset, type, memory, target, writer->transfer, n > 0 ? data : nothing) < 0)
        written = false;
    if (memory >= 0)
        H5Sclose(memory);
    if (target >= 0)
        H5Sclose(target);
    return written ? FGMM_OK
                   : fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot write the index (disk full or failing)",
                                writer->path);
}

fgmm_status fgmm__index_write(fgmm_index_writer *writer, int64_t begin, int64_t n, int64_t most,
                              const int64_t *ids, const uint8_t *primary, const void *vectors)
{
    fgmm_status status = FGMM_OK;
    size_t row_bytes = (size_t)writer->dim * fgmm_dtype_bytes(writer->dtype);
    int64_t slice = SLICE_BYTES / (int64_t)(row_bytes > sizeof *ids ? row_bytes : sizeof *ids);
    if (slice < 1)
        slice = 1;
    for (int64_t at = 0; at < most; at += slice) {
        int64_t left = n > at ? n - at : 0, count = left < slice ? left : slice, skip = count > 0 ? at : 0;
        status = write_rows(writer, writer->ids, H5T_NATIVE_INT64, begin + skip, count, 0, ids + skip);
        if (writer->primary >= 0) {
            fgmm_status second =
                write_rows(writer, writer->primary, H5T_NATIVE_UINT8, begin + skip, count, 0, primary + skip);
            status = status != FGMM_OK ? status : second;
        }
        if (writer->vectors >= 0) {
            fgmm_status third =
                write_rows(writer, writer->vectors, fgmm__h5_type(writer->dtype), begin + skip, count,
                           writer->dim, (const char *)vectors + (size_t)skip * row_bytes);
            status = status != FGMM_OK ? status : third;
        }
        FGMM_TRY(fgmm__comm_agree(writer->comm, status));
    }
cleanup:
    return status;
}

static fgmm_status write_hashes(fgmm_index_writer *writer, const uint64_t *hashes)
{
    hid_t dataset = H5Dopen2(writer->file, "list_hashes", H5P_DEFAULT);
    if (dataset < 0)
        return fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot write the index's hashes", writer->path);
    int64_t n = fgmm_comm_rank(writer->comm) == 0 ? writer->k : 0;
    fgmm_status status = write_rows(writer, dataset, H5T_NATIVE_UINT64, 0, n, 0, hashes);
    H5Dclose(dataset);
    return status;
}

fgmm_status fgmm__index_finish(fgmm_index_writer *writer, const uint64_t *hashes, int64_t *file_bytes)
{
    fgmm_status status = FGMM_OK;
    fgmm_comm *comm = writer->comm;
    if (writer->vectors >= 0)
        FGMM_TRY(fgmm__comm_agree(comm, write_hashes(writer, hashes)));
    close_file(writer);
    status = fgmm__h5_close(writer->file, writer->path);
    writer->file = H5I_INVALID_HID;
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(
        fgmm__comm_agree(comm, fgmm__h5_seal(writer->aside, comm, writer->skip_begin, writer->skip_end)));
    if (fgmm_comm_rank(comm) == 0) {
        status = fgmm__aside_commit(writer->aside, writer->path);
        writer->exists = status != FGMM_OK;
    }
    FGMM_TRY(fgmm__comm_agree(comm, status));
    *file_bytes = writer->file_bytes;
cleanup:
    fgmm__index_abandon(writer);
    return status;
}
