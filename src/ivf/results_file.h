/* Search results of one or several nprobe settings in a file. */
#ifndef FGMM_IVF_RESULTS_FILE_H
#define FGMM_IVF_RESULTS_FILE_H

#include <stdint.h>
#include "base/status.h"

/* Local: refuses before the work what cannot be written after it: an unknown format, several settings or ids
 * from 2^31 on in a format that does not hold them. rows: ids are below it. */
fgmm_status fgmm__results_check(const char *path, int settings, int64_t rows);
/* Local (one rank). ids, distances: [settings][queries][k]. .h5: datasets ids and distances of that shape,
 * the first axis dropped for a single setting; .ivecs and .ibin hold one setting. Written beside its name and
 * renamed. */
fgmm_status fgmm__results_write(const char *path, int settings, int64_t queries, int32_t k, int64_t *ids,
                                float *distances);

#endif
