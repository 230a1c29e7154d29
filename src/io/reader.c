#include "io/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "io/format.h"

static const fgmm_reader_type *const formats[] = {&fgmm__synth_format, &fgmm__vecs_format, &fgmm__bin_format,
                                                  &fgmm__npy_format, &fgmm__h5_format};

static const fgmm_reader_type *format_of(const char *source)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (formats[i]->probe(source))
            return formats[i];
    return NULL;
}

bool fgmm__reader_knows(const char *source)
{
    return format_of(source) != NULL;
}

fgmm_status fgmm__reader_open(const char *source, fgmm_reader **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_reader *reader = NULL;
    char *name = NULL;
    const fgmm_reader_type *type = format_of(source);
    if (type == NULL) {
        fgmm_file file; /* a missing file is told before an unknown extension */
        FGMM_TRY(fgmm__file_open(source, &file));
        fgmm__file_close(&file);
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: unknown format; rows are read from .fvecs .bvecs .fbin .f16bin .u8bin .i8bin .npy .h5 "
                  "and synth: specs",
                  source);
    }
    name = strdup(source);
    if (name == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory while opening %s", source);
    FGMM_TRY(type->open(source, &reader));
    reader->type = type;
    reader->source = name;
    name = NULL;
    *out = reader;
cleanup:
    free(name);
    return status;
}

fgmm_status fgmm__reader_read(const fgmm_reader *reader, int64_t begin, int64_t end, void *out)
{
    if (begin < 0 || end < begin || end > reader->rows)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: rows %lld:%lld were asked for, it has %lld", reader->source,
                          (long long)begin, (long long)end, (long long)reader->rows);
    return begin == end ? FGMM_OK : reader->type->read(reader, begin, end, out);
}

void fgmm__reader_close(fgmm_reader *reader)
{
    if (reader == NULL)
        return;
    free(reader->source);
    reader->type->close(reader);
}

/* ---- files ---- */

/* A folder of thousands of files outgrows the usual soft limit of 1,024 descriptors: takes what the hard
 * limit allows. */
static int open_raising_limit(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct rlimit limit;
    if (fd < 0 && errno == EMFILE && getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
        limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
            fd = open(path, O_RDONLY | O_CLOEXEC);
        else
            errno = EMFILE;
    }
    return fd;
}

static fgmm_status take_fingerprint(fgmm_file *file, const char *path, const struct stat *info)
{
    enum { END = 64 << 10 };
    fgmm_status status = FGMM_OK;
    char *ends = NULL;
    size_t part = file->bytes < END ? (size_t)file->bytes : END;
    FGMM_ALLOC(ends, 2 * END, "the ends of a file");
    FGMM_TRY(fgmm__file_read(file, path, 0, ends, part));
    FGMM_TRY(fgmm__file_read(file, path, file->bytes - (int64_t)part, ends + part, part));
    uint64_t words[4] = {(uint64_t)file->bytes, (uint64_t)info->st_mtim.tv_sec,
                         (uint64_t)info->st_mtim.tv_nsec, XXH3_64bits(ends, 2 * part)};
    file->fingerprint = XXH3_64bits(words, sizeof words);
cleanup:
    free(ends);
    return status;
}

fgmm_status fgmm__file_open(const char *path, fgmm_file *out)
{
    fgmm_status status = FGMM_OK;
    struct stat info;
    fgmm_file file = {.fd = -1};
    file.fd = open_raising_limit(path);
    if (file.fd < 0 && errno == ENOENT)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: no such file; check the name and the folder", path);
    if (file.fd < 0 && errno == EMFILE)
        FGMM_FAIL(FGMM_ERR_RUNTIME,
                  "%s: too many open files; raise the limit (ulimit -n) or join files with fgmm convert",
                  path);
    if (file.fd < 0 || fstat(file.fd, &info) != 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: cannot be opened: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode))
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: is a folder where a file is expected", path);
    if (!S_ISREG(info.st_mode))
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: is not a regular file; rows are read at any place, so pipes and devices do not do",
                  path);
    if (info.st_size == 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: is empty; write or fetch it again", path);
    file.bytes = info.st_size;
    FGMM_TRY(take_fingerprint(&file, path, &info));
    *out = file;
    file.fd = -1;
cleanup:
    fgmm__file_close(&file);
    return status;
}

void fgmm__file_close(fgmm_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}

fgmm_status fgmm__file_read(const fgmm_file *file, const char *path, int64_t offset, void *out, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t got = pread(file->fd, (char *)out + done, bytes - done, (off_t)offset + (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fgmm__fail(FGMM_ERR_RUNTIME, "%s: reading at byte %lld failed: %s", path,
                              (long long)offset + (long long)done, strerror(errno));
        if (got == 0)
            return fgmm__fail(FGMM_ERR_RUNTIME,
                              "%s: ends at byte %lld although it had %lld when it was opened; "
                              "is another program writing it?",
                              path, (long long)offset + (long long)done, (long long)file->bytes);
        done += (size_t)got;
    }
    return FGMM_OK;
}

fgmm_status fgmm__flat_read(const fgmm_reader *reader, int64_t begin, int64_t end, void *out)
{
    const fgmm_flat_reader *flat = (const fgmm_flat_reader *)reader;
    int64_t row_bytes = (int64_t)reader->dim * (int64_t)fgmm_dtype_bytes(reader->dtype);
    return fgmm__file_read(&flat->file, reader->source, flat->data_offset + begin * row_bytes, out,
                           (size_t)((end - begin) * row_bytes));
}

void fgmm__flat_close(fgmm_reader *reader)
{
    fgmm_flat_reader *flat = (fgmm_flat_reader *)reader;
    fgmm__file_close(&flat->file);
    free(flat);
}

bool fgmm__has_extension(const char *path, const char *extension)
{
    size_t n = strlen(path), m = strlen(extension);
    return n > m && strcasecmp(path + n - m, extension) == 0;
}

bool fgmm__has_magic(const char *path, int64_t offset, const void *magic, size_t bytes)
{
    char found[16];
    struct stat info;
    if (bytes > sizeof found || stat(path, &info) != 0 || !S_ISREG(info.st_mode))
        return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool same = fd >= 0 && pread(fd, found, bytes, (off_t)offset) == (ssize_t)bytes &&
                memcmp(found, magic, bytes) == 0;
    if (fd >= 0)
        close(fd);
    return same;
}
