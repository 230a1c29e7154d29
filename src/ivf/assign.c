#include "ivf/assign.h"

#include <math.h>
#include <stdlib.h>

#include "data/partition.h"

fgmm_status fgmm__check_metric(fgmm_metric fitted, fgmm_metric wanted)
{
    if (fitted == wanted || (fitted == FGMM_L2 && wanted == FGMM_IP))
        return FGMM_OK;
    return fgmm__fail(FGMM_ERR_INPUT,
                      "the model was fitted with --metric %s, not %s: give the same metric or fit again%s",
                      fgmm_metric_name(fitted), fgmm_metric_name(wanted == FGMM_IP ? FGMM_L2 : wanted),
                      wanted == FGMM_IP ? " (lists for the inner product are made with a model of l2)" : "");
}

fgmm_status fgmm__check_model(const fgmm_dataset *dataset, const fgmm_model *model)
{
    fgmm_status status = FGMM_OK;
    int32_t k = fgmm_model_k(model), dim = fgmm_model_dim(model);
    const double *means = fgmm_model_means(model);
    if (dim != fgmm_dataset_dim(dataset))
        FGMM_FAIL(FGMM_ERR_INPUT, "the model has dimension %d, the data (%s) %d: fit a model to these data",
                  dim, fgmm_dataset_name(dataset), fgmm_dataset_dim(dataset));
    FGMM_TRY(fgmm__check_metric(fgmm_model_metric(model), fgmm_dataset_metric(dataset)));
    if (fgmm_dataset_rows(dataset) < 1)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: no rows", fgmm_dataset_name(dataset));
    if (k < 1)
        FGMM_FAIL(FGMM_ERR_INPUT, "the model has no components");
    for (size_t i = 0; i < (size_t)k * (size_t)dim; i++)
        if (!isfinite(means[i]))
            FGMM_FAIL(FGMM_ERR_INPUT, "the model's mean %zu is not finite (column %zu)", i / (size_t)dim,
                      i % (size_t)dim);
cleanup:
    return status;
}

/* Labels of a slice: 32 MiB with their responsibilities. */
enum { SLICE_LABELS = 4 << 20 };

static fgmm_status create_on(fgmm_workplace *place, fgmm_backend *backend, const fgmm_model *model,
                             bool nearest, int32_t top, fgmm_assigner **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_assigner *assigner = NULL;
    FGMM_ALLOC(assigner, 1, "assignments");
    assigner->place = place;
    assigner->backend = backend;
    assigner->top = top;
    FGMM_TRY(fgmm__components_create(model, nearest, NULL, NULL, &assigner->components));
    FGMM_TRY(backend->ops->assign_begin(backend, assigner->components, top));
    *out = assigner;
    assigner = NULL;
cleanup:
    fgmm__assigner_destroy(assigner);
    return status;
}

fgmm_status fgmm__assigner_create(fgmm_workplace *place, const fgmm_model *model, bool nearest, int32_t top,
                                  fgmm_assigner **out)
{
    fgmm_status status = create_on(place, place->backend, model, nearest, top, out);
    return status != FGMM_OK ? status : fgmm__shard_start(place->shard);
}

fgmm_status fgmm__assigner_create_second(fgmm_workplace *place, const fgmm_model *model, bool nearest,
                                         int32_t top, fgmm_assigner **out)
{
    return create_on(place, place->second, model, nearest, top, out);
}

fgmm_status fgmm__assigner_leave_out(fgmm_assigner *assigner, const fgmm_labels *known)
{
    fgmm_shard *shard = assigner->place->shard;
    int64_t begin = fgmm__shard_begin(shard), end = fgmm__shard_end(shard);
    assigner->known = known;
    return fgmm__shard_start_at(shard, fgmm__labels_find(known, begin, end, false));
}

static void free_arrays(fgmm_assigner *assigner)
{
    free(assigner->labels);
    free(assigner->responsibilities);
    free(assigner->log_density);
    free(assigner->copy);
    assigner->labels = NULL;
    assigner->responsibilities = NULL;
    assigner->log_density = NULL;
    assigner->copy = NULL;
}

void fgmm__assigner_destroy(fgmm_assigner *assigner)
{
    if (assigner == NULL)
        return;
    free_arrays(assigner);
    fgmm__components_destroy(assigner->components);
    free(assigner);
}

static fgmm_status make_room(fgmm_assigner *assigner, int64_t rows)
{
    fgmm_status status = FGMM_OK;
    if (rows <= assigner->capacity)
        return FGMM_OK;
    free_arrays(assigner);
    assigner->capacity = 0;
    FGMM_ALLOC(assigner->labels, rows * assigner->top, "assignments");
    FGMM_ALLOC(assigner->responsibilities, rows * assigner->top, "assignments");
    FGMM_ALLOC(assigner->log_density, rows, "assignments");
    assigner->capacity = rows;
cleanup:
    return status;
}

/* The next rows of the shard's tile, or of the next one, from number `at` of *whole on; at = whole->rows
 * where there are none that are not known. */
static int64_t next_unknown(const fgmm_assigner *assigner)
{
    const fgmm_tile *whole = &assigner->whole;
    int64_t at = assigner->tile.begin + assigner->tile.rows - whole->begin;
    if (assigner->known == NULL || at >= whole->rows)
        return at;
    return fgmm__labels_find(assigner->known, whole->begin + at, whole->begin + whole->rows, false) -
           whole->begin;
}

/* Goes on within the shard's tile, or to the next one. Slices begin where tiles may. */
static fgmm_status next_slice(fgmm_assigner *assigner)
{
    fgmm_tile *whole = &assigner->whole, *tile = &assigner->tile;
    int64_t at = next_unknown(assigner), most = SLICE_LABELS / assigner->top;
    while (at >= whole->rows) {
        fgmm_status status = fgmm__shard_next(assigner->place->shard, whole);
        *tile = *whole;
        tile->rows = 0;
        if (status != FGMM_OK || whole->rows == 0)
            return status;
        at = next_unknown(assigner);
    }
    *tile = *whole;
    tile->begin += at;
    tile->rows -= at;
    most -= most % FGMM_QUANTUM;
    if (tile->rows > most)
        tile->rows = most;
    if (assigner->known != NULL)
        tile->rows =
            fgmm__labels_find(assigner->known, tile->begin, tile->begin + tile->rows, true) - tile->begin;
    tile->data = (const char *)whole->data + (size_t)at * (size_t)whole->dim * fgmm_dtype_bytes(whole->dtype);
    return FGMM_OK;
}

static fgmm_status assign_slice(fgmm_assigner *assigner)
{
    fgmm_status status = FGMM_OK;
    fgmm_backend *backend = assigner->backend;
    if (assigner->tile.rows == 0)
        goto cleanup;
    FGMM_TRY(make_room(assigner, assigner->tile.rows));
    FGMM_TRY(backend->ops->assign_tile(backend, &assigner->tile, assigner->labels, assigner->responsibilities,
                                       assigner->log_density));
cleanup:
    return status;
}

fgmm_status fgmm__assigner_next(fgmm_assigner *assigner)
{
    fgmm_status status = next_slice(assigner);
    return status != FGMM_OK ? status : assign_slice(assigner);
}

fgmm_status fgmm__assigner_follow(fgmm_assigner *second, const fgmm_assigner *first)
{
    second->tile = first->tile;
    return assign_slice(second);
}

fgmm_status fgmm__assigner_host_rows(fgmm_assigner *assigner, const void **rows)
{
    fgmm_status status = FGMM_OK;
    fgmm_workplace *place = assigner->place;
    const fgmm_tile *tile = &assigner->tile;
    size_t row_bytes = (size_t)tile->dim * fgmm_dtype_bytes(tile->dtype);
    *rows = tile->data;
    if (place->device == NULL)
        return FGMM_OK;
    void *stream = fgmm__device_stream(place->device);
    if (assigner->copy == NULL)
        FGMM_TRY(fgmm__alloc((size_t)assigner->capacity, row_bytes, "rows of the device", &assigner->copy));
    FGMM_TRY(fgmm__device_download(place->device, assigner->copy, tile->data, (size_t)tile->rows * row_bytes,
                                   stream));
    FGMM_TRY(fgmm__stream_sync(stream, place->comm));
    *rows = assigner->copy;
cleanup:
    return status;
}

int32_t fgmm__assigner_kept(const fgmm_assigner *assigner, int64_t i, double tau)
{
    const int32_t *labels = assigner->labels + i * assigner->top;
    const float *share = assigner->responsibilities + i * assigner->top;
    int32_t kept = 1;
    while (kept < assigner->top && labels[kept] >= 0 && (double)share[kept] >= tau)
        kept++;
    return kept;
}
