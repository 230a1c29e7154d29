#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/gpu.h"

#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include "base/status.h"

static fgmm_comm *comm;
static fgmm_device *device;
static fgmm_backend *cuda, *cpu;

int fgmm_test_gpu_main(int argc, char **argv, int (*cases)(void))
{
    int provided, failed = 1;
    if (fgmm__device_count() == 0) {
        printf("skipped: no GPU\n");
        return 77;
    }
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    if (fgmm_comm_create(MPI_COMM_WORLD, 60, &comm) == FGMM_OK &&
        fgmm__device_open(comm, FGMM_BACKEND_CUDA, &device) == FGMM_OK &&
        fgmm__backend_create(comm, device, 0, &cuda) == FGMM_OK &&
        fgmm__backend_create(NULL, NULL, 0, &cpu) == FGMM_OK)
        failed = cases();
    else
        printf("%s\n", fgmm_error_message());
    fgmm__backend_destroy(cuda);
    fgmm__backend_destroy(cpu);
    fgmm__device_close(device);
    fgmm_comm_destroy(comm);
    MPI_Finalize();
    return failed;
}

fgmm_backend *fgmm_test_cuda(void)
{
    return cuda;
}

fgmm_backend *fgmm_test_cpu(void)
{
    return cpu;
}

static void need(fgmm_status status)
{
    if (status == FGMM_OK)
        return;
    printf("%s\n", fgmm_error_message());
    abort();
}

const void *fgmm_test_place(fgmm_backend *backend, const fgmm_test_rows *rows)
{
    size_t bytes = (size_t)rows->n * (size_t)rows->dim * fgmm_dtype_bytes(rows->dtype);
    void *placed = NULL;
    if (backend->device == NULL)
        return rows->stored;
    need(fgmm__device_alloc(backend->device, bytes, "rows", &placed));
    need(fgmm__device_upload(backend->device, placed, rows->stored, bytes,
                             fgmm__device_stream(backend->device)));
    need(fgmm__stream_sync(fgmm__device_stream(backend->device), NULL));
    return placed;
}

void fgmm_test_release(fgmm_backend *backend, const void *placed)
{
    if (backend->device != NULL)
        fgmm__device_free(backend->device, (void *)(uintptr_t)placed);
}

fgmm_tile fgmm_test_tile(const fgmm_test_rows *rows, const void *placed, int64_t begin, int64_t tile_rows)
{
    int64_t left = rows->n - begin;
    return (fgmm_tile){.begin = begin,
                       .rows = left < tile_rows ? left : tile_rows,
                       .dim = rows->dim,
                       .dtype = rows->dtype,
                       .data = (const char *)placed +
                               (size_t)begin * (size_t)rows->dim * fgmm_dtype_bytes(rows->dtype)};
}

fgmm_test_rows *fgmm_test_rows_read(const char *name)
{
    const char *folder = getenv("FGMM_TEST_DATA");
    char path[4096];
    uint32_t header[2];
    snprintf(path, sizeof path, "%s/%s", folder == NULL ? "." : folder, name);
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return NULL;
    fgmm_test_rows *rows = calloc(1, sizeof *rows);
    if (rows == NULL || fread(header, sizeof header, 1, file) != 1)
        abort();
    size_t dim = header[1], values = (size_t)header[0] * dim;
    float *stored = calloc(values, sizeof *stored);
    *rows = (fgmm_test_rows){.n = header[0], .dim = (int32_t)dim, .dtype = FGMM_F32, .stored = stored};
    rows->values = calloc(values, sizeof(double));
    rows->min = calloc(dim, sizeof(double));
    rows->max = calloc(dim, sizeof(double));
    if (stored == NULL || rows->values == NULL || rows->min == NULL || rows->max == NULL ||
        fread(stored, sizeof *stored, values, file) != values)
        abort();
    fclose(file);
    for (size_t i = 0; i < values; i++) {
        double v = rows->values[i] = stored[i];
        rows->min[i % dim] = i < dim ? v : fmin(rows->min[i % dim], v);
        rows->max[i % dim] = i < dim ? v : fmax(rows->max[i % dim], v);
    }
    return rows;
}
