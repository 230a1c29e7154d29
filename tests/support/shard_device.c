#include "support/shard_device.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/status.h"
#include "data/partition.h"
#include "data/shard.h"
#include "support/files.h"
#include "support/rows.h"

enum { DIM = 24, QUANTA = 40, ROWS = QUANTA * FGMM_QUANTUM - 77 };

static fgmm_comm *comm;
static fgmm_device *device;
static char *path;

/* A failing rank must not leave the others waiting. */
static bool on_all_ranks(bool mine)
{
    int64_t bad = !mine;
    if (!mine)
        print_error("rank %d: failed here; last message: %s\n", fgmm_comm_rank(comm), fgmm_error_message());
    return fgmm__comm_max_i64(comm, &bad, 1) == FGMM_OK && bad == 0;
}

static fgmm_dataset *open_data(fgmm_dtype dtype)
{
    const char *const extensions[] = {"fbin", "f16bin", "u8bin", "i8bin"};
    char name[64];
    fgmm_dataset *dataset = NULL;
    snprintf(name, sizeof name, "device-%d.%s", fgmm_comm_size(comm), extensions[dtype]);
    free(path);
    path = strdup(fgmm_test_path(name));
    if (fgmm_comm_rank(comm) == 0)
        fgmm_test_write_bin(path, dtype, 0, ROWS, DIM);
    fgmm__comm_barrier(comm);
    fgmm_error_clear();
    assert_true(on_all_ranks(fgmm_dataset_open((const char *const *)&path, 1, NULL, &dataset) == FGMM_OK));
    return dataset;
}

static void close_data(fgmm_dataset *dataset)
{
    fgmm_dataset_close(dataset);
    fgmm__comm_barrier(comm);
    if (fgmm_comm_rank(comm) == 0)
        unlink(path);
}

static fgmm_shard *create(const fgmm_dataset *dataset, const fgmm_shard_options *options)
{
    fgmm_shard *shard = NULL;
    fgmm_error_clear();
    assert_true(on_all_ranks(fgmm__shard_create(dataset, comm, device, options, &shard) == FGMM_OK));
    return shard;
}

/* What kernels would see: each tile is copied out by work enqueued on the kernels' stream, and nothing is
 * waited for before the pass is over or left after `most` tiles. */
static bool check_pass(fgmm_shard *shard, const fgmm_dataset *dataset, int64_t most)
{
    size_t row_bytes = DIM * fgmm_dtype_bytes(fgmm_dataset_dtype(dataset));
    int64_t begin = fgmm__shard_begin(shard), end = fgmm__shard_end(shard), row = begin;
    size_t bytes = (size_t)(end - begin) * row_bytes;
    char *truth = malloc(bytes + 1);
    void *seen = NULL;
    fgmm_tile tile;
    bool ok = fgmm_dataset_read(dataset, begin, end, truth) == FGMM_OK;
    ok &= fgmm__pinned_alloc(device, bytes + 1, "rows seen", &seen) == FGMM_OK &&
          fgmm__shard_start(shard) == FGMM_OK;
    for (int64_t n = 0; ok && n < most; n++) {
        ok &= fgmm__shard_next(shard, &tile) == FGMM_OK;
        if (!ok || tile.rows == 0)
            break;
        ok &= tile.begin == row && (tile.rows % FGMM_QUANTUM == 0 || row + tile.rows == ROWS) &&
              row + tile.rows <= end;
        ok = ok &&
             fgmm__device_download(device, (char *)seen + (size_t)(row - begin) * row_bytes, tile.data,
                                   (size_t)tile.rows * row_bytes, fgmm__device_stream(device)) == FGMM_OK;
        row += tile.rows;
    }
    ok &= most < INT64_MAX || row == end;
    ok &= fgmm__stream_sync(fgmm__device_stream(device), comm) == FGMM_OK;
    ok = ok && memcmp(seen, truth, (size_t)(row - begin) * row_bytes) == 0;
    fgmm__pinned_free(device, seen);
    free(truth);
    return ok;
}

static bool check_host_pass(fgmm_shard *shard, const fgmm_dataset *dataset)
{
    size_t row_bytes = DIM * fgmm_dtype_bytes(fgmm_dataset_dtype(dataset));
    int64_t begin = fgmm__shard_begin(shard), end = fgmm__shard_end(shard), row = begin;
    char *truth = malloc((size_t)(end - begin) * row_bytes + 1);
    bool ok =
        fgmm_dataset_read(dataset, begin, end, truth) == FGMM_OK && fgmm__shard_start_host(shard) == FGMM_OK;
    fgmm_tile tile;
    while (ok) {
        ok &= fgmm__shard_next(shard, &tile) == FGMM_OK;
        if (!ok || tile.rows == 0)
            break;
        ok &= tile.begin == row && row + tile.rows <= end;
        ok = ok &&
             memcmp(tile.data, truth + (size_t)(row - begin) * row_bytes, (size_t)tile.rows * row_bytes) == 0;
        row += tile.rows;
    }
    free(truth);
    return ok && row == end;
}

/* Sizes in quanta of the largest shard; 0: none given. */
typedef struct {
    fgmm_residency residency;
    int64_t device_quanta, host_quanta, tile_rows;
    bool device, host, stream; /* where rows are expected to live; none: not looked at */
} way;

static void rows_reach_the_kernels_whole_from_wherever_they_live(void **state)
{
    (void)state;
    int64_t shard_quanta = (QUANTA + fgmm_comm_size(comm) - 1) / fgmm_comm_size(comm);
    const way ways[] = {
        {FGMM_RESIDENCY_AUTO, 0, 0, 0, true, false, false},
        {FGMM_RESIDENCY_DEVICE, 0, 0, 1024, true, false, false},
        {FGMM_RESIDENCY_DEVICE, shard_quanta, 4, 0, true, false, false},
        {FGMM_RESIDENCY_HOST, 2, shard_quanta, 0, false, true, false},
        {FGMM_RESIDENCY_HOST, 0, 0, 3000, false, true, false},
        {FGMM_RESIDENCY_STREAM, 0, 0, 0, false, false, true},
        {FGMM_RESIDENCY_STREAM, 2, 4, 0, false, false, true},
        {FGMM_RESIDENCY_STREAM, 6, 12, 2500, false, false, true},
        {FGMM_RESIDENCY_AUTO, 5, shard_quanta + 4, 1024, true, true, false},
        {FGMM_RESIDENCY_AUTO, 2, 4, 1024, false, false, true},
        {FGMM_RESIDENCY_AUTO, 5, 4, 1024, true, false, true},
        {FGMM_RESIDENCY_AUTO, 5, 6, 1024, true, true, true},
        {FGMM_RESIDENCY_AUTO, 7, 8, 0, true, true, true},
    };
    for (int dtype = FGMM_F32; dtype <= FGMM_U8; dtype += 2) {
        fgmm_dataset *dataset = open_data((fgmm_dtype)dtype);
        int64_t quantum = (int64_t)FGMM_QUANTUM * DIM * (int64_t)fgmm_dtype_bytes((fgmm_dtype)dtype);
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            fgmm_shard_options options = {.residency = ways[w].residency,
                                          .device_memory_bytes = ways[w].device_quanta * quantum,
                                          .host_memory_bytes = ways[w].host_quanta * quantum,
                                          .tile_rows = ways[w].tile_rows};
            double min[DIM], max[DIM];
            fgmm_shard *shard = create(dataset, &options);
            const char *where = fgmm__shard_where(shard);
            bool ok = fgmm__shard_load(shard, min, max) == FGMM_OK && min[0] < max[0];
            ok &= (strstr(where, "device") != NULL) == ways[w].device &&
                  (strstr(where, "host") != NULL) == ways[w].host &&
                  (strstr(where, "stream") != NULL) == ways[w].stream;
            if (!ok)
                print_error("way %zu: %s\n", w, where);
            for (int pass = 0; pass < 4; pass++)
                ok = ok &&
                     (pass == 2 ? check_host_pass(shard, dataset) : check_pass(shard, dataset, INT64_MAX));
            ok &= options.host_memory_bytes == 0 ||
                  fgmm__shard_peak_host_bytes(shard) <= options.host_memory_bytes;
            assert_true(on_all_ranks(ok));
            fgmm__shard_destroy(shard);
        }
        close_data(dataset);
    }
}

/* The first case: the peak is of all memory ever taken. */
static void a_cap_holds_for_all_device_memory_taken(void **state)
{
    (void)state;
    fgmm_dataset *dataset = open_data(FGMM_F32);
    const fgmm_residency residencies[] = {FGMM_RESIDENCY_STREAM, FGMM_RESIDENCY_HOST, FGMM_RESIDENCY_AUTO};
    fgmm_shard_options options = {.device_memory_bytes = 5 * (int64_t)FGMM_QUANTUM * DIM * 4};
    for (int i = 0; i < 3; i++) {
        options.residency = residencies[i];
        fgmm_shard *shard = create(dataset, &options);
        bool ok = fgmm__shard_load(shard, NULL, NULL) == FGMM_OK && check_pass(shard, dataset, INT64_MAX);
        int64_t peak = fgmm__device_peak_bytes(device);
        assert_true(on_all_ranks(ok && peak > 0 && peak <= options.device_memory_bytes));
        fgmm__shard_destroy(shard);
    }
    close_data(dataset);
}

static void passes_on_a_device_may_be_left_at_any_tile(void **state)
{
    (void)state;
    fgmm_dataset *dataset = open_data(FGMM_F32);
    int64_t quantum = (int64_t)FGMM_QUANTUM * DIM * 4;
    for (int residency = FGMM_RESIDENCY_AUTO; residency <= FGMM_RESIDENCY_STREAM; residency++) {
        fgmm_shard_options options = {.residency = (fgmm_residency)residency, .tile_rows = 1024};
        if (residency == FGMM_RESIDENCY_AUTO) {
            options.device_memory_bytes = 5 * quantum;
            options.host_memory_bytes = 6 * quantum;
        }
        fgmm_shard *shard = create(dataset, &options);
        bool ok = fgmm__shard_load(shard, NULL, NULL) == FGMM_OK;
        for (int64_t tiles = 0; tiles < 10; tiles++)
            ok = ok && check_pass(shard, dataset, tiles);
        ok = ok && check_host_pass(shard, dataset) && check_pass(shard, dataset, INT64_MAX) &&
             check_pass(shard, dataset, 4);
        assert_true(on_all_ranks(ok));
        fgmm__shard_destroy(shard);
    }
    close_data(dataset);
}

static void a_nan_ends_the_load_of_a_device_shard(void **state)
{
    (void)state;
    fgmm_dataset *dataset = open_data(FGMM_F32);
    if (fgmm_comm_rank(comm) == 0)
        fgmm_test_poke_bin(path, FGMM_F32, DIM, ROWS - 5000, 7, NAN);
    fgmm__comm_barrier(comm);
    for (int residency = FGMM_RESIDENCY_DEVICE; residency <= FGMM_RESIDENCY_STREAM; residency++) {
        fgmm_shard *shard =
            create(dataset, &(fgmm_shard_options){.residency = (fgmm_residency)residency, .tile_rows = 1024});
        char expected[2048];
        snprintf(expected, sizeof expected, "%s: row %d holds a NaN (column 7)", path, ROWS - 5000);
        bool ok = fgmm__shard_load(shard, NULL, NULL) == FGMM_ERR_INPUT;
        ok &= strcmp(fgmm_error_message(), expected) == 0;
        assert_true(on_all_ranks(ok));
        fgmm__shard_destroy(shard);
    }
    close_data(dataset);
}

static void device_memory_that_does_not_suffice_is_told(void **state)
{
    (void)state;
    fgmm_dataset *dataset = open_data(FGMM_U8);
    for (int residency = FGMM_RESIDENCY_DEVICE; residency <= FGMM_RESIDENCY_STREAM; residency++) {
        fgmm_shard *shard = NULL;
        fgmm_shard_options options = {.residency = (fgmm_residency)residency,
                                      .device_memory_bytes = FGMM_QUANTUM * DIM};
        fgmm_error_clear();
        bool ok =
            fgmm__shard_create(dataset, comm, device, &options, &shard) == FGMM_ERR_INPUT && shard == NULL;
        ok &= strstr(fgmm_error_message(), "of device memory a rank") != NULL;
        assert_true(on_all_ranks(ok));
    }
    close_data(dataset);
}

int fgmm_test_shard_on_device(fgmm_comm *ranks, fgmm_device *on)
{
    comm = ranks;
    device = on;
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(a_cap_holds_for_all_device_memory_taken),
        cmocka_unit_test(rows_reach_the_kernels_whole_from_wherever_they_live),
        cmocka_unit_test(passes_on_a_device_may_be_left_at_any_tile),
        cmocka_unit_test(a_nan_ends_the_load_of_a_device_shard),
        cmocka_unit_test(device_memory_that_does_not_suffice_is_told),
    };
    int failed = cmocka_run_group_tests(cases, NULL, NULL);
    free(path);
    path = NULL;
    return failed;
}
