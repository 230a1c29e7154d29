/* Full components on Hopper: screened, then scored pair by pair, where every log-density of every row would
 * take K dim^2 / 2 float64 multiplications a row. */
#include "backend/cuda_backend.h"

#include <string.h>

/* ---- the model ---- */

static void pack_upper(double *packed, const double *square, size_t dim)
{
    for (size_t i = 0; i < dim; i++, packed += dim - i + 1)
        memcpy(packed, square + i * dim + i, (dim - i) * sizeof *packed);
}

/* A kernel reads the triangles from pinned memory and writes squares. Matrices that do not fit it go as they
 * are. */
fgmm_status fgmm__cuda_put_full_factors(fgmm__cuda_backend *cuda, const fgmm_components *c)
{
    fgmm_status status = FGMM_OK;
    const size_t dim = (size_t)c->dim, square = dim * dim, triangle = dim * (dim + 1) / 2;
    const int32_t step = (int32_t)(FGMM_STAGED / (triangle * sizeof(double)));
    double *factor = NULL, *packed = NULL;
    if (step == 0)
        return fgmm__cuda_put(cuda, BUFFER_FACTOR, c->factors, (size_t)c->k * square * sizeof(double),
                              &cuda->model.view.factor);
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_FACTOR, (size_t)c->k * square * sizeof(double), &factor));
    for (int32_t first = 0; first < c->k; first += step) {
        const int32_t count = c->k - first < step ? c->k - first : step;
        FGMM_TRY(fgmm__cuda_stage(cuda, (size_t)count * triangle * sizeof(double), &packed));
#pragma omp parallel for schedule(static) num_threads(cuda->base.threads)
        for (int32_t k = 0; k < count; k++)
            pack_upper(packed + (size_t)k * triangle, c->factors + (size_t)(first + k) * square, dim);
        FGMM_LAUNCH(
            fgmm__launch_unpack(packed, factor + (size_t)first * square, count, c->dim, cuda->stream));
    }
    cuda->model.view.factor = factor;
cleanup:
    return status;
}

static size_t record_bytes(int32_t k, int32_t dim)
{
    size_t tiles = ((size_t)k + FGMM_FULL_TILE - 1) / FGMM_FULL_TILE;
    return tiles * (size_t)fgmm__full_record_bytes(dim);
}

fgmm_status fgmm__cuda_make_full_tables(fgmm__cuda_backend *cuda, fgmm_sm90_range range)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_model *model = &cuda->model;
    const fgmm_model_view *view = &model->view;
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_FULL_RECORDS, record_bytes(view->k, view->dim),
                                &model->full.records));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_FULL_WHOLES,
                                (size_t)view->k * (size_t)fgmm__full_whole_bytes(view->dim),
                                &model->full.wholes));
    FGMM_LAUNCH(fgmm__launch_full_tables(view, model->origin, model->origin32, range.spread, &model->full,
                                         cuda->stream));
cleanup:
    return status;
}

/* ---- room for a chunk ---- */

static size_t padded_rows(int32_t chunk_quanta)
{
    size_t rows = (size_t)chunk_quanta * FGMM_QUANTUM;
    return (rows + FGMM_FULL_ROW_GROUP - 1) / FGMM_FULL_ROW_GROUP * FGMM_FULL_ROW_GROUP;
}

int64_t fgmm__cuda_full_bytes(int32_t k, int32_t dim, int32_t chunk_quanta)
{
    size_t rows = padded_rows(chunk_quanta);
    return (int64_t)(record_bytes(k, dim) + (size_t)k * (size_t)fgmm__full_whole_bytes(dim) +
                     rows * FGMM_CANDIDATES * (sizeof(double) + sizeof(int32_t)) + rows * 5 * sizeof(float) +
                     (2 * (size_t)k + 2) * sizeof(int32_t)) +
           fgmm__full_row_bytes(dim, (int32_t)rows);
}

fgmm_status fgmm__cuda_reserve_full(fgmm__cuda_backend *cuda, int32_t chunk_quanta)
{
    fgmm_status status = FGMM_OK;
    size_t rows = padded_rows(chunk_quanta), k = (size_t)cuda->model.view.k;
    fgmm__cuda_full *full = &cuda->full;
    fgmm_full_pairs *pairs = &full->pairs;
    float *by_row = NULL;
    *full = (fgmm__cuda_full){.pairs.k = cuda->model.view.k};
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_FULL_ROWS,
                                (size_t)fgmm__full_row_bytes(cuda->model.view.dim, (int32_t)rows),
                                &full->rows.halves));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_FULL_VALUES, rows * FGMM_CANDIDATES * sizeof(double),
                                &pairs->values));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_FULL_SORTED, rows * FGMM_CANDIDATES * sizeof(int32_t),
                                &pairs->sorted));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_FULL_BY_ROW, rows * 5 * sizeof(float), &by_row));
    full->rows.square = by_row;
    pairs->runner_up = by_row + rows;
    pairs->threshold = by_row + 2 * rows;
    pairs->open = (int32_t *)(by_row + 3 * rows);
    pairs->crowded = pairs->open + rows;
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_FULL_COUNTS, (2 * k + 2) * sizeof(int32_t), &pairs->counts));
    pairs->ends = pairs->counts + k;
    pairs->n_open = pairs->ends + k;
    pairs->n_crowded = pairs->n_open + 1;
    FGMM_CUDA(cudaMemsetAsync(pairs->counts, 0, (2 * k + 2) * sizeof(int32_t), cuda->stream));
cleanup:
    return status;
}

/* ---- a chunk ---- */

fgmm_status fgmm__cuda_screen_full(fgmm__cuda_backend *cuda, const fgmm_row_view *rows, int32_t least,
                                   const fgmm_candidate_lists *lists)
{
    fgmm_status status = FGMM_OK;
    const fgmm__cuda_model *model = &cuda->model;
    fgmm__cuda_full *full = &cuda->full;
    int processors = fgmm__device_multiprocessors(cuda->base.device);
    fgmm_full_pairs *pairs = &full->pairs;
    fgmm_stream stream = cuda->stream;
    pairs->lists = *lists;
    FGMM_LAUNCH(fgmm__launch_full_rows(rows, &model->full, NULL, NULL, &full->rows, stream));
    FGMM_LAUNCH(fgmm__launch_full_best(&model->full, &full->rows, rows->rows, pairs, processors, stream));
    FGMM_LAUNCH(fgmm__launch_full_first(rows, &model->view, pairs, stream));
    FGMM_LAUNCH(fgmm__launch_full_rows(rows, &model->full, pairs->open, pairs->n_open, &full->rows, stream));
    FGMM_LAUNCH(
        fgmm__launch_full_candidates(&model->full, &full->rows, rows->rows, pairs, processors, stream));
    FGMM_LAUNCH(fgmm__launch_full_crowded(rows->rows, pairs, stream));
    fgmm_full_pairs crowded = *pairs;
    crowded.open = pairs->crowded;
    crowded.n_open = pairs->n_crowded;
    FGMM_LAUNCH(
        fgmm__launch_full_rows(rows, &model->full, crowded.open, crowded.n_open, &full->rows, stream));
    FGMM_LAUNCH(fgmm__launch_full_whole(&model->full, &full->rows, &crowded, processors, stream));
    FGMM_LAUNCH(fgmm__launch_full_others(rows, &model->view, least, pairs, stream));
cleanup:
    return status;
}

fgmm_status fgmm__cuda_add_full(fgmm__cuda_backend *cuda, const fgmm_row_view *rows)
{
    fgmm_status status = FGMM_OK;
    const fgmm__cuda_full *full = &cuda->full;
    const fgmm_stats_view *stats = &cuda->estep.stats;
    FGMM_LAUNCH(
        fgmm__launch_full_responsibilities(rows, &cuda->model.view, &full->pairs, stats, cuda->stream));
    if (stats->sums)
        FGMM_LAUNCH(fgmm__launch_full_sums(rows, &cuda->model.view, &full->pairs, stats, cuda->stream));
cleanup:
    return status;
}
