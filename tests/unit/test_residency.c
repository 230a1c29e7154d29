/* Where a shard will live, from its size and the caps alone. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "data/partition.h"
#include "data/residency.h"

enum { ROW_BYTES = 512 };
static const int64_t quantum_bytes = (int64_t)FGMM_QUANTUM * ROW_BYTES; /* half a MiB */
static const int64_t mib = 1 << 20;

static fgmm_layout_request request_of(fgmm_residency residency, bool has_device, int64_t quanta)
{
    return (fgmm_layout_request){
        .residency = residency,
        .has_device = has_device,
        .rows = quanta * FGMM_QUANTUM,
        .row_bytes = ROW_BYTES,
        .host_bytes = (int64_t)1 << 40,
        .device_bytes = has_device ? (int64_t)1 << 40 : 0,
    };
}

static fgmm_layout decide(const fgmm_layout_request *request)
{
    fgmm_layout layout;
    fgmm_error_clear();
    if (fgmm__layout_decide(request, &layout) != FGMM_OK)
        fail_msg("%s", fgmm_error_message());
    return layout;
}

static void assert_where(const fgmm_layout *layout, const char *expected)
{
    char text[64];
    fgmm__layout_describe(layout, text, sizeof text);
    assert_string_equal(text, expected);
}

/* What a layout takes, by the header's own words. */
static int64_t host_bytes(const fgmm_layout *l)
{
    return (l->host_rows + (l->ring ? FGMM_RING_BUFFERS * l->tile_rows : 0)) * ROW_BYTES;
}

static int64_t device_bytes(const fgmm_layout *l)
{
    return (l->device_rows + (l->device_ring ? FGMM_DEVICE_BUFFERS * l->tile_rows : 0)) * ROW_BYTES;
}

static void every_layout_keeps_to_its_caps_or_is_refused(void **state)
{
    (void)state;
    int kept = 0, refused = 0, mixed = 0;
    for (int residency = FGMM_RESIDENCY_AUTO; residency <= FGMM_RESIDENCY_STREAM; residency++)
        for (int has_device = 0; has_device <= 1; has_device++)
            for (int64_t quanta = 1; quanta <= 10000; quanta = 3 * quanta + 1)
                for (int64_t host = mib / 2; host <= 4096 * mib; host = host * 5 / 3)
                    for (int64_t device = mib / 2; device <= (has_device ? 4096 * mib : mib / 2);
                         device = device * 7 / 3)
                        for (int64_t tile = 0; tile <= 5000; tile = 50 * tile + 100) {
                            fgmm_layout_request r = request_of((fgmm_residency)residency, has_device, quanta);
                            fgmm_layout l;
                            r.rows -= 17;
                            r.tile_rows = tile;
                            r.host_bytes = host;
                            r.device_bytes = device;
                            r.host_taken = has_device ? 0 : 12345;
                            r.device_taken = has_device ? 23456 : 0;
                            fgmm_error_clear();
                            fgmm_status status = fgmm__layout_decide(&r, &l);
                            refused += status == FGMM_ERR_INPUT;
                            if (status == FGMM_ERR_INPUT)
                                continue;
                            kept++;
                            assert_int_equal(status, FGMM_OK);
                            assert_int_equal(l.device_rows + l.host_rows + l.stream_rows, r.rows);
                            assert_true(host_bytes(&l) + r.host_taken <= r.host_bytes);
                            assert_true(!has_device || device_bytes(&l) + r.device_taken <= r.device_bytes);
                            assert_true(l.tile_rows > 0 && l.tile_rows % FGMM_QUANTUM == 0);
                            assert_true(l.view_rows > 0 && l.view_rows % FGMM_QUANTUM == 0);
                            bool tail = l.host_rows + l.stream_rows > 0;
                            assert_true(l.device_rows % FGMM_QUANTUM == 0 || !tail);
                            assert_true((l.device_rows + l.host_rows) % FGMM_QUANTUM == 0 ||
                                        l.stream_rows == 0);
                            mixed += (l.device_rows > 0) + (l.host_rows > 0) + (l.stream_rows > 0) > 1;
                        }
    assert_true(kept > 100 && refused > 100 && mixed > 100);
}

static void without_caps_a_shard_is_resident(void **state)
{
    (void)state;
    fgmm_layout_request cpu = request_of(FGMM_RESIDENCY_AUTO, false, 1000),
                        gpu = request_of(FGMM_RESIDENCY_AUTO, true, 1000);
    fgmm_layout layout = decide(&cpu);
    assert_where(&layout, "host");
    assert_false(layout.ring);
    layout = decide(&gpu);
    assert_where(&layout, "device");
    assert_true(layout.ring && !layout.device_ring);
}

static void forced_residencies_are_pure(void **state)
{
    (void)state;
    const char *cpu[] = {"host", "host", "host", "stream"}, *gpu[] = {"device", "device", "host", "stream"};
    for (int residency = FGMM_RESIDENCY_AUTO; residency <= FGMM_RESIDENCY_STREAM; residency++) {
        fgmm_layout_request r = request_of((fgmm_residency)residency, false, 100);
        fgmm_layout layout = decide(&r);
        assert_where(&layout, cpu[residency]);
        r = request_of((fgmm_residency)residency, true, 100);
        layout = decide(&r);
        assert_where(&layout, gpu[residency]);
    }
}

static void what_does_not_fit_spills_to_the_next_kind(void **state)
{
    (void)state;
    fgmm_layout_request r = request_of(FGMM_RESIDENCY_AUTO, false, 1000); /* 500 MiB */
    r.host_bytes = 264 * mib;
    fgmm_layout layout = decide(&r);
    assert_where(&layout, "host 40 %, stream 60 %"); /* 264 MiB less four tiles of 16 MiB */
    r = request_of(FGMM_RESIDENCY_AUTO, true, 1000);
    r.device_bytes = 428 * mib;
    layout = decide(&r);
    assert_where(&layout, "device 64 %, host 36 %"); /* a quarter of the 428 MiB goes to tiles */
    r.host_bytes = 60 * mib;
    layout = decide(&r);
    assert_where(&layout, "device 84 %, host 9 %, stream 7 %");
}

static void a_forced_residency_that_does_not_fit_tells_both_sizes(void **state)
{
    (void)state;
    char expected[512];
    fgmm_layout layout;
    fgmm_layout_request r = request_of(FGMM_RESIDENCY_HOST, false, 64);
    r.host_bytes = 32 * mib;
    r.host_taken = 1000;
    fgmm_error_clear();
    assert_int_equal(fgmm__layout_decide(&r, &layout), FGMM_ERR_INPUT);
    snprintf(expected, sizeof expected,
             "--residency host needs %" PRId64 " bytes of host memory a rank, %" PRId64
             " are allowed: take --residency auto, more ranks or a larger --host-memory",
             64 * quantum_bytes + 1000, 32 * mib);
    assert_string_equal(fgmm_error_message(), expected);
    r.host_bytes += 1000;
    decide(&r);

    r = request_of(FGMM_RESIDENCY_STREAM, true, 64);
    r.tile_rows = FGMM_QUANTUM;
    r.device_bytes = FGMM_DEVICE_BUFFERS * quantum_bytes;
    r.host_bytes = FGMM_RING_BUFFERS * quantum_bytes;
    decide(&r);
    r.device_bytes--;
    fgmm_error_clear();
    assert_int_equal(fgmm__layout_decide(&r, &layout), FGMM_ERR_INPUT);
    assert_non_null(strstr(fgmm_error_message(), "--device-memory"));
}

static void tiles_are_of_the_size_asked_for_in_whole_quanta(void **state)
{
    (void)state;
    fgmm_layout_request r = request_of(FGMM_RESIDENCY_STREAM, false, 100);
    r.tile_rows = 1;
    assert_int_equal(decide(&r).tile_rows, FGMM_QUANTUM);
    r.tile_rows = 2 * FGMM_QUANTUM + 1;
    assert_int_equal(decide(&r).tile_rows, 3 * FGMM_QUANTUM);
    r.tile_rows = 1000000000;
    assert_int_equal(decide(&r).tile_rows, 100 * FGMM_QUANTUM);
    r.tile_rows = 0;
    assert_int_equal(decide(&r).tile_rows * ROW_BYTES, 16 * mib);
    r.row_bytes = 8;
    assert_int_equal(decide(&r).tile_rows, 64 * FGMM_QUANTUM);
    r.rows = 5;
    assert_int_equal(decide(&r).tile_rows, FGMM_QUANTUM);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(every_layout_keeps_to_its_caps_or_is_refused),
        cmocka_unit_test(without_caps_a_shard_is_resident),
        cmocka_unit_test(forced_residencies_are_pure),
        cmocka_unit_test(what_does_not_fit_spills_to_the_next_kind),
        cmocka_unit_test(a_forced_residency_that_does_not_fit_tells_both_sizes),
        cmocka_unit_test(tiles_are_of_the_size_asked_for_in_whole_quanta),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
