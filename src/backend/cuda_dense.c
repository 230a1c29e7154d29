/* Dense rows of spherical mixtures on Hopper: those that fp32 can hold are taken out of a chunk's lists and
 * added by tensor cores (kernels/sm90/dense.h); the others stay, for float64. */
#include "backend/cuda_backend.h"

#include <math.h>
#include "kernels/breadth.h"

static int64_t operand_bytes(int32_t dim, int32_t chunk_quanta)
{
    int64_t tiles = (int64_t)chunk_quanta * (FGMM_QUANTUM / FGMM_DENSE_ROWS);
    return tiles * fgmm__sm90_dense_tile_bytes(FGMM_DENSE_ROW_PARTS, dim);
}

/* Which rows a chunk holds is known by quantum. */
static size_t count_bytes(int32_t chunk_quanta)
{
    return (size_t)chunk_quanta * sizeof(int32_t);
}

int64_t fgmm__cuda_dense_bytes(int32_t k, int32_t dim, int32_t chunk_quanta)
{
    if (k > FGMM_DENSE_BLOCKS * FGMM_DENSE_COMPONENTS) /* they do not serve */
        return 0;
    return fgmm__sm90_dense_bytes(k, dim) + operand_bytes(dim, chunk_quanta) +
           (int64_t)count_bytes(chunk_quanta);
}

bool fgmm__cuda_dense_serves(const fgmm__cuda_backend *cuda)
{
    const fgmm_stats_view *stats = &cuda->estep.stats;
    return fgmm__sm90_dense_serves(&cuda->model.view, cuda->model.screen) &&
           (stats->moment == FGMM_KERNEL_MOMENT_SPHERICAL || !stats->sums);
}

double fgmm__cuda_breadth_of(const fgmm__cuda_backend *cuda, const fgmm_components *c)
{
    const fgmm_model_view *view = &cuda->model.view;
    double sum = 0;
    if (!fgmm__sm90_dense_serves(view, fgmm__cuda_screen_of(cuda)))
        return 0;
    for (int32_t i = 0; i < c->k * FGMM_BREADTH_PARTNERS; i++) {
        int32_t one = i / FGMM_BREADTH_PARTNERS,
                other = fgmm__breadth_partner(one, i % FGMM_BREADTH_PARTNERS, c->k);
        const double *a = c->means + (size_t)one * (size_t)c->dim,
                     *b = c->means + (size_t)other * (size_t)c->dim;
        double factor[2] = {c->factors[one] * c->factors[one], c->factors[other] * c->factors[other]};
        double offset[2] = {c->offsets[one], c->offsets[other]}, square = 0;
        for (int32_t d = 0; d < c->dim; d++)
            square += (a[d] - b[d]) * (a[d] - b[d]);
        sum += fgmm__breadth_share(factor, offset, square, c->dim, view->keep_bits);
    }
    return sum / FGMM_BREADTH_PARTNERS;
}

/* A dense row takes as long as so many pairs of sparse rows, and that grows with K. Rows that fp32 does not
 * hold take much longer, and those of a mixture with a component far narrower than others it may not hold. */
bool fgmm__cuda_dense_prevails(const fgmm__cuda_backend *cuda, fgmm_sm90_range range)
{
    const double pairs = 10, k = 1024, most_narrow = 8;
    return fgmm__cuda_dense_serves(cuda) && range.narrow <= most_narrow &&
           cuda->model.breadth >= pairs * fmax(1, cuda->model.view.k / k);
}

fgmm_status fgmm__cuda_reserve_dense(fgmm__cuda_backend *cuda, int32_t chunk_quanta)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_model *model = &cuda->model;
    int32_t k = model->view.k, dim = model->view.dim;
    void *memory = NULL;
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_DENSE_MODEL, (size_t)fgmm__sm90_dense_bytes(k, dim), &memory));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_DENSE_TILES, (size_t)operand_bytes(dim, chunk_quanta),
                                &cuda->dense.operand.tiles));
    FGMM_TRY(
        fgmm__cuda_reserve(cuda, BUFFER_DENSE_HELD, count_bytes(chunk_quanta), &cuda->dense.operand.counts));
    cuda->dense.model = fgmm__sm90_dense_place(k, dim, memory);
    cuda->dense.ready = false;
cleanup:
    return status;
}

/* Most passes have no dense rows, so the tables are made when the first come. */
static fgmm_status make_tables(fgmm__cuda_backend *cuda, const fgmm_row_view *rows)
{
    fgmm_status status = FGMM_OK;
    if (cuda->dense.ready && cuda->dense.type == rows->type)
        goto cleanup;
    FGMM_LAUNCH(fgmm__launch_sm90_dense_tables(&cuda->model.view, rows, cuda->model.range,
                                               cuda->model.origin_most, &cuda->dense.model, cuda->stream));
    cuda->dense.ready = true;
    cuda->dense.type = rows->type;
cleanup:
    return status;
}

fgmm_status fgmm__cuda_add_dense_rows(fgmm__cuda_backend *cuda, const fgmm__cuda_chunk *chunk)
{
    fgmm_status status = FGMM_OK;
    const fgmm_row_view *rows = &chunk->original;
    FGMM_TRY(make_tables(cuda, rows));
    FGMM_LAUNCH(fgmm__launch_sm90_dense_rows(rows, &cuda->dense.model, &chunk->dense, &cuda->dense.operand,
                                             cuda->stream));
    FGMM_TRY(fgmm__gpu_event_record(cuda->counts_ready[chunk->slot], cuda->stream));
    FGMM_LAUNCH(fgmm__launch_sm90_dense_sums(rows, &cuda->model.view, &cuda->dense.model,
                                             &cuda->dense.operand, &cuda->estep.stats,
                                             fgmm__device_multiprocessors(cuda->base.device), cuda->stream));
    FGMM_TRY(fgmm__gpu_event_wait(cuda->counts_ready[chunk->slot], cuda->base.comm)); /* the sums go on */
cleanup:
    return status;
}
