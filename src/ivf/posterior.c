#include "ivf/posterior.h"

#include <omp.h>
#include <stdlib.h>

#include "io/h5.h"
#include "ivf/top.h"
#include "model/components.h"

struct fgmm_posterior {
    int threads;
    fgmm_components *components; /* tied: means are already multiplied by the factor */
};

static fgmm_status read_model(const fgmm_index *index, fgmm_model **out)
{
    fgmm_status status = FGMM_OK;
    hid_t file = H5I_INVALID_HID, group = H5I_INVALID_HID;
    fgmm__h5_lock();
    FGMM_TRY(fgmm__h5_open(index->path, NULL, &file));
    group = H5Gopen2(file, "model", H5P_DEFAULT);
    if (group < 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: holds no model to order lists by; build it again", index->path);
    FGMM_TRY(fgmm__model_get((int64_t)group, index->path, out));
    if (fgmm_model_k(*out) != index->k || fgmm_model_dim(*out) != index->dim)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: damaged: its model is not the one of its lists", index->path);
cleanup:
    if (group >= 0)
        H5Gclose(group);
    fgmm__h5_close(file, index->path);
    fgmm__h5_unlock();
    return status;
}

/* y = U'x for the upper triangular factor of a component. */
static void multiply(const double *factor, const double *x, int32_t dim, double *y)
{
    for (int32_t j = 0; j < dim; j++)
        y[j] = 0;
    for (int32_t i = 0; i < dim; i++)
#pragma omp simd
        for (int32_t j = i; j < dim; j++)
            y[j] += x[i] * factor[(size_t)i * (size_t)dim + (size_t)j];
}

fgmm_status fgmm__posterior_create(const fgmm_index *index, int threads, fgmm_posterior **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_posterior *posterior = NULL;
    fgmm_model *model = NULL;
    double *product = NULL;
    FGMM_TRY(read_model(index, &model));
    if (fgmm_model_algorithm(model) == FGMM_KMEANS)
        goto cleanup;
    FGMM_ALLOC(posterior, 1, "a probing order");
    posterior->threads = threads > 0 ? threads : 1;
    FGMM_TRY(fgmm__components_create(model, false, NULL, NULL, &posterior->components));
    fgmm_components *components = posterior->components;
    size_t dim = (size_t)components->dim;
    FGMM_ALLOC(product, dim, "a probing order");
    for (int32_t k = 0; components->shape == FGMM_TIED && k < components->k; k++) {
        double *mean = components->means + (size_t)k * dim;
        multiply(components->factors, mean, components->dim, product);
        for (size_t d = 0; d < dim; d++)
            mean[d] = product[d];
    }
    *out = posterior;
    posterior = NULL;
cleanup:
    fgmm__posterior_destroy(posterior);
    fgmm_model_destroy(model);
    free(product);
    return status;
}

void fgmm__posterior_destroy(fgmm_posterior *posterior)
{
    if (posterior == NULL)
        return;
    fgmm__components_destroy(posterior->components);
    free(posterior);
}

/* Log-density (base 2) of component k at x, which is relative to the origin (tied: and multiplied by the
 * factor). room: [2][dim]. */
static double log_density(const fgmm_components *components, int32_t k, const double *x, double *room)
{
    int32_t dim = components->dim;
    const double *mean = components->means + (size_t)k * (size_t)dim;
    double sum = 0, *y = room;
    switch (components->shape) {
    case FGMM_SPHERICAL:
    case FGMM_TIED:
#pragma omp simd reduction(+ : sum)
        for (int32_t d = 0; d < dim; d++)
            sum += (x[d] - mean[d]) * (x[d] - mean[d]);
        if (components->shape == FGMM_SPHERICAL)
            sum *= components->factors[k] * components->factors[k];
        break;
    case FGMM_DIAG: {
        const double *factor = components->factors + (size_t)k * (size_t)dim;
#pragma omp simd reduction(+ : sum)
        for (int32_t d = 0; d < dim; d++)
            sum += factor[d] * factor[d] * (x[d] - mean[d]) * (x[d] - mean[d]);
        break;
    }
    case FGMM_FULL:
        for (int32_t d = 0; d < dim; d++)
            y[dim + d] = x[d] - mean[d];
        multiply(components->factors + (size_t)k * (size_t)dim * (size_t)dim, y + dim, dim, y);
#pragma omp simd reduction(+ : sum)
        for (int32_t d = 0; d < dim; d++)
            sum += y[d] * y[d];
        break;
    }
    return components->offsets[k] - sum;
}

/* room: [4][dim] */
static void order_one(const fgmm_components *components, const float *query, int64_t q, double *room,
                      fgmm_top *likely)
{
    int32_t dim = components->dim;
    double *x = room;
    for (int32_t d = 0; d < dim; d++)
        x[d] = (double)query[d] - components->origin[d];
    if (components->shape == FGMM_TIED) {
        multiply(components->factors, room, dim, room + dim);
        x = room + dim;
    }
    for (int32_t k = 0; k < components->k; k++)
        fgmm__top_push(likely, q, -log_density(components, k, x, room + 2 * (size_t)dim), k);
}

fgmm_status fgmm__posterior_order(const fgmm_posterior *posterior, const float *queries, int64_t n,
                                  int32_t nprobe, int64_t *lists)
{
    fgmm_status status = FGMM_OK;
    const fgmm_components *components = posterior->components;
    size_t dim = (size_t)components->dim;
    fgmm_top *likely = NULL;
    double *room = NULL;
    FGMM_TRY(fgmm__top_create(n, nprobe, false, &likely));
    FGMM_ALLOC(room, 4 * dim * (size_t)posterior->threads, "a probing order");
#pragma omp parallel num_threads(posterior->threads)
    {
        double *mine = room + 4 * dim * (size_t)omp_get_thread_num();
#pragma omp for schedule(static)
        for (int64_t q = 0; q < n; q++)
            order_one(components, queries + (size_t)q * dim, q, mine, likely);
    }
    fgmm__top_sort(likely);
    fgmm__top_read(likely, lists, NULL);
cleanup:
    fgmm__top_destroy(likely);
    free(room);
    return status;
}
