/* Bringing lists to the device: rows and ids through two pinned buffers, on the copy stream. */
#include "backend/cuda_lists.h"

#include <stdlib.h>
#include <string.h>

static const int64_t staged_bytes = (int64_t)32 << 20;
enum { LEAST_PLACES = 4096, WINDOW_SHARE = 8 };

static int64_t size_of(const fgmm_backend_lists *lists, int32_t list)
{
    return (int64_t)(lists->offsets[list + 1] - lists->offsets[list]);
}

/* ---- memory ---- */

static fgmm_status make_region(fgmm_backend_lists *lists, fgmm__cuda_region *region, int64_t first,
                               int64_t places)
{
    fgmm_status status = FGMM_OK;
    fgmm_device *device = lists->cuda->base.device;
    size_t n = (size_t)lists->table.lists;
    uint32_t *begin = NULL;
    int32_t *size = NULL;
    region->first_place = first;
    region->places = places;
    region->view = (fgmm_list_view){.rows = lists->rows,
                                    .pitch = lists->pitch,
                                    .type = (fgmm_row_type)lists->table.dtype,
                                    .dim = lists->table.dim,
                                    .lists = lists->table.lists,
                                    .ids = lists->ids,
                                    .centres = lists->centroids,
                                    .squares = lists->squares,
                                    .norms = lists->norms};
    FGMM_ALLOC(region->begin, n, "places of lists");
    FGMM_ALLOC(region->size, n, "places of lists");
    FGMM_TRY(fgmm__gpu_event_create(device, &region->free));
    FGMM_TRY(fgmm__device_alloc(device, n * sizeof *begin, "places of lists", (void **)&begin));
    region->view.begin = begin;
    FGMM_TRY(fgmm__device_alloc(device, n * sizeof *size, "places of lists", (void **)&size));
    region->view.size = size;
    FGMM_TRY(
        fgmm__device_alloc(device, n * sizeof(uint32_t), "places of lists", (void **)&region->view.longest));
cleanup:
    return status;
}

static void free_region(fgmm_device *device, fgmm__cuda_region *region)
{
    free(region->begin);
    free(region->size);
    fgmm__gpu_event_destroy(region->free);
    fgmm__device_free(device, (void *)(uintptr_t)region->view.begin);
    fgmm__device_free(device, (void *)(uintptr_t)region->view.size);
    fgmm__device_free(device, region->view.longest);
}

static fgmm_status make_staging(fgmm_backend_lists *lists)
{
    fgmm_status status = FGMM_OK;
    fgmm_device *device = lists->cuda->base.device;
    size_t row_bytes = (size_t)lists->table.dim * fgmm_dtype_bytes(lists->table.dtype);
    lists->staged_rows = staged_bytes / lists->pitch + 1;
    size_t n = (size_t)lists->staged_rows;
    for (int i = 0; i < 2; i++) {
        fgmm__cuda_staged *staged = &lists->staged[i];
        FGMM_TRY(fgmm__pinned_alloc(device, n * (size_t)lists->pitch, "lists on their way",
                                    (void **)&staged->rows));
        FGMM_TRY(
            fgmm__pinned_alloc(device, n * sizeof *staged->ids, "lists on their way", (void **)&staged->ids));
        FGMM_TRY(fgmm__gpu_event_create(device, &staged->copied));
        FGMM_TRY(fgmm__gpu_event_record(staged->copied, fgmm__device_copy_stream(device)));
    }
    if ((size_t)lists->pitch != row_bytes) {
        memset(lists->staged[0].rows, 0, n * (size_t)lists->pitch);
        memset(lists->staged[1].rows, 0, n * (size_t)lists->pitch);
        FGMM_ALLOC(lists->unpadded, n * row_bytes, "lists on their way");
    }
cleanup:
    return status;
}

fgmm_status fgmm__cuda_lists_place(fgmm_backend_lists *lists, int64_t bytes)
{
    fgmm_status status = FGMM_OK;
    fgmm_device *device = lists->cuda->base.device;
    bool with_squares = fgmm__cuda_list_bytes_serve(lists->table.dtype, lists->table.dim);
    int64_t rows = (int64_t)lists->offsets[lists->table.lists];
    int64_t row_bytes = lists->pitch + (int64_t)(sizeof *lists->ids + sizeof *lists->norms) +
                        (with_squares ? (int64_t)sizeof *lists->squares : 0);
    int64_t places = bytes / row_bytes;
    places = places < UINT32_MAX - 1 ? places : UINT32_MAX - 1;
    lists->resident = places >= rows;
    if (lists->resident)
        places = rows > 0 ? rows : 1;
    else if (places < LEAST_PLACES)
        FGMM_FAIL(FGMM_ERR_RUNTIME,
                  "%.3f GiB of device memory are too little to search lists of %d dimensions: search with "
                  "--backend cpu",
                  (double)bytes / (1 << 30), lists->table.dim);
    size_t n = (size_t)places;
    FGMM_TRY(fgmm__device_alloc(device, n * (size_t)lists->pitch, "the lists' rows", (void **)&lists->rows));
    FGMM_TRY(fgmm__device_alloc(device, n * sizeof *lists->ids, "the lists' ids", (void **)&lists->ids));
    FGMM_TRY(
        fgmm__device_alloc(device, n * sizeof *lists->norms, "the lists' lengths", (void **)&lists->norms));
    if (with_squares)
        FGMM_TRY(fgmm__device_alloc(device, n * sizeof *lists->squares, "the lists' squares",
                                    (void **)&lists->squares));
    int64_t window = lists->resident ? 0 : places / WINDOW_SHARE;
    FGMM_TRY(make_region(lists, &lists->kept, 0, places - FGMM__CUDA_WINDOWS * window));
    for (int w = 0; w < FGMM__CUDA_WINDOWS && !lists->resident; w++) {
        FGMM_TRY(make_region(lists, &lists->windows[w], places - (w + 1) * window, window));
        FGMM_TRY(fgmm__gpu_event_record(lists->windows[w].free, lists->cuda->stream));
    }
    FGMM_ALLOC(lists->is_kept, lists->table.lists, "places of lists");
    FGMM_TRY(fgmm__gpu_event_create(device, &lists->ready));
    FGMM_TRY(make_staging(lists));
cleanup:
    return status;
}

void fgmm__cuda_lists_unplace(fgmm_backend_lists *lists)
{
    fgmm_device *device = lists->cuda->base.device;
    fgmm__stream_sync(fgmm__device_copy_stream(device), NULL); /* copies may be under way after a failure */
    free_region(device, &lists->kept);
    for (int w = 0; w < FGMM__CUDA_WINDOWS; w++)
        free_region(device, &lists->windows[w]);
    for (int i = 0; i < 2; i++) {
        fgmm__pinned_free(device, lists->staged[i].rows);
        fgmm__pinned_free(device, lists->staged[i].ids);
        fgmm__gpu_event_destroy(lists->staged[i].copied);
    }
    fgmm__gpu_event_destroy(lists->ready);
    fgmm__device_free(device, lists->rows);
    fgmm__device_free(device, lists->ids);
    fgmm__device_free(device, lists->norms);
    fgmm__device_free(device, lists->squares);
    free(lists->is_kept);
    free(lists->unpadded);
}

/* ---- copying ---- */

/* Sends what was filled. */
static fgmm_status flush(fgmm_backend_lists *lists)
{
    fgmm_status status = FGMM_OK;
    fgmm_device *device = lists->cuda->base.device;
    fgmm__cuda_staged *staged = &lists->staged[lists->turn];
    void *stream = fgmm__device_copy_stream(device);
    size_t n = (size_t)lists->filled, place = (size_t)lists->filled_place, pitch = (size_t)lists->pitch;
    if (n == 0)
        goto cleanup;
    FGMM_TRY(fgmm__device_upload(device, lists->rows + place * pitch, staged->rows, n * pitch, stream));
    FGMM_TRY(fgmm__device_upload(device, lists->ids + place, staged->ids, n * sizeof *staged->ids, stream));
    FGMM_TRY(fgmm__gpu_event_record(staged->copied, stream));
    lists->bytes_brought += (int64_t)(n * (pitch + sizeof *staged->ids));
    lists->filled_place += lists->filled;
    lists->filled = 0;
    lists->turn = 1 - lists->turn;
    FGMM_TRY(fgmm__gpu_event_wait(lists->staged[lists->turn].copied, lists->cuda->base.comm));
cleanup:
    return status;
}

/* Rows begin.. of a list to the places that follow those brought before. */
static fgmm_status bring(fgmm_backend_lists *lists, int32_t list, int64_t begin, int64_t n)
{
    fgmm_status status = FGMM_OK;
    const fgmm_list_table *table = &lists->table;
    size_t row_bytes = (size_t)table->dim * fgmm_dtype_bytes(table->dtype), pitch = (size_t)lists->pitch;
    while (n > 0) {
        int64_t room = lists->staged_rows - lists->filled, some = n < room ? n : room;
        fgmm__cuda_staged *staged = &lists->staged[lists->turn];
        char *to = staged->rows + (size_t)lists->filled * pitch;
        FGMM_TRY(table->read(table->context, list, begin, some,
                             lists->unpadded != NULL ? lists->unpadded : to, staged->ids + lists->filled));
        for (int64_t i = 0; lists->unpadded != NULL && i < some; i++)
            memcpy(to + (size_t)i * pitch, lists->unpadded + (size_t)i * row_bytes, row_bytes);
        lists->filled += some;
        begin += some;
        n -= some;
        if (lists->filled == lists->staged_rows)
            FGMM_TRY(flush(lists));
    }
cleanup:
    return status;
}

/* Begins to fill a region: nothing is there yet. */
static void open_region(fgmm_backend_lists *lists, fgmm__cuda_region *region)
{
    memset(region->size, 0, (size_t)lists->table.lists * sizeof *region->size);
    lists->filled_place = region->first_place;
    lists->filled = 0;
}

/* What was brought is there for the kernels that follow, with its constants. */
static fgmm_status close_region(fgmm_backend_lists *lists, fgmm__cuda_region *region)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = lists->cuda;
    size_t n = (size_t)lists->table.lists;
    FGMM_TRY(flush(lists));
    FGMM_TRY(fgmm__gpu_event_record(lists->ready, fgmm__device_copy_stream(cuda->base.device)));
    FGMM_TRY(fgmm__stream_wait(cuda->stream, lists->ready));
    FGMM_TRY(fgmm__cuda_upload(cuda, (void *)(uintptr_t)region->view.begin, region->begin,
                               n * sizeof *region->begin));
    FGMM_TRY(fgmm__cuda_upload(cuda, (void *)(uintptr_t)region->view.size, region->size,
                               n * sizeof *region->size));
    FGMM_LAUNCH(fgmm__launch_list_norms(&region->view, cuda->stream));
cleanup:
    return status;
}

/* ---- what stays, and what passes ---- */

typedef struct {
    int32_t list, visits;
} visited;

static int by_visits(const void *a, const void *b)
{
    const visited *x = a, *y = b;
    return x->visits != y->visits ? (x->visits < y->visits ? 1 : -1)
                                  : (x->list > y->list) - (x->list < y->list);
}

fgmm_status fgmm__cuda_lists_keep(fgmm_backend_lists *lists, const int32_t *visits)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_region *kept = &lists->kept;
    int32_t n = lists->table.lists;
    int64_t room = kept->places;
    visited *order = NULL;
    FGMM_ALLOC(order, n, "places of lists");
    for (int32_t j = 0; j < n; j++)
        order[j] = (visited){j, visits != NULL ? visits[j] : 0};
    qsort(order, (size_t)n, sizeof *order, by_visits);
    for (int32_t i = 0; i < n; i++)
        if (size_of(lists, order[i].list) <= room) {
            lists->is_kept[order[i].list] = true;
            room -= size_of(lists, order[i].list);
        }
    open_region(lists, kept);
    int64_t place = 0;
    for (int32_t j = 0; j < n; j++) {
        if (!lists->is_kept[j])
            continue;
        kept->begin[j] = (uint32_t)place;
        kept->size[j] = (int32_t)size_of(lists, j);
        place += kept->size[j];
        FGMM_TRY(fgmm__comm_tick(lists->cuda->base.comm));
        FGMM_TRY(bring(lists, j, 0, kept->size[j]));
    }
    FGMM_TRY(close_region(lists, kept));
    lists->kept_chosen = true;
cleanup:
    free(order);
    return status;
}

fgmm_status fgmm__cuda_lists_window(fgmm_backend_lists *lists, fgmm__cuda_region *window,
                                    const int32_t *visits, int32_t *list, int64_t *row, bool *any)
{
    fgmm_status status = FGMM_OK;
    void *copies = fgmm__device_copy_stream(lists->cuda->base.device);
    int64_t place = window->first_place, end = place + window->places;
    *any = false;
    FGMM_TRY(fgmm__stream_wait(copies, window->free));
    open_region(lists, window);
    while (place < end && *list < lists->table.lists) {
        int64_t left = size_of(lists, *list) - *row, some = left < end - place ? left : end - place;
        if (visits[*list] > 0 && !lists->is_kept[*list] && some > 0) {
            window->begin[*list] = (uint32_t)place;
            window->size[*list] = (int32_t)some;
            FGMM_TRY(fgmm__comm_tick(lists->cuda->base.comm));
            FGMM_TRY(bring(lists, *list, *row, some));
            place += some;
            *any = true;
            *row += some;
            left -= some;
            if (left > 0)
                break; /* the window is full */
        }
        ++*list;
        *row = 0;
    }
    if (*any)
        FGMM_TRY(close_region(lists, window));
cleanup:
    return status;
}
