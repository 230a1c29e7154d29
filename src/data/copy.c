#include "data/copy.h"

#include <math.h>
#include <stdlib.h>
#include "base/log.h"
#include "data/dataset.h"
#include "io/reader.h"
#include "io/writer.h"

enum { PIECE_BYTES = 32 << 20, PART_ROWS = 256 };

/* Buffers of one piece of rows on their way. */
typedef struct {
    const fgmm_dataset *dataset;
    int32_t dim;
    fgmm_dtype from, to;
    int64_t piece_rows;
    void *in, *out;  /* [piece_rows][dim]; the same memory where nothing is converted */
    float *floats;   /* [piece_rows][dim], NULL where nothing is converted */
    int64_t clipped; /* values outside of an integer type's range */
} copier;

static fgmm_status create_buffers(copier *copy)
{
    fgmm_status status = FGMM_OK;
    size_t row_bytes = (size_t)copy->dim * sizeof(float);
    copy->piece_rows = PIECE_BYTES / (int64_t)row_bytes + 1;
    size_t n = (size_t)copy->piece_rows * (size_t)copy->dim;
    FGMM_TRY(fgmm__alloc(n, fgmm_dtype_bytes(copy->from), "rows", &copy->in));
    copy->out = copy->in;
    if (copy->from != copy->to) {
        copy->out = NULL;
        FGMM_TRY(fgmm__alloc(n, fgmm_dtype_bytes(copy->to), "rows", &copy->out));
        FGMM_ALLOC(copy->floats, n, "rows");
    }
cleanup:
    return status;
}

static void free_buffers(copier *copy)
{
    if (copy->out != copy->in)
        free(copy->out);
    free(copy->in);
    free(copy->floats);
}

/* Rows [begin, begin+n) by all threads, or the named rows one by one. */
static fgmm_status read_piece(copier *copy, const int64_t *rows, int64_t begin, int64_t n)
{
    fgmm_status status = FGMM_OK;
    size_t row_bytes = (size_t)copy->dim * fgmm_dtype_bytes(copy->from);
    int64_t part = rows ? 1 : PART_ROWS;
#pragma omp parallel for schedule(dynamic)
    for (int64_t at = 0; at < n; at += part) {
        int64_t first = rows ? rows[begin + at] : begin + at,
                end = rows ? first + 1 : begin + (at + part < n ? at + part : n);
        fgmm_status mine =
            fgmm_dataset_read(copy->dataset, first, end, (char *)copy->in + (size_t)at * row_bytes);
        if (mine != FGMM_OK) {
#pragma omp atomic write
            status = mine;
        }
    }
    return status;
}

/* The row's number for messages, of row r of the piece. */
static int64_t number_of(const int64_t *rows, int64_t begin, int64_t r)
{
    return rows ? rows[begin + r] : begin + r;
}

static fgmm_status check_finite(const copier *copy, const int64_t *rows, int64_t begin, int64_t n)
{
    int32_t column;
    int64_t r = fgmm__find_nonfinite(copy->from, copy->in, n, copy->dim, &column);
    if (r < 0)
        return FGMM_OK;
    return fgmm__dataset_check_finite(copy->dataset, number_of(rows, begin, r), 1,
                                      (const char *)copy->in +
                                          (size_t)r * (size_t)copy->dim * fgmm_dtype_bytes(copy->from));
}

static fgmm_status convert_piece(copier *copy, const int64_t *rows, int64_t begin, int64_t n)
{
    int32_t column;
    size_t values = (size_t)n * (size_t)copy->dim;
    if (copy->from == copy->to)
        return FGMM_OK;
    fgmm__to_f32(copy->from, copy->in, values, copy->floats);
    fgmm__from_f32(copy->to, copy->floats, values, copy->out);
    copy->clipped += fgmm__count_clipped(copy->to, copy->floats, values);
    int64_t r = fgmm__find_nonfinite(copy->to, copy->out, n, copy->dim, &column);
    if (r < 0)
        return FGMM_OK;
    int64_t row_in_file;
    const char *file = fgmm__dataset_locate(copy->dataset, number_of(rows, begin, r), &row_in_file);
    return fgmm__fail(FGMM_ERR_INPUT, "%s: row %lld holds %g (column %d), too large for f16; choose f32",
                      file, (long long)row_in_file, (double)copy->floats[r * copy->dim + column], column);
}

static fgmm_status copy_all(copier *copy, fgmm_comm *comm, const int64_t *rows, int64_t count,
                            const char *path)
{
    fgmm_status status = FGMM_OK;
    fgmm_writer *writer = NULL;
    fgmm__progress_begin("writing", "rows", count);
    FGMM_TRY(create_buffers(copy));
    FGMM_TRY(fgmm__writer_open(path, count, copy->dim, copy->to, &writer));
    for (int64_t begin = 0; begin < count; begin += copy->piece_rows) {
        int64_t n = count - begin < copy->piece_rows ? count - begin : copy->piece_rows;
        FGMM_TRY(read_piece(copy, rows, begin, n));
        FGMM_TRY(check_finite(copy, rows, begin, n));
        FGMM_TRY(convert_piece(copy, rows, begin, n));
        FGMM_TRY(fgmm__writer_append(writer, copy->out, n));
        fgmm__progress_add(n);
        status = fgmm__comm_tick(comm);
        if (status == FGMM_STOPPED)
            FGMM_FAIL(FGMM_ERR_RUNTIME, "stopped on request; %s was not written", path);
        FGMM_TRY(status);
    }
    fgmm_writer *whole = writer;
    writer = NULL;
    FGMM_TRY(fgmm__writer_finish(whole));
cleanup:
    fgmm__progress_end();
    fgmm__writer_abandon(writer);
    return status;
}

fgmm_status fgmm__copy_rows(fgmm_comm *comm, const fgmm_dataset *dataset, const int64_t *rows, int64_t count,
                            fgmm_dtype dtype, const char *path)
{
    fgmm_status status = FGMM_OK;
    copier copy = {.dataset = dataset,
                   .dim = fgmm_dataset_dim(dataset),
                   .from = fgmm_dataset_dtype(dataset),
                   .to = dtype};
    if (fgmm_comm_rank(comm) == 0)
        status = copy_all(&copy, comm, rows, rows ? count : fgmm_dataset_rows(dataset), path);
    free_buffers(&copy);
    status = fgmm__comm_agree(comm, status);
    if (status == FGMM_OK && copy.clipped > 0)
        fgmm__warn("%s: %lld values lay outside of %s and were clipped", path, (long long)copy.clipped,
                   fgmm_dtype_name(dtype));
    return status;
}
