/* A model on the device: float64 for exact values, fp32 tables for the screen. */
#include "backend/cuda_backend.h"

#include <math.h>
#include <stdlib.h>

static int32_t pad(int32_t value, int32_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

static size_t factor_count(fgmm_covariance shape, int32_t k, int32_t dim)
{
    size_t components = (size_t)k, dims = (size_t)dim;
    switch (shape) {
    case FGMM_SPHERICAL:
    case FGMM_TIED: /* spherical with factor 1 on whitened rows */
        return components;
    case FGMM_DIAG:
        return components * dims;
    case FGMM_FULL:
        break;
    }
    return components * dims * dims;
}

fgmm_form fgmm__cuda_form(fgmm_covariance shape)
{
    return shape == FGMM_DIAG ? FGMM_FORM_DIAG : shape == FGMM_FULL ? FGMM_FORM_FULL : FGMM_FORM_SPHERICAL;
}

static size_t table_values(int32_t k, int32_t dim)
{
    return (size_t)pad(k, FGMM_SCREEN_TILE) * (size_t)pad(dim, FGMM_SCREEN_DIMS);
}

int64_t fgmm__cuda_model_bytes(fgmm_covariance shape, int32_t k, int32_t dim)
{
    size_t values = (size_t)k * (size_t)dim, bytes = 8 * ((size_t)k + values + factor_count(shape, k, dim));
    if (shape == FGMM_TIED)
        bytes += 8 * (values + (size_t)dim * (size_t)dim);
    if (shape != FGMM_FULL)
        bytes +=
            4 * table_values(k, dim) * (shape == FGMM_DIAG ? 2 : 1) + 16 * (size_t)pad(k, FGMM_SCREEN_TILE);
    fgmm_sm90_screen screen = fgmm__sm90_serves(fgmm__cuda_form(shape), shape == FGMM_TIED, k, dim);
    if (screen == FGMM_SM90_WIDE)
        bytes += (size_t)fgmm__sm90_wide_bytes(fgmm__cuda_form(shape), k, dim);
    if (screen == FGMM_SM90_NARROW)
        bytes += (size_t)fgmm__sm90_most_tiles(k) *
                 ((size_t)fgmm__sm90_record_bytes(dim) + FGMM_SM90_TILE * sizeof(int32_t));
    return (int64_t)(bytes + 20 * (size_t)pad(dim, FGMM_SCREEN_DIMS));
}

/* Spherical factors multiply the squared distance. */
static fgmm_status put_factors(fgmm__cuda_backend *cuda, const fgmm_components *c)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_model *model = &cuda->model;
    double *squares = NULL;
    if (c->shape == FGMM_FULL)
        return fgmm__cuda_put_full_factors(cuda, c);
    if (c->shape == FGMM_DIAG) {
        FGMM_TRY(fgmm__cuda_put(cuda, BUFFER_FACTOR, c->factors,
                                factor_count(c->shape, c->k, c->dim) * sizeof(double), &model->view.factor));
        goto cleanup;
    }
    FGMM_ALLOC(squares, c->k, "component factors");
    for (int32_t k = 0; k < c->k; k++)
        squares[k] = c->hard || c->shape == FGMM_TIED ? 1 : c->factors[k] * c->factors[k];
    FGMM_TRY(
        fgmm__cuda_put(cuda, BUFFER_FACTOR, squares, (size_t)c->k * sizeof(double), &model->view.factor));
cleanup:
    free(squares);
    return status;
}

static fgmm_status put_origin(fgmm__cuda_backend *cuda, const fgmm_components *c)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_model *model = &cuda->model;
    size_t padded = (size_t)pad(c->dim, FGMM_SCREEN_DIMS);
    float *rounded = NULL;
    FGMM_ALLOC(rounded, padded, "the origin");
    for (int32_t d = 0; d < c->dim; d++) {
        rounded[d] = (float)c->origin[d];
        model->origin_most = fmax(model->origin_most, fabs(c->origin[d]));
    }
    FGMM_TRY(fgmm__cuda_put(cuda, BUFFER_ORIGIN, c->origin, (size_t)c->dim * sizeof(double), &model->origin));
    FGMM_TRY(fgmm__cuda_put(cuda, BUFFER_ORIGIN32, rounded, padded * sizeof(float), &model->origin32));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_ZEROS, padded * sizeof(double), &model->zeros));
    FGMM_CUDA(cudaMemsetAsync(model->zeros, 0, padded * sizeof(double), cuda->stream));
cleanup:
    free(rounded);
    return status;
}

/* Means in the space where distances are spherical. */
static fgmm_status whiten_means(fgmm__cuda_backend *cuda, const fgmm_components *c)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_model *model = &cuda->model;
    double *whitened = NULL;
    size_t dims = (size_t)c->dim;
    fgmm_row_view means = {.data = model->view.centre,
                           .origin = model->zeros,
                           .type = FGMM_ROWS_F64,
                           .rows = c->k,
                           .dim = c->dim};
    FGMM_TRY(
        fgmm__cuda_put(cuda, BUFFER_WHITENING, c->factors, dims * dims * sizeof(double), &model->whitening));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_MEAN, (size_t)c->k * dims * sizeof(double), &whitened));
    FGMM_LAUNCH(fgmm__launch_whiten(&means, model->whitening, whitened, NULL, cuda->stream));
    model->view.mean = whitened;
cleanup:
    return status;
}

static fgmm_status make_generic_tables(fgmm__cuda_backend *cuda)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_model *model = &cuda->model;
    int32_t k = model->view.k, dim = model->view.dim;
    size_t bytes = table_values(k, dim) * sizeof(float);
    fgmm_screen_tables *tables = &model->tables;
    *tables = (fgmm_screen_tables){.tiles = pad(k, FGMM_SCREEN_TILE) / FGMM_SCREEN_TILE,
                                   .dim_padded = pad(dim, FGMM_SCREEN_DIMS)};
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_TABLE_MEAN, bytes, &tables->mean));
    if (model->view.form == FGMM_FORM_DIAG)
        FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_TABLE_SCALE, bytes, &tables->scale));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_TABLE_TERMS,
                                (size_t)tables->tiles * FGMM_SCREEN_TILE * 4 * sizeof(float),
                                &tables->terms));
    FGMM_LAUNCH(fgmm__launch_screen_tables(&model->view, model->tied ? model->zeros : model->origin,
                                           model->tied ? (const float *)model->zeros : model->origin32,
                                           tables, cuda->stream));
cleanup:
    return status;
}

/* Rows further out than it holds are computed elsewhere, so
 * `spread` need not bound the data. A component of a few equal rows has a factor far above all others, and
 * fp16 covers no such range: the screen takes it for 2^18 times the typical one. */
fgmm_sm90_range fgmm__cuda_range(double spread, double factor, double offset, double factor_logs, double live)
{
    double most = exp2(factor_logs / live + 18);
    return (fgmm_sm90_range){
        .spread = spread > 0 ? exp2(ceil(log2(spread))) : 1,
        .factor = live > 0 ? fmin(factor, most) : 1,
        .cut = live > 0 && factor > most,
        .offset = offset,
        .narrow = live > 0 ? factor / exp2(factor_logs / live) : 1,
    };
}

static fgmm_sm90_range range_of(const fgmm_components *c)
{
    double spread = 0, most = 0, offset = 0, logs = 0, live = 0;
    for (int32_t k = 0; k < c->k; k++) {
        if (isinf(c->offsets[k]))
            continue;
        double factor = c->hard || c->shape == FGMM_FULL ? 1 : c->factors[k] * c->factors[k];
        most = fmax(most, factor);
        offset = fmax(offset, fabs(c->offsets[k]));
        logs += log2(factor);
        live++;
        for (int32_t d = 0; d < c->dim; d++)
            spread = fmax(spread, fabs(c->means[(size_t)k * (size_t)c->dim + (size_t)d]));
    }
    return fgmm__cuda_range(spread, most, offset, logs, live);
}

static fgmm_status make_sm90_tables(fgmm__cuda_backend *cuda, fgmm_sm90_range range)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_model *model = &cuda->model;
    size_t records = (size_t)fgmm__sm90_most_tiles(model->view.k);
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_SM90_RECORDS,
                                records * (size_t)fgmm__sm90_record_bytes(model->view.dim),
                                &model->sm90.records));
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_SM90_ORDER, records * FGMM_SM90_TILE * sizeof(int32_t),
                                &model->sm90.order));
    FGMM_LAUNCH(fgmm__launch_sm90_tables(&model->view, model->origin, model->origin32, range, &model->sm90,
                                         cuda->stream));
cleanup:
    return status;
}

static fgmm_status make_wide_tables(fgmm__cuda_backend *cuda)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_model *model = &cuda->model;
    const fgmm_model_view *view = &model->view;
    void *memory = NULL;
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_SM90_WIDE,
                                (size_t)fgmm__sm90_wide_bytes(view->form, view->k, view->dim), &memory));
    model->wide = fgmm__sm90_wide_place(view->form, view->k, view->dim, memory);
    FGMM_LAUNCH(fgmm__launch_sm90_wide_tables(view, model->tied ? model->zeros : model->origin,
                                              model->tied ? (const float *)model->zeros : model->origin32,
                                              &model->wide, cuda->stream));
cleanup:
    return status;
}

/* A component of few rows is flat in most directions, and its variance there is what far rows of tiny
 * responsibilities bring; types with a variance a direction keep those rows too. */
double fgmm__cuda_keep_bits(fgmm_covariance shape, bool hard, int32_t k)
{
    bool by_direction = shape == FGMM_DIAG || shape == FGMM_FULL;
    return hard ? 0 : FGMM_MASS_BITS + (by_direction ? 52 : 0) + ceil(log2(k));
}

fgmm_sm90_screen fgmm__cuda_screen_of(const fgmm__cuda_backend *cuda)
{
    const fgmm_model_view *view = &cuda->model.view;
    return cuda->hopper ? fgmm__sm90_serves(view->form, cuda->model.tied, view->k, view->dim)
                        : FGMM_SM90_NONE;
}

fgmm_sm90_range fgmm__cuda_range_of(const fgmm__cuda_backend *cuda, const fgmm_components *components)
{
    fgmm_sm90_screen screen = fgmm__cuda_screen_of(cuda);
    return screen == FGMM_SM90_NARROW || screen == FGMM_SM90_FULL ? range_of(components)
                                                                  : (fgmm_sm90_range){0};
}

fgmm_status fgmm__cuda_make_tables(fgmm__cuda_backend *cuda, fgmm_sm90_range range)
{
    cuda->model.screen = fgmm__cuda_screen_of(cuda);
    cuda->model.range = range;
    if (cuda->model.screen == FGMM_SM90_FULL)
        return fgmm__cuda_make_full_tables(cuda, range);
    if (cuda->model.screen == FGMM_SM90_NARROW)
        return make_sm90_tables(cuda, range);
    if (cuda->model.screen == FGMM_SM90_WIDE)
        return make_wide_tables(cuda);
    return cuda->model.view.form != FGMM_FORM_FULL ? make_generic_tables(cuda) : FGMM_OK;
}

fgmm_status fgmm__cuda_load_model(fgmm__cuda_backend *cuda, const fgmm_components *c)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_model *model = &cuda->model;
    *model = (fgmm__cuda_model){.tied = c->shape == FGMM_TIED && !c->hard};
    model->view = (fgmm_model_view){.form = fgmm__cuda_form(c->shape),
                                    .hard = c->hard,
                                    .k = c->k,
                                    .dim = c->dim,
                                    .keep_bits = fgmm__cuda_keep_bits(c->shape, c->hard, c->k)};
    FGMM_CUDA(cudaGetLastError());
    FGMM_TRY(put_origin(cuda, c));
    FGMM_TRY(
        fgmm__cuda_put(cuda, BUFFER_OFFSET, c->offsets, (size_t)c->k * sizeof(double), &model->view.offset));
    FGMM_TRY(fgmm__cuda_put(cuda, BUFFER_CENTRE, c->means, (size_t)c->k * (size_t)c->dim * sizeof(double),
                            &model->view.centre));
    FGMM_TRY(put_factors(cuda, c));
    model->view.mean = model->view.centre;
    if (model->tied)
        FGMM_TRY(whiten_means(cuda, c));
cleanup:
    return status;
}
