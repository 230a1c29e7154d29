/* A fit whose parameters stay on the device: the M-step there, and one small struct for the host an
 * iteration. */
#include "backend/cuda_backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "model/mstep.h"

static bool serves(fgmm_algorithm algorithm, fgmm_covariance covariance)
{
    return algorithm == FGMM_KMEANS || covariance == FGMM_SPHERICAL || covariance == FGMM_DIAG;
}

/* ---- device memory ---- */

/* Values of an array; the next one starts where four doubles may be read at one time. */
static size_t padded(size_t n)
{
    return (n + 3) / 4 * 4;
}

static size_t covariance_values(fgmm_covariance shape, int32_t k, int32_t dim)
{
    return shape == FGMM_DIAG ? (size_t)k * (size_t)dim : (size_t)k;
}

/* Doubles of one of the two mixtures. */
static size_t mixture_values(fgmm_covariance shape, int32_t k, int32_t dim)
{
    size_t components = (size_t)k, dims = (size_t)dim;
    return 2 * (padded(components) + padded(components * dims) + padded(covariance_values(shape, k, dim)) +
                padded(dims));
}

/* Bytes of the M-step's own arrays: origin, low, high, most [2]; parts; the count of finished blocks; the
 * origin in fp32. */
static size_t mstep_bytes(int32_t dim)
{
    return 6 * padded((size_t)dim) * sizeof(double) + FGMM_MSTEP_BLOCKS * sizeof(fgmm_mixture_part) +
           sizeof(double) + padded((size_t)dim + FGMM_SCREEN_DIMS) * sizeof(float);
}

int64_t fgmm__cuda_mixture_bytes(fgmm_covariance shape, int32_t k, int32_t dim)
{
    return (int64_t)(2 * mixture_values(shape, k, dim) * sizeof(double) + mstep_bytes(dim));
}

static double *take(double **from, size_t values)
{
    double *taken = *from;
    *from += padded(values);
    return taken;
}

static void place_mixture(fgmm_mixture_view *view, double *from, fgmm_covariance shape, int32_t k,
                          int32_t dim)
{
    size_t components = (size_t)k, dims = (size_t)dim, covariances = covariance_values(shape, k, dim);
    view->weights = take(&from, components);
    view->means = take(&from, components * dims);
    view->covariances = take(&from, covariances);
    view->bound = take(&from, dims);
    view->offset = take(&from, components);
    view->centre = take(&from, components * dims);
    view->factor = take(&from, covariances);
    view->inverse_bound = take(&from, dims);
}

static fgmm_status take_memory(fgmm__cuda_backend *cuda, fgmm_covariance shape)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_resident *r = &cuda->resident;
    int32_t k = r->view.k, dim = r->view.dim;
    size_t values = mixture_values(shape, k, dim), dims = (size_t)dim;
    double *mixtures = NULL, *own = NULL;
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_MIXTURES, 2 * values * sizeof(double), &mixtures));
    for (int side = 0; side < 2; side++)
        place_mixture(&r->sides[side].view, mixtures + (size_t)side * values, shape, k, dim);
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_MSTEP, mstep_bytes(dim), &own));
    r->view.origin = take(&own, dims);
    r->view.low = take(&own, dims);
    r->view.high = take(&own, dims);
    r->view.most = take(&own, 2 * dims);
    r->view.parts = (fgmm_mixture_part *)own;
    r->view.finished = (int32_t *)(r->view.parts + FGMM_MSTEP_BLOCKS);
    r->origin32 = (float *)(r->view.finished + 2);
    if (r->home == NULL)
        FGMM_TRY(fgmm__mapped_alloc(cuda->base.device, sizeof *r->home, "what an iteration found",
                                    (void **)&r->home));
cleanup:
    return status;
}

void fgmm__cuda_mixture_free(fgmm__cuda_backend *cuda)
{
    fgmm__pinned_free(cuda->base.device, cuda->resident.home);
    cuda->resident.home = NULL;
}

/* ---- parameters come ---- */

static fgmm_status put_range(fgmm__cuda_backend *cuda, const fgmm_model *model, const fgmm_em_terms *terms)
{
    fgmm_status status = FGMM_OK;
    fgmm_mstep_view *view = &cuda->resident.view;
    double squares = 0;
    size_t dims = (size_t)model->dim, bytes = dims * sizeof(double);
    double *low = NULL, *high = NULL;
    float *origin32 = NULL;
    int32_t none = 0;
    cuda->resident.origin_most = 0;
    FGMM_ALLOC(low, 2 * dims, "the rows' range"); /* its opposite follows */
    FGMM_ALLOC(high, dims, "the rows' range");
    FGMM_ALLOC(origin32, dims + FGMM_SCREEN_DIMS, "the origin");
    for (size_t d = 0; d < dims; d++) {
        low[d] = fmin(terms->min[d] - model->origin[d], 0);
        low[dims + d] = -low[d];
        high[d] = fmax(terms->max[d] - model->origin[d], 0);
        origin32[d] = (float)model->origin[d];
        cuda->resident.origin_most = fmax(cuda->resident.origin_most, fabs(model->origin[d]));
        double bound = fgmm__power_of_two(high[d] - low[d]);
        squares += bound * bound;
    }
    view->range_bound = fgmm__power_of_two(squares);
    FGMM_TRY(fgmm__cuda_upload(cuda, (double *)view->origin, model->origin, bytes));
    FGMM_TRY(fgmm__cuda_upload(cuda, (double *)view->low, low, bytes));
    FGMM_TRY(fgmm__cuda_upload(cuda, (double *)view->high, high, bytes));
    FGMM_TRY(fgmm__cuda_upload(cuda, view->most, low + dims, bytes));
    FGMM_TRY(fgmm__cuda_upload(cuda, view->most + dims, high, bytes));
    FGMM_TRY(fgmm__cuda_upload(cuda, view->finished, &none, sizeof none));
    FGMM_TRY(fgmm__cuda_upload(cuda, cuda->resident.origin32, origin32,
                               (dims + FGMM_SCREEN_DIMS) * sizeof(float)));
cleanup:
    free(low);
    free(high);
    free(origin32);
    return status;
}

static fgmm_status put_parameters(fgmm__cuda_backend *cuda, const fgmm_model *model)
{
    fgmm_status status = FGMM_OK;
    const fgmm_mixture_view *to = &cuda->resident.sides[0].view;
    size_t k = (size_t)model->k, dim = (size_t)model->dim;
    FGMM_TRY(fgmm__cuda_upload(cuda, to->weights, model->weights, k * sizeof(double)));
    FGMM_TRY(fgmm__cuda_upload(cuda, to->means, model->means, k * dim * sizeof(double)));
    if (!cuda->resident.view.hard)
        FGMM_TRY(
            fgmm__cuda_upload(cuda, to->covariances, model->covariances,
                              covariance_values(model->covariance, model->k, model->dim) * sizeof(double)));
cleanup:
    return status;
}

/* Makes the mixture of `side`: by an M-step from the sums over the other side, or from its own parameters
 * (stats NULL). Waits for it, and for all that was enqueued before. */
static fgmm_status make_mixture(fgmm__cuda_backend *cuda, int side, const fgmm_stats_view *stats)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_resident *r = &cuda->resident;
    r->view.clear = cuda->words.other;
    r->view.clear_bytes = cuda->words.other != NULL ? (int64_t)cuda->words.bytes : 0;
    cuda->words.clean = cuda->words.other != NULL;
    FGMM_LAUNCH(fgmm__launch_mstep(&r->view, &r->sides[1 - side].view, stats, &r->sides[side].view, r->home,
                                   cuda->stream));
    if (r->may_be_dense)
        FGMM_LAUNCH(fgmm__launch_breadth(&r->view, &r->sides[side].view,
                                         fgmm__cuda_keep_bits(FGMM_SPHERICAL, false, r->view.k), r->home,
                                         cuda->stream));
    FGMM_TRY(fgmm__stream_sync(cuda->stream, cuda->base.comm));
    r->sides[side].summary = *r->home;
cleanup:
    return status;
}

static fgmm_status check_range(const fgmm_mixture_summary *summary)
{
    fgmm_grid grid = {.spherical_bound = summary->spherical_bound, .log_bound = summary->log_bound};
    return fgmm__grid_check(&grid);
}

/* Whether it matters how broad the mixture is. Of few rows, not even to time. */
static bool may_be_dense(const fgmm__cuda_backend *cuda, const fgmm__cuda_resident *r, int64_t rows)
{
    const int64_t few = 64 * FGMM_QUANTUM;
    fgmm_model_view view = {.form = r->view.form, .hard = r->view.hard, .k = r->view.k, .dim = r->view.dim};
    return cuda->hopper && rows > few &&
           fgmm__sm90_dense_serves(&view, fgmm__sm90_serves(view.form, false, view.k, view.dim));
}

static fgmm_status load(fgmm_backend *backend, const fgmm_model *model, const fgmm_em_terms *terms)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    fgmm__cuda_resident *r = &cuda->resident;
    bool hard = model->algorithm == FGMM_KMEANS;
    r->view = (fgmm_mstep_view){.form = !hard && model->covariance == FGMM_DIAG ? FGMM_FORM_DIAG
                                                                                : FGMM_FORM_SPHERICAL,
                                .hard = hard,
                                .k = model->k,
                                .dim = model->dim,
                                .reg_covar = terms->reg_covar,
                                .starved_rows = FGMM_STARVED_ROWS};
    r->may_be_dense = may_be_dense(cuda, r, terms->rows);
    r->moment = hard                             ? FGMM_MOMENT_NONE
                : r->view.form == FGMM_FORM_DIAG ? FGMM_MOMENT_DIAG
                                                 : FGMM_MOMENT_SPHERICAL;
    r->bits = fgmm__grid_bits(terms->rows);
    r->now = 0;
    FGMM_CUDA(cudaGetLastError());
    FGMM_TRY(take_memory(cuda, hard ? FGMM_SPHERICAL : model->covariance));
    FGMM_TRY(put_range(cuda, model, terms));
    FGMM_TRY(put_parameters(cuda, model));
    FGMM_TRY(make_mixture(cuda, 0, NULL));
    FGMM_TRY(check_range(&r->sides[0].summary));
    if (r->sides[0].summary.flagged > 0 && !hard)
        FGMM_FAIL(FGMM_ERR_INPUT, "the covariances of %lld components are not positive definite",
                  (long long)r->sides[0].summary.flagged);
cleanup:
    return status;
}

/* ---- an iteration ---- */

static fgmm_covariance shape_of(const fgmm__cuda_resident *r)
{
    return r->view.form == FGMM_FORM_DIAG ? FGMM_DIAG : FGMM_SPHERICAL;
}

static fgmm_status begin(fgmm_backend *backend)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    fgmm__cuda_resident *r = &cuda->resident;
    const fgmm_mixture_view *mixture = &r->sides[r->now].view;
    const fgmm_mixture_summary *known = &r->sides[r->now].summary;
    cuda->model = (fgmm__cuda_model){.origin = (double *)r->view.origin,
                                     .origin32 = r->origin32,
                                     .origin_most = r->origin_most,
                                     .breadth = known->breadth};
    cuda->model.view =
        (fgmm_model_view){.form = r->view.form,
                          .hard = r->view.hard,
                          .k = r->view.k,
                          .dim = r->view.dim,
                          .offset = mixture->offset,
                          .mean = mixture->centre,
                          .centre = mixture->centre,
                          .factor = mixture->factor,
                          .keep_bits = fgmm__cuda_keep_bits(shape_of(r), r->view.hard, r->view.k)};
    FGMM_TRY(fgmm__cuda_estep_open(
        cuda, shape_of(r), r->moment, true,
        fgmm__cuda_range(known->spread, known->factor, known->offset, known->factor_logs, known->live)));
    cuda->estep.stats.inverse_bound = mixture->inverse_bound;
    fgmm__cuda_set_grid(&cuda->estep.stats, known->spherical_bound, known->log_bound, r->bits);
    r->summed = r->now;
cleanup:
    return status;
}

/* One rank alone takes the M-step before it knows whether dense rows are left, which is seldom; then it takes
 * it once more. So an iteration has one wait. */
static fgmm_status maximise_alone(fgmm__cuda_backend *cuda)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_estep *e = &cuda->estep;
    int next = 1 - cuda->resident.now;
    cuda->resident.view.rows = e->rows;
    if (e->plan.all_dense)
        FGMM_TRY(fgmm__cuda_end_pass(cuda, &e->plan, &fgmm__cuda_estep_pass));
    FGMM_TRY(make_mixture(cuda, next, &e->stats));
    if (fgmm__cuda_dense_left(cuda, &e->plan)) {
        FGMM_TRY(fgmm__cuda_end_pass(cuda, &e->plan, &fgmm__cuda_estep_pass));
        FGMM_TRY(make_mixture(cuda, next, &e->stats));
    }
cleanup:
    return status;
}

static fgmm_status maximise_together(fgmm__cuda_backend *cuda)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_estep *e = &cuda->estep;
    FGMM_TRY(fgmm__cuda_end_pass(cuda, &e->plan, &fgmm__cuda_estep_pass));
    FGMM_TRY(fgmm__cuda_upload(cuda, e->stats.rows, &e->rows, sizeof e->rows));
    cuda->resident.view.rows = 0;
    FGMM_TRY(fgmm__comm_sum_i64_device(cuda->base.comm, e->stats.n, e->n_words, cuda->stream));
    FGMM_TRY(make_mixture(cuda, 1 - cuda->resident.now, &e->stats));
cleanup:
    return status;
}

static fgmm_status end(fgmm_backend *backend, fgmm_em_step *step)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    fgmm__cuda_resident *r = &cuda->resident;
    bool alone = backend->comm == NULL || fgmm_comm_size(backend->comm) == 1;
    FGMM_TRY(alone ? maximise_alone(cuda) : maximise_together(cuda));
    const fgmm_mixture_summary *found = &r->sides[1 - r->now].summary;
    *step = (fgmm_em_step){
        .log = fgmm__stats_join(found->log_high, found->log_low, r->sides[r->now].summary.log_bound, r->bits),
        .rows = found->rows,
        .pairs = found->pairs,
        .flagged = found->flagged > 0};
    if (step->flagged)
        goto cleanup;
    FGMM_TRY(check_range(found));
    r->now = 1 - r->now;
cleanup:
    return status;
}

/* ---- what the host asks for ---- */

static fgmm_status sums(fgmm_backend *backend, fgmm_grid **grid_out, fgmm_stats **stats_out)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    const fgmm__cuda_resident *r = &cuda->resident;
    fgmm_grid *grid = NULL;
    fgmm_stats *stats = NULL;
    int32_t dim = r->view.dim;
    FGMM_ALLOC(grid, 1, "a grid");
    FGMM_ALLOC(grid->bound, dim, "a grid");
    grid->dim = dim;
    grid->bits = r->bits;
    grid->unit = 1;
    grid->spherical_bound = r->sides[r->summed].summary.spherical_bound;
    grid->log_bound = r->sides[r->summed].summary.log_bound;
    FGMM_TRY(
        fgmm__cuda_download(cuda, grid->bound, r->sides[r->summed].view.bound, (size_t)dim * sizeof(double)));
    FGMM_TRY(fgmm__stats_create(r->view.k, dim, r->moment, &stats));
    FGMM_TRY(fgmm__cuda_download(cuda, stats->words, cuda->estep.stats.n, stats->n_words * sizeof(int64_t)));
    *grid_out = grid;
    *stats_out = stats;
    grid = NULL;
    stats = NULL;
cleanup:
    fgmm__grid_destroy(grid);
    fgmm__stats_destroy(stats);
    return status;
}

static fgmm_status fetch(fgmm_backend *backend, fgmm_model *model)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    const fgmm__cuda_resident *r = &cuda->resident;
    const fgmm_mixture_view *from = &r->sides[r->now].view;
    size_t k = (size_t)model->k, dim = (size_t)model->dim;
    FGMM_TRY(fgmm__cuda_download(cuda, model->weights, from->weights, k * sizeof(double)));
    FGMM_TRY(fgmm__cuda_download(cuda, model->means, from->means, k * dim * sizeof(double)));
    if (!r->view.hard)
        FGMM_TRY(fgmm__cuda_download(cuda, model->covariances, from->covariances,
                                     covariance_values(shape_of(r), model->k, model->dim) * sizeof(double)));
cleanup:
    return status;
}

const fgmm_resident_ops fgmm__cuda_resident_ops = {
    .serves = serves,
    .load = load,
    .begin = begin,
    .end = end,
    .sums = sums,
    .fetch = fetch,
};
