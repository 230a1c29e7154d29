#include "model/components.h"

#include "model/covariance.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t factor_count(fgmm_covariance shape, int32_t k, int32_t dim)
{
    return fgmm__covariance_count(shape, k, dim); /* factors have the covariances' shapes */
}

/* offset_k = log2 w_k - D/2 log2(2 pi) - 1/2 log2 |S_k| */
static fgmm_status fill_gaussian(const fgmm_model *model, fgmm_components *c, bool *good)
{
    fgmm_status status = FGMM_OK;
    double *log2_det = NULL;
    FGMM_ALLOC(log2_det, model->k, "determinants");
    FGMM_TRY(fgmm__covariance_type(model->covariance)
                 ->factor(model->covariances, model->k, model->dim, c->factors, log2_det, good));
    double constant = 0.5 * model->dim * log2(2 * M_PI);
    for (int32_t k = 0; k < model->k; k++)
        c->offsets[k] = log2(model->weights[k]) - constant - 0.5 * log2_det[k];
cleanup:
    free(log2_det);
    return status;
}

fgmm_status fgmm__components_create(const fgmm_model *model, bool hard, int32_t *bad, int32_t *n_bad,
                                    fgmm_components **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_components *c = NULL;
    bool *good = NULL;
    int32_t found = 0;
    FGMM_ALLOC(c, 1, "components");
    c->k = model->k;
    c->dim = model->dim;
    c->hard = hard || model->algorithm == FGMM_KMEANS;
    c->shape = c->hard ? FGMM_SPHERICAL : model->covariance;
    FGMM_ALLOC(c->offsets, c->k, "component offsets");
    FGMM_ALLOC(c->means, (size_t)c->k * c->dim, "component means");
    FGMM_ALLOC(c->origin, c->dim, "the origin");
    FGMM_ALLOC(c->factors, factor_count(c->shape, c->k, c->dim), "component factors");
    FGMM_ALLOC(good, c->k, "component flags");
    memcpy(c->origin, model->origin, (size_t)c->dim * sizeof *c->origin);
    for (int32_t k = 0; k < c->k; k++)
        for (int32_t d = 0; d < c->dim; d++)
            c->means[(size_t)k * c->dim + d] = model->means[(size_t)k * c->dim + d] - model->origin[d];
    if (c->hard) {
        for (int32_t k = 0; k < c->k; k++) {
            c->factors[k] = 1;
            good[k] = true;
        }
    } else {
        FGMM_TRY(fill_gaussian(model, c, good));
    }
    for (int32_t k = 0; k < c->k; k++) {
        if (good[k])
            continue;
        if (bad == NULL)
            FGMM_FAIL(FGMM_ERR_INPUT, "the covariance of component %d is not positive definite", k);
        bad[found++] = k;
    }
    if (n_bad != NULL)
        *n_bad = found;
    *out = c;
    c = NULL;
cleanup:
    free(good);
    fgmm__components_destroy(c);
    return status;
}

void fgmm__components_destroy(fgmm_components *components)
{
    if (components == NULL)
        return;
    free(components->offsets);
    free(components->means);
    free(components->origin);
    free(components->factors);
    free(components);
}
