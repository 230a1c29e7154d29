/* Devices of several ranks: where there are GPUs, sums over their memory (by NCCL, or through the host where
 * ranks share one); where there are none, the answers of a machine without. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "device/device.h"

static fgmm_comm *comm;
static int rank, size;
static bool gpus; /* every rank sees one */

static void assert_on_all_ranks(bool mine)
{
    int ok = mine, all = 0;
    MPI_Allreduce(&ok, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (!mine)
        print_error("rank %d: failed here; last message: %s\n", rank, fgmm_error_message());
    assert_true(all);
}

static void the_cpu_backend_takes_no_device(void **state)
{
    (void)state;
    fgmm_device *device = NULL;
    bool ok = fgmm__device_open(comm, FGMM_BACKEND_CPU, &device) == FGMM_OK && device == NULL;
    assert_on_all_ranks(ok);
}

static void auto_takes_a_device_where_every_rank_has_one(void **state)
{
    (void)state;
    fgmm_device *device = NULL;
    bool ok = fgmm__device_open(comm, FGMM_BACKEND_AUTO, &device) == FGMM_OK && (device != NULL) == gpus;
    fgmm__device_close(device);
    assert_on_all_ranks(ok);
}

static void asking_for_cuda_without_a_gpu_names_the_remedy(void **state)
{
    (void)state;
    if (gpus)
        skip();
    fgmm_device *device = NULL;
    fgmm_error_clear();
    bool ok = fgmm__device_open(comm, FGMM_BACKEND_CUDA, &device) == FGMM_ERR_RUNTIME && device == NULL;
    ok &= strstr(fgmm_error_message(), "--backend cpu") != NULL;
    fgmm_error_clear();
    assert_on_all_ranks(ok);
}

/* Entry i of a rank: large enough to wrap for some. */
static uint64_t value_of(size_t i, int of_rank)
{
    return (uint64_t)(of_rank + 1) * 0x9E3779B97F4A7C15u * (i + 1);
}

static bool sum_is_right(fgmm_device *device, size_t count)
{
    fgmm_status status = FGMM_OK;
    size_t bytes = 8 * count;
    void *host = NULL, *memory = NULL, *stream = fgmm__device_stream(device);
    bool ok = true;
    FGMM_TRY(fgmm__pinned_alloc(device, bytes, "a test", &host));
    FGMM_TRY(fgmm__device_alloc(device, bytes, "a test", &memory));
    uint64_t *values = host;
    for (size_t i = 0; i < count; i++)
        values[i] = value_of(i, rank);
    FGMM_TRY(fgmm__device_upload(device, memory, host, bytes, stream));
    FGMM_TRY(fgmm__comm_sum_i64_device(comm, memory, count, stream));
    FGMM_TRY(fgmm__device_download(device, host, memory, bytes, stream));
    FGMM_TRY(fgmm__stream_sync(stream, comm));
    for (size_t i = 0; i < count; i++) {
        uint64_t expected = 0;
        for (int r = 0; r < size; r++)
            expected += value_of(i, r);
        ok &= values[i] == expected;
    }
cleanup:
    fgmm__pinned_free(device, host);
    fgmm__device_free(device, memory);
    return ok && status == FGMM_OK;
}

static void sums_over_device_memory_are_exact(void **state)
{
    (void)state;
    if (!gpus)
        skip();
    fgmm_device *device = NULL;
    bool ok = fgmm__device_open(comm, FGMM_BACKEND_CUDA, &device) == FGMM_OK;
    bool sharing = fgmm__comm_node_size(comm) > fgmm__device_count();
    ok &= fgmm__comm_has_nccl(comm) == (size > 1 && !sharing);
    static const size_t counts[] = {1, 1000, (size_t)9 << 20}; /* the last is more than one staging buffer */
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        ok &= device != NULL && sum_is_right(device, counts[i]);
    fgmm__device_close(device);
    assert_on_all_ranks(ok);
}

static void a_device_can_be_opened_again(void **state)
{
    (void)state;
    if (!gpus)
        skip();
    bool ok = true;
    for (int round = 0; round < 2; round++) {
        fgmm_device *device = NULL;
        ok &= fgmm__device_open(comm, FGMM_BACKEND_CUDA, &device) == FGMM_OK;
        ok &= device != NULL && sum_is_right(device, 100);
        fgmm__device_close(device);
    }
    assert_on_all_ranks(ok);
}

int main(int argc, char **argv)
{
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    int mine = fgmm__device_count() > 0, all = 0;
    MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    gpus = all;
    if (fgmm_comm_create(MPI_COMM_WORLD, 60, &comm) != FGMM_OK)
        MPI_Abort(MPI_COMM_WORLD, 1);
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(the_cpu_backend_takes_no_device),
        cmocka_unit_test(auto_takes_a_device_where_every_rank_has_one),
        cmocka_unit_test(asking_for_cuda_without_a_gpu_names_the_remedy),
        cmocka_unit_test(sums_over_device_memory_are_exact),
        cmocka_unit_test(a_device_can_be_opened_again),
    };
    int failed = cmocka_run_group_tests(cases, NULL, NULL);
    fgmm_comm_destroy(comm);
    MPI_Finalize();
    return failed;
}
