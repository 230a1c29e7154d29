/* Memory, copies, events and waiting on one GPU. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "device/device.h"

enum { BYTES = 1 << 20 };

static fgmm_comm *comm;
static fgmm_device *device;

static void a_device_tells_what_it_is(void **state)
{
    (void)state;
    assert_true(strlen(fgmm__device_name(device)) > 0);
    assert_true(fgmm__device_multiprocessors(device) > 0);
    assert_true(fgmm__device_free_bytes(device) > BYTES);
    assert_non_null(fgmm__device_stream(device));
    assert_non_null(fgmm__device_copy_stream(device));
    assert_ptr_not_equal(fgmm__device_stream(device), fgmm__device_copy_stream(device));
}

static void the_peak_is_the_most_taken_at_one_time(void **state)
{
    (void)state;
    void *a = NULL, *b = NULL, *c = NULL;
    int64_t before = fgmm__device_peak_bytes(device);
    assert_int_equal(before, 0); /* the first case that takes memory */
    assert_int_equal(fgmm__device_alloc(device, 3 * BYTES, "a", &a), FGMM_OK);
    assert_int_equal(fgmm__device_alloc(device, 2 * BYTES, "b", &b), FGMM_OK);
    assert_int_equal(fgmm__device_peak_bytes(device), 5 * BYTES);
    fgmm__device_free(device, a);
    assert_int_equal(fgmm__device_alloc(device, BYTES, "c", &c), FGMM_OK);
    assert_int_equal(fgmm__device_peak_bytes(device), 5 * BYTES);
    fgmm__device_free(device, b);
    fgmm__device_free(device, c);
    fgmm__device_free(device, NULL);
    assert_int_equal(fgmm__device_alloc(device, 6 * BYTES, "a", &a), FGMM_OK);
    assert_int_equal(fgmm__device_peak_bytes(device), 6 * BYTES);
    fgmm__device_free(device, a);
}

static void bytes_survive_the_way_to_the_device_and_back(void **state)
{
    (void)state;
    void *to = NULL, *from = NULL, *memory = NULL;
    fgmm_gpu_event *uploaded = NULL;
    assert_int_equal(fgmm__pinned_alloc(device, BYTES, "rows", &to), FGMM_OK);
    assert_int_equal(fgmm__pinned_alloc(NULL, BYTES, "rows", &from),
                     FGMM_OK); /* plain memory works as well */
    assert_int_equal(fgmm__device_alloc(device, BYTES, "rows", &memory), FGMM_OK);
    assert_int_equal(fgmm__gpu_event_create(device, &uploaded), FGMM_OK);
    for (int i = 0; i < BYTES; i++)
        ((unsigned char *)to)[i] = (unsigned char)(i * 31 >> 3);

    void *copies = fgmm__device_copy_stream(device), *kernels = fgmm__device_stream(device);
    assert_int_equal(fgmm__device_upload(device, memory, to, BYTES, copies), FGMM_OK);
    assert_int_equal(fgmm__gpu_event_record(uploaded, copies), FGMM_OK);
    assert_int_equal(fgmm__stream_wait(kernels, uploaded), FGMM_OK);
    assert_int_equal(fgmm__device_download(device, from, memory, BYTES, kernels), FGMM_OK);
    assert_int_equal(fgmm__gpu_event_wait(uploaded, comm), FGMM_OK);
    assert_int_equal(fgmm__gpu_event_wait(uploaded, NULL), FGMM_OK);
    assert_int_equal(fgmm__stream_sync(kernels, comm), FGMM_OK);
    assert_memory_equal(to, from, BYTES);

    fgmm__gpu_event_destroy(uploaded);
    fgmm__gpu_event_destroy(NULL);
    fgmm__device_free(device, memory);
    fgmm__pinned_free(device, to);
    fgmm__pinned_free(NULL, from);
    fgmm__pinned_free(device, NULL);
}

static void too_much_memory_is_refused_by_name_and_harms_nothing(void **state)
{
    (void)state;
    void *memory = NULL;
    fgmm_error_clear();
    assert_int_equal(fgmm__device_alloc(device, (size_t)1 << 50, "the shard", &memory), FGMM_ERR_RUNTIME);
    assert_null(memory);
    assert_non_null(strstr(fgmm_error_message(), "the shard"));
    assert_non_null(strstr(fgmm_error_message(), "out of device memory"));
    fgmm_error_clear();
    assert_int_equal(fgmm__device_alloc(device, BYTES, "a little", &memory), FGMM_OK);
    fgmm__device_free(device, memory);
    assert_int_equal(fgmm__stream_sync(fgmm__device_stream(device), NULL), FGMM_OK);
}

int main(int argc, char **argv)
{
    int provided, failed = 1;
    if (fgmm__device_count() == 0) {
        printf("skipped: no GPU\n");
        return 77;
    }
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    if (fgmm_comm_create(MPI_COMM_WORLD, 60, &comm) == FGMM_OK &&
        fgmm__device_open(comm, FGMM_BACKEND_CUDA, &device) == FGMM_OK) {
        const struct CMUnitTest cases[] = {
            cmocka_unit_test(a_device_tells_what_it_is),
            cmocka_unit_test(the_peak_is_the_most_taken_at_one_time),
            cmocka_unit_test(bytes_survive_the_way_to_the_device_and_back),
            cmocka_unit_test(too_much_memory_is_refused_by_name_and_harms_nothing),
        };
        failed = cmocka_run_group_tests(cases, NULL, NULL);
    } else {
        printf("%s\n", fgmm_error_message());
    }
    fgmm__device_close(device);
    fgmm_comm_destroy(comm);
    MPI_Finalize();
    return failed;
}
