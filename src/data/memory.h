/* How much more host memory this process may take. */
#ifndef FGMM_DATA_MEMORY_H
#define FGMM_DATA_MEMORY_H

#include <stdint.h>

/* The least of MemAvailable and what the control groups (v1 and v2) of this process still allow; for all
 * ranks of the node together. Local. */
int64_t fgmm__memory_available(void);

/* The resident set of this process; 0 where the system does not tell. Local. */
int64_t fgmm__memory_resident(void);

/* The largest that it was. Local. */
int64_t fgmm__memory_peak(void);

/* The same from other files than /proc/meminfo, /proc/self/cgroup and /sys/fs/cgroup; what cannot be read
 * sets no limit (INT64_MAX when nothing can). */
int64_t fgmm__memory_available_in(const char *meminfo, const char *cgroups, const char *mount);

#endif
