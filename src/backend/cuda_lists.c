/* Searching lists on the device: the order of lists, then the rows of those that a query visits. */
#include "backend/cuda_lists.h"

#include <stdlib.h>
#include <string.h>

/* What a search of a batch takes beside the lists, generously (cuda_finder.c bounds finds to 1 GiB). */
static const int64_t reserve_bytes = (int64_t)4 << 30;

/* ---- opening ---- */

static fgmm_status put_centroids(fgmm_backend_lists *lists, const float *centroids)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = lists->cuda;
    size_t bytes = (size_t)lists->table.lists * (size_t)lists->table.dim * sizeof *centroids;
    FGMM_TRY(fgmm__device_alloc(cuda->base.device, bytes, "centroids", (void **)&lists->centroids));
    FGMM_TRY(fgmm__cuda_upload(cuda, lists->centroids, centroids, bytes));
    FGMM_TRY(fgmm__stream_sync(cuda->stream, cuda->base.comm));
cleanup:
    return status;
}

static int64_t bytes_for_rows(const fgmm_device *device, int64_t memory_bytes)
{
    int64_t free_bytes = fgmm__device_free_bytes(device);
    int64_t reserve = free_bytes / 4 < reserve_bytes ? free_bytes / 4 : reserve_bytes;
    int64_t most = free_bytes - reserve;
    return memory_bytes > 0 && memory_bytes < most ? memory_bytes : most;
}

fgmm_status fgmm__cuda_lists_open(fgmm_backend *backend, const fgmm_list_table *table, int64_t memory_bytes,
                                  fgmm_backend_lists **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_backend_lists *lists = NULL;
    FGMM_ALLOC(lists, 1, "lists");
    lists->cuda = (fgmm__cuda_backend *)backend;
    lists->finder.cuda = lists->cuda;
    lists->table = *table;
    lists->pitch = fgmm__cuda_list_pitch(table->dtype, table->dim);
    FGMM_ALLOC(lists->offsets, table->lists + 1, "lists");
    memcpy(lists->offsets, table->offsets, (size_t)(table->lists + 1) * sizeof *lists->offsets);
    lists->table.offsets = lists->offsets;
    lists->table.centroids = NULL;
    FGMM_CUDA(cudaEventCreate(&lists->begun));
    FGMM_CUDA(cudaEventCreate(&lists->ended));
    FGMM_TRY(put_centroids(lists, table->centroids));
    FGMM_TRY(fgmm__cuda_rank_open(&lists->rank, lists->cuda, table->centroids, table->lists, table->dim));
    FGMM_TRY(fgmm__cuda_lists_place(lists, bytes_for_rows(backend->device, memory_bytes)));
    if (lists->resident)
        FGMM_TRY(fgmm__cuda_lists_keep(lists, NULL));
    *out = lists;
    lists = NULL;
cleanup:
    fgmm__cuda_lists_close(lists);
    return status;
}

void fgmm__cuda_lists_close(fgmm_backend_lists *lists)
{
    if (lists == NULL)
        return;
    fgmm_device *device = lists->cuda->base.device;
    fgmm__stream_sync(lists->cuda->stream, NULL); /* kernels may be under way after a failure */
    fgmm__cuda_finder_free(&lists->finder);
    fgmm__cuda_lists_unplace(lists);
    fgmm__cuda_rank_close(&lists->rank);
    fgmm__device_free(device, lists->centroids);
    fgmm__device_free(device, lists->probes.pointer);
    if (lists->begun != NULL)
        cudaEventDestroy(lists->begun);
    if (lists->ended != NULL)
        cudaEventDestroy(lists->ended);
    free(lists->offsets);
    free(lists);
}

/* ---- searching ---- */

/* The lists of each query, on the device: so many, chosen there or given. */
static fgmm_status set_probes(fgmm_backend_lists *lists, int32_t width, bool choose, const int32_t *probes,
                              int32_t **on_device)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_finder *finder = &lists->finder;
    size_t bytes = (size_t)finder->queries.n * (size_t)width * sizeof *probes;
    FGMM_TRY(fgmm__cuda_make_room(lists->cuda->base.device, &lists->probes, bytes, "probes", on_device));
    if (!choose) {
        FGMM_TRY(fgmm__cuda_upload(lists->cuda, *on_device, probes, bytes));
        goto cleanup;
    }
    FGMM_TRY(fgmm__cuda_rank_probes(&lists->rank, finder, width, *on_device));
cleanup:
    return status;
}

/* Lists that are not on the device are brought; they pass through the windows in turn. probes: [n][width]. */
static fgmm_status scan_with_windows(fgmm_backend_lists *lists, const int32_t *probes, int32_t width)
{
    fgmm_status status = FGMM_OK;
    int32_t *visits = NULL, list = 0;
    int64_t row = 0;
    bool any = true;
    FGMM_ALLOC(visits, lists->table.lists, "visits");
    for (int32_t q = 0; q < lists->finder.queries.n; q++)
        for (int32_t p = 0; p < lists->finder.queries.nprobe; p++)
            visits[probes[(int64_t)q * width + p]]++;
    if (!lists->kept_chosen)
        FGMM_TRY(fgmm__cuda_lists_keep(lists, visits));
    FGMM_TRY(fgmm__cuda_finder_scan(&lists->finder, &lists->kept.view));
    for (int turn = 0; any; turn = (turn + 1) % FGMM__CUDA_WINDOWS) {
        fgmm__cuda_region *window = &lists->windows[turn];
        FGMM_TRY(fgmm__cuda_lists_window(lists, window, visits, &list, &row, &any));
        if (any)
            FGMM_TRY(fgmm__cuda_finder_scan(&lists->finder, &window->view));
        FGMM_TRY(fgmm__gpu_event_record(window->free, lists->cuda->stream));
    }
cleanup:
    free(visits);
    return status;
}

static fgmm_status take_times(fgmm_backend_lists *lists, fgmm_list_times *times)
{
    fgmm_status status = FGMM_OK;
    float milliseconds = 0;
    if (times == NULL)
        goto cleanup;
    FGMM_CUDA(cudaEventElapsedTime(&milliseconds, lists->begun, lists->ended));
    times->device_seconds = 1e-3 * milliseconds;
    times->bytes_brought = lists->bytes_brought;
cleanup:
    return status;
}

fgmm_status fgmm__cuda_lists_search(fgmm_backend_lists *lists, const float *queries, int64_t n, int32_t k,
                                    int32_t nprobe, int32_t choose, int32_t *probes, fgmm_neighbor *nearest,
                                    int32_t *counts, fgmm_list_times *times)
{
    fgmm_status status = FGMM_OK;
    const fgmm_list_table *table = &lists->table;
    fgmm__cuda_finder *finder = &lists->finder;
    int32_t *on_device = NULL;
    bool bytes = fgmm__cuda_list_bytes_serve(table->dtype, table->dim), whole = false;
    int32_t width = choose > 0 ? choose : nprobe;
    double mean_rows = (double)table->offsets[table->lists] / table->lists;
    if (n == 0)
        goto cleanup;
    lists->bytes_brought = 0;
    FGMM_TRY(fgmm__cuda_finder_queries(finder, queries, n, table->dim));
    FGMM_CUDA(cudaEventRecord(lists->begun, lists->cuda->stream));
    if (bytes)
        FGMM_TRY(fgmm__cuda_finder_bytes(finder, table->dtype));
    FGMM_TRY(set_probes(lists, width, choose > 0, probes, &on_device));
    const fgmm__cuda_copy chosen = {probes, on_device, (size_t)n * (size_t)width * sizeof *probes};
    if (bytes)
        FGMM_TRY(fgmm__cuda_finder_whole(finder, &whole));
    FGMM_TRY(fgmm__cuda_finder_begin(finder, k, on_device, width, nprobe, table->lists, mean_rows,
                                     table->repeats, whole));
    if (lists->resident) {
        FGMM_TRY(fgmm__cuda_finder_scan(finder, &lists->kept.view));
    } else {
        if (choose > 0)
            FGMM_TRY(fgmm__cuda_download(lists->cuda, probes, on_device, chosen.bytes));
        FGMM_TRY(scan_with_windows(lists, probes, width));
    }
    FGMM_CUDA(cudaEventRecord(lists->ended, lists->cuda->stream));
    FGMM_TRY(fgmm__cuda_finder_read(finder, nearest, counts, choose > 0 && lists->resident ? &chosen : NULL));
    FGMM_TRY(take_times(lists, times));
cleanup:
    return status;
}
