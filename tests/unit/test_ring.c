/* The ring of buffers that reader threads fill. Also the test to run under the thread sanitizer. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "data/ring.h"
#include "support/files.h"
#include "support/rows.h"

enum { ROWS = 5000, DIM = 1500, ROW_BYTES = DIM * 4 }; /* 30 MB: several slices a tile */

static const char *path;
static fgmm_dataset *dataset;
static char *truth;

static int open_data(void **state)
{
    (void)state;
    path = strdup(fgmm_test_path("ring.fbin"));
    fgmm_test_write_bin(path, FGMM_F32, 0, ROWS, DIM);
    truth = calloc(ROWS, ROW_BYTES);
    return fgmm_dataset_open(&path, 1, NULL, &dataset) != FGMM_OK ||
           fgmm_dataset_read(dataset, 0, ROWS, truth) != FGMM_OK;
}

static int close_data(void **state)
{
    (void)state;
    fgmm_dataset_close(dataset);
    free(truth);
    unlink(path);
    free((char *)path);
    return 0;
}

/* Takes the first n tiles of a run, one after another. */
static void take_tiles(fgmm_ring *ring, int64_t begin, int64_t end, int64_t tile_rows, int64_t n, void *into)
{
    fgmm__ring_start(ring, begin, end, into);
    for (int64_t tile = 0; tile < n; tile++) {
        int64_t first = begin + tile * tile_rows, last = first + tile_rows < end ? first + tile_rows : end;
        void *rows = NULL;
        assert_int_equal(fgmm__ring_wait(ring, tile, NULL, &rows), FGMM_OK);
        assert_true(fgmm__ring_ready(ring, tile));
        if (into != NULL)
            assert_ptr_equal(rows, (char *)into + (first - begin) * ROW_BYTES);
        assert_memory_equal(rows, truth + first * ROW_BYTES, (size_t)((last - first) * ROW_BYTES));
        fgmm__ring_release(ring, tile + 1);
    }
}

static void tiles_come_whole_and_in_order(void **state)
{
    (void)state;
    const int64_t tile_rows[] = {1, 70, 1024, 2500, ROWS};
    for (size_t i = 0; i < sizeof tile_rows / sizeof *tile_rows; i++) {
        int64_t size = tile_rows[i], begin = 3, end = size == 1 ? 300 : ROWS;
        fgmm_ring *ring = NULL;
        assert_int_equal(fgmm__ring_create(dataset, NULL, size, true, 4, &ring), FGMM_OK);
        for (int pass = 0; pass < 2; pass++)
            take_tiles(ring, begin, end, size, (end - begin + size - 1) / size, NULL);
        fgmm__ring_destroy(ring);
    }
}

static void rows_can_be_read_straight_to_their_place(void **state)
{
    (void)state;
    fgmm_ring *ring = NULL;
    char *into = calloc(ROWS, ROW_BYTES);
    assert_int_equal(fgmm__ring_create(dataset, NULL, 512, false, 3, &ring), FGMM_OK);
    take_tiles(ring, 0, ROWS, 512, (ROWS + 511) / 512, into);
    assert_memory_equal(into, truth, (size_t)ROWS * ROW_BYTES);
    fgmm__ring_destroy(ring);
    free(into);
}

static void a_tile_is_not_overwritten_before_it_is_released(void **state)
{
    (void)state;
    fgmm_ring *ring = NULL;
    void *rows = NULL, *last = NULL;
    assert_int_equal(fgmm__ring_create(dataset, NULL, 100, true, 4, &ring), FGMM_OK);
    fgmm__ring_start(ring, 0, ROWS, NULL);
    assert_int_equal(fgmm__ring_wait(ring, 0, NULL, &rows), FGMM_OK);
    assert_int_equal(fgmm__ring_wait(ring, FGMM_RING_BUFFERS - 1, NULL, &last), FGMM_OK);
    usleep(20000);
    assert_false(fgmm__ring_ready(ring, FGMM_RING_BUFFERS));
    assert_memory_equal(rows, truth, 100 * ROW_BYTES);
    fgmm__ring_destroy(ring);
}

static void a_run_can_be_left_at_any_tile_and_another_begun(void **state)
{
    (void)state;
    fgmm_ring *ring = NULL;
    assert_int_equal(fgmm__ring_create(dataset, NULL, 600, true, 4, &ring), FGMM_OK);
    for (int64_t n = 0; n <= 9; n++) {
        take_tiles(ring, 0, ROWS, 600, n, NULL);
        if (n % 2 == 0)
            fgmm__ring_stop(ring);
    }
    take_tiles(ring, 1000, ROWS, 600, 7, NULL);
    fgmm__ring_start(ring, 0, ROWS, NULL);
    fgmm__ring_destroy(ring);
}

static void a_file_cut_short_while_it_is_read_is_reported(void **state)
{
    (void)state;
    const char *copy = fgmm_test_path("shrinking.fbin");
    fgmm_dataset *shrinking = NULL;
    fgmm_ring *ring = NULL;
    fgmm_status status = FGMM_OK;
    fgmm_test_write_bin(copy, FGMM_F32, 0, 1000, DIM);
    assert_int_equal(fgmm_dataset_open(&copy, 1, NULL, &shrinking), FGMM_OK);
    assert_int_equal(truncate(copy, 8 + 700 * ROW_BYTES), 0);
    assert_int_equal(fgmm__ring_create(shrinking, NULL, 100, true, 4, &ring), FGMM_OK);
    fgmm__ring_start(ring, 0, 1000, NULL);
    for (int64_t tile = 0; tile < 10 && status == FGMM_OK; tile++) {
        void *rows;
        status = fgmm__ring_wait(ring, tile, NULL, &rows);
        fgmm__ring_release(ring, tile + 1);
    }
    assert_int_equal(status, FGMM_ERR_RUNTIME);
    assert_non_null(strstr(fgmm_error_message(), copy));
    fgmm__ring_destroy(ring);
    fgmm_dataset_close(shrinking);
    unlink(copy);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(tiles_come_whole_and_in_order),
        cmocka_unit_test(rows_can_be_read_straight_to_their_place),
        cmocka_unit_test(a_tile_is_not_overwritten_before_it_is_released),
        cmocka_unit_test(a_run_can_be_left_at_any_tile_and_another_begun),
        cmocka_unit_test(a_file_cut_short_while_it_is_read_is_reported),
    };
    return cmocka_run_group_tests(cases, open_data, close_data);
}
