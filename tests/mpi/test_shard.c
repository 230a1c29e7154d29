/* Shards at 1 to 4 ranks on the CPU backend: whatever their residency and tiles, passes bring every row once
 * and in order. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/status.h"
#include "base/stop.h"
#include "data/partition.h"
#include "data/shard.h"
#include "support/files.h"
#include "support/rows.h"
#include "support/ranks.h"

enum { DIM = 19, FIRST_ROWS = 7001, SECOND_ROWS = 5300, ROWS = FIRST_ROWS + SECOND_ROWS };

static char *paths[2]; /* FIRST_ROWS and SECOND_ROWS rows */

static void write_data(fgmm_dtype dtype)
{
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0) {
        fgmm_test_write_bin(paths[0], dtype, 0, FIRST_ROWS, DIM);
        fgmm_test_write_bin(paths[1], dtype, FIRST_ROWS, SECOND_ROWS, DIM);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

static const char *const extensions[] = {"fbin", "f16bin", "u8bin", "i8bin"};

static fgmm_dataset *open_data(fgmm_dtype dtype)
{
    fgmm_dataset *dataset = NULL;
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "shard-%d-%d.%s", size, i, extensions[dtype]);
        free(paths[i]);
        paths[i] = strdup(fgmm_test_path(name));
    }
    write_data(dtype);
    fgmm_error_clear();
    fgmm_status status = fgmm_dataset_open((const char *const *)paths, 2, NULL, &dataset);
    assert_true(on_all_ranks(status == FGMM_OK));
    return dataset;
}

static void close_data(fgmm_dataset *dataset)
{
    fgmm_dataset_close(dataset);
    MPI_Barrier(MPI_COMM_WORLD);
    for (int i = 0; rank == 0 && i < 2; i++)
        unlink(paths[i]);
}

static fgmm_shard *create(const fgmm_dataset *dataset, const fgmm_shard_options *options)
{
    fgmm_shard *shard = NULL;
    fgmm_error_clear();
    assert_true(on_all_ranks(fgmm__shard_create(dataset, comm, NULL, options, &shard) == FGMM_OK));
    return shard;
}

/* One pass, left after `most` tiles; true when each tile continues the one before, is of whole quanta, and
 * equals what the dataset reads. */
static bool check_pass(fgmm_shard *shard, const fgmm_dataset *dataset, bool host, int64_t tile_rows,
                       int64_t most)
{
    size_t row_bytes = DIM * fgmm_dtype_bytes(fgmm_dataset_dtype(dataset));
    int64_t row = fgmm__shard_begin(shard), end = fgmm__shard_end(shard);
    char *truth = malloc((size_t)(end - row + 1) * row_bytes);
    bool ok = fgmm_dataset_read(dataset, row, end, truth) == FGMM_OK;
    ok &= (host ? fgmm__shard_start_host(shard) : fgmm__shard_start(shard)) == FGMM_OK;
    for (int64_t n = 0; ok && n < most; n++) {
        fgmm_tile tile;
        ok &= fgmm__shard_next(shard, &tile) == FGMM_OK;
        if (!ok || tile.rows == 0)
            break;
        ok &= tile.begin == row && tile.begin % FGMM_QUANTUM == 0 && tile.begin + tile.rows <= end;
        ok &= tile.rows % FGMM_QUANTUM == 0 || tile.begin + tile.rows == ROWS;
        ok &= tile_rows == 0 || tile.rows <= tile_rows;
        ok &= tile.dim == DIM && tile.dtype == fgmm_dataset_dtype(dataset);
        ok &= memcmp(tile.data, truth + (size_t)(row - fgmm__shard_begin(shard)) * row_bytes,
                     (size_t)tile.rows * row_bytes) == 0;
        row += tile.rows;
    }
    free(truth);
    return ok && (most < INT64_MAX || row == end);
}

/* The range of each dimension as the test values have it. */
static bool check_range(fgmm_dtype dtype, const double *min, const double *max)
{
    bool ok = true;
    for (int32_t j = 0; j < DIM; j++) {
        double low = INFINITY, high = -INFINITY;
        for (int64_t i = 0; i < ROWS; i++) {
            low = fmin(low, fgmm_test_value(dtype, i, j));
            high = fmax(high, fgmm_test_value(dtype, i, j));
        }
        ok &= min[j] == low && max[j] == high;
    }
    return ok;
}

static void the_ranks_share_all_rows(void **state)
{
    (void)state;
    fgmm_dataset *dataset = open_data(FGMM_F32);
    fgmm_shard *shard = create(dataset, &(fgmm_shard_options){0});
    int64_t begin = fgmm__shard_begin(shard), end = fgmm__shard_end(shard), sum = end - begin, all;
    MPI_Allreduce(&sum, &all, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    assert_true(on_all_ranks(all == ROWS && end > begin && begin == fgmm__partition_begin(ROWS, rank, size)));
    fgmm__shard_destroy(shard);
    close_data(dataset);
}

/* The smallest memory that holds a ring of one-quantum tiles, and then some. */
static int64_t ring_bytes(fgmm_dtype dtype)
{
    return 4 * FGMM_QUANTUM * DIM * (int64_t)fgmm_dtype_bytes(dtype);
}

static void every_residency_and_tile_size_brings_the_same_rows(void **state)
{
    (void)state;
    for (int dtype = FGMM_F32; dtype <= FGMM_I8; dtype++) {
        fgmm_dataset *dataset = open_data((fgmm_dtype)dtype);
        int64_t quantum = ring_bytes((fgmm_dtype)dtype) / 4;
        /* The last: memory for the ring and one quantum of rows, so that part is resident and part is not. */
        const struct {
            fgmm_residency residency;
            int64_t host_bytes, tile_rows;
        } ways[] = {{FGMM_RESIDENCY_HOST, 0, 0},
                    {FGMM_RESIDENCY_HOST, 0, 1024},
                    {FGMM_RESIDENCY_DEVICE, 0, 3000},
                    {FGMM_RESIDENCY_STREAM, 0, 0},
                    {FGMM_RESIDENCY_STREAM, 0, 1},
                    {FGMM_RESIDENCY_STREAM, 4 * quantum, 0},
                    {FGMM_RESIDENCY_STREAM, 0, 2048},
                    {FGMM_RESIDENCY_AUTO, 0, 0},
                    {FGMM_RESIDENCY_AUTO, 5 * quantum, 1024}};
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            fgmm_shard_options options = {.residency = ways[w].residency,
                                          .host_memory_bytes = ways[w].host_bytes,
                                          .tile_rows = ways[w].tile_rows};
            int64_t tile_rows = (ways[w].tile_rows + FGMM_QUANTUM - 1) / FGMM_QUANTUM * FGMM_QUANTUM;
            double min[DIM], max[DIM];
            fgmm_shard *shard = create(dataset, &options);
            bool ok =
                fgmm__shard_load(shard, min, max) == FGMM_OK && check_range((fgmm_dtype)dtype, min, max);
            for (int pass = 0; pass < 3; pass++)
                ok &= check_pass(shard, dataset, pass == 1, tile_rows, INT64_MAX);
            if (ways[w].host_bytes > 0)
                ok &= fgmm__shard_peak_host_bytes(shard) <= ways[w].host_bytes;
            const char *expected = w < 3 || w == 7 ? "host" : w < 7 ? "stream" : NULL;
            if (expected != NULL)
                ok &= strcmp(fgmm__shard_where(shard), expected) == 0;
            else if (size < 3) /* at more ranks the shard fits */
                ok &= strstr(fgmm__shard_where(shard), "host ") != NULL &&
                      strstr(fgmm__shard_where(shard), "stream ") != NULL;
            assert_true(on_all_ranks(ok));
            fgmm__shard_destroy(shard);
        }
        close_data(dataset);
    }
}

static void the_weakest_rank_decides(void **state)
{
    (void)state;
    fgmm_dataset *dataset = open_data(FGMM_F32);
    fgmm_shard_options options = {
        .host_memory_bytes = rank == size - 1 ? ring_bytes(FGMM_F32) : (int64_t)1 << 30, .tile_rows = 1024};
    fgmm_shard *shard = create(dataset, &options);
    assert_true(on_all_ranks(strcmp(fgmm__shard_where(shard), size < 4 ? "stream" : "host") == 0));
    fgmm__shard_destroy(shard);
    close_data(dataset);
}

static void a_forced_residency_that_does_not_fit_is_refused_alike(void **state)
{
    (void)state;
    fgmm_dataset *dataset = open_data(FGMM_F32);
    fgmm_shard *shard = NULL;
    fgmm_shard_options options = {.residency = FGMM_RESIDENCY_HOST,
                                  .host_memory_bytes = rank == 0 ? 5000 : (int64_t)1 << 30};
    fgmm_error_clear();
    bool ok = fgmm__shard_create(dataset, comm, NULL, &options, &shard) == FGMM_ERR_INPUT && shard == NULL;
    ok &= strstr(fgmm_error_message(), "host needs") != NULL &&
          strstr(fgmm_error_message(), " 5000 are allowed") != NULL;
    assert_true(on_all_ranks(ok));
    close_data(dataset);
}

static void a_pass_may_be_left_at_any_tile(void **state)
{
    (void)state;
    fgmm_dataset *dataset = open_data(FGMM_F32);
    for (int residency = FGMM_RESIDENCY_HOST; residency <= FGMM_RESIDENCY_STREAM; residency++) {
        fgmm_shard *shard =
            create(dataset, &(fgmm_shard_options){.residency = (fgmm_residency)residency, .tile_rows = 1024});
        bool ok = fgmm__shard_load(shard, NULL, NULL) == FGMM_OK;
        for (int64_t tiles = 0; tiles < 6; tiles++)
            ok &= check_pass(shard, dataset, tiles % 2 == 1, 1024, tiles);
        ok &= check_pass(shard, dataset, false, 1024, INT64_MAX);
        ok &= check_pass(shard, dataset, false, 1024, 2);
        assert_true(on_all_ranks(ok));
        fgmm__shard_destroy(shard);
    }
    close_data(dataset);
}

static void a_value_that_is_not_finite_is_named_alike_on_all_ranks(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int dtype = FGMM_F32; dtype <= FGMM_F16; dtype++)
        for (int residency = FGMM_RESIDENCY_HOST; residency <= FGMM_RESIDENCY_STREAM; residency++)
            for (int b = 0; b < 3; b++) {
                fgmm_dataset *dataset = open_data((fgmm_dtype)dtype);
                if (rank == 0)
                    fgmm_test_poke_bin(paths[1], (fgmm_dtype)dtype, DIM, SECOND_ROWS - 3, 5, bad[b]);
                MPI_Barrier(MPI_COMM_WORLD);
                fgmm_shard *shard =
                    create(dataset,
                           &(fgmm_shard_options){.residency = (fgmm_residency)residency, .tile_rows = 1024});
                char expected[2048];
                snprintf(expected, sizeof expected,
                         "%s: row %d holds %s (column 5; row %d of the data as a whole)", paths[1],
                         SECOND_ROWS - 3, b == 0 ? "a NaN" : "an infinity", ROWS - 3);
                bool ok = fgmm__shard_load(shard, NULL, NULL) == FGMM_ERR_INPUT;
                ok &= strcmp(fgmm_error_message(), expected) == 0;
                assert_true(on_all_ranks(ok));
                fgmm__shard_destroy(shard);
                close_data(dataset);
            }
}

/* Reads the rest of a pass; the ranks agree on what came of it. */
static fgmm_status read_all(fgmm_shard *shard)
{
    fgmm_tile tile;
    fgmm_status status = fgmm__shard_start(shard);
    do
        status = status != FGMM_OK ? status : fgmm__shard_next(shard, &tile);
    while (status == FGMM_OK && tile.rows > 0);
    return fgmm__comm_agree(comm, status);
}

static void streamed_rows_are_looked_at_by_the_first_pass_where_none_did_before(void **state)
{
    (void)state;
    for (int residency = FGMM_RESIDENCY_HOST; residency <= FGMM_RESIDENCY_STREAM; residency++) {
        bool streamed = residency == FGMM_RESIDENCY_STREAM;
        fgmm_dataset *dataset = open_data(FGMM_F32);
        fgmm_shard_options options = {.residency = (fgmm_residency)residency, .tile_rows = 1024};
        fgmm_shard *sound = create(dataset, &options);
        bool ok = fgmm__shard_load_resident(sound) == FGMM_OK && read_all(sound) == FGMM_OK;
        ok &= check_pass(sound, dataset, true, 1024, INT64_MAX);
        assert_true(on_all_ranks(ok));
        fgmm__shard_destroy(sound);
        if (rank == 0)
            fgmm_test_poke_bin(paths[1], FGMM_F32, DIM, SECOND_ROWS - 3, 5, NAN);
        MPI_Barrier(MPI_COMM_WORLD);
        fgmm_shard *bad = create(dataset, &options);
        ok = fgmm__shard_load_resident(bad) == (streamed ? FGMM_OK : FGMM_ERR_INPUT);
        ok &= !streamed || read_all(bad) == FGMM_ERR_INPUT;
        ok &= strstr(fgmm_error_message(), "holds a NaN (column 5;") != NULL;
        assert_true(on_all_ranks(ok));
        fgmm__shard_destroy(bad);
        close_data(dataset);
    }
}

static void a_pass_may_begin_at_any_quantum(void **state)
{
    (void)state;
    fgmm_dataset *dataset = open_data(FGMM_F32);
    int64_t quantum = ring_bytes(FGMM_F32) / 4;
    const fgmm_shard_options ways[] = {
        {.residency = FGMM_RESIDENCY_HOST, .tile_rows = 1024},
        {.residency = FGMM_RESIDENCY_STREAM, .tile_rows = 2048},
        {.residency = FGMM_RESIDENCY_AUTO, .host_memory_bytes = 5 * quantum, .tile_rows = 1024}};
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        fgmm_shard *shard = create(dataset, &ways[w]);
        bool ok = fgmm__shard_load(shard, NULL, NULL) == FGMM_OK;
        int64_t end = fgmm__shard_end(shard);
        for (int64_t from = fgmm__shard_begin(shard); ok && from < end; from += FGMM_QUANTUM) {
            fgmm_tile tile = {.rows = 1};
            int64_t row = from;
            float first[DIM];
            ok &= fgmm__shard_start_at(shard, from) == FGMM_OK;
            for (; ok && tile.rows > 0; row += tile.rows) {
                ok &= fgmm__shard_next(shard, &tile) == FGMM_OK && tile.begin == row;
                ok &= tile.rows == 0 || (fgmm_dataset_read(dataset, row, row + 1, first) == FGMM_OK &&
                                         memcmp(first, tile.data, sizeof first) == 0);
            }
            ok &= row == end;
        }
        assert_true(on_all_ranks(ok));
        fgmm__shard_destroy(shard);
    }
    close_data(dataset);
}

static void more_ranks_than_quanta_leave_some_without_rows(void **state)
{
    (void)state;
    fgmm_dataset *dataset = NULL;
    const char *source = "synth:n=1500,d=19,k=3,seed=1,dtype=f32";
    double min[DIM], max[DIM];
    assert_true(on_all_ranks(fgmm_dataset_open(&source, 1, NULL, &dataset) == FGMM_OK));
    fgmm_shard *shard = create(dataset, &(fgmm_shard_options){.residency = FGMM_RESIDENCY_STREAM});
    bool ok = fgmm__shard_load(shard, min, max) == FGMM_OK && isfinite(min[0]) && min[0] < max[0];
    fgmm_tile tile = {.rows = -1};
    int64_t rows = 0, all;
    ok &= fgmm__shard_start(shard) == FGMM_OK;
    for (int n = 0; n < 3 && ok; n++, rows += tile.rows)
        ok &= fgmm__shard_next(shard, &tile) == FGMM_OK;
    MPI_Allreduce(&rows, &all, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    assert_true(on_all_ranks(ok && tile.rows == 0 && all == 1500));
    fgmm__shard_destroy(shard);
    fgmm_dataset_close(dataset);
}

/* The flag cannot be taken back: the last case. */
static void a_stop_ends_load_and_passes(void **state)
{
    (void)state;
    fgmm_dataset *dataset = open_data(FGMM_F32);
    fgmm_shard_options options = {.residency = FGMM_RESIDENCY_STREAM, .tile_rows = 1024};
    fgmm_shard *loaded = create(dataset, &options), *fresh = create(dataset, &options);
    fgmm_tile tile;
    bool ok = fgmm__shard_load(loaded, NULL, NULL) == FGMM_OK;
    ok &= fgmm__shard_start(loaded) == FGMM_OK && fgmm__shard_next(loaded, &tile) == FGMM_OK && tile.rows > 0;
    assert_true(on_all_ranks(ok));
    if (rank == size - 1)
        fgmm__stop_request();
    double until = MPI_Wtime() + 10;
    fgmm_status status = FGMM_OK;
    while (status == FGMM_OK && MPI_Wtime() < until) { /* pass after pass, until the word has come round */
        status = fgmm__shard_next(loaded, &tile);
        if (status == FGMM_OK && tile.rows == 0)
            status = fgmm__shard_start(loaded);
    }
    ok = status == FGMM_STOPPED;
    assert_true(on_all_ranks(ok));
    ok &= fgmm__shard_load(fresh, NULL, NULL) == FGMM_STOPPED;
    assert_true(on_all_ranks(ok));
    fgmm__shard_destroy(loaded);
    fgmm__shard_destroy(fresh);
    close_data(dataset);
}

int main(int argc, char **argv)
{
    fgmm_test_ranks_start(&argc, &argv);
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(the_ranks_share_all_rows),
        cmocka_unit_test(every_residency_and_tile_size_brings_the_same_rows),
        cmocka_unit_test(the_weakest_rank_decides),
        cmocka_unit_test(a_forced_residency_that_does_not_fit_is_refused_alike),
        cmocka_unit_test(a_pass_may_be_left_at_any_tile),
        cmocka_unit_test(a_value_that_is_not_finite_is_named_alike_on_all_ranks),
        cmocka_unit_test(streamed_rows_are_looked_at_by_the_first_pass_where_none_did_before),
        cmocka_unit_test(a_pass_may_begin_at_any_quantum),
        cmocka_unit_test(more_ranks_than_quanta_leave_some_without_rows),
        cmocka_unit_test(a_stop_ends_load_and_passes),
    };
    int failed = cmocka_run_group_tests(cases, NULL, NULL);
    free(paths[0]);
    free(paths[1]);
    return fgmm_test_ranks_end(failed);
}
