#include "io/h5_shared.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/writer.h"

/* Takes the blocks of the file's first `bytes` bytes on disk (0: of all it has). */
static fgmm_status reserve(const fgmm_h5_shared *shared, int64_t bytes)
{
    fgmm_status status = FGMM_OK;
    struct stat info;
    int file = open(shared->aside, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (file < 0 || fstat(file, &info) != 0)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot be created: %s", shared->path, strerror(errno));
    if (bytes == 0)
        bytes = info.st_size;
    int code = posix_fallocate(file, 0, bytes);
    if (code == ENOSPC || code == EFBIG || code == EDQUOT)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: no space left: the file needs %.1f MiB (%lld bytes)", shared->path,
                  (double)bytes / (1 << 20), (long long)bytes);
    if (code != 0 && code != EOPNOTSUPP && code != EINVAL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot reserve space: %s", shared->path, strerror(code));
cleanup:
    if (file >= 0)
        close(file);
    return status;
}

/* Rank 0. The first reservation is a test: HDF5 truncates the file that it makes. */
static fgmm_status lay_out_file(fgmm_h5_shared *shared, int64_t bytes, fgmm_h5_layout *lay_out, void *context)
{
    fgmm_status status = FGMM_OK;
    struct stat info;
    hid_t file = H5I_INVALID_HID;
    FGMM_TRY(fgmm__aside_name(shared->path, &shared->aside));
    shared->exists = true;
    FGMM_TRY(reserve(shared, bytes));
    FGMM_TRY(fgmm__h5_create(shared->aside, NULL, &file));
    status = lay_out(file, context);
    fgmm_status closed = fgmm__h5_close(file, shared->path);
    FGMM_TRY(status != FGMM_OK ? status : closed);
    FGMM_TRY(reserve(shared, 0));
    if (stat(shared->aside, &info) == 0)
        shared->bytes = info.st_size;
cleanup:
    return status;
}

fgmm_status fgmm__h5_shared_lay_out(fgmm_comm *comm, const char *path, int64_t bytes, fgmm_h5_layout *lay_out,
                                    void *context, fgmm_h5_shared *out)
{
    fgmm_status status = FGMM_OK;
    char name[PATH_MAX] = "";
    *out = (fgmm_h5_shared){.comm = comm, .file = H5I_INVALID_HID, .path = strdup(path)};
    if (out->path == NULL)
        status = fgmm__fail(FGMM_ERR_RUNTIME, "out of memory");
    if (status == FGMM_OK && fgmm_comm_rank(comm) == 0)
        status = lay_out_file(out, bytes, lay_out, context);
    if (status == FGMM_OK && out->aside != NULL)
        snprintf(name, sizeof name, "%s", out->aside);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_bcast(comm, name, sizeof name, 0));
    if (out->aside == NULL)
        out->aside = strdup(name);
    FGMM_TRY(
        fgmm__comm_agree(comm, out->aside != NULL ? FGMM_OK : fgmm__fail(FGMM_ERR_RUNTIME, "out of memory")));
cleanup:
    return status;
}

fgmm_status fgmm__h5_shared_create(fgmm_comm *comm, const char *path, int64_t bytes, fgmm_h5_layout *lay_out,
                                   void *context, fgmm_h5_shared *out)
{
    fgmm_status status = fgmm__h5_shared_lay_out(comm, path, bytes, lay_out, context, out);
    return status != FGMM_OK ? status
                             : fgmm__comm_agree(comm, fgmm__h5_open_write(out->aside, comm, &out->file));
}

fgmm_status fgmm__h5_shared_close(fgmm_h5_shared *shared)
{
    fgmm_status status = fgmm__h5_close(shared->file, shared->path);
    shared->file = H5I_INVALID_HID;
    return fgmm__comm_agree(shared->comm, status);
}

fgmm_status fgmm__h5_shared_commit(fgmm_h5_shared *shared)
{
    fgmm_status status = FGMM_OK;
    if (fgmm_comm_rank(shared->comm) == 0) {
        status = fgmm__aside_commit(shared->aside, shared->path);
        shared->exists = status != FGMM_OK;
    }
    return fgmm__comm_agree(shared->comm, status);
}

void fgmm__h5_shared_abandon(fgmm_h5_shared *shared)
{
    if (shared->comm == NULL)
        return;
    if (shared->file >= 0)
        H5Fclose(shared->file);
    if (shared->exists)
        unlink(shared->aside);
    free(shared->path);
    free(shared->aside);
    *shared = (fgmm_h5_shared){.file = H5I_INVALID_HID};
}

fgmm_status fgmm__h5_write_rows(hid_t dataset, hid_t type, int64_t begin, int64_t n, int32_t columns,
                                const void *data, hid_t transfer)
{
    int rank = columns > 0 ? 2 : 1;
    hsize_t start[2] = {(hsize_t)begin, 0}, count[2] = {(hsize_t)n, (hsize_t)columns},
            one[2] = {1, (hsize_t)columns};
    char nothing[8] = {0}, name[256] = "the file";
    fgmm__h5_lock();
    hid_t target = H5Dget_space(dataset), memory = H5Screate_simple(rank, n > 0 ? count : one, NULL);
    bool selected = n > 0 && H5Sselect_hyperslab(target, H5S_SELECT_SET, start, NULL, count, NULL) >= 0;
    if (!selected) { /* a collective write is everybody's: who has nothing, or failed, takes part with nothing
                      */
        H5Sselect_none(target);
        H5Sselect_none(memory);
    }
    bool written = H5Dwrite(dataset, type, memory, target, transfer, selected ? data : nothing) >= 0 &&
                   (selected || n == 0);
    H5Sclose(memory);
    H5Sclose(target);
    if (!written)
        H5Fget_name(dataset, name, sizeof name);
    fgmm__h5_unlock();
    return written
               ? FGMM_OK
               : fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot be written (the disk is full or failing)", name);
}
