/* A pass: every row of the shard through the backend, then the sum over ranks. */
#include "em/em.h"

#include "base/log.h"

#include <stdlib.h>

/* The tiles of this rank. */
static fgmm_status walk(fgmm_em *em)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(fgmm__shard_start(em->shard));
    for (;;) {
        fgmm_tile tile;
        FGMM_TRY(fgmm__shard_next(em->shard, &tile));
        if (tile.rows == 0)
            break;
        if (em->weights != NULL)
            tile.weights = fgmm__weights_from(em->weights, tile.begin);
        FGMM_TRY(em->backend->ops->estep_tile(em->backend, &tile));
        fgmm__progress_add(tile.rows);
    }
cleanup:
    return status;
}

fgmm_status fgmm__em_walk(fgmm_em *em, const char *label, fgmm_status begun)
{
    fgmm_status status = begun;
    fgmm__progress_begin(label, "rows", fgmm__shard_end(em->shard) - fgmm__shard_begin(em->shard));
    if (status == FGMM_OK)
        status = walk(em);
    if (status == FGMM_ERR_RUNTIME || status == FGMM_ERR_INPUT)
        fgmm__comm_announce_failure(em->comm);
    status = fgmm__comm_agree(em->comm, status);
    fgmm__progress_end();
    return status;
}

fgmm_status fgmm__em_pass(fgmm_em *em, const fgmm_components *components, fgmm_moment moment, bool want_sums,
                          const char *label, fgmm_grid **grid, fgmm_stats **stats)
{
    const fgmm_backend_ops *ops = em->backend->ops;
    if (!want_sums)
        moment = FGMM_MOMENT_NONE;
    fgmm_status status =
        fgmm__grid_create(fgmm_dataset_rows(em->dataset), em->min, em->max, components, grid);
    if (status == FGMM_OK && em->weights != NULL)
        (*grid)->unit = fgmm__weights_unit(em->weights);
    if (status == FGMM_OK)
        status = fgmm__stats_create(components->k, components->dim, moment, stats);
    if (status == FGMM_OK)
        status = ops->estep_begin(em->backend, components, *grid, moment, want_sums);
    FGMM_TRY(fgmm__em_walk(em, label, status));
    FGMM_TRY(ops->estep_end(em->backend, *stats));
cleanup:
    return status;
}

/* The scatter is the full second moment of a single component that takes every row, about the origin. */
fgmm_status fgmm__em_scatter(fgmm_em *em, const fgmm_model *model, double **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_model *single = NULL;
    fgmm_components *components = NULL;
    fgmm_grid *grid = NULL;
    fgmm_stats *stats = NULL;
    double *scatter = NULL;
    int32_t dim = model->dim;
    FGMM_TRY(fgmm__model_create(FGMM_KMEANS, FGMM_SPHERICAL, 1, dim, &single));
    for (int32_t d = 0; d < dim; d++)
        single->means[d] = single->origin[d] = model->origin[d];
    FGMM_TRY(fgmm__components_create(single, true, NULL, NULL, &components));
    FGMM_TRY(fgmm__em_pass(em, components, FGMM_MOMENT_FULL, true, "total scatter", &grid, &stats));
    FGMM_ALLOC(scatter, (size_t)dim * dim, "the total scatter");
    size_t moment = 0;
    for (int32_t i = 0; i < dim; i++)
        for (int32_t j = 0; j <= i; j++, moment++)
            scatter[(size_t)i * dim + j] = scatter[(size_t)j * dim + i] =
                fgmm__stats_q(stats, grid, 0, moment);
    *out = scatter;
    scatter = NULL;
cleanup:
    free(scatter);
    fgmm_model_destroy(single);
    fgmm__components_destroy(components);
    fgmm__grid_destroy(grid);
    fgmm__stats_destroy(stats);
    return status;
}
