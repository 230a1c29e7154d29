/* Benches of the machine itself: products, copies, reductions, reading. */
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include "backend/measure.h"
#include "base/clock.h"
#include "base/status.h"
#include "cmd/bench.h"
#include "data/partition.h"

static void add_rate(fgmm_bench *b, double *seconds, double bytes)
{
    cJSON_AddNumberToObject(b->line, "bytes", bytes);
    double median = fgmm__bench_times(b, seconds);
    cJSON_AddNumberToObject(b->line, "gb_per_s", 1e-9 * bytes / median);
}

fgmm_status fgmm__bench_gemm(fgmm_bench *b)
{
    double tflops = 0;
    fgmm_status status = fgmm__comm_agree(b->comm, fgmm__measure_gemm(b->device, b->threads, &tflops));
    cJSON_AddNumberToObject(b->line, "gemm_tflops", tflops);
    return status;
}

fgmm_status fgmm__bench_copy(fgmm_bench *b)
{
    double seconds[FGMM_BENCH_MAX_REPS];
    fgmm_status status = fgmm__measure_copy(b->device, b->threads, b->bytes, (int)b->reps, seconds);
    FGMM_TRY(fgmm__bench_agree_times(b, status, seconds));
    add_rate(b, seconds, (double)b->bytes);
cleanup:
    return status;
}

/* Returns with the answer checked: what was copied comes back. */
static fgmm_status time_uploads(fgmm_bench *b, double *seconds)
{
    fgmm_status status = FGMM_OK;
    void *host = NULL, *back = NULL, *device = NULL;
    void *stream = fgmm__device_copy_stream(b->device);
    size_t bytes = (size_t)b->bytes;
    FGMM_TRY(fgmm__pinned_alloc(b->device, bytes, "a measured copy", &host));
    FGMM_TRY(fgmm__pinned_alloc(b->device, bytes, "a measured copy", &back));
    FGMM_TRY(fgmm__device_alloc(b->device, bytes, "a measured copy", &device));
    for (size_t i = 0; i < bytes; i++)
        ((unsigned char *)host)[i] = (unsigned char)(i * 31 + i / 4096);
    for (int64_t rep = -FGMM_BENCH_WARM_UPS; rep < b->reps; rep++) {
        double begin = fgmm__seconds();
        FGMM_TRY(fgmm__device_upload(b->device, device, host, bytes, stream));
        FGMM_TRY(fgmm__stream_sync(stream, NULL));
        if (rep >= 0)
            seconds[rep] = fgmm__seconds() - begin;
    }
    FGMM_TRY(fgmm__device_download(b->device, back, device, bytes, stream));
    FGMM_TRY(fgmm__stream_sync(stream, NULL));
    if (memcmp(host, back, bytes) != 0)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "bytes copied to the device and back differ");
cleanup:
    fgmm__device_free(b->device, device);
    fgmm__pinned_free(b->device, back);
    fgmm__pinned_free(b->device, host);
    return status;
}

fgmm_status fgmm__bench_h2d(fgmm_bench *b)
{
    fgmm_status status = FGMM_OK;
    double seconds[FGMM_BENCH_MAX_REPS];
    if (b->device == NULL)
        FGMM_FAIL(FGMM_ERR_INPUT, "bench h2d needs a GPU (--backend cuda)");
    FGMM_TRY(fgmm__bench_agree_times(b, time_uploads(b, seconds), seconds));
    add_rate(b, seconds, (double)b->bytes);
cleanup:
    return status;
}

/* Every word is word number + rank: the sum is known. */
static void fill_words(int64_t *words, int64_t n, int rank)
{
    for (int64_t i = 0; i < n; i++)
        words[i] = i + rank;
}

static fgmm_status check_words(const int64_t *words, int64_t n, int64_t ranks)
{
    for (int64_t i = 0; i < n; i++)
        if (words[i] != ranks * i + ranks * (ranks - 1) / 2)
            return fgmm__fail(FGMM_ERR_RUNTIME, "the sum over ranks is wrong at word %lld", (long long)i);
    return FGMM_OK;
}

fgmm_status fgmm__bench_allreduce(fgmm_bench *b)
{
    fgmm_status status = FGMM_OK;
    double seconds[FGMM_BENCH_MAX_REPS];
    int64_t *words = NULL, n = b->bytes / 8;
    void *on_device = NULL, *stream = b->device == NULL ? NULL : fgmm__device_stream(b->device);
    size_t bytes = (size_t)n * sizeof *words;
    status = fgmm__pinned_alloc(b->device, bytes, "measured sums", (void **)&words);
    if (status == FGMM_OK && b->device != NULL)
        status = fgmm__device_alloc(b->device, bytes, "measured sums", &on_device);
    FGMM_TRY(fgmm__comm_agree(b->comm, status));
    for (int64_t rep = -FGMM_BENCH_WARM_UPS; rep < b->reps; rep++) {
        fill_words(words, n, fgmm_comm_rank(b->comm));
        if (b->device != NULL) {
            FGMM_TRY(fgmm__device_upload(b->device, on_device, words, bytes, stream));
            FGMM_TRY(fgmm__stream_sync(stream, b->comm));
        }
        FGMM_TRY(fgmm__comm_barrier(b->comm));
        double begin = fgmm__seconds();
        FGMM_TRY(b->device != NULL ? fgmm__comm_sum_i64_device(b->comm, on_device, (size_t)n, stream)
                                   : fgmm__comm_sum_i64(b->comm, words, (size_t)n));
        if (rep >= 0)
            seconds[rep] = fgmm__seconds() - begin;
        if (b->device != NULL) {
            FGMM_TRY(fgmm__device_download(b->device, words, on_device, bytes, stream));
            FGMM_TRY(fgmm__stream_sync(stream, b->comm));
        }
        FGMM_TRY(fgmm__comm_agree(b->comm, check_words(words, n, fgmm_comm_size(b->comm))));
    }
    FGMM_TRY(fgmm__comm_max_f64(b->comm, seconds, (size_t)b->reps));
    add_rate(b, seconds, (double)bytes);
cleanup:
    fgmm__device_free(b->device, on_device);
    fgmm__pinned_free(b->device, words);
    return status;
}

/* All rows of this rank, by all threads. */
static fgmm_status read_shard(const fgmm_bench *b, const fgmm_dataset *dataset, char *buffers,
                              int64_t chunk_rows)
{
    int64_t rows = fgmm_dataset_rows(dataset);
    int rank = fgmm_comm_rank(b->comm), size = fgmm_comm_size(b->comm), failed = FGMM_OK;
    int64_t begin = fgmm__partition_begin(rows, rank, size),
            end = fgmm__partition_begin(rows, rank + 1, size);
    size_t row_bytes = (size_t)fgmm_dataset_dim(dataset) * fgmm_dtype_bytes(fgmm_dataset_dtype(dataset));
#pragma omp parallel for num_threads(b->threads) schedule(dynamic, 1)
    for (int64_t first = begin; first < end; first += chunk_rows) {
        int64_t last = first + chunk_rows < end ? first + chunk_rows : end;
        char *to = buffers + (size_t)omp_get_thread_num() * (size_t)chunk_rows * row_bytes;
        fgmm_status status = fgmm_dataset_read(dataset, first, last, to);
        if (status != FGMM_OK) {
#pragma omp atomic write
            failed = status;
        }
    }
    return (fgmm_status)failed;
}

fgmm_status fgmm__bench_read(fgmm_bench *b)
{
    enum { CHUNK_BYTES = 8 << 20 };
    fgmm_status status = FGMM_OK;
    double seconds[FGMM_BENCH_MAX_REPS];
    fgmm_dataset *dataset = NULL;
    char *buffers = NULL;
    if (b->n_data == 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "bench read: name the data to read");
    FGMM_TRY(fgmm__comm_agree(b->comm, fgmm_dataset_open(b->data, b->n_data, NULL, &dataset)));
    size_t row_bytes = (size_t)fgmm_dataset_dim(dataset) * fgmm_dtype_bytes(fgmm_dataset_dtype(dataset));
    int64_t chunk_rows = CHUNK_BYTES / (int64_t)row_bytes + 1;
    status = fgmm__alloc((size_t)b->threads * (size_t)chunk_rows, row_bytes, "buffers", (void **)&buffers);
    FGMM_TRY(fgmm__comm_agree(b->comm, status));
    /* The first reading may come from the disk, the others from the file cache: both are printed. */
    double first_seconds = 0;
    for (int64_t rep = -1; rep < b->reps; rep++) {
        FGMM_TRY(fgmm__comm_barrier(b->comm));
        double begin = fgmm__seconds();
        FGMM_TRY(fgmm__comm_agree(b->comm, read_shard(b, dataset, buffers, chunk_rows)));
        *(rep < 0 ? &first_seconds : &seconds[rep]) = fgmm__seconds() - begin;
    }
    FGMM_TRY(fgmm__comm_max_f64(b->comm, &first_seconds, 1));
    FGMM_TRY(fgmm__comm_max_f64(b->comm, seconds, (size_t)b->reps));
    double rows = (double)fgmm_dataset_rows(dataset), bytes = rows * (double)row_bytes;
    cJSON_AddNumberToObject(b->line, "rows", rows);
    cJSON_AddNumberToObject(b->line, "dim", fgmm_dataset_dim(dataset));
    cJSON_AddStringToObject(b->line, "dtype", fgmm_dtype_name(fgmm_dataset_dtype(dataset)));
    add_rate(b, seconds, bytes);
    cJSON_AddNumberToObject(b->line, "gb_per_s_first", 1e-9 * bytes / first_seconds);
cleanup:
    fgmm_dataset_close(dataset);
    free(buffers);
    return status;
}
