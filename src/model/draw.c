#include "model/draw.h"

#include <math.h>
#include <stdlib.h>

#include "base/philox.h"
#include "model/covariance.h"
#include "model/model.h"

struct fgmm_draw {
    const fgmm_model *model;
    uint64_t seed;
    double *upto;  /* [k] weights of the components up to this one */
    double *roots; /* as covariances: standard deviations, or lower triangular L with S = L L' */
};

static fgmm_status take_roots(fgmm_draw *draw)
{
    const fgmm_model *model = draw->model;
    bool matrices = model->covariance == FGMM_TIED || model->covariance == FGMM_FULL;
    size_t count = fgmm__covariance_count(model->covariance, model->k, model->dim),
           size = matrices ? (size_t)model->dim * (size_t)model->dim : 1;
    for (size_t i = 0; i < count; i += size) {
        bool good = matrices ? fgmm__cholesky(model->covariances + i, model->dim, draw->roots + i)
                             : model->covariances[i] >= 0;
        if (!matrices)
            draw->roots[i] = sqrt(model->covariances[i]);
        if (!good)
            return fgmm__fail(FGMM_ERR_INPUT,
                              "the model's covariance %zu is not positive definite: nothing can be drawn",
                              i / size);
    }
    return FGMM_OK;
}

fgmm_status fgmm__draw_create(const fgmm_model *model, uint64_t seed, fgmm_draw **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_draw *draw = NULL;
    FGMM_ALLOC(draw, 1, "drawing rows");
    draw->model = model;
    draw->seed = seed;
    FGMM_ALLOC(draw->upto, model->k, "drawing rows");
    FGMM_ALLOC(draw->roots, fgmm__covariance_count(model->covariance, model->k, model->dim), "drawing rows");
    for (int32_t k = 0; k < model->k; k++)
        draw->upto[k] = (k > 0 ? draw->upto[k - 1] : 0) + model->weights[k];
    FGMM_TRY(take_roots(draw));
    *out = draw;
    draw = NULL;
cleanup:
    fgmm__draw_destroy(draw);
    return status;
}

void fgmm__draw_destroy(fgmm_draw *draw)
{
    if (draw == NULL)
        return;
    free(draw->upto);
    free(draw->roots);
    free(draw);
}

/* The first component whose weights up to it exceed the row's share; one without weight is never it. */
int32_t fgmm__draw_component(const fgmm_draw *draw, int64_t row)
{
    int32_t low = 0, high = draw->model->k - 1;
    double share = fgmm__philox_uniform(draw->seed, FGMM_RNG_DRAW_CHOICE, (uint64_t)row) * draw->upto[high];
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (share < draw->upto[middle])
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Two independent standard normal numbers, by Box and Muller. */
static void draw_normals(const fgmm_draw *draw, int64_t row, int32_t pair, double out[2])
{
    fgmm_philox p = fgmm__philox(draw->seed, FGMM_RNG_DRAW_NOISE, (uint64_t)row, (uint32_t)pair);
    uint64_t a = (uint64_t)p.word[1] << 32 | p.word[0], b = (uint64_t)p.word[3] << 32 | p.word[2];
    double radius = sqrt(-2 * log((double)((a >> 11) + 1) * 0x1p-53)); /* of a number in (0, 1] */
    double angle = 2 * M_PI * ((double)(b >> 11) * 0x1p-53);
    out[0] = radius * cos(angle);
    out[1] = radius * sin(angle);
}

/* How far dimension d is from the mean; z: [dim] standard normal numbers. */
static double deviation(const fgmm_draw *draw, int32_t component, int32_t d, const double *z)
{
    const fgmm_model *model = draw->model;
    size_t dim = (size_t)model->dim, k = (size_t)component, row = (size_t)d * dim;
    const double *roots = draw->roots;
    double sum = 0;
    switch (model->covariance) {
    case FGMM_SPHERICAL:
        return roots[k] * z[d];
    case FGMM_DIAG:
        return roots[k * dim + (size_t)d] * z[d];
    case FGMM_FULL:
        row += k * dim * dim;
        break;
    case FGMM_TIED:
        break;
    }
    for (int32_t j = 0; j <= d; j++)
        sum += roots[row + (size_t)j] * z[j];
    return sum;
}

void fgmm__draw_row(const fgmm_draw *draw, int64_t row, double *room, float *out)
{
    int32_t dim = draw->model->dim, component = fgmm__draw_component(draw, row);
    const double *mean = draw->model->means + (size_t)component * (size_t)dim;
    for (int32_t d = 0; d < dim; d += 2) {
        double pair[2];
        draw_normals(draw, row, d / 2, pair);
        room[d] = pair[0];
        if (d + 1 < dim)
            room[d + 1] = pair[1];
    }
    for (int32_t d = 0; d < dim; d++)
        out[d] = (float)(mean[d] + deviation(draw, component, d, room));
}
