/* Components that hold no rows, or whose covariance is not positive definite, start anew at the rows that the
 * mixture explains worst: ordered by log-density, then by row number, so that the choice is the same on any
 * number of ranks. */
#include "em/em.h"

#include "backend/poor.h"
#include "base/log.h"
#include "data/sample.h"
#include "model/covariance.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The worst rows of this rank's shard. */
static fgmm_status find_poor_rows(fgmm_em *em, const fgmm_components *components, fgmm_poor *poor)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(em->backend->ops->assign_begin(em->backend, components, 1));
    FGMM_TRY(fgmm__shard_start(em->shard));
    for (;;) {
        fgmm_tile tile;
        FGMM_TRY(fgmm__shard_next(em->shard, &tile));
        if (tile.rows == 0)
            break;
        if (em->weights != NULL)
            tile.weights = fgmm__weights_from(em->weights, tile.begin);
        FGMM_TRY(fgmm__poor_tile(em->backend, &tile, poor));
        fgmm__progress_add(tile.rows);
    }
cleanup:
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
    fgmm_poor *poor = NULL;
    fgmm_poor_row *all = NULL;
    int64_t *numbers = NULL;
    float *rows = NULL;
    for (int32_t k = 0; k < model->k; k++)
        count += flagged[k];
    warn(flagged, model->k, count);
    fgmm__progress_begin("looking for badly explained rows", "rows",
                         fgmm__shard_end(em->shard) - fgmm__shard_begin(em->shard));
    FGMM_TRY(fgmm__poor_create(count, &poor));
    FGMM_ALLOC(all, (size_t)count * ranks, "badly explained rows");
    FGMM_ALLOC(numbers, count, "badly explained rows");
    FGMM_ALLOC(rows, (size_t)count * model->dim, "badly explained rows");
    status = find_poor_rows(em, components, poor);
    FGMM_TRY(fgmm__comm_agree(em->comm, status));
    for (int32_t i = poor->size; i < count; i++)
        poor->heap[i] = (fgmm_poor_row){INFINITY, INT64_MAX}; /* a shard of fewer rows than that */
    FGMM_TRY(fgmm__comm_allgather(em->comm, poor->heap, (size_t)count * sizeof *all, all));
    qsort(all, (size_t)count * ranks, sizeof *all, fgmm__poor_compare);
    for (size = 0; size < count && all[size].row != INT64_MAX; size++)
        numbers[size] = all[size].row;
    FGMM_TRY(fgmm__gather_rows(em->dataset, em->comm, numbers, size, rows));
    FGMM_TRY(reseed(model, flagged, rows, size, fgmm_dataset_rows(em->dataset)));
cleanup:
    fgmm__progress_end();
    fgmm__poor_destroy(poor);
    free(all);
    free(numbers);
    free(rows);
    return status;
}
