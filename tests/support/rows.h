/* Files of rows for tests, with values that tell where they stand. */
#ifndef FGMM_TESTS_ROWS_H
#define FGMM_TESTS_ROWS_H

#include <stdint.h>
#include "fgmm/types.h"

/* The value at (row, column) in an element type's range: a mix of both, the same everywhere. */
float fgmm_test_value(fgmm_dtype dtype, int64_t row, int32_t column);

/* Writes rows [begin, begin + n) of such values as a .fbin, .u8bin, ... file (the type decides the layout,
 * the caller the name). */
void fgmm_test_write_bin(const char *path, fgmm_dtype dtype, int64_t begin, int64_t n, int32_t dim);

/* Overwrites one element of a bin file. */
void fgmm_test_poke_bin(const char *path, fgmm_dtype dtype, int32_t dim, int64_t row, int32_t column,
                        float value);

#endif
