#include "support/rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "io/reader.h"
#include "support/files.h"

enum { HEADER_BYTES = 8 };

float fgmm_test_value(fgmm_dtype dtype, int64_t row, int32_t column)
{
    int64_t mixed = (row * 7919 + column * 104729) % 100003;
    switch (dtype) {
    case FGMM_F32:
        return (float)mixed / 16 - 1000;
    case FGMM_F16:
        return (float)(mixed % 2001 - 1000) / 8;
    case FGMM_U8:
        return (float)(mixed % 256);
    case FGMM_I8:
        return (float)(mixed % 256 - 128);
    }
    return 0;
}

void fgmm_test_write_bin(const char *path, fgmm_dtype dtype, int64_t begin, int64_t n, int32_t dim)
{
    size_t bytes = fgmm_dtype_bytes(dtype), values = (size_t)n * (size_t)dim;
    char *file = malloc(HEADER_BYTES + values * bytes);
    uint32_t header[2] = {(uint32_t)n, (uint32_t)dim};
    memcpy(file, header, HEADER_BYTES);
    for (size_t i = 0; i < values; i++) {
        float value = fgmm_test_value(dtype, begin + (int64_t)(i / (size_t)dim), (int32_t)(i % (size_t)dim));
        fgmm__from_f32(dtype, &value, 1, file + HEADER_BYTES + i * bytes);
    }
    fgmm_test_write_file(path, file, HEADER_BYTES + values * bytes);
    free(file);
}

void fgmm_test_poke_bin(const char *path, fgmm_dtype dtype, int32_t dim, int64_t row, int32_t column,
                        float value)
{
    size_t n;
    char *file = fgmm_test_read_file(path, &n);
    size_t place = (size_t)row * (size_t)dim + (size_t)column;
    fgmm__from_f32(dtype, &value, 1, file + HEADER_BYTES + place * fgmm_dtype_bytes(dtype));
    fgmm_test_write_file(path, file, n);
    free(file);
}
