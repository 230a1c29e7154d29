/* What an HDF5 file holds, as lines for a reader: attributes with their values, datasets with shapes and
 * types. */
#ifndef FGMM_IO_H5_DESCRIBE_H
#define FGMM_IO_H5_DESCRIBE_H

#include <stdbool.h>
#include "base/status.h"

/* Whether the file is HDF5 (by its signature, behind a user block or not). */
bool fgmm__is_h5(const char *path);
/* The root attribute "format" ("" where there is none), after the seal was checked. *sealed: the file has
 * one. */
fgmm_status fgmm__h5_kind(const char *path, char *format, size_t size, bool *sealed);
/* Calls line(key, value, data) for every attribute ("model/n_iter", "12") and dataset ("means", "64 x 100
 * float64"), root first, then by name; an index adds its list sizes. To be called after fgmm__h5_kind. */
fgmm_status fgmm__h5_describe(const char *path, void (*line)(const char *key, const char *value, void *data),
                              void *data);

#endif
