/* The same iteration as em.c's where the backend has an M-step of its own: parameters and sums stay there,
 * and the host learns the log-likelihood and whether all components are sound. Where one is not, the sums and
 * the parameters come to the host, which does the M-step and the repair of that iteration. */
#include "em/em.h"

bool fgmm__em_resident_serves(const fgmm_em *em, const fgmm_model *model)
{
    const fgmm_resident_ops *ops = em->backend->ops->resident;
    return ops != NULL && ops->serves(model->algorithm, model->covariance);
}

/* Local. */
static fgmm_status begin(fgmm_em *em, const fgmm_model *model)
{
    fgmm_status status = FGMM_OK;
    const fgmm_resident_ops *ops = em->backend->ops->resident;
    fgmm_em_terms terms = {fgmm_dataset_rows(em->dataset), em->min, em->max, em->reg_covar};
    if (!em->loaded)
        FGMM_TRY(ops->load(em->backend, model, &terms));
    em->loaded = true;
    FGMM_TRY(ops->begin(em->backend));
cleanup:
    return status;
}

/* The M-step that the backend left to the host. */
static fgmm_status maximise_here(fgmm_em *em, fgmm_model *model, bool *repaired)
{
    fgmm_status status = FGMM_OK;
    fgmm_components *components = NULL;
    fgmm_grid *grid = NULL;
    fgmm_stats *stats = NULL;
    status = fgmm__em_resident_fetch(em, model);
    if (status == FGMM_OK)
        status = em->backend->ops->resident->sums(em->backend, &grid, &stats);
    if (status == FGMM_OK)
        status = fgmm__components_create(model, false, NULL, NULL, &components);
    FGMM_TRY(fgmm__comm_agree(em->comm, status));
    FGMM_TRY(fgmm__em_maximise(em, model, components, stats, grid, NULL, repaired));
    em->loaded = false;
cleanup:
    fgmm__components_destroy(components);
    fgmm__grid_destroy(grid);
    fgmm__stats_destroy(stats);
    return status;
}

fgmm_status fgmm__em_resident_iterate(fgmm_em *em, fgmm_model *model, const char *label, fgmm_em_found *found)
{
    fgmm_status status = FGMM_OK;
    fgmm_em_step step;
    FGMM_TRY(fgmm__em_walk(em, label, begin(em, model)));
    FGMM_TRY(em->backend->ops->resident->end(em->backend, &step));
    *found =
        (fgmm_em_found){.mean_log = fgmm__em_mean_log(step.log, step.rows, model->algorithm == FGMM_KMEANS),
                        .rows = step.rows,
                        .pairs = step.pairs};
    if (step.flagged)
        FGMM_TRY(maximise_here(em, model, &found->repaired));
    else
        em->behind = true;
cleanup:
    return status;
}

fgmm_status fgmm__em_resident_fetch(fgmm_em *em, fgmm_model *model)
{
    fgmm_status status = FGMM_OK;
    if (em->behind)
        FGMM_TRY(em->backend->ops->resident->fetch(em->backend, model));
    em->behind = false;
cleanup:
    return status;
}
