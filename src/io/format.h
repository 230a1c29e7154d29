/* What the formats share inside io/: the table's entries, opening a file with its faults named, whole reads
 * at an offset. */
#ifndef FGMM_IO_FORMAT_H
#define FGMM_IO_FORMAT_H

#include "io/reader.h"

/* Largest dimension of a row: far beyond any embedding, small enough that a damaged header is told from a
 * real one. */
enum { FGMM_MAX_DIM = 1 << 20 };

extern const fgmm_reader_type fgmm__synth_format; /* synth.c */
extern const fgmm_reader_type fgmm__vecs_format;  /* vecs.c */
extern const fgmm_reader_type fgmm__bin_format;   /* bin.c */
extern const fgmm_reader_type fgmm__npy_format;   /* npy.c */
extern const fgmm_reader_type fgmm__h5_format;    /* h5_rows.c */

/* An open file of known size. */
typedef struct {
    int fd;
    int64_t bytes;
    uint64_t fingerprint; /* xxh3 of size, mtime and the first and last 64 KiB */
} fgmm_file;

/* A reader whose rows lie one after another in a file: bin, npy and contiguous HDF5 datasets. */
typedef struct {
    fgmm_reader base;
    fgmm_file file;
    int64_t data_offset; /* bytes before row 0 */
} fgmm_flat_reader;

/* FGMM_ERR_INPUT for a missing, unreadable or empty file and for a folder. */
fgmm_status fgmm__file_open(const char *path, fgmm_file *out);
void fgmm__file_close(fgmm_file *file);
/* Exactly `bytes` bytes at `offset`; a short read is FGMM_ERR_RUNTIME: the size was checked when the file was
 * opened. Thread-safe. */
fgmm_status fgmm__file_read(const fgmm_file *file, const char *path, int64_t offset, void *out, size_t bytes);

/* Rows [begin, end) of a flat reader; close for one without anything else to free. */
fgmm_status fgmm__flat_read(const fgmm_reader *reader, int64_t begin, int64_t end, void *out);
void fgmm__flat_close(fgmm_reader *reader);

/* npy.c. Reads magic, version and header into text (room for FGMM_NPY_HEADER bytes); *data_offset is where
 * the array begins. */
enum { FGMM_NPY_HEADER = 1 << 16 };
fgmm_status fgmm__npy_header(const char *source, const fgmm_file *file, char *text, int64_t *data_offset);
/* What stands behind 'key': in a header, or NULL. */
const char *fgmm__npy_value(const char *header, const char *key);
/* npy.c. The length of an array with one axis, or of shape [length, 1]; false for another. */
bool fgmm__npy_length(const char *header, int64_t *length);

/* Whether `path` ends in `extension` (".fbin", any case). */
bool fgmm__has_extension(const char *path, const char *extension);
/* Whether the file begins with these bytes at `offset`; false for what cannot be read. */
bool fgmm__has_magic(const char *path, int64_t offset, const void *magic, size_t bytes);

#endif
