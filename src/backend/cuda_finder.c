#include "backend/cuda_finder.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(fgmm_list_near) == sizeof(fgmm_neighbor) &&
                   (int)FGMM_MOST_NEAREST == (int)FGMM_LISTS_MOST_NEAREST,
               "kernels write neighbours of this layout");

enum {
    VALUES,
    BYTES,
    SQUARES,
    NOT_WHOLE,
    ZEROS,
    BOUNDS,
    COUNTS,
    FINDS,
    SAMPLE,
    NEAREST,
    NEAREST_COUNTS,
    OVERFLOWED,
    PLAN_COUNTS,
    VISITORS,
    GROUPS,
    STATE,
    ROOMS
};
_Static_assert((int)ROOMS == (int)FGMM__FINDER_ROOMS, "every room has a place");

enum {
    LEAST_FINDS = 1024, /* a query; powers of two */
    MOST_FINDS = 8192,
    LEAST_SAMPLE = 512,   /* rows that a query's first bound is made from */
    FOLD = 8,             /* rows whose least upper bound is a key, while there are */
    KEYS_A_NEIGHBOUR = 4, /* so many */
    FEW_A_NEIGHBOUR = 4,
    MANY_A_NEIGHBOUR = 16,
    MOST_WITH_MANY = 1024
};
static const int64_t finds_bytes = (int64_t)1 << 30;

fgmm_status fgmm__cuda_make_room(fgmm_device *device, fgmm__cuda_room *room, size_t bytes, const char *what,
                                 void *out)
{
    fgmm_status status = FGMM_OK;
    if (room->bytes < bytes) {
        fgmm__device_free(device, room->pointer);
        *room = (fgmm__cuda_room){NULL, 0};
        FGMM_TRY(fgmm__device_alloc(device, bytes, what, &room->pointer));
        room->bytes = bytes;
    }
    memcpy(out, &room->pointer, sizeof(void *));
cleanup:
    return status;
}

static fgmm_status make_room(fgmm__cuda_finder *finder, int which, size_t bytes, void *out)
{
    return fgmm__cuda_make_room(finder->cuda->base.device, &finder->rooms[which], bytes,
                                "queries and what is found for them", out);
}

void fgmm__cuda_finder_free(fgmm__cuda_finder *finder)
{
    if (finder->cuda == NULL)
        return;
    fgmm__stream_sync(finder->cuda->stream, NULL); /* kernels may be under way after a failure */
    for (int r = 0; r < ROOMS; r++)
        fgmm__device_free(finder->cuda->base.device, finder->rooms[r].pointer);
    fgmm__pinned_free(finder->cuda->base.device, finder->not_whole);
    fgmm__gpu_event_destroy(finder->known);
    memset(finder, 0, sizeof *finder);
}

int32_t fgmm__cuda_list_pitch(fgmm_dtype dtype, int32_t dim)
{
    int32_t octets = (dim + 7) / 8, bytes = octets * 8 * (int32_t)fgmm_dtype_bytes(dtype);
    return (bytes + 15) / 16 * 16;
}

bool fgmm__cuda_list_bytes_serve(fgmm_dtype dtype, int32_t dim)
{
    return (dtype == FGMM_U8 || dtype == FGMM_I8) && dim <= FGMM_LISTS_WHOLE_DIMS;
}

fgmm_status fgmm__cuda_finder_queries(fgmm__cuda_finder *finder, const float *queries, int64_t n, int32_t dim)
{
    fgmm_status status = FGMM_OK;
    float *values = NULL;
    size_t bytes = (size_t)n * (size_t)dim * sizeof *queries;
    finder->queries.n = (int32_t)n;
    finder->queries.dim = dim;
    FGMM_TRY(make_room(finder, VALUES, bytes, &values));
    FGMM_TRY(fgmm__cuda_upload(finder->cuda, values, queries, bytes));
    finder->queries.values = values;
cleanup:
    return status;
}

fgmm_status fgmm__cuda_finder_bytes(fgmm__cuda_finder *finder, fgmm_dtype dtype)
{
    fgmm_status status = FGMM_OK;
    fgmm_device *device = finder->cuda->base.device;
    fgmm_list_queries *q = &finder->queries;
    q->byte_pitch = fgmm__cuda_list_pitch(dtype, q->dim);
    FGMM_TRY(make_room(finder, BYTES, (size_t)q->n * (size_t)q->byte_pitch, &q->bytes));
    FGMM_TRY(make_room(finder, SQUARES, (size_t)q->n * sizeof *q->squares, &q->squares));
    FGMM_TRY(make_room(finder, NOT_WHOLE, sizeof *q->not_whole, &q->not_whole));
    if (finder->not_whole == NULL)
        FGMM_TRY(
            fgmm__pinned_alloc(device, sizeof *finder->not_whole, "queries", (void **)&finder->not_whole));
    if (finder->known == NULL)
        FGMM_TRY(fgmm__gpu_event_create(device, &finder->known));
    FGMM_CUDA(cudaMemsetAsync(q->not_whole, 0, sizeof *q->not_whole, finder->cuda->stream));
    FGMM_LAUNCH(fgmm__launch_list_bytes(q, (fgmm_row_type)dtype, finder->cuda->stream));
    FGMM_TRY(fgmm__device_download(device, finder->not_whole, q->not_whole, sizeof *q->not_whole,
                                   finder->cuda->stream));
    FGMM_TRY(fgmm__gpu_event_record(finder->known, finder->cuda->stream));
cleanup:
    return status;
}

fgmm_status fgmm__cuda_finder_whole(fgmm__cuda_finder *finder, bool *whole)
{
    fgmm_status status = fgmm__gpu_event_wait(finder->known, finder->cuda->base.comm);
    *whole = status == FGMM_OK && *finder->not_whole == 0;
    return status;
}

/* ---- a search ---- */

/* How many finds a query has room for: as many as memory allows, within limits. */
static uint32_t finds_a_query(int64_t n, int32_t k)
{
    uint32_t room = LEAST_FINDS;
    while (room < 2 * (uint32_t)k)
        room *= 2;
    while (room < MOST_FINDS && n * 2 * room * (int64_t)sizeof(fgmm_list_find) <= finds_bytes)
        room *= 2;
    return room;
}

/* From how many rows of how many lists a first bound is made: of the nearest alone where it is long enough.
 */
static void choose_sample(fgmm_list_queries *q, double mean_rows)
{
    int64_t rows = MANY_A_NEIGHBOUR * (int64_t)q->k;
    if (rows > MOST_WITH_MANY)
        rows = q->k * FEW_A_NEIGHBOUR > MOST_WITH_MANY ? q->k * FEW_A_NEIGHBOUR : MOST_WITH_MANY;
    if (rows < LEAST_SAMPLE)
        rows = LEAST_SAMPLE;
    int64_t lists =
        mean_rows < (double)rows ? (int64_t)((double)rows / (mean_rows > 1 ? mean_rows : 1)) + 1 : 1;
    lists = lists < FGMM_LISTS_SAMPLED ? lists : FGMM_LISTS_SAMPLED;
    q->sample_lists = lists < q->nprobe ? (int32_t)lists : q->nprobe;
    q->sample_rows = (int32_t)((rows / q->sample_lists + 255) / 256 * 256);
    int64_t needed = q->repeats ? (int64_t)q->sample_lists * q->k : q->k;
    int64_t keys = (int64_t)q->sample_lists * q->sample_rows / FOLD;
    q->sample_fold = keys >= KEYS_A_NEIGHBOUR * needed ? FOLD : 1;
}

static size_t sample_bytes(const fgmm_list_queries *q)
{
    return (size_t)q->n * (size_t)q->sample_lists * (size_t)(q->sample_rows / q->sample_fold) *
           sizeof *q->sample;
}

/* Rows a block takes at a time: as many as leave each multiprocessor some tens of turns, for then the last
 * ones cost little; each turn loads the queries anew. */
static void choose_chunk(fgmm__cuda_finder *finder, int32_t lists, double mean_rows)
{
    enum { TURNS = 32, LEAST_ROWS = 256 };
    const fgmm_list_queries *q = &finder->queries;
    double pairs = (double)q->n * q->nprobe, groups = pairs / finder->plan.group_queries;
    groups += pairs < lists ? pairs : lists;
    double rows = groups * mean_rows / (TURNS * fgmm__device_multiprocessors(finder->cuda->base.device));
    finder->plan.chunk_rows = LEAST_ROWS;
    while (finder->plan.chunk_rows < FGMM_LISTS_MOST_CHUNK && finder->plan.chunk_rows < rows)
        finder->plan.chunk_rows *= 2;
}

static fgmm_status begin_plan(fgmm__cuda_finder *finder, int32_t lists, double mean_rows)
{
    fgmm_status status = FGMM_OK;
    const fgmm_list_queries *q = &finder->queries;
    fgmm_list_plan *plan = &finder->plan;
    plan->group_queries = fgmm__list_group_queries(q->dim, q->whole);
    if (plan->group_queries == 0)
        goto cleanup;
    choose_chunk(finder, lists, mean_rows);
    size_t entries = (size_t)q->n * (size_t)(q->nprobe > q->sample_lists ? q->nprobe : q->sample_lists);
    size_t groups = (size_t)lists + entries / (size_t)plan->group_queries;
    FGMM_TRY(make_room(finder, PLAN_COUNTS, (size_t)lists * sizeof *plan->counts, &plan->counts));
    FGMM_TRY(make_room(finder, VISITORS, entries * sizeof *plan->visitors, &plan->visitors));
    FGMM_TRY(make_room(finder, GROUPS, groups * sizeof *plan->groups, &plan->groups));
    FGMM_TRY(make_room(finder, STATE, 3 * sizeof *plan->state, &plan->state));
cleanup:
    return status;
}

fgmm_status fgmm__cuda_finder_begin(fgmm__cuda_finder *finder, int32_t k, const int32_t *probes,
                                    int32_t pitch, int32_t nprobe, int32_t lists, double mean_rows,
                                    bool repeats, bool whole)
{
    fgmm_status status = FGMM_OK;
    fgmm_list_queries *q = &finder->queries;
    size_t n = (size_t)q->n;
    q->k = k;
    q->nprobe = nprobe;
    q->whole = whole;
    q->repeats = repeats;
    q->capacity = finds_a_query(q->n, k);
    choose_sample(q, mean_rows);
    FGMM_TRY(make_room(finder, ZEROS, n * sizeof *finder->zeros, &finder->zeros));
    FGMM_TRY(make_room(finder, BOUNDS, n * sizeof *q->bounds, &q->bounds));
    FGMM_TRY(make_room(finder, COUNTS, n * sizeof *q->counts, &q->counts));
    FGMM_TRY(make_room(finder, FINDS, n * q->capacity * sizeof *q->finds, &q->finds));
    FGMM_TRY(make_room(finder, SAMPLE, sample_bytes(q), &q->sample));
    FGMM_TRY(make_room(finder, NEAREST, n * (size_t)k * sizeof *q->nearest, &q->nearest));
    FGMM_TRY(make_room(finder, NEAREST_COUNTS, n * sizeof *q->nearest_counts, &q->nearest_counts));
    FGMM_TRY(make_room(finder, OVERFLOWED, (n + 1) * sizeof *q->overflowed, &q->overflowed));
    q->n_overflowed = q->overflowed + n;
    FGMM_TRY(begin_plan(finder, lists, mean_rows));
    q->probes = probes != NULL ? probes : finder->zeros;
    q->probe_pitch = pitch;
    FGMM_LAUNCH(fgmm__launch_list_begin(q, finder->zeros, finder->cuda->stream));
cleanup:
    return status;
}

/* Finds become the nearest; queries whose finds had no room are searched without a screen. */
static fgmm_status select_and_finish(fgmm__cuda_finder *finder, const fgmm_list_view *lists)
{
    fgmm_status status = FGMM_OK;
    const fgmm_list_queries *q = &finder->queries;
    cudaStream_t stream = finder->cuda->stream;
    FGMM_LAUNCH(fgmm__launch_list_select(lists, q, stream));
    FGMM_LAUNCH(fgmm__launch_list_exact(lists, q, false, stream));
cleanup:
    return status;
}

fgmm_status fgmm__cuda_finder_scan(fgmm__cuda_finder *finder, const fgmm_list_view *lists)
{
    fgmm_status status = FGMM_OK;
    const fgmm_list_queries *q = &finder->queries;
    const fgmm_list_plan *plan = &finder->plan;
    cudaStream_t stream = finder->cuda->stream;
    if (plan->group_queries == 0) { /* dimensions beyond the tile */
        FGMM_LAUNCH(fgmm__launch_list_exact(lists, q, true, stream));
        goto cleanup;
    }
    FGMM_CUDA(cudaMemsetAsync(q->sample, 0xff, sample_bytes(q), stream));
    FGMM_LAUNCH(fgmm__launch_list_plan(lists, q, plan, true, stream));
    FGMM_LAUNCH(fgmm__launch_list_tile(lists, q, plan, true, stream));
    FGMM_LAUNCH(fgmm__launch_list_bounds(q, stream));
    FGMM_LAUNCH(fgmm__launch_list_plan(lists, q, plan, false, stream));
    FGMM_LAUNCH(fgmm__launch_list_tile(lists, q, plan, false, stream));
    FGMM_TRY(select_and_finish(finder, lists));
cleanup:
    return status;
}

fgmm_status fgmm__cuda_finder_rank(fgmm__cuda_finder *finder, const fgmm_list_rank *rank, int32_t nprobe)
{
    fgmm_status status = FGMM_OK;
    fgmm_list_queries *q = &finder->queries;
    cudaStream_t stream = finder->cuda->stream;
    FGMM_TRY(fgmm__cuda_finder_begin(finder, nprobe, NULL, 1, 1, 1, 1, false, false));
    q->sample_lists = q->sample_fold = 1;
    q->sample_rows = rank->padded_rows / rank->fold;
    FGMM_TRY(make_room(finder, SAMPLE, sample_bytes(q), &q->sample));
    FGMM_LAUNCH(fgmm__launch_list_rank_queries(rank, q, stream));
    FGMM_LAUNCH(fgmm__launch_list_rank(rank, q, true, stream));
    FGMM_LAUNCH(fgmm__launch_list_bounds(q, stream));
    FGMM_LAUNCH(fgmm__launch_list_rank(rank, q, false, stream));
    FGMM_TRY(select_and_finish(finder, &rank->centroids));
cleanup:
    return status;
}

int64_t fgmm__cuda_finder_piece(const fgmm__cuda_finder *finder, int64_t seen)
{
    const int64_t most = (int64_t)1 << 22;
    int64_t capacity = finder->queries.capacity, rows = seen * capacity / (4 * finder->queries.k);
    return rows < capacity ? capacity : rows < most ? rows : most;
}

fgmm_status fgmm__cuda_finder_read(fgmm__cuda_finder *finder, fgmm_neighbor *nearest, int32_t *counts,
                                   const fgmm__cuda_copy *also)
{
    const fgmm_list_queries *q = &finder->queries;
    size_t n = (size_t)q->n;
    fgmm__cuda_copy copies[3] = {{nearest, q->nearest, n * (size_t)q->k * sizeof *nearest},
                                 {counts, q->nearest_counts, n * sizeof *counts}};
    if (also != NULL)
        copies[2] = *also;
    return fgmm__cuda_downloads(finder->cuda, copies, also != NULL ? 3 : 2);
}
