#include "data/memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/resource.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4352 };

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The number behind `key` at the start of a line. */
static bool find_number(const char *path, const char *key, int64_t *out)
{
    char line[256];
    size_t length = strlen(key);
    bool found = false;
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    while (!found && fgets(line, sizeof line, file) != NULL)
        found = strncmp(line, key, length) == 0 && sscanf(line + length, "%" SCNd64, out) == 1;
    fclose(file);
    return found;
}

/* The names of the files of a control group's memory controller. */
typedef struct {
    const char *folder, *limit, *usage, *cache;
} controller;

static const controller v1 = {"/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                              "total_inactive_file "};
static const controller v2 = {"", "memory.max", "memory.current", "inactive_file "};

/* What one group still allows. File cache that was not touched lately counts as free: it gives way at need,
 * and reading the data fills every limit with it. */
static int64_t group_headroom(const controller *c, const char *folder)
{
    char path[PATH_BYTES + 64];
    int64_t limit, usage, cache = 0;
    snprintf(path, sizeof path, "%s/%s", folder, c->limit);
    if (!find_number(path, "", &limit)) /* no such file, or "max" */
        return INT64_MAX;
    snprintf(path, sizeof path, "%s/%s", folder, c->usage);
    if (!find_number(path, "", &usage))
        return limit;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    (void)find_number(path, c->cache, &cache);
    int64_t used = usage > cache ? usage - cache : 0;
    return limit > used ? limit - used : 0;
}

/* The least over a group and all groups above it. */
static int64_t groups_headroom(const controller *c, const char *mount, const char *group)
{
    char folder[PATH_BYTES];
    int64_t headroom = INT64_MAX;
    int root = snprintf(folder, sizeof folder, "%s%s", mount, c->folder);
    int length = snprintf(folder, sizeof folder, "%s%s%s", mount, c->folder, group);
    if (length >= (int)sizeof folder)
        return INT64_MAX;
    for (;;) {
        headroom = least(headroom, group_headroom(c, folder));
        char *slash = strrchr(folder + root, '/');
        if (slash == NULL)
            return headroom;
        *slash = '\0';
    }
}

int64_t fgmm__memory_available_in(const char *meminfo, const char *cgroups, const char *mount)
{
    int64_t kib, available = INT64_MAX;
    if (find_number(meminfo, "MemAvailable:", &kib))
        available = kib * 1024;

    FILE *file = fopen(cgroups, "r");
    if (file == NULL)
        return available;
    char line[PATH_BYTES];
    while (fgets(line, sizeof line, file) != NULL) { /* "4:memory:/group" (v1), "0::/group" (v2) */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (group == NULL)
            continue;
        *group++ = '\0';
        controllers++;
        if (controllers[0] == '\0')
            available = least(available, groups_headroom(&v2, mount, group));
        else if (strstr(controllers, "memory") != NULL)
            available = least(available, groups_headroom(&v1, mount, group));
    }
    fclose(file);
    return available;
}

int64_t fgmm__memory_available(void)
{
    return fgmm__memory_available_in("/proc/meminfo", "/proc/self/cgroup", "/sys/fs/cgroup");
}

int64_t fgmm__memory_resident(void)
{
    int64_t kib;
    return find_number("/proc/self/status", "VmRSS:", &kib) ? kib * 1024 : 0;
}

int64_t fgmm__memory_peak(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_maxrss * 1024 : 0;
}
