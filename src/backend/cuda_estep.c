/* The E-step on the device: statistics in fixed point in one buffer of words, as in model/stats.h. */
#include "backend/cuda_backend.h"

#include <math.h>
#include <stdlib.h>

static size_t word_count(fgmm_moment moment, int32_t k, int32_t dim)
{
    return (size_t)k * (1 + (size_t)dim + 2 * fgmm__moment_count(moment, dim)) + 4;
}

/* Counts of pairs follow the words, so that both are cleared at one time; they are read in 16-byte pieces. */
static size_t padded_words(fgmm_moment moment, int32_t k, int32_t dim)
{
    return (word_count(moment, k, dim) + 1) / 2 * 2;
}

/* Places for the pairs of a chunk. */
static size_t pair_count(const fgmm__cuda_plan *plan)
{
    return plan->all_dense ? 0 : (size_t)plan->chunk_quanta * FGMM_QUANTUM * FGMM_PAIRS_A_ROW;
}

/* Values of the counts of pairs, and as many offsets. */
static size_t padded_counts(int32_t k)
{
    return ((size_t)k + FGMM_PAIR_COUNTS - 1) / FGMM_PAIR_COUNTS * FGMM_PAIR_COUNTS;
}

static size_t pair_bytes(const fgmm__cuda_plan *plan)
{
    return pair_count(plan) * (2 * sizeof(fgmm_pair) + sizeof(fgmm_pair_weight));
}

static size_t pair_count_bytes(int32_t k)
{
    return 2 * padded_counts(k) * sizeof(int32_t) + sizeof(fgmm_pair_state);
}

/* Of a pass: what is zero when it begins. Two, up to this size: the M-step that reads one clears the other.
 */
static const size_t cleared_bytes = 16 << 20;

static size_t cleared(fgmm_moment moment, int32_t k, int32_t dim)
{
    size_t bytes = padded_words(moment, k, dim) * sizeof(int64_t) + pair_count_bytes(k);
    return (bytes + 15) / 16 * 16;
}

int64_t fgmm__cuda_estep_bytes(const fgmm__cuda_plan *plan, fgmm_moment moment, int32_t k, int32_t dim)
{
    size_t pairs = moment == FGMM_MOMENT_FULL ? 0 : pair_bytes(plan), words = cleared(moment, k, dim);
    return (int64_t)(8 * (size_t)dim + pairs + words * (words <= cleared_bytes ? 2 : 1));
}

/* Takes the buffers for sorting pairs; counts: zero. */
static fgmm_status make_pairs(fgmm__cuda_backend *cuda, int32_t k, void *counts)
{
    fgmm_status status = FGMM_OK;
    fgmm_pair_view *pairs = &cuda->estep.pairs;
    const fgmm__cuda_plan *plan = &cuda->estep.plan;
    size_t capacity = pair_count(plan);
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_PAIRS, pair_bytes(plan), &pairs->pairs));
    pairs->sorted = pairs->pairs + capacity;
    pairs->weights = (fgmm_pair_weight *)(pairs->sorted + capacity);
    pairs->counts = counts;
    pairs->offsets = pairs->counts + padded_counts(k);
    pairs->state = (fgmm_pair_state *)(pairs->offsets + padded_counts(k));
    pairs->capacity = (int32_t)capacity;
cleanup:
    return status;
}

/* Places of the words, in the order that model/stats.h lays down: n, s, q high, q low, log high, log low,
 * rows, pairs. */
static void place_words(fgmm_stats_view *view, int64_t *words, fgmm_moment moment, int32_t k, int32_t dim)
{
    size_t components = (size_t)k, q = components * fgmm__moment_count(moment, dim);
    view->n = words;
    view->s = view->n + components;
    view->q_high = view->s + components * (size_t)dim;
    view->q_low = view->q_high + q;
    view->log_high = view->q_low + q;
    view->log_low = view->log_high + 1;
    view->rows = view->log_high + 2;
    view->pairs = view->log_high + 3;
}

/* Takes the words, zero, and what is beside them to be cleared. */
static fgmm_status take_words(fgmm__cuda_backend *cuda, size_t bytes, int64_t **words)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_words *w = &cuda->words;
    const fgmm__cuda_words before = *w;
    bool two = bytes <= cleared_bytes;
    char *first = NULL;
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_WORDS, bytes * (two ? 2 : 1), &first));
    bool ready = two && before.clean && before.bytes == bytes &&
                 (before.other == first || before.other == first + bytes);
    char *mine = ready ? before.other : first;
    if (!ready)
        FGMM_CUDA(cudaMemsetAsync(mine, 0, bytes, cuda->stream));
    *w = (fgmm__cuda_words){.other = !two ? NULL : mine == first ? first + bytes : first, .bytes = bytes};
    *words = (int64_t *)mine;
cleanup:
    return status;
}

void fgmm__cuda_set_grid(fgmm_stats_view *view, double spherical_bound, double log_bound, int bits)
{
    view->inverse_spherical_bound = 1 / spherical_bound;
    view->inverse_log_bound = 1 / log_bound;
    view->one = ldexp(1, bits);
}

static fgmm_status put_grid(fgmm__cuda_backend *cuda, const fgmm_grid *grid)
{
    fgmm_status status = FGMM_OK;
    fgmm_stats_view *view = &cuda->estep.stats;
    double *inverse = NULL;
    FGMM_ALLOC(inverse, grid->dim, "the grid");
    for (int32_t d = 0; d < grid->dim; d++)
        inverse[d] = 1 / grid->bound[d];
    FGMM_TRY(fgmm__cuda_put(cuda, BUFFER_INVERSE_BOUND, inverse, (size_t)grid->dim * sizeof(double),
                            &view->inverse_bound));
    fgmm__cuda_set_grid(view, grid->spherical_bound, grid->log_bound, grid->bits);
cleanup:
    free(inverse);
    return status;
}

fgmm_status fgmm__cuda_estep_open(fgmm__cuda_backend *cuda, fgmm_covariance shape, fgmm_moment moment,
                                  bool want_sums, fgmm_sm90_range range)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_estep *e = &cuda->estep;
    int32_t k = cuda->model.view.k, dim = cuda->model.view.dim;
    int64_t *words = NULL;
    *e = (fgmm__cuda_estep){.n_words = word_count(moment, k, dim)};
    e->small = !cuda->model.tied && fgmm__small_serves(cuda->model.view.form, (int32_t)moment, k, dim);
    e->stats.moment = (int32_t)moment;
    e->stats.sums = want_sums;
    cuda->model.screen = fgmm__cuda_screen_of(cuda);
    bool full = cuda->model.screen == FGMM_SM90_FULL, scatter = want_sums && moment == FGMM_MOMENT_FULL;
    bool all_dense = !full && (shape == FGMM_FULL || scatter || fgmm__cuda_dense_prevails(cuda, range));
    e->plan = fgmm__cuda_plan_of(shape, k, dim, all_dense, FGMM_CHUNK_QUANTA, FGMM_CHUNKS_UNDER_WAY);
    cuda->queue.begun = cuda->queue.ended = 0;
    if (!e->small) {
        FGMM_TRY(fgmm__cuda_make_tables(cuda, range));
        FGMM_TRY(fgmm__cuda_begin_pass(cuda, &e->plan));
        if (fgmm__cuda_dense_serves(cuda))
            FGMM_TRY(fgmm__cuda_reserve_dense(cuda, e->plan.chunk_quanta));
    }
    FGMM_TRY(take_words(cuda, cleared(moment, k, dim), &words));
    place_words(&e->stats, words, moment, k, dim);
    if (!e->plan.all_dense && !e->small && !full)
        FGMM_TRY(make_pairs(cuda, k, words + padded_words(moment, k, dim)));
cleanup:
    return status;
}

fgmm_status fgmm__cuda_estep_begin(fgmm_backend *backend, const fgmm_components *components,
                                   const fgmm_grid *grid, fgmm_moment moment, bool want_sums)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    if (moment == FGMM_MOMENT_SPHERICAL && components->shape != FGMM_SPHERICAL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "spherical moments are gathered for spherical components only");
    FGMM_TRY(fgmm__cuda_load_model(cuda, components));
    cuda->model.breadth = fgmm__cuda_breadth_of(cuda, components);
    FGMM_TRY(fgmm__cuda_estep_open(cuda, components->shape, moment, want_sums,
                                   fgmm__cuda_range_of(cuda, components)));
    FGMM_TRY(put_grid(cuda, grid));
cleanup:
    return status;
}

static fgmm_status add_sparse(fgmm__cuda_backend *cuda, const fgmm__cuda_chunk *chunk,
                              const fgmm_candidate_lists *lists)
{
    fgmm_status status = FGMM_OK;
    const fgmm__cuda_estep *e = &cuda->estep;
    int multiprocessors = fgmm__device_multiprocessors(cuda->base.device);
    if (cuda->model.screen == FGMM_SM90_FULL) {
        FGMM_TRY(fgmm__cuda_add_full(cuda, &chunk->original));
        FGMM_LAUNCH(
            fgmm__launch_dense_lists(lists->counts, chunk->original.rows, &chunk->dense, cuda->stream));
        goto cleanup;
    }
    FGMM_LAUNCH(fgmm__launch_pairs(&chunk->metric, &chunk->original, &cuda->model.view, lists, &chunk->dense,
                                   &e->pairs, &e->stats, multiprocessors, cuda->stream));
    FGMM_LAUNCH(fgmm__launch_sums(&chunk->metric, &chunk->original, &cuda->model.view, &e->pairs, &e->stats,
                                  multiprocessors, cuda->stream));
cleanup:
    return status;
}

static fgmm_status add_held(fgmm__cuda_backend *cuda, const fgmm__cuda_chunk *chunk)
{
    return fgmm__cuda_dense_serves(cuda) ? fgmm__cuda_add_dense_rows(cuda, chunk) : FGMM_OK;
}

/* All components once for the rows' normalisation; once more for the sums, when they did not fit the slab at
 * one time. */
static fgmm_status add_dense(fgmm__cuda_backend *cuda, const fgmm__cuda_chunk *chunk, fgmm_dense_group *group)
{
    fgmm_status status = FGMM_OK;
    const fgmm__cuda_estep *e = &cuda->estep;
    const fgmm_model_view *model = &cuda->model.view;
    bool at_once = model->k <= e->plan.group_components;
    while (fgmm__cuda_next_components(&e->plan, model->k, group)) {
        FGMM_LAUNCH(fgmm__launch_dense_logits(&chunk->metric, model, group, cuda->stream));
        FGMM_LAUNCH(fgmm__launch_dense_reduce(group, cuda->stream));
    }
    group->k_begin = group->k_count = 0;
    while (fgmm__cuda_next_components(&e->plan, model->k, group)) {
        if (!at_once)
            FGMM_LAUNCH(fgmm__launch_dense_logits(&chunk->metric, model, group, cuda->stream));
        FGMM_LAUNCH(fgmm__launch_dense_responsibilities(model, group, &e->stats, cuda->stream));
        if (!e->stats.sums)
            continue;
        FGMM_LAUNCH(fgmm__launch_dense_sums(&chunk->original, model, group, &e->stats, cuda->stream));
        if (e->stats.moment == FGMM_KERNEL_MOMENT_FULL)
            FGMM_LAUNCH(fgmm__launch_dense_scatter(&chunk->original, model, group, &e->stats, cuda->stream));
    }
cleanup:
    return status;
}

/* A tile at one time; launches of more rows than 2^30 are cut. */
static fgmm_status add_small(fgmm__cuda_backend *cuda, const fgmm_tile *tile)
{
    fgmm_status status = FGMM_OK;
    const int64_t most = 1 << 30;
    size_t row_bytes = (size_t)tile->dim * fgmm_dtype_bytes(tile->dtype);
    fgmm_row_view rows = {.origin = cuda->model.origin,
                          .origin32 = cuda->model.origin32,
                          .type = (fgmm_row_type)tile->dtype,
                          .dim = tile->dim};
    for (int64_t first = 0; first < tile->rows; first += most) {
        int64_t left = tile->rows - first;
        rows.data = (const char *)tile->data + (size_t)first * row_bytes;
        rows.rows = (int32_t)(left < most ? left : most);
        FGMM_LAUNCH(fgmm__launch_small(&rows, &cuda->model.view, &cuda->estep.stats,
                                       fgmm__device_multiprocessors(cuda->base.device), cuda->stream));
    }
cleanup:
    return status;
}

const fgmm__cuda_pass fgmm__cuda_estep_pass = {
    .least = 1, .sparse = add_sparse, .held = add_held, .dense = add_dense};

fgmm_status fgmm__cuda_estep_tile(fgmm_backend *backend, const fgmm_tile *tile)
{
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    cuda->estep.rows += tile->rows;
    if (cuda->estep.small)
        return add_small(cuda, tile);
    return fgmm__cuda_run_tile(cuda, &cuda->estep.plan, &fgmm__cuda_estep_pass, tile);
}

fgmm_status fgmm__cuda_estep_end(fgmm_backend *backend, fgmm_stats *stats)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    fgmm__cuda_estep *e = &cuda->estep;
    int64_t *words = e->stats.n;
    if (stats->n_words != e->n_words)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "statistics of another shape: %zu words, the E-step has %zu",
                  stats->n_words, e->n_words);
    FGMM_TRY(fgmm__cuda_end_pass(cuda, &e->plan, &fgmm__cuda_estep_pass));
    FGMM_TRY(fgmm__cuda_upload(cuda, e->stats.rows, &e->rows, sizeof e->rows));
    if (backend->comm != NULL)
        FGMM_TRY(fgmm__comm_sum_i64_device(backend->comm, words, e->n_words, cuda->stream));
    FGMM_TRY(fgmm__cuda_download(cuda, stats->words, words, e->n_words * sizeof(int64_t)));
cleanup:
    return status;
}
