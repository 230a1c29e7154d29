/* A file written beside its name and renamed when it is whole: readers see the old one or the new one, never
 * a part. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "io/writer.h"

fgmm_status fgmm__aside_name(const char *path, char **out)
{
    if (asprintf(out, "%s.tmp.%ld", path, (long)getpid()) < 0) {
        *out = NULL;
        return fgmm__fail(FGMM_ERR_RUNTIME, "out of memory while naming %s", path);
    }
    return FGMM_OK;
}

static int sync_path(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int result = fsync(fd), kept = errno;
    close(fd);
    errno = kept;
    return result;
}

/* The name of a file is safe only when its folder is. Some file systems cannot sync folders (EINVAL) and need
 * not. */
static int sync_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash == NULL   ? strdup(".")
                   : slash == path ? strdup("/")
                                   : strndup(path, (size_t)(slash - path));
    if (folder == NULL)
        return -1;
    int result = sync_path(folder, O_RDONLY | O_DIRECTORY);
    free(folder);
    return result < 0 && errno == EINVAL ? 0 : result;
}

fgmm_status fgmm__aside_commit(const char *aside, const char *path)
{
    fgmm_status status = FGMM_OK;
    if (sync_path(aside, O_RDONLY) < 0 || rename(aside, path) < 0) {
        status = fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot be written: %s", path, strerror(errno));
        unlink(aside);
    } else if (sync_folder_of(path) < 0) {
        status = fgmm__fail(FGMM_ERR_RUNTIME, "%s: its folder cannot be synced: %s", path, strerror(errno));
    }
    return status;
}
