/* The E-step: sums of responsibilities in fixed point, two phases a round. First threads take blocks of rows
 * and list the pairs (row, component) that matter, sorted into buckets of components; then threads take
 * buckets and add the pairs of all blocks to the statistics of their components. So there is one set of
 * statistics, no atomics, and nothing of the size rows x components. */
#include "backend/cpu_backend.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include "backend/cpu_sums.h"

/* What the first phase found in a block. */
typedef struct {
    fgmm__cpu_pairs pairs; /* by bucket, row, component */
    int64_t n_pairs, log_high, log_low;
} findings;

enum {
    ROW_BYTES = 4 << 20, /* of a round and thread, as float64 */
    PAIRS = 1 << 22      /* of a round and thread: 64 MiB */
};

struct fgmm__cpu_estep {
    fgmm__cpu_model *model;
    fgmm__cpu_sums *sums; /* NULL: the log-likelihood alone */
    double log_inverse, log_step;
    int64_t log_high, log_low, rows, pairs;
    int threads;
    fgmm__cpu_work **work; /* [threads] */
    int32_t blocks_a_quantum;
    int32_t round_quanta, next_quanta; /* quanta a round: at most, and in the next one */
    fgmm__cpu_block *blocks;           /* [round_quanta * blocks_a_quantum] */
    findings *found;                   /* [round_quanta * blocks_a_quantum] */
};

/* Most quanta a round: enough blocks for all threads to be busy to the end, some 2^35 operations a thread
 * (about a second) and 4 MiB of rows a thread at most. */
static int32_t most_quanta(const fgmm__cpu_model *model, int threads, int32_t blocks_a_quantum)
{
    double operations =
        2.0 * FGMM_QUANTUM * model->k * model->dim * (model->shape == FGMM_FULL ? model->dim : 1);
    double by_time = 0x1p35 * threads / operations,
           by_memory = ROW_BYTES * (double)threads / (8.0 * FGMM_QUANTUM * model->dim);
    int32_t least = (2 * threads + blocks_a_quantum - 1) / blocks_a_quantum;
    return (int32_t)fmax(least, fmin(16 * least, fmin(by_time, by_memory)));
}

/* Broad mixtures make many pairs: a round takes so many quanta as the pairs of the last one, times the
 * threads' share, leave room for. It doubles at most, so that the first rounds find out. */
static void plan_round(fgmm__cpu_estep *e, int32_t quanta, int64_t pairs)
{
    double a_quantum = (double)(pairs + 1) / quanta, fitting = PAIRS * (double)e->threads / a_quantum;
    e->next_quanta = (int32_t)fmax(1, fmin(fitting, fmin(2 * quanta, e->round_quanta)));
}

fgmm_status fgmm__cpu_estep_begin(fgmm_backend *backend, const fgmm_components *components,
                                  const fgmm_grid *grid, fgmm_moment moment, bool want_sums)
{
    fgmm_status status = FGMM_OK;
    fgmm__cpu_backend *cpu = (fgmm__cpu_backend *)backend;
    fgmm__cpu_estep_destroy(cpu->estep);
    cpu->estep = NULL;
    fgmm__cpu_estep *e = NULL;
    FGMM_ALLOC(e, 1, "an E-step");
    e->threads = backend->threads;
    FGMM_TRY(fgmm__cpu_model_create(components, &e->model));
    if (want_sums)
        FGMM_TRY(fgmm__cpu_sums_create(e->model, grid, moment, e->threads, &e->sums));
    e->log_step = ldexp(1, grid->bits);
    e->log_inverse = e->log_step / grid->log_bound;
    FGMM_ALLOC(e->work, e->threads, "an E-step");
    for (int t = 0; t < e->threads; t++)
        FGMM_TRY(fgmm__cpu_work_create(e->model, 1, &e->work[t]));
    e->blocks_a_quantum = FGMM_QUANTUM / e->model->block_rows;
    e->round_quanta = most_quanta(e->model, e->threads, e->blocks_a_quantum);
    e->next_quanta = 1;
    size_t n_blocks = (size_t)e->round_quanta * e->blocks_a_quantum;
    FGMM_ALLOC(e->blocks, n_blocks, "an E-step");
    FGMM_ALLOC(e->found, n_blocks, "an E-step");
    for (size_t b = 0; b < n_blocks; b++) {
        FGMM_ALLOC(e->blocks[b].x, (size_t)e->model->block_rows * e->model->dim, "blocks of rows");
        if (want_sums)
            FGMM_ALLOC(e->blocks[b].starts, e->sums->n_buckets + 1, "blocks of rows");
    }
    cpu->estep = e;
    e = NULL;
cleanup:
    fgmm__cpu_estep_destroy(e);
    return status;
}

void fgmm__cpu_estep_destroy(fgmm__cpu_estep *e)
{
    if (e == NULL)
        return;
    for (int32_t b = 0; e->found != NULL && b < e->round_quanta * e->blocks_a_quantum; b++) {
        free(e->blocks[b].x);
        free(e->blocks[b].starts);
        fgmm__cpu_pairs_free(&e->found[b].pairs);
    }
    for (int t = 0; e->work != NULL && t < e->threads; t++)
        fgmm__cpu_work_destroy(e->work[t]);
    fgmm__cpu_sums_destroy(e->sums);
    fgmm__cpu_model_destroy(e->model);
    free(e->blocks);
    free(e->found);
    free(e->work);
    free(e);
}

int64_t fgmm__cpu_estep_bytes(fgmm_moment moment, int32_t k, int32_t dim)
{
    int64_t a_quantum = 8 * (int64_t)FGMM_QUANTUM * dim;
    int64_t a_thread = fgmm__cpu_work_bytes(k, dim) + (a_quantum > ROW_BYTES ? a_quantum : ROW_BYTES);
    return omp_get_num_procs() * a_thread +
           8 * (int64_t)k * (1 + dim + 2 * (int64_t)fgmm__moment_count(moment, dim));
}

/* The nearest component alone; ties to the smaller number. */
static void keep_nearest(fgmm__cpu_pair *pairs, size_t *n, double *log_density)
{
    size_t best = 0;
    for (size_t i = 1; i < *n; i++)
        if (pairs[i].value > pairs[best].value)
            best = i;
    *log_density = pairs[best].value;
    pairs[0] = (fgmm__cpu_pair){pairs[best].k, pairs[best].row, 1};
    *n = 1;
}

/* Responsibilities of all rows of a block, those too small to matter left out; log-densities are added up. A
 * row of weight w counts w times in both; weights: [n_rows], NULL: once. */
static void weigh(const fgmm__cpu_estep *e, fgmm__cpu_work *w, int32_t n_rows, const double *weights,
                  findings *found)
{
    fgmm__cpu_pair *pairs = w->sorted.at;
    double least = exp2(-e->model->margin);
    size_t kept = 0;
    found->log_high = found->log_low = 0;
    for (int32_t i = 0; i < n_rows; i++) {
        fgmm__cpu_pair *row = pairs + w->starts[i];
        size_t n = w->starts[i + 1] - w->starts[i];
        double log_density;
        if (e->model->hard)
            keep_nearest(row, &n, &log_density);
        else
            log_density = fgmm__cpu_normalise(row, n);
        double weight = weights != NULL ? weights[i] : 1;
        for (size_t j = 0; j < n; j++)
            if (row[j].value >= least && weight > 0)
                pairs[kept++] = (fgmm__cpu_pair){row[j].k, row[j].row, row[j].value * weight};
        double t = log_density * weight * e->log_inverse, high = nearbyint(t);
        found->log_high += (int64_t)high;
        found->log_low += (int64_t)nearbyint((t - high) * e->log_step);
    }
    w->sorted.n = kept;
    found->n_pairs = (int64_t)kept;
}

/* A stable counting sort by bucket. */
static fgmm_status sort_by_bucket(const fgmm__cpu_sums *sums, const fgmm__cpu_pairs *from,
                                  fgmm__cpu_pairs *to, fgmm__cpu_block *block)
{
    int32_t n_buckets = sums->n_buckets;
    size_t *starts = block->starts;
    to->n = 0;
    fgmm_status status = fgmm__cpu_pairs_reserve(to, from->n);
    if (status != FGMM_OK)
        return status;
    memset(starts, 0, sizeof *starts * ((size_t)n_buckets + 1));
    for (size_t i = 0; i < from->n; i++)
        starts[(from->at[i].k >> sums->shift) + 1]++;
    for (int32_t b = 0; b < n_buckets; b++)
        starts[b + 1] += starts[b];
    for (size_t i = 0; i < from->n; i++)
        to->at[starts[from->at[i].k >> sums->shift]++] = from->at[i];
    memmove(starts + 1, starts, sizeof *starts * (size_t)n_buckets);
    starts[0] = 0;
    to->n = from->n;
    block->pairs = to->at;
    return FGMM_OK;
}

static fgmm_status look_at_block(const fgmm__cpu_estep *e, fgmm__cpu_work *w, const fgmm_tile *tile,
                                 int64_t first, fgmm__cpu_block *block, findings *found)
{
    fgmm_status status = FGMM_OK;
    block->n_rows = fgmm__cpu_load(e->model, tile, first, block->x);
    FGMM_TRY(fgmm__cpu_candidates(e->model, w, block->x, block->n_rows));
    weigh(e, w, block->n_rows, tile->weights != NULL ? tile->weights + first : NULL, found);
    if (e->sums != NULL)
        FGMM_TRY(sort_by_bucket(e->sums, &w->sorted, &found->pairs, block));
cleanup:
    return status;
}

/* Rows [first, first + count) of the tile, count a whole number of quanta but at the data's end. */
static fgmm_status compute_round(fgmm__cpu_estep *e, const fgmm_tile *tile, int64_t first, int64_t count)
{
    int32_t block_rows = e->model->block_rows, n_blocks = (int32_t)((count + block_rows - 1) / block_rows);
    int failed = FGMM_OK;
#pragma omp parallel num_threads(e->threads)
    {
        fgmm__cpu_work *w = e->work[omp_get_thread_num()];
#pragma omp for schedule(dynamic, 1)
        for (int32_t b = 0; b < n_blocks; b++) {
            fgmm_status status =
                look_at_block(e, w, tile, first + (int64_t)b * block_rows, &e->blocks[b], &e->found[b]);
            if (status != FGMM_OK) {
#pragma omp atomic write
                failed = status;
            }
        }
    }
    if (failed != FGMM_OK)
        return (fgmm_status)failed;
    for (int32_t b = 0; b < n_blocks; b++) {
        e->log_high += e->found[b].log_high;
        e->log_low += e->found[b].log_low;
        e->pairs += e->found[b].n_pairs;
        e->rows += e->blocks[b].n_rows;
    }
    if (e->sums != NULL)
        fgmm__cpu_sums_add(e->sums, e->blocks, n_blocks, e->blocks_a_quantum);
    return FGMM_OK;
}

fgmm_status fgmm__cpu_estep_tile(fgmm_backend *backend, const fgmm_tile *tile)
{
    fgmm_status status = FGMM_OK;
    fgmm__cpu_estep *e = ((fgmm__cpu_backend *)backend)->estep;
    for (int64_t first = 0; first < tile->rows;) {
        int64_t left = tile->rows - first, pairs = e->pairs, rows = (int64_t)e->next_quanta * FGMM_QUANTUM;
        FGMM_TRY(fgmm__cpu_tick(backend));
        FGMM_TRY(compute_round(e, tile, first, left < rows ? left : rows));
        plan_round(e, e->next_quanta, e->pairs - pairs);
        first += rows;
    }
cleanup:
    return status;
}

fgmm_status fgmm__cpu_estep_end(fgmm_backend *backend, fgmm_stats *stats)
{
    fgmm_status status = FGMM_OK;
    fgmm__cpu_backend *cpu = (fgmm__cpu_backend *)backend;
    fgmm__cpu_estep *e = cpu->estep;
    fgmm__stats_zero(stats);
    if (e->sums != NULL) {
        if (stats->n_words != e->sums->stats->n_words)
            FGMM_FAIL(FGMM_ERR_RUNTIME, "statistics of another shape: %zu words, the E-step has %zu",
                      stats->n_words, e->sums->stats->n_words);
        memcpy(stats->words, e->sums->stats->words, stats->n_words * sizeof *stats->words);
    }
    *stats->log_high = e->log_high;
    *stats->log_low = e->log_low;
    *stats->rows = e->rows;
    *stats->pairs = e->pairs;
    if (backend->comm != NULL)
        FGMM_TRY(fgmm__comm_sum_i64(backend->comm, stats->words, stats->n_words));
cleanup:
    fgmm__cpu_estep_destroy(e);
    cpu->estep = NULL;
    return status;
}
