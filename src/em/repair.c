/* Components that hold no rows, or whose covariance is not positive definite, start anew at the rows that the
 * mixture explains worst: ordered by log-density, then by row number, so that the choice is the same on any
 * number of ranks. */
#include "em/em.h"

#include "base/log.h"
#include "data/sample.h"
#include "model/covariance.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    double log_density;
    int64_t row;
} poor_row;

static int compare(const void *a, const void *b)
{
    const poor_row *x = a, *y = b;
    if (x->log_density != y->log_density)
        return x->log_density < y->log_density ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

/* Keeps the `capacity` worst rows in a heap with the best of them on top. */
static void offer(poor_row *heap, int32_t *size, int32_t capacity, poor_row row)
{
    int32_t i = 0;
    if (*size < capacity) {
        for (i = (*size)++; i > 0 && compare(&heap[(i - 1) / 2], &row) < 0; i = (i - 1) / 2)
            heap[i] = heap[(i - 1) / 2];
    } else {
        if (compare(&row, &heap[0]) >= 0)
            return;
        for (int32_t child = 1; child < *size; child = 2 * i + 1) {
            if (child + 1 < *size && compare(&heap[child], &heap[child + 1]) < 0)
                child++;
            if (compare(&heap[child], &row) <= 0)
                break;
            heap[i] = heap[child];
            i = child;
        }
    }
    heap[i] = row;
}

/* The worst rows of this rank's shard. */
static fgmm_status find_poor_rows(fgmm_em *em, const fgmm_components *components, poor_row *heap,
                                  int32_t *size, int32_t capacity)
{
    fgmm_status status = FGMM_OK;
    int32_t *labels = NULL;
    double *log_density = NULL;
    int64_t room = 0;
    FGMM_TRY(em->backend->ops->assign_begin(em->backend, components, 1));
    FGMM_TRY(fgmm__shard_start(em->shard));
    for (;;) {
        fgmm_tile tile;
        FGMM_TRY(fgmm__shard_next(em->shard, &tile));
        if (tile.rows == 0)
            break;
        if (tile.rows > room) {
            free(labels);
            free(log_density);
            labels = NULL, log_density = NULL;
            room = tile.rows;
            FGMM_ALLOC(labels, room, "labels of a tile");
            FGMM_ALLOC(log_density, room, "log-densities of a tile");
        }
        FGMM_TRY(em->backend->ops->assign_tile(em->backend, &tile, labels, NULL, log_density));
        const double *weights = em->weights != NULL ? fgmm__weights_from(em->weights, tile.begin) : NULL;
        for (int64_t i = 0; i < tile.rows; i++)
            if (!(*size == capacity && log_density[i] > heap[0].log_density) && /* as nearly all are */
                (weights == NULL || weights[i] > 0))
                offer(heap, size, capacity, (poor_row){log_density[i], tile.begin + i});
        fgmm__progress_add(tile.rows);
    }
cleanup:
    free(labels);
    free(log_density);
    return status;
}

static void warn(const bool *flagged, int32_t k, int32_t count)
{
    char list[160] = "";
    int used = 0, named = 0;
    for (int32_t c = 0; c < k && named < 10; c++)
        if (flagged[c]) {
            used += snprintf(list + used, sizeof list - (size_t)used, "%s%d", named > 0 ? ", " : "", c);
            named++;
        }
    fgmm__warn("%d starved or indefinite component%s (%s%s) re-seeded from the rows explained worst", count,
               count == 1 ? "" : "s", list, count > named ? ", ..." : "");
}

/* Row i of `rows` becomes the mean of the i-th flagged component, which counts as one row. */
static fgmm_status reseed(fgmm_model *model, const bool *flagged, const float *rows, int32_t found,
                          int64_t total)
{
    fgmm_status status = FGMM_OK;
    int32_t dim = model->dim, used = 0;
    const fgmm_covariance_type *type = fgmm__covariance_type(model->covariance);
    bool *good = NULL;
    double sum = 0;
    FGMM_ALLOC(good, model->k, "component flags");
    for (int32_t k = 0; k < model->k; k++)
        good[k] = !flagged[k];
    for (int32_t k = 0; k < model->k; k++) {
        if (flagged[k] && used < found) {
            for (int32_t d = 0; d < dim; d++)
                model->means[(size_t)k * dim + d] = rows[(size_t)used * dim + d];
            used++;
            model->weights[k] = 1.0 / (double)total;
            if (model->algorithm == FGMM_GMM)
                type->reset(model->covariances, model->weights, good, model->k, dim, k);
        }
        sum += model->weights[k];
    }
    for (int32_t k = 0; k < model->k; k++)
        model->weights[k] /= sum;
cleanup:
    free(good);
    return status;
}

fgmm_status fgmm__em_repair(fgmm_em *em, const fgmm_components *components, const bool *flagged,
                            fgmm_model *model)
{
    fgmm_status status = FGMM_OK;
    int32_t count = 0, size = 0;
    size_t ranks = (size_t)fgmm_comm_size(em->comm);
    poor_row *heap = NULL, *all = NULL;
    int64_t *numbers = NULL;
    float *rows = NULL;
    for (int32_t k = 0; k < model->k; k++)
        count += flagged[k];
    warn(flagged, model->k, count);
    fgmm__progress_begin("looking for badly explained rows", "rows",
                         fgmm__shard_end(em->shard) - fgmm__shard_begin(em->shard));
    FGMM_ALLOC(heap, count, "badly explained rows");
    FGMM_ALLOC(all, (size_t)count * ranks, "badly explained rows");
    FGMM_ALLOC(numbers, count, "badly explained rows");
    FGMM_ALLOC(rows, (size_t)count * model->dim, "badly explained rows");
    status = find_poor_rows(em, components, heap, &size, count);
    FGMM_TRY(fgmm__comm_agree(em->comm, status));
    for (int32_t i = size; i < count; i++)
        heap[i] = (poor_row){INFINITY, INT64_MAX}; /* a shard of fewer rows than that */
    FGMM_TRY(fgmm__comm_allgather(em->comm, heap, (size_t)count * sizeof *heap, all));
    qsort(all, (size_t)count * ranks, sizeof *all, compare);
    for (size = 0; size < count && all[size].row != INT64_MAX; size++)
        numbers[size] = all[size].row;
    FGMM_TRY(fgmm__gather_rows(em->dataset, em->comm, numbers, size, rows));
    FGMM_TRY(reseed(model, flagged, rows, size, fgmm_dataset_rows(em->dataset)));
cleanup:
    fgmm__progress_end();
    free(heap);
    free(all);
    free(numbers);
    free(rows);
    return status;
}
