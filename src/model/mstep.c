#include "model/mstep.h"

#include "model/covariance.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

fgmm_status fgmm__mstep(fgmm_model *model, const fgmm_components *components, const fgmm_stats *stats,
                        const fgmm_grid *grid, int64_t rows, const double *scatter, double reg_covar,
                        bool *starved)
{
    fgmm_status status = FGMM_OK;
    int32_t dim = model->dim;
    double *n = NULL, *means = NULL, *old_covariances = NULL;
    const fgmm_covariance_type *type = fgmm__covariance_type(model->covariance);
    size_t size = type->count(model->k, dim),
           each = model->covariance == FGMM_TIED ? 0 : size / (size_t)model->k;
    FGMM_ALLOC(n, model->k, "component sizes");
    FGMM_ALLOC(means, (size_t)model->k * dim, "new means");
    for (int32_t k = 0; k < model->k; k++) {
        double held = fgmm__stats_n(stats, grid, k);
        starved[k] = held < FGMM_STARVED_ROWS;
        n[k] = held + 10 * DBL_EPSILON;
        for (int32_t d = 0; d < dim; d++) {
            size_t i = (size_t)k * dim + d;
            means[i] = starved[k] ? components->means[i] : fgmm__stats_s(stats, grid, k, d) / n[k];
        }
    }
    if (model->algorithm == FGMM_GMM) {
        fgmm_mstep m = {stats, grid, n, components->means, means, scatter, reg_covar};
        FGMM_ALLOC(old_covariances, size, "old covariances");
        memcpy(old_covariances, model->covariances, size * sizeof *old_covariances);
        type->update(&m, model->covariances);
        for (int32_t k = 0; k < model->k && each > 0; k++)
            if (starved[k])
                memcpy(model->covariances + (size_t)k * each, old_covariances + (size_t)k * each,
                       each * sizeof *old_covariances);
    }
    for (int32_t k = 0; k < model->k; k++) {
        model->weights[k] = starved[k] ? 0 : n[k] / (double)rows;
        for (int32_t d = 0; d < dim; d++)
            model->means[(size_t)k * dim + d] = means[(size_t)k * dim + d] + model->origin[d];
    }
cleanup:
    free(n);
    free(means);
    free(old_covariances);
    return status;
}
