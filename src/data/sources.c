#include "data/sources.h"

#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "base/log.h"
#include "io/reader.h"

static bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static bool exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

/* Appends the concatenation of three strings. */
static fgmm_status append(fgmm_sources *list, const char *a, const char *b, const char *c)
{
    if (list->count == list->capacity) {
        int capacity = list->capacity ? 2 * list->capacity : 16;
        char **names = realloc(list->names, (size_t)capacity * sizeof *names);
        if (names == NULL)
            return fgmm__fail(FGMM_ERR_RUNTIME, "out of memory for %d file names", capacity);
        list->names = names;
        list->capacity = capacity;
    }
    size_t size = strlen(a) + strlen(b) + strlen(c) + 1;
    char *name = malloc(size);
    if (name == NULL)
        return fgmm__fail(FGMM_ERR_RUNTIME, "out of memory for a file name");
    snprintf(name, size, "%s%s%s", a, b, c);
    list->names[list->count++] = name;
    return FGMM_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort_from(fgmm_sources *list, int first)
{
    if (list->count > first)
        qsort(list->names + first, (size_t)(list->count - first), sizeof *list->names, by_name);
}

static fgmm_status add_folder(fgmm_sources *list, const char *folder)
{
    fgmm_status status = FGMM_OK;
    DIR *dir = NULL;
    fgmm_sources found = {0};
    size_t length = strlen(folder);
    const char *slash = length > 0 && folder[length - 1] == '/' ? "" : "/";

    dir = opendir(folder);
    if (dir == NULL)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: cannot list the folder: %s", folder, strerror(errno));
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        FGMM_TRY(append(&found, folder, slash, entry->d_name));
    }
    int first = list->count;
    for (int i = 0; i < found.count; i++) {
        if (is_folder(found.names[i]))
            continue;
        if (fgmm__reader_knows(found.names[i]))
            FGMM_TRY(append(list, found.names[i], "", ""));
        else
            fgmm__detail("%s: not a file of rows, left out", found.names[i]);
    }
    sort_from(list, first);
    if (list->count == first)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: the folder holds no file of rows", folder);
cleanup:
    if (dir != NULL)
        closedir(dir);
    fgmm__sources_clear(&found);
    return status;
}

/* Where ":/dataset" begins in FILE.h5:/dataset, else the end of the string. */
static const char *dataset_suffix(const char *source)
{
    const char *colon = strstr(source, "5:/");
    return colon != NULL ? colon + 1 : source + strlen(source);
}

static fgmm_status add_glob(fgmm_sources *list, const char *source)
{
    fgmm_status status = FGMM_OK;
    glob_t found = {0};
    char *pattern = NULL;
    const char *suffix = dataset_suffix(source);

    pattern = strndup(source, (size_t)(suffix - source));
    if (pattern == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory for a file name");
    int code = glob(pattern, GLOB_NOSORT, NULL, &found);
    if (code == GLOB_NOMATCH)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: no file matches", source);
    if (code != 0)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot expand the pattern: %s", source, strerror(errno));
    qsort(found.gl_pathv, found.gl_pathc, sizeof *found.gl_pathv, by_name);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        if (is_folder(found.gl_pathv[i]))
            FGMM_TRY(add_folder(list, found.gl_pathv[i]));
        else
            FGMM_TRY(append(list, found.gl_pathv[i], suffix, ""));
    }
cleanup:
    globfree(&found);
    free(pattern);
    return status;
}

static fgmm_status add_plain(fgmm_sources *list, const char *source)
{
    if (strncmp(source, "synth:", 6) == 0)
        return append(list, source, "", "");
    if (is_folder(source))
        return add_folder(list, source);
    /* A file whose own name holds a '[' is that file, not a pattern. */
    if (!exists(source) && strpbrk(source, "*?[") != NULL)
        return add_glob(list, source);
    return append(list, source, "", "");
}

static fgmm_status add_list(fgmm_sources *list, const char *path)
{
    fgmm_status status = FGMM_OK;
    char *line = NULL;
    size_t capacity = 0;
    int first = list->count;

    FILE *file = fopen(path, "r");
    if (file == NULL)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: cannot open the list of files: %s", path, strerror(errno));
    errno = 0;
    while (getline(&line, &capacity, file) >= 0) {
        char *name = line + strspn(line, " \t");
        size_t length = strlen(name);
        while (length > 0 && strchr(" \t\r\n", name[length - 1]) != NULL)
            name[--length] = '\0';
        if (length > 0 && name[0] != '#')
            FGMM_TRY(add_plain(list, name));
    }
    if (ferror(file))
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot read the list of files: %s", path, strerror(errno));
    if (list->count == first)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: the list names no files", path);
cleanup:
    if (file != NULL)
        fclose(file);
    free(line);
    return status;
}

fgmm_status fgmm__sources_add(fgmm_sources *list, const char *source)
{
    return source[0] == '@' ? add_list(list, source + 1) : add_plain(list, source);
}

void fgmm__sources_clear(fgmm_sources *list)
{
    for (int i = 0; i < list->count; i++)
        free(list->names[i]);
    free(list->names);
    *list = (fgmm_sources){0};
}
