#include "support/files.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static _Noreturn void give_up(const char *what, const char *path)
{
    fprintf(stderr, "test support: %s %s failed\n", what, path);
    abort();
}

static const char *folder(void)
{
    const char *given = getenv("FGMM_TMP");
    return given && given[0] ? given : "/tmp/fgmm_tests";
}

static void make_folders(const char *path)
{
    char part[1024];
    snprintf(part, sizeof part, "%s/", path);
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(part, 0777);
        *slash = '/';
    }
}

const char *fgmm_test_path(const char *name)
{
    static char paths[8][1024];
    static int next;
    char *path = paths[next++ % 8];
    make_folders(folder());
    snprintf(path, sizeof paths[0], "%s/%s", folder(), name);
    return path;
}

void fgmm_test_write_file(const char *path, const void *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(bytes, 1, n, file) != n || fclose(file) != 0)
        give_up("writing", path);
}

char *fgmm_test_read_file(const char *path, size_t *n)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0)
        give_up("reading", path);
    *n = (size_t)ftell(file);
    char *bytes = malloc(*n + 1);
    rewind(file);
    if (bytes == NULL || fread(bytes, 1, *n, file) != *n)
        give_up("reading", path);
    fclose(file);
    return bytes;
}

bool fgmm_test_same_file(const char *a, const char *b)
{
    size_t na = 0, nb = 0;
    char *x = fgmm_test_read_file(a, &na), *y = fgmm_test_read_file(b, &nb);
    bool same = na == nb && na > 0 && memcmp(x, y, na) == 0;
    free(x);
    free(y);
    return same;
}

int fgmm_test_leftovers(const char *path)
{
    const char *slash = strrchr(path, '/');
    char parent[1024];
    snprintf(parent, sizeof parent, "%.*s", (int)(slash - path), path);
    size_t length = strlen(slash + 1);
    int found = 0;
    DIR *entries = opendir(parent);
    for (struct dirent *entry; entries && (entry = readdir(entries)) != NULL;)
        found += strncmp(entry->d_name, slash + 1, length) == 0 && entry->d_name[length] != '\0';
    if (entries)
        closedir(entries);
    return found;
}
