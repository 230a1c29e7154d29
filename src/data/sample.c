#include "data/sample.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "base/philox.h"
#include "base/status.h"
#include "data/dataset.h"
#include "data/partition.h"
#include "io/reader.h"

enum {
    READERS = 8,      /* scattered rows cost a wait each, so more threads than cores */
    BATCH_ROWS = 4096 /* read between two ticks */
};

/* A row that is wanted and its place in the answer. */
typedef struct {
    int64_t row, place;
} wanted;

static int by_row(const void *a, const void *b)
{
    const wanted *x = a, *y = b;
    if (x->row != y->row)
        return x->row < y->row ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

/* The first of `count` sorted rows that is not below `row`. */
static int64_t lower_bound(const wanted *list, int64_t count, int64_t row)
{
    int64_t low = 0, high = count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (list[middle].row < row)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The end of the run of neighbouring rows that begins at list[i]. */
static int64_t run_end(const wanted *list, int64_t count, int64_t i)
{
    int64_t end = i + 1;
    while (end < count && list[end].row == list[end - 1].row + 1)
        end++;
    return end;
}

/* Reads one run of neighbouring rows as floats. */
static fgmm_status read_run(const fgmm_dataset *dataset, int64_t begin, int64_t n, float *out)
{
    fgmm_status status = FGMM_OK;
    void *stored = NULL;
    fgmm_dtype dtype = fgmm_dataset_dtype(dataset);
    size_t values = (size_t)n * (size_t)fgmm_dataset_dim(dataset);
    if (dtype == FGMM_F32)
        return fgmm_dataset_read(dataset, begin, begin + n, out);
    FGMM_TRY(fgmm__alloc(values, fgmm_dtype_bytes(dtype), "sampled rows", &stored));
    FGMM_TRY(fgmm_dataset_read(dataset, begin, begin + n, stored));
    fgmm__to_f32(dtype, stored, values, out);
cleanup:
    free(stored);
    return status;
}

/* Refuses the first row in the list that holds a NaN or an infinity, in the words of the dataset. */
static fgmm_status check_batch(const fgmm_dataset *dataset, const wanted *list, int64_t count,
                               const float *rows)
{
    fgmm_status status = FGMM_OK;
    void *stored = NULL;
    int32_t column;
    int64_t bad = fgmm__find_nonfinite(FGMM_F32, rows, count, fgmm_dataset_dim(dataset), &column);
    if (bad < 0)
        return FGMM_OK;
    size_t row_bytes = (size_t)fgmm_dataset_dim(dataset) * fgmm_dtype_bytes(fgmm_dataset_dtype(dataset));
    FGMM_TRY(fgmm__alloc(1, row_bytes, "a row", &stored));
    FGMM_TRY(fgmm_dataset_read(dataset, list[bad].row, list[bad].row + 1, stored));
    FGMM_TRY(fgmm__dataset_check_finite(dataset, list[bad].row, 1, stored));
cleanup:
    free(stored);
    return status;
}

/* Reads list[0..count) (ascending) into out [count][dim], by several threads. */
static fgmm_status read_batch(const fgmm_dataset *dataset, const wanted *list, int64_t count, float *out)
{
    fgmm_status status = FGMM_OK;
    int32_t dim = fgmm_dataset_dim(dataset);
#pragma omp parallel for schedule(dynamic) num_threads(READERS)
    for (int64_t i = 0; i < count; i++) {
        bool first_of_run = i == 0 || list[i].row != list[i - 1].row + 1;
        if (!first_of_run)
            continue;
        fgmm_status mine = read_run(dataset, list[i].row, run_end(list, count, i) - i, out + i * dim);
        if (mine != FGMM_OK) {
#pragma omp atomic write
            status = mine;
        }
    }
    return status != FGMM_OK ? status : check_batch(dataset, list, count, out);
}

/* Local: this rank's share of the list, into out [count][dim]. */
static fgmm_status read_own(const fgmm_dataset *dataset, fgmm_comm *comm, const wanted *list, int64_t count,
                            float *out)
{
    for (int64_t i = 0; i < count; i += BATCH_ROWS) {
        int64_t n = count - i < BATCH_ROWS ? count - i : BATCH_ROWS;
        fgmm_status status = fgmm__comm_tick(comm);
        if (status == FGMM_OK)
            status = read_batch(dataset, list + i, n, out + i * fgmm_dataset_dim(dataset));
        if (status != FGMM_OK)
            return status;
    }
    return FGMM_OK;
}

static fgmm_status make_list(const fgmm_dataset *dataset, const int64_t *rows, int64_t count, wanted **out)
{
    fgmm_status status = fgmm__alloc((size_t)count, sizeof **out, "the list of sampled rows", (void **)out);
    if (status != FGMM_OK)
        return status;
    for (int64_t i = 0; i < count; i++) {
        if (rows[i] < 0 || rows[i] >= fgmm_dataset_rows(dataset))
            return fgmm__fail(FGMM_ERR_INPUT, "row %" PRId64 " asked for, %s has %" PRId64, rows[i],
                              fgmm_dataset_name(dataset), fgmm_dataset_rows(dataset));
        (*out)[i] = (wanted){rows[i], i};
    }
    qsort(*out, (size_t)count, sizeof **out, by_row);
    return FGMM_OK;
}

fgmm_status fgmm__gather_rows(const fgmm_dataset *dataset, fgmm_comm *comm, const int64_t *rows,
                              int64_t count, float *out)
{
    fgmm_status status = FGMM_OK;
    wanted *list = NULL;
    int64_t *counts = NULL;
    float *own = NULL, *sorted = NULL;
    bool in_order = true;
    int rank = fgmm_comm_rank(comm), size = fgmm_comm_size(comm);
    size_t row_bytes = (size_t)fgmm_dataset_dim(dataset) * sizeof(float);
    int64_t first = 0;

    status = make_list(dataset, rows, count, &list);
    if (status == FGMM_OK)
        status = fgmm__alloc((size_t)size, sizeof *counts, "the list of sampled rows", (void **)&counts);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    for (int64_t i = 0; i < count; i++)
        in_order = in_order && list[i].place == i;
    for (int r = 0; r < size; r++) {
        int64_t begin = lower_bound(list, count, fgmm__partition_begin(fgmm_dataset_rows(dataset), r, size));
        int64_t end =
            lower_bound(list, count, fgmm__partition_begin(fgmm_dataset_rows(dataset), r + 1, size));
        counts[r] = end - begin;
        if (r == rank)
            first = begin;
    }
    status = fgmm__alloc((size_t)counts[rank], row_bytes, "sampled rows", (void **)&own);
    if (status == FGMM_OK && !in_order)
        status = fgmm__alloc((size_t)count, row_bytes, "sampled rows", (void **)&sorted);
    if (status == FGMM_OK)
        status = read_own(dataset, comm, list + first, counts[rank], own);
    if (status != FGMM_OK && status != FGMM_STOPPED)
        fgmm__comm_announce_failure(comm);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_allgatherv(comm, own, counts, row_bytes, in_order ? out : sorted));
    for (int64_t i = 0; !in_order && i < count; i++)
        memcpy((char *)out + (size_t)list[i].place * row_bytes, (char *)sorted + (size_t)i * row_bytes,
               row_bytes);
cleanup:
    free(list);
    free(counts);
    free(own);
    free(sorted);
    return status;
}

/* Row i lies in stratum [i*N/count, (i+1)*N/count). */
int64_t fgmm__sample_row(int64_t n_rows, uint64_t seed, uint32_t purpose, int64_t i, int64_t count)
{
    int64_t begin = (int64_t)((unsigned __int128)i * (uint64_t)n_rows / (uint64_t)count);
    int64_t end = (int64_t)((unsigned __int128)(i + 1) * (uint64_t)n_rows / (uint64_t)count);
    return begin + (int64_t)fgmm__philox_below(seed, purpose, (uint64_t)i, (uint64_t)(end - begin));
}

fgmm_status fgmm__sample_rows(const fgmm_dataset *dataset, fgmm_comm *comm, uint64_t seed, uint32_t purpose,
                              int64_t count, int64_t **rows_out, float **data_out)
{
    fgmm_status status = FGMM_OK;
    int64_t *rows = NULL;
    float *data = NULL;
    int64_t n_rows = fgmm_dataset_rows(dataset);

    if (count < 1 || count > n_rows)
        FGMM_FAIL(FGMM_ERR_INPUT, "a sample of %" PRId64 " rows asked for, %s has %" PRId64, count,
                  fgmm_dataset_name(dataset), n_rows);
    status = fgmm__alloc((size_t)count, sizeof *rows, "the list of sampled rows", (void **)&rows);
    if (status == FGMM_OK && data_out != NULL)
        status = fgmm__alloc((size_t)count, (size_t)fgmm_dataset_dim(dataset) * sizeof *data, "sampled rows",
                             (void **)&data);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    for (int64_t i = 0; i < count; i++)
        rows[i] = fgmm__sample_row(n_rows, seed, purpose, i, count);
    if (data_out != NULL) {
        FGMM_TRY(fgmm__gather_rows(dataset, comm, rows, count, data));
        *data_out = data;
        data = NULL;
    }
    if (rows_out != NULL) {
        *rows_out = rows;
        rows = NULL;
    }
cleanup:
    free(rows);
    free(data);
    return status;
}
