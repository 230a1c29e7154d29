#include "data/dataset.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "base/philox.h"
#include "data/sample.h"
#include "data/sources.h"
#include "io/reader.h"

struct fgmm_dataset {
    fgmm_reader **readers; /* [n_files], none of them empty */
    int64_t *first_row;    /* [n_files + 1] of the files joined, before the range is taken */
    int n_files;
    int64_t begin, rows; /* the range: rows [begin, begin + rows) of the files joined */
    int64_t sample;      /* > 0: rows drawn from the range, which are then all there is */
    uint64_t seed;
    int32_t dim;
    fgmm_dtype stored; /* in the files */
    fgmm_metric metric;
    char *name;
};

/* ---- opening ---- */

static fgmm_status join_names(const char *const *sources, int n, char **out)
{
    size_t size = 1;
    for (int i = 0; i < n; i++)
        size += strlen(sources[i]) + 2;
    fgmm_status status = fgmm__alloc(size, 1, "the names of the data", (void **)out);
    if (status != FGMM_OK)
        return status;
    char *end = *out;
    for (int i = 0; i < n; i++) {
        if (i > 0)
            end = stpcpy(end, ", ");
        end = stpcpy(end, sources[i]);
    }
    return FGMM_OK;
}

/* What a file says of the distance that it was made for must fit the metric asked for. */
static fgmm_status check_distance(const fgmm_reader *reader, const fgmm_dataset_options *options)
{
    const char *says = reader->distance;
    fgmm_metric metric = options != NULL ? options->metric : FGMM_L2;
    bool dot = strcmp(says, "dot") == 0 || strcmp(says, "ip") == 0;
    if (strcmp(says, "hamming") == 0 || strcmp(says, "jaccard") == 0)
        return fgmm__fail(
            FGMM_ERR_INPUT,
            "%s: made for the %s distance; euclidean, angular and the inner product are known here",
            reader->source, says);
    if (strcmp(says, "angular") == 0 && metric != FGMM_COSINE)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: made for the angular distance: add --metric cosine",
                          reader->source);
    if (dot && metric == FGMM_L2 && !(options != NULL && options->dot_as_l2))
        return fgmm__fail(FGMM_ERR_INPUT, "%s: made for the inner product: add --metric ip", reader->source);
    return FGMM_OK;
}

/* All files must agree with the first. */
static fgmm_status check_alike(const fgmm_reader *first, const fgmm_reader *reader)
{
    if (reader->dim != first->dim)
        return fgmm__fail(FGMM_ERR_INPUT,
                          "%s: rows of dimension %d, but %s has dimension %d: files read as one must agree",
                          reader->source, reader->dim, first->source, first->dim);
    if (reader->dtype != first->dtype)
        return fgmm__fail(
            FGMM_ERR_INPUT,
            "%s: rows of type %s, but %s has %s: files read as one must agree (fgmm convert --dtype)",
            reader->source, fgmm_dtype_name(reader->dtype), first->source, fgmm_dtype_name(first->dtype));
    return FGMM_OK;
}

static fgmm_status open_readers(fgmm_dataset *dataset, const fgmm_sources *files,
                                const fgmm_dataset_options *options)
{
    fgmm_status status = FGMM_OK;
    FGMM_ALLOC(dataset->readers, files->count, "the list of files");
    FGMM_ALLOC(dataset->first_row, files->count + 1, "the list of files");
    for (int i = 0; i < files->count; i++) {
        fgmm_reader **reader = &dataset->readers[i];
        FGMM_TRY(fgmm__reader_open(files->names[i], reader));
        dataset->n_files++;
        FGMM_TRY(check_alike(dataset->readers[0], *reader));
        FGMM_TRY(check_distance(*reader, options));
        if (__builtin_add_overflow(dataset->first_row[i], (*reader)->rows, &dataset->first_row[i + 1]))
            FGMM_FAIL(FGMM_ERR_INPUT, "%s: more than 2^63 rows in all", files->names[i]);
    }
    dataset->dim = dataset->readers[0]->dim;
    dataset->stored = dataset->readers[0]->dtype;
cleanup:
    return status;
}

static fgmm_status take_range(fgmm_dataset *dataset, int64_t begin, int64_t end)
{
    int64_t total = dataset->first_row[dataset->n_files];
    if (end < 0)
        end = total;
    if (begin < 0 || begin >= end || end > total)
        return fgmm__fail(FGMM_ERR_INPUT,
                          "%s: rows %" PRId64 ":%" PRId64 " of %" PRId64 ": not a range of rows",
                          dataset->name, begin, end, total);
    dataset->begin = begin;
    dataset->rows = end - begin;
    return FGMM_OK;
}

fgmm_status fgmm_dataset_open(const char *const *sources, int n_sources, const fgmm_dataset_options *options,
                              fgmm_dataset **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_dataset *dataset = NULL;
    fgmm_sources files = {0};
    *out = NULL;

    if (n_sources < 1)
        FGMM_FAIL(FGMM_ERR_INPUT, "no data: name a file, a folder, a quoted glob, @LIST or synth:...");
    FGMM_ALLOC(dataset, 1, "a dataset");
    dataset->metric = options != NULL ? options->metric : FGMM_L2;
    FGMM_TRY(join_names(sources, n_sources, &dataset->name));
    for (int i = 0; i < n_sources; i++)
        FGMM_TRY(fgmm__sources_add(&files, sources[i]));
    FGMM_TRY(open_readers(dataset, &files, options));
    FGMM_TRY(take_range(dataset, options != NULL ? options->row_begin : 0,
                        options != NULL ? options->row_end : -1));
    if (options != NULL && options->sample_rows > dataset->rows)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: a sample of %" PRId64 " rows asked for, there are %" PRId64,
                  dataset->name, options->sample_rows, dataset->rows);
    dataset->sample = options != NULL ? options->sample_rows : 0;
    dataset->seed = options != NULL ? options->sample_seed : 0;
    *out = dataset;
    dataset = NULL;
cleanup:
    fgmm_dataset_close(dataset);
    fgmm__sources_clear(&files);
    return status;
}

void fgmm_dataset_close(fgmm_dataset *dataset)
{
    if (dataset == NULL)
        return;
    for (int i = 0; i < dataset->n_files; i++)
        fgmm__reader_close(dataset->readers[i]);
    free(dataset->readers);
    free(dataset->first_row);
    free(dataset->name);
    free(dataset);
}

/* ---- what it is ---- */

int64_t fgmm_dataset_rows(const fgmm_dataset *dataset)
{
    return dataset->sample > 0 ? dataset->sample : dataset->rows;
}

int32_t fgmm_dataset_dim(const fgmm_dataset *dataset)
{
    return dataset->dim;
}

fgmm_dtype fgmm_dataset_dtype(const fgmm_dataset *dataset)
{
    return dataset->metric == FGMM_COSINE ? FGMM_F32 : dataset->stored;
}

fgmm_metric fgmm_dataset_metric(const fgmm_dataset *dataset)
{
    return dataset->metric;
}

const char *fgmm_dataset_name(const fgmm_dataset *dataset)
{
    return dataset->name;
}

uint64_t fgmm__dataset_fingerprint(const fgmm_dataset *dataset)
{
    uint64_t hash = 0;
    for (int i = 0; i < dataset->n_files; i++)
        hash = XXH3_64bits_withSeed(&dataset->readers[i]->fingerprint, sizeof(uint64_t), hash);
    int64_t view[3] = {dataset->begin, dataset->rows, (int64_t)dataset->metric};
    hash = XXH3_64bits_withSeed(view, sizeof view, hash);
    uint64_t sample[2] = {(uint64_t)dataset->sample, dataset->seed};
    return dataset->sample > 0 ? XXH3_64bits_withSeed(sample, sizeof sample, hash) : hash;
}

int64_t fgmm__dataset_range(const fgmm_dataset *dataset)
{
    return dataset->rows;
}

int64_t fgmm__dataset_drawn(const fgmm_dataset *dataset, int64_t row)
{
    if (dataset->sample == 0)
        return row;
    return fgmm__sample_row(dataset->rows, dataset->seed, FGMM_RNG_SAMPLE, row, dataset->sample);
}

/* The row of the files joined that row `row` of the dataset is. */
static int64_t place_of(const fgmm_dataset *dataset, int64_t row)
{
    return dataset->begin + fgmm__dataset_drawn(dataset, row);
}

/* The file that holds row `row` of the files joined. */
static int file_of(const fgmm_dataset *dataset, int64_t row)
{
    int low = 0, high = dataset->n_files;
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (dataset->first_row[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

const char *fgmm__dataset_locate(const fgmm_dataset *dataset, int64_t row, int64_t *row_in_file)
{
    int64_t place = place_of(dataset, row);
    int file = file_of(dataset, place);
    *row_in_file = place - dataset->first_row[file];
    return dataset->readers[file]->source;
}

/* ---- reading ---- */

/* Scales rows to unit length. A zero row stays zero; a row with a NaN or an infinity stays as it is, so that
 * the check names the column that holds it. The sum of squares is kept in eight lanes, whose order is fixed.
 */
static void scale_to_unit(float *rows, int64_t n, int32_t dim)
{
    for (int64_t i = 0; i < n; i++) {
        float *row = rows + i * dim;
        double lane[8] = {0};
        int32_t j = 0;
        for (; j + 8 <= dim; j += 8) {
            for (int32_t l = 0; l < 8; l++)
                lane[l] += (double)row[j + l] * row[j + l];
        }
        for (int32_t l = 0; j < dim; j++, l++)
            lane[l] += (double)row[j] * row[j];
        double sum =
            ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
        if (sum == 0 || !isfinite(sum))
            continue;
        double length = sqrt(sum);
        for (j = 0; j < dim; j++)
            row[j] = (float)(row[j] / length);
    }
}

/* Rows [begin, end) of one file as floats of unit length, through a small buffer when they are stored
 * otherwise. */
static fgmm_status read_cosine(const fgmm_dataset *dataset, const fgmm_reader *reader, int64_t begin,
                               int64_t end, float *rows)
{
    fgmm_status status = FGMM_OK;
    void *stored = NULL;
    int32_t dim = dataset->dim;

    if (dataset->stored == FGMM_F32) {
        FGMM_TRY(fgmm__reader_read(reader, begin, end, rows));
        scale_to_unit(rows, end - begin, dim);
        goto cleanup;
    }
    size_t row_bytes = (size_t)dim * fgmm_dtype_bytes(dataset->stored);
    int64_t step = (int64_t)(((size_t)256 << 10) / row_bytes) + 1;
    FGMM_TRY(fgmm__alloc((size_t)step, row_bytes, "rows to be scaled", &stored));
    for (int64_t row = begin; row < end; row += step) {
        int64_t n = end - row < step ? end - row : step;
        float *out = rows + (row - begin) * dim;
        FGMM_TRY(fgmm__reader_read(reader, row, row + n, stored));
        fgmm__to_f32(dataset->stored, stored, (size_t)n * (size_t)dim, out);
        scale_to_unit(out, n, dim);
    }
cleanup:
    free(stored);
    return status;
}

/* Rows [begin, end) of the files joined. */
static fgmm_status read_places(const fgmm_dataset *dataset, int64_t begin, int64_t end, char *out)
{
    size_t row_bytes = (size_t)dataset->dim * fgmm_dtype_bytes(fgmm_dataset_dtype(dataset));
    for (int file = file_of(dataset, begin); begin < end; file++) {
        const fgmm_reader *reader = dataset->readers[file];
        int64_t first = dataset->first_row[file], next = dataset->first_row[file + 1];
        int64_t stop = end < next ? end : next;
        fgmm_status status =
            dataset->metric == FGMM_COSINE
                ? read_cosine(dataset, reader, begin - first, stop - first, (float *)(void *)out)
                : fgmm__reader_read(reader, begin - first, stop - first, out);
        if (status != FGMM_OK)
            return status;
        out += (size_t)(stop - begin) * row_bytes;
        begin = stop;
    }
    return FGMM_OK;
}

/* Drawn rows that lie side by side are read together. */
static fgmm_status read_sample(const fgmm_dataset *dataset, int64_t begin, int64_t end, char *out)
{
    size_t row_bytes = (size_t)dataset->dim * fgmm_dtype_bytes(fgmm_dataset_dtype(dataset));
    for (int64_t row = begin; row < end;) {
        int64_t first = place_of(dataset, row), n = 1;
        while (row + n < end && place_of(dataset, row + n) == first + n)
            n++;
        fgmm_status status = read_places(dataset, first, first + n, out + (size_t)(row - begin) * row_bytes);
        if (status != FGMM_OK)
            return status;
        row += n;
    }
    return FGMM_OK;
}

fgmm_status fgmm_dataset_read(const fgmm_dataset *dataset, int64_t begin, int64_t end, void *rows)
{
    if (begin < 0 || begin > end || end > fgmm_dataset_rows(dataset))
        return fgmm__fail(FGMM_ERR_INPUT, "%s: rows %" PRId64 ":%" PRId64 " asked for, there are %" PRId64,
                          dataset->name, begin, end, fgmm_dataset_rows(dataset));
    if (dataset->sample > 0)
        return read_sample(dataset, begin, end, rows);
    return read_places(dataset, dataset->begin + begin, dataset->begin + end, rows);
}

fgmm_status fgmm__dataset_check_finite(const fgmm_dataset *dataset, int64_t begin, int64_t n,
                                       const void *rows)
{
    fgmm_dtype dtype = fgmm_dataset_dtype(dataset);
    int32_t column;
    int64_t found = fgmm__find_nonfinite(dtype, rows, n, dataset->dim, &column);
    if (found < 0)
        return FGMM_OK;

    size_t place = (size_t)found * (size_t)dataset->dim + (size_t)column;
    float value;
    fgmm__to_f32(dtype, (const char *)rows + place * fgmm_dtype_bytes(dtype), 1, &value);
    const char *what = isnan(value) ? "a NaN" : "an infinity";
    int64_t row_in_file;
    const char *file = fgmm__dataset_locate(dataset, begin + found, &row_in_file);
    if (row_in_file == begin + found)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: row %" PRId64 " holds %s (column %d)", file, row_in_file, what,
                          column);
    return fgmm__fail(FGMM_ERR_INPUT,
                      "%s: row %" PRId64 " holds %s (column %d; row %" PRId64 " of the data as a whole)",
                      file, row_in_file, what, column, begin + found);
}
