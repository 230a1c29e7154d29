#include "data/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/dataset.h"
#include "io/format.h"

struct fgmm_weights {
    char *path;
    const fgmm_dataset *dataset;
    fgmm_file file;
    int64_t data_offset;
    size_t bytes; /* of a weight: 4 or 8 */
    int64_t begin;
    double *values; /* [loaded rows] over the power of two that is not under any */
    double unit;
};

static fgmm_status open_npy(fgmm_weights *w, int64_t *rows)
{
    fgmm_status status = FGMM_OK;
    char *text = NULL;
    FGMM_ALLOC(text, FGMM_NPY_HEADER, "an .npy header");
    FGMM_TRY(fgmm__npy_header(w->path, &w->file, text, &w->data_offset));
    const char *type = fgmm__npy_value(text, "descr");
    w->bytes = type != NULL && strncmp(type, "'<f4'", 5) == 0 ? sizeof(float) : sizeof(double);
    if (type == NULL || (w->bytes == sizeof(double) && strncmp(type, "'<f8'", 5) != 0) ||
        !fgmm__npy_length(text, rows))
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: weights are floats along one axis; save them so: numpy.save(file, "
                  "weights.astype('<f4').ravel())",
                  w->path);
cleanup:
    free(text);
    return status;
}

static fgmm_status open_fbin(fgmm_weights *w, int64_t *rows)
{
    fgmm_status status = FGMM_OK;
    uint32_t header[2] = {0, 0};
    w->data_offset = sizeof header;
    w->bytes = sizeof(float);
    if (w->file.bytes >= w->data_offset)
        FGMM_TRY(fgmm__file_read(&w->file, w->path, 0, header, sizeof header));
    if (header[1] != 1)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: its header gives %u weights a row; it is u32 rows, u32 1, then f32 weights", w->path,
                  header[1]);
    *rows = header[0];
cleanup:
    return status;
}

fgmm_status fgmm__weights_open(const char *path, const fgmm_dataset *dataset, fgmm_weights **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_weights *w = NULL;
    int64_t rows = 0, wanted = fgmm__dataset_range(dataset);
    FGMM_ALLOC(w, 1, "weights");
    w->file.fd = -1;
    w->dataset = dataset;
    w->path = strdup(path);
    if (w->path == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory");
    bool npy = fgmm__has_extension(path, ".npy");
    if (!npy && !fgmm__has_extension(path, ".fbin"))
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: weights are read from .npy ('<f4' or '<f8') and .fbin (u32 rows, u32 1, f32)", path);
    FGMM_TRY(fgmm__file_open(path, &w->file));
    FGMM_TRY(npy ? open_npy(w, &rows) : open_fbin(w, &rows));
    if (rows != wanted)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: holds %lld weights, the data have %lld rows", path, (long long)rows,
                  (long long)wanted);
    int64_t here = w->file.bytes - w->data_offset, each = (int64_t)w->bytes;
    if (here % each != 0 || here / each != rows)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: its header gives %lld weights, its %lld bytes of data are another number: truncated "
                  "or damaged, "
                  "write it again",
                  path, (long long)rows, (long long)here);
    *out = w;
    w = NULL;
cleanup:
    fgmm__weights_close(w);
    return status;
}

void fgmm__weights_close(fgmm_weights *w)
{
    if (w == NULL)
        return;
    fgmm__file_close(&w->file);
    free(w->path);
    free(w->values);
    free(w);
}

uint64_t fgmm__weights_fingerprint(const fgmm_weights *w)
{
    return w->file.fingerprint;
}

/* Weights [begin, end) of the file. */
static fgmm_status read_some(const fgmm_weights *w, int64_t begin, int64_t end, double *out)
{
    fgmm_status status = fgmm__file_read(&w->file, w->path, w->data_offset + begin * (int64_t)w->bytes, out,
                                         (size_t)(end - begin) * w->bytes);
    if (status != FGMM_OK)
        return status;
    if (w->bytes == sizeof(float))
        for (int64_t i = end - begin - 1; i >= 0; i--) { /* from the end, in place */
            float narrow;
            memcpy(&narrow, (char *)out + (size_t)i * sizeof narrow, sizeof narrow);
            out[i] = narrow;
        }
    for (int64_t i = 0; i < end - begin; i++)
        if (!(out[i] >= 0) || !isfinite(out[i]))
            return fgmm__fail(FGMM_ERR_INPUT, "%s: the weight of row %lld is %g; weights are 0 or more",
                              w->path, (long long)(begin + i), out[i]);
    return FGMM_OK;
}

fgmm_status fgmm__weights_get(const fgmm_weights *w, int64_t row, double *weight)
{
    int64_t place = fgmm__dataset_drawn(w->dataset, row);
    return read_some(w, place, place + 1, weight);
}

static fgmm_status read_own(fgmm_weights *w, fgmm_comm *comm, int64_t begin, int64_t end)
{
    enum { STEP = 1 << 20 };
    fgmm_status status = FGMM_OK;
    bool sampled = fgmm__dataset_range(w->dataset) != fgmm_dataset_rows(w->dataset);
    FGMM_ALLOC(w->values, end - begin, "weights");
    for (int64_t at = begin; at < end; at += STEP) {
        int64_t stop = end - at < STEP ? end : at + STEP;
        FGMM_TRY(fgmm__comm_tick(comm));
        if (!sampled)
            FGMM_TRY(read_some(w, at, stop, w->values + (at - begin)));
        for (int64_t row = at; sampled && row < stop; row++)
            FGMM_TRY(fgmm__weights_get(w, row, w->values + (row - begin)));
    }
cleanup:
    if (status != FGMM_OK)
        fgmm__comm_announce_failure(comm);
    return status;
}

/* Sums are of integers, the same on any number of ranks. */
fgmm_status fgmm__weights_load(fgmm_weights *w, fgmm_comm *comm, int64_t begin, int64_t end)
{
    fgmm_status status = FGMM_OK;
    int64_t rows = fgmm_dataset_rows(w->dataset), sum = 0;
    double largest = 0;
    int exponent, bits = 62;
    FGMM_TRY(fgmm__comm_agree(comm, read_own(w, comm, begin, end)));
    for (int64_t i = 0; i < end - begin; i++)
        largest = fmax(largest, w->values[i]);
    FGMM_TRY(fgmm__comm_max_f64(comm, &largest, 1));
    if (largest == 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: all weights are 0", w->path);
    double mantissa = frexp(largest, &exponent);
    exponent -= mantissa == 0.5;
    while (ldexp(1, bits) * (double)rows > 0x1p62)
        bits--;
    for (int64_t i = 0; i < end - begin; i++) {
        w->values[i] = ldexp(w->values[i], -exponent);
        sum += llrint(ldexp(w->values[i], bits));
    }
    FGMM_TRY(fgmm__comm_sum_i64(comm, &sum, 1));
    w->begin = begin;
    w->unit = (double)rows / ldexp((double)sum, -bits);
cleanup:
    return status;
}

const double *fgmm__weights_from(const fgmm_weights *w, int64_t row)
{
    return w->values + (row - w->begin);
}

double fgmm__weights_unit(const fgmm_weights *w)
{
    return w->unit;
}
