/* A pass over tiles, chunk by chunk: screen, sparse rows at once, dense rows some chunks later. */
#include "backend/cuda_backend.h"

enum { WHITENED_CHUNKS = 2 };
static const int64_t whitened_bytes = 512 << 20; /* of all chunks under way */

static int32_t clamp(int64_t value, int32_t most)
{
    return value < 1 ? 1 : value > most ? most : (int32_t)value;
}

/* Two tiles of 128 rows for each of 132 multiprocessors are 33 quanta: chunks in between leave some idle at
 * their end. */
static int32_t whole_waves(int32_t quanta)
{
    enum { WAVE = FGMM_CHUNK_QUANTA / 12 };
    return quanta > WAVE ? quanta / WAVE * WAVE : quanta;
}

fgmm__cuda_plan fgmm__cuda_plan_of(fgmm_covariance shape, int32_t k, int32_t dim, bool all_dense,
                                   int32_t chunk_quanta, int32_t chunks)
{
    fgmm__cuda_plan plan = {.chunk_quanta = chunk_quanta, .chunks = chunks, .all_dense = all_dense};
    if (shape == FGMM_TIED) {
        plan.chunks = clamp(chunks, WHITENED_CHUNKS);
        plan.chunk_quanta = whole_waves(
            clamp(whitened_bytes / (plan.chunks * FGMM_QUANTUM * (int64_t)dim * 12), chunk_quanta));
    }
    if (shape == FGMM_FULL)
        plan.chunk_quanta = clamp(chunk_quanta, FGMM_FULL_CHUNK_QUANTA);
    plan.group_components = clamp(k, FGMM_SLAB_COLUMNS);
    plan.group_quanta = clamp(FGMM_SLAB_COLUMNS / plan.group_components, plan.chunk_quanta);
    if (!all_dense && fgmm__sm90_serves(fgmm__cuda_form(shape), shape == FGMM_TIED, k, dim) == FGMM_SM90_WIDE)
        plan.operand_bytes = fgmm__sm90_operand_bytes(fgmm__cuda_form(shape), dim);
    return plan;
}

static size_t quantum_rows(int32_t quanta)
{
    return (size_t)quanta * FGMM_QUANTUM;
}

int64_t fgmm__cuda_plan_bytes(const fgmm__cuda_plan *plan, fgmm_covariance shape, int32_t dim)
{
    size_t chunk = quantum_rows(plan->chunk_quanta), group = quantum_rows(plan->group_quanta);
    size_t bytes = (size_t)plan->operand_bytes;
    if (!plan->all_dense)
        bytes += chunk * (FGMM_CANDIDATES * sizeof(fgmm_candidate) + sizeof(int32_t));
    bytes += (size_t)plan->chunks * (chunk + (size_t)plan->chunk_quanta) * sizeof(int32_t);
    bytes += group * ((size_t)plan->group_components * 8 + 8 + 8 + 4);
    if (shape == FGMM_TIED)
        bytes += (size_t)plan->chunks * chunk * (size_t)dim * 12;
    return (int64_t)bytes;
}

fgmm_status fgmm__cuda_begin_pass(fgmm__cuda_backend *cuda, const fgmm__cuda_plan *plan)
{
    fgmm_status status = FGMM_OK;
    size_t chunk = quantum_rows(plan->chunk_quanta), group = quantum_rows(plan->group_quanta);
    size_t dim = (size_t)cuda->model.view.dim, chunks = (size_t)plan->chunks;
    void *unused;
    cuda->queue.begun = cuda->queue.ended = 0;
    if (!plan->all_dense) {
        FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_CANDIDATES, chunk * FGMM_CANDIDATES * sizeof(fgmm_candidate),
                                    &unused));
        FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_COUNTS, chunk * sizeof(int32_t), &unused));
    }
    if (cuda->model.screen == FGMM_SM90_WIDE)
        FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_SM90_OPERAND, (size_t)plan->operand_bytes, &unused));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_DENSE_ROWS, chunks * chunk * sizeof(int32_t), &unused));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_DENSE_COUNTS,
                                chunks * (size_t)plan->chunk_quanta * sizeof(int32_t), &unused));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_SLAB, group * (size_t)plan->group_components * sizeof(double),
                                &unused));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_ROW_MAX, group * sizeof(double), &unused));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_ROW_SUM, group * sizeof(double), &unused));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_ROW_BEST, group * sizeof(int32_t), &unused));
    if (cuda->model.screen == FGMM_SM90_FULL)
        FGMM_TRY(fgmm__cuda_reserve_full(cuda, plan->chunk_quanta));
    if (cuda->model.tied) {
        FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_WHITENED, chunks * chunk * dim * sizeof(double), &unused));
        FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_WHITENED32, chunks * chunk * dim * sizeof(float), &unused));
    }
cleanup:
    return status;
}

/* Sets up the views of a chunk; whitens its rows. */
static fgmm_status open_chunk(fgmm__cuda_backend *cuda, const fgmm__cuda_plan *plan, const fgmm_tile *tile,
                              int64_t first, int slot, fgmm__cuda_chunk *chunk)
{
    fgmm_status status = FGMM_OK;
    const fgmm__cuda_model *model = &cuda->model;
    int64_t left = tile->rows - first, chunk_rows = (int64_t)quantum_rows(plan->chunk_quanta);
    size_t dim = (size_t)tile->dim,
           place = (size_t)slot * (size_t)chunk_rows; /* where the slot's rows begin */
    *chunk = (fgmm__cuda_chunk){.slot = slot, .first = first};
    chunk->original = (fgmm_row_view){
        .data = (const char *)tile->data + (size_t)first * dim * fgmm_dtype_bytes(tile->dtype),
        .origin = model->origin,
        .origin32 = model->origin32,
        .type = (fgmm_row_type)tile->dtype,
        .rows = (int32_t)(left < chunk_rows ? left : chunk_rows),
        .dim = tile->dim,
    };
    chunk->metric = chunk->screened = chunk->original;
    chunk->dense.rows = (int32_t *)cuda->buffers[BUFFER_DENSE_ROWS].pointer + place;
    chunk->dense.counts =
        (int32_t *)cuda->buffers[BUFFER_DENSE_COUNTS].pointer + (size_t)slot * (size_t)plan->chunk_quanta;
    chunk->dense.home_counts = cuda->dense_counts + (size_t)slot * FGMM_CHUNK_QUANTA;
    if (model->tied) {
        double *exact = (double *)cuda->buffers[BUFFER_WHITENED].pointer + place * dim;
        float *rounded = (float *)cuda->buffers[BUFFER_WHITENED32].pointer + place * dim;
        FGMM_LAUNCH(fgmm__launch_whiten(&chunk->original, model->whitening, exact, rounded, cuda->stream));
        chunk->metric.data = exact;
        chunk->metric.type = FGMM_ROWS_F64;
        chunk->screened.data = rounded;
        chunk->screened.type = FGMM_ROWS_F32;
        chunk->metric.origin = chunk->screened.origin = model->zeros;
        chunk->metric.origin32 = chunk->screened.origin32 = (const float *)model->zeros;
    }
cleanup:
    return status;
}

static int32_t quanta_of(const fgmm__cuda_chunk *chunk)
{
    return (chunk->original.rows + FGMM_QUANTUM - 1) / FGMM_QUANTUM;
}

static fgmm_status screen_chunk(fgmm__cuda_backend *cuda, const fgmm__cuda_chunk *chunk, int32_t least,
                                const fgmm_candidate_lists *lists)
{
    fgmm_status status = FGMM_OK;
    const fgmm__cuda_model *model = &cuda->model;
    int multiprocessors = fgmm__device_multiprocessors(cuda->base.device);
    if (model->screen == FGMM_SM90_FULL) {
        FGMM_TRY(fgmm__cuda_screen_full(cuda, &chunk->screened, least, lists));
    } else if (model->screen == FGMM_SM90_WIDE) {
        FGMM_LAUNCH(fgmm__launch_sm90_wide_screen(&chunk->screened, &model->wide,
                                                  cuda->buffers[BUFFER_SM90_OPERAND].pointer, least, lists,
                                                  multiprocessors, cuda->stream));
    } else if (model->screen == FGMM_SM90_NARROW) {
        FGMM_LAUNCH(fgmm__launch_sm90_screen(&chunk->screened, &model->sm90, least, lists, multiprocessors,
                                             cuda->stream));
        if (model->sm90.order != NULL)
            FGMM_LAUNCH(fgmm__launch_sm90_renumber(lists, chunk->screened.rows, &model->sm90, cuda->stream));
    } else {
        FGMM_LAUNCH(
            fgmm__launch_screen(&chunk->screened, &model->view, &model->tables, least, lists, cuda->stream));
    }
cleanup:
    return status;
}

/* Enqueues what needs no answer from the device: the sparse rows, and the lists of dense ones, whose counts
 * go home. */
static fgmm_status begin_chunk(fgmm__cuda_backend *cuda, const fgmm__cuda_plan *plan,
                               const fgmm__cuda_pass *pass, const fgmm__cuda_chunk *chunk)
{
    fgmm_status status = FGMM_OK;
    fgmm_candidate_lists lists = {cuda->buffers[BUFFER_CANDIDATES].pointer,
                                  cuda->buffers[BUFFER_COUNTS].pointer};
    if (plan->all_dense) {
        FGMM_LAUNCH(fgmm__launch_dense_lists(NULL, chunk->original.rows, &chunk->dense, cuda->stream));
    } else {
        FGMM_TRY(screen_chunk(cuda, chunk, pass->least, &lists));
        FGMM_TRY(pass->sparse(cuda, chunk, &lists));
    }
    FGMM_TRY(fgmm__gpu_event_record(cuda->counts_ready[chunk->slot], cuda->stream));
cleanup:
    return status;
}

/* The dense rows of a chunk, in groups of quanta that have any. */
static fgmm_status end_chunk(fgmm__cuda_backend *cuda, const fgmm__cuda_plan *plan,
                             const fgmm__cuda_pass *pass, const fgmm__cuda_chunk *chunk)
{
    fgmm_status status = FGMM_OK;
    const int32_t *counts = chunk->dense.home_counts;
    bool any = false;
    fgmm_dense_group group = {
        .lists = chunk->dense,
        .slab = cuda->buffers[BUFFER_SLAB].pointer,
        .row_max = cuda->buffers[BUFFER_ROW_MAX].pointer,
        .row_sum = cuda->buffers[BUFFER_ROW_SUM].pointer,
        .row_best = cuda->buffers[BUFFER_ROW_BEST].pointer,
        .top_value = cuda->buffers[BUFFER_TOP_VALUE].pointer,
        .top_component = cuda->buffers[BUFFER_TOP_COMPONENT].pointer,
    };
    FGMM_TRY(fgmm__gpu_event_wait(cuda->counts_ready[chunk->slot], cuda->base.comm));
    for (int32_t q = 0; q < quanta_of(chunk); q++)
        any = any || counts[q] > 0;
    if (any && pass->held != NULL)
        FGMM_TRY(pass->held(cuda, chunk));
    for (int32_t q = 0; q < quanta_of(chunk); q++) {
        if (counts[q] > 0) {
            group.quantum[group.quanta++] = (int16_t)q;
            group.max_rows = counts[q] > group.max_rows ? counts[q] : group.max_rows;
        }
        if (group.quanta == plan->group_quanta || (q + 1 == quanta_of(chunk) && group.quanta > 0)) {
            group.k_begin = group.k_count = 0;
            FGMM_TRY(pass->dense(cuda, chunk, &group));
            group.quanta = group.max_rows = 0;
        }
    }
    if (pass->done != NULL)
        FGMM_TRY(pass->done(cuda, chunk));
cleanup:
    return status;
}

bool fgmm__cuda_next_components(const fgmm__cuda_plan *plan, int32_t k, fgmm_dense_group *group)
{
    group->k_begin += group->k_count;
    int32_t left = k - group->k_begin;
    group->k_count = left < plan->group_components ? left : plan->group_components;
    return left > 0;
}

/* The chunk that has waited longest. */
static fgmm_status end_oldest(fgmm__cuda_backend *cuda, const fgmm__cuda_plan *plan,
                              const fgmm__cuda_pass *pass)
{
    const fgmm__cuda_chunk *chunk = &cuda->queue.chunks[cuda->queue.ended % plan->chunks];
    cuda->queue.ended++;
    return end_chunk(cuda, plan, pass, chunk);
}

fgmm_status fgmm__cuda_run_tile(fgmm__cuda_backend *cuda, const fgmm__cuda_plan *plan,
                                const fgmm__cuda_pass *pass, const fgmm_tile *tile)
{
    fgmm_status status = FGMM_OK;
    int64_t chunk_rows = (int64_t)quantum_rows(plan->chunk_quanta);
    for (int64_t first = 0; first < tile->rows; first += chunk_rows) {
        if (cuda->queue.begun - cuda->queue.ended == plan->chunks)
            FGMM_TRY(end_oldest(cuda, plan, pass));
        int slot = (int)(cuda->queue.begun % plan->chunks);
        fgmm__cuda_chunk *chunk = &cuda->queue.chunks[slot];
        FGMM_TRY(open_chunk(cuda, plan, tile, first, slot, chunk));
        FGMM_TRY(begin_chunk(cuda, plan, pass, chunk));
        cuda->queue.begun++;
    }
    if (!tile->lasting)
        FGMM_TRY(fgmm__cuda_end_pass(cuda, plan, pass));
cleanup:
    return status;
}

bool fgmm__cuda_dense_left(const fgmm__cuda_backend *cuda, const fgmm__cuda_plan *plan)
{
    for (int64_t i = cuda->queue.ended; i < cuda->queue.begun; i++) {
        const fgmm__cuda_chunk *chunk = &cuda->queue.chunks[i % plan->chunks];
        const int32_t *counts = chunk->dense.home_counts;
        for (int32_t q = 0; q < quanta_of(chunk); q++)
            if (counts[q] > 0)
                return true;
    }
    return false;
}

fgmm_status fgmm__cuda_end_pass(fgmm__cuda_backend *cuda, const fgmm__cuda_plan *plan,
                                const fgmm__cuda_pass *pass)
{
    fgmm_status status = FGMM_OK;
    while (cuda->queue.ended < cuda->queue.begun)
        FGMM_TRY(end_oldest(cuda, plan, pass));
cleanup:
    return status;
}
