/* Files of rows: one reader a format behind one table. Readers know one file each; data/dataset joins them.
 */
#ifndef FGMM_IO_READER_H
#define FGMM_IO_READER_H

#include <stdbool.h>
#include "base/status.h"
#include "fgmm/types.h"

typedef struct fgmm_reader fgmm_reader;

/* One format. Formats are tried in the order of the table in reader.c. */
typedef struct {
    const char *name;                  /* "fvecs" */
    bool (*probe)(const char *source); /* by extension, magic or prefix; opens nothing it keeps */
    fgmm_status (*open)(const char *source, fgmm_reader **out); /* checks header against file size */
    /* rows [begin, end) into out [end-begin][dim], native dtype; thread-safe (pread; HDF5 behind its lock) */
    fgmm_status (*read)(const fgmm_reader *reader, int64_t begin, int64_t end, void *out);
    void (*close)(fgmm_reader *reader);
} fgmm_reader_type;

/* The start of every reader; formats embed it as their first member. */
struct fgmm_reader {
    const fgmm_reader_type *type;
    char *source; /* as given, owned */
    int64_t rows;
    int32_t dim;
    fgmm_dtype dtype;
    char distance[24];    /* the file's attribute `distance` ("angular"), "" where it has none */
    uint64_t fingerprint; /* xxh3 of size, mtime and the file's first and last 64 KiB (synth: of the spec) */
};

/* Local. FGMM_ERR_INPUT: missing or empty file, unknown extension, truncated, size that does not match the
 * header, unsupported dtype. */
fgmm_status fgmm__reader_open(const char *source, fgmm_reader **out);
fgmm_status fgmm__reader_read(const fgmm_reader *reader, int64_t begin, int64_t end, void *out);
void fgmm__reader_close(fgmm_reader *reader); /* accepts NULL */
/* Whether some format claims the source (by extension, magic or prefix): what of a folder is data. */
bool fgmm__reader_knows(const char *source);
/* What stands for `source` where queries are read: of an HDF5 file named without a dataset its /test, where
 * it has one. malloc'd into *out. */
fgmm_status fgmm__queries_source(const char *source, char **out);
/* The component of the mixture that row `row` of a synth: reader was drawn from, -1 for a row of noise. */
fgmm_status fgmm__synth_component(const fgmm_reader *reader, int64_t row, int32_t *component);

/* The first row of `rows` that holds a NaN or an infinity (f32, f16), or -1; *column gets the place. */
int64_t fgmm__find_nonfinite(fgmm_dtype dtype, const void *rows, int64_t n, int32_t dim, int32_t *column);

/* Conversions of a run of elements; f16 is IEEE binary16. */
void fgmm__to_f32(fgmm_dtype dtype, const void *in, size_t n, float *out);
void fgmm__to_f64(fgmm_dtype dtype, const void *in, size_t n, double *out);
/* Rounds to nearest, saturates u8 and i8. */
void fgmm__from_f32(fgmm_dtype dtype, const float *in, size_t n, void *out);
/* How many of the values saturate: none for floats. */
int64_t fgmm__count_clipped(fgmm_dtype dtype, const float *in, size_t n);

#endif
