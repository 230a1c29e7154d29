/* Assignment on the device: labels, responsibilities and log-densities of a chunk come home through pinned
 * memory. */
#include "backend/cuda_backend.h"
#include "backend/poor.h"

#include <math.h>
#include <string.h>

/* One is computed while the results of the other come home. */
enum { CHUNKS = 2 };

/* Fewer rows a chunk when each has many labels: the results of a chunk stay near 10 MB. */
static int32_t chunk_quanta(int32_t top)
{
    int32_t quanta = 1024 / top;
    return quanta < FGMM_CHUNK_QUANTA ? quanta : FGMM_CHUNK_QUANTA;
}

/* Results of the chunks under way: per slot labels [rows][top], responsibilities [rows][top],
 * log-densities [rows]. */
static size_t chunk_rows(const fgmm__cuda_assign *assign)
{
    return (size_t)assign->plan.chunk_quanta * FGMM_QUANTUM;
}

int64_t fgmm__cuda_assign_bytes(fgmm_covariance shape, int32_t k, int32_t dim)
{
    int64_t most = 0;
    for (int32_t top = 1; top <= FGMM_MAX_TOP; top *= 2) {
        fgmm__cuda_plan plan = fgmm__cuda_plan_of(shape, k, dim, false, chunk_quanta(top), CHUNKS);
        int64_t chunk = (int64_t)plan.chunk_quanta * FGMM_QUANTUM,
                group = (int64_t)plan.group_quanta * FGMM_QUANTUM;
        int64_t bytes = CHUNKS * chunk * (8 * top + 8) + group * 12 * top + (int64_t)sizeof(fgmm_poor_list);
        most = bytes > most ? bytes : most;
    }
    return most;
}

fgmm_status fgmm__cuda_assign_begin(fgmm_backend *backend, const fgmm_components *components, int32_t top)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    fgmm__cuda_assign *a = &cuda->assign;
    void *unused;
    if (top < 1 || top > FGMM_MAX_TOP)
        FGMM_FAIL(FGMM_ERR_INPUT, "%d components a row asked for; 1 to %d are possible", top, FGMM_MAX_TOP);
    FGMM_TRY(fgmm__cuda_load_model(cuda, components));
    FGMM_TRY(fgmm__cuda_make_tables(cuda, fgmm__cuda_range_of(cuda, components)));
    a->top = top;
    a->plan = fgmm__cuda_plan_of(components->shape, components->k, components->dim,
                                 components->shape == FGMM_FULL && cuda->model.screen != FGMM_SM90_FULL,
                                 chunk_quanta(top), CHUNKS);
    FGMM_TRY(fgmm__cuda_begin_pass(cuda, &a->plan));
    size_t rows = chunk_rows(a), labels = rows * (size_t)top,
           group = (size_t)a->plan.group_quanta * FGMM_QUANTUM;
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_LABELS, CHUNKS * labels * sizeof(int32_t), &unused));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_RESPONSIBILITIES, CHUNKS * labels * sizeof(float), &unused));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_LOG_DENSITY, CHUNKS * rows * sizeof(double), &unused));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_TOP_VALUE, group * (size_t)top * sizeof(double), &unused));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_TOP_COMPONENT, group * (size_t)top * sizeof(int32_t), &unused));
    size_t staging = labels * (sizeof(int32_t) + sizeof(float)) + rows * sizeof(double);
    if (staging < sizeof(fgmm_poor_list))
        staging = sizeof(fgmm_poor_list);
    if (a->staging_bytes < staging) {
        fgmm__pinned_free(backend->device, a->staging);
        a->staging = NULL;
        a->staging_bytes = 0;
        FGMM_TRY(fgmm__pinned_alloc(backend->device, staging, "results of assignment", &a->staging));
        a->staging_bytes = staging;
    }
cleanup:
    return status;
}

static fgmm_assignment_view view_of(const fgmm__cuda_backend *cuda, int slot)
{
    size_t first = (size_t)slot * chunk_rows(&cuda->assign), top = (size_t)cuda->assign.top;
    return (fgmm_assignment_view){
        .top = cuda->assign.top,
        .labels = (int32_t *)cuda->buffers[BUFFER_LABELS].pointer + first * top,
        .responsibilities = (float *)cuda->buffers[BUFFER_RESPONSIBILITIES].pointer + first * top,
        .log_density = (double *)cuda->buffers[BUFFER_LOG_DENSITY].pointer + first,
    };
}

static fgmm_status select_sparse(fgmm__cuda_backend *cuda, const fgmm__cuda_chunk *chunk,
                                 const fgmm_candidate_lists *lists)
{
    fgmm_status status = FGMM_OK;
    fgmm_assignment_view out = view_of(cuda, chunk->slot);
    const double *values = cuda->model.screen == FGMM_SM90_FULL ? cuda->full.pairs.values : NULL;
    FGMM_LAUNCH(fgmm__launch_select(&chunk->metric, &cuda->model.view, lists, values, &out, cuda->stream));
    FGMM_LAUNCH(fgmm__launch_dense_lists(lists->counts, chunk->original.rows, &chunk->dense, cuda->stream));
cleanup:
    return status;
}

static fgmm_status select_dense(fgmm__cuda_backend *cuda, const fgmm__cuda_chunk *chunk,
                                fgmm_dense_group *group)
{
    fgmm_status status = FGMM_OK;
    const fgmm__cuda_assign *a = &cuda->assign;
    const fgmm_model_view *model = &cuda->model.view;
    fgmm_assignment_view out = view_of(cuda, chunk->slot);
    while (fgmm__cuda_next_components(&a->plan, model->k, group)) {
        FGMM_LAUNCH(fgmm__launch_dense_logits(&chunk->metric, model, group, cuda->stream));
        FGMM_LAUNCH(fgmm__launch_dense_reduce(group, cuda->stream));
        FGMM_LAUNCH(fgmm__launch_dense_top(group, a->top, cuda->stream));
    }
    FGMM_LAUNCH(fgmm__launch_dense_write(model, group, &out, cuda->stream));
cleanup:
    return status;
}

/* Waits for the chunk and copies its results to where the caller wants them. */
static fgmm_status bring_home(fgmm__cuda_backend *cuda, const fgmm__cuda_chunk *chunk)
{
    fgmm_status status = FGMM_OK;
    const fgmm__cuda_assign *a = &cuda->assign;
    fgmm_device *device = cuda->base.device;
    fgmm_assignment_view out = view_of(cuda, chunk->slot);
    size_t rows = (size_t)chunk->original.rows, first = (size_t)chunk->first, top = (size_t)a->top;
    double *log_density = a->staging; /* the widest first: all stay aligned */
    int32_t *labels = (int32_t *)(log_density + rows);
    float *responsibilities = (float *)(labels + rows * top);
    FGMM_TRY(fgmm__device_download(device, labels, out.labels, rows * top * sizeof *labels, cuda->stream));
    if (a->responsibilities != NULL)
        FGMM_TRY(fgmm__device_download(device, responsibilities, out.responsibilities,
                                       rows * top * sizeof *responsibilities, cuda->stream));
    if (a->log_density != NULL)
        FGMM_TRY(fgmm__device_download(device, log_density, out.log_density, rows * sizeof *log_density,
                                       cuda->stream));
    FGMM_TRY(fgmm__stream_sync(cuda->stream, cuda->base.comm));
    memcpy(a->labels + first * top, labels, rows * top * sizeof *labels);
    if (a->responsibilities != NULL)
        memcpy(a->responsibilities + first * top, responsibilities, rows * top * sizeof *responsibilities);
    if (a->log_density != NULL)
        memcpy(a->log_density + first, log_density, rows * sizeof *log_density);
cleanup:
    return status;
}

fgmm_status fgmm__cuda_assign_tile(fgmm_backend *backend, const fgmm_tile *tile, int32_t *labels,
                                   float *responsibilities, double *log_density)
{
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    fgmm__cuda_assign *a = &cuda->assign;
    int32_t least = a->top < cuda->model.view.k ? a->top : cuda->model.view.k;
    fgmm__cuda_pass pass = {
        .least = least, .sparse = select_sparse, .dense = select_dense, .done = bring_home};
    a->labels = labels;
    a->responsibilities = responsibilities;
    a->log_density = log_density;
    fgmm_status status = fgmm__cuda_run_tile(cuda, &a->plan, &pass, tile);
    return status != FGMM_OK ? status : fgmm__cuda_end_pass(cuda, &a->plan, &pass);
}

/* The chunk's rows that may be among the worst explained. Where they are too many for the list, as in the
 * first chunk, all log-densities come. */
static fgmm_status offer_poor(fgmm__cuda_backend *cuda, const fgmm__cuda_chunk *chunk)
{
    fgmm_status status = FGMM_OK;
    const fgmm__cuda_assign *a = &cuda->assign;
    fgmm_device *device = cuda->base.device;
    const double *densities = view_of(cuda, chunk->slot).log_density, *home = a->staging;
    const int64_t begin = a->begin + chunk->first;
    int32_t rows = chunk->original.rows;
    fgmm_poor_list *list = cuda->buffers[BUFFER_POOR].pointer;
    const fgmm_poor_list *found = a->staging;
    double limit = fgmm__poor_limit(a->poor);
    bool listed = limit < INFINITY;
    if (listed) {
        FGMM_LAUNCH(fgmm__launch_poor(densities, rows, limit, list, cuda->stream));
        FGMM_TRY(fgmm__device_download(device, a->staging, list, sizeof *list, cuda->stream));
        FGMM_TRY(fgmm__stream_sync(cuda->stream, cuda->base.comm));
        listed = found->count <= FGMM_POOR_PLACES;
    }
    for (int32_t i = 0; listed && i < found->count; i++)
        fgmm__poor_offer(a->poor, (fgmm_poor_row){found->log_density[i], begin + found->row[i]});
    if (listed)
        goto cleanup;
    FGMM_TRY(
        fgmm__device_download(device, a->staging, densities, (size_t)rows * sizeof *densities, cuda->stream));
    FGMM_TRY(fgmm__stream_sync(cuda->stream, cuda->base.comm));
    for (int32_t i = 0; i < rows; i++)
        if (!(home[i] > fgmm__poor_limit(a->poor)))
            fgmm__poor_offer(a->poor, (fgmm_poor_row){home[i], begin + i});
cleanup:
    return status;
}

fgmm_status fgmm__cuda_poor_tile(fgmm_backend *backend, const fgmm_tile *tile, fgmm_poor *poor)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    fgmm__cuda_assign *a = &cuda->assign;
    const fgmm__cuda_pass pass = {
        .least = 1, .sparse = select_sparse, .dense = select_dense, .done = offer_poor};
    void *unused;
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_POOR, sizeof(fgmm_poor_list), &unused));
    a->poor = poor;
    a->begin = tile->begin;
    FGMM_TRY(fgmm__cuda_run_tile(cuda, &a->plan, &pass, tile));
    FGMM_TRY(fgmm__cuda_end_pass(cuda, &a->plan, &pass));
cleanup:
    return status;
}
