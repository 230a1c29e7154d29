#include "support/lists.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "model/model.h"
#include "support/files.h"

enum { MIDDLE = 128, STEP = 4, NOISE = 20 };

static int centre(int32_t k, int32_t d)
{
    uint32_t mixed = (uint32_t)(k * 131 + d + 1) * 2654435761u;
    return MIDDLE + STEP * ((int)((mixed >> 16) % 7) - 3);
}

/* A number in [0, bound) out of a running state. */
static uint32_t draw(uint64_t *state, uint32_t bound)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((*state >> 33) % bound);
}

void fgmm_test_clusters_create(int64_t n, int32_t k, int32_t dim, fgmm_algorithm algorithm,
                               fgmm_test_clusters *out)
{
    uint64_t state = 1;
    *out = (fgmm_test_clusters){.n = n, .k = k, .dim = dim};
    out->rows = malloc((size_t)(n * dim));
    if (out->rows == NULL || fgmm__model_create(algorithm, FGMM_SPHERICAL, k, dim, &out->model) != FGMM_OK)
        abort();
    for (int64_t i = 0; i < n; i++) {
        int32_t from = (int32_t)draw(&state, (uint32_t)k);
        for (int32_t d = 0; d < dim; d++)
            out->rows[i * dim + d] = (uint8_t)(centre(from, d) + (int)draw(&state, 2 * NOISE + 1) - NOISE);
    }
    for (int32_t j = 0; j < k; j++) {
        out->model->weights[j] = 2.0 * (j + 1) / (k * (k + 1.0));
        out->model->covariances[j] = NOISE * NOISE / 3.0 + j;
        for (int32_t d = 0; d < dim; d++)
            out->model->means[j * dim + d] = centre(j, d) + 0.25;
    }
    for (int32_t d = 0; d < dim; d++)
        out->model->origin[d] = MIDDLE;
    out->model->n_rows = n;
}

void fgmm_test_clusters_destroy(fgmm_test_clusters *clusters)
{
    free(clusters->rows);
    fgmm_model_destroy(clusters->model);
}

void fgmm_test_clusters_write(const fgmm_test_clusters *clusters, int64_t begin, int64_t end,
                              const char *path)
{
    size_t bytes = (size_t)((end - begin) * clusters->dim);
    char *file = malloc(8 + bytes);
    uint32_t head[2] = {(uint32_t)(end - begin), (uint32_t)clusters->dim};
    memcpy(file, head, 8);
    memcpy(file + 8, clusters->rows + begin * clusters->dim, bytes);
    fgmm_test_write_file(path, file, 8 + bytes);
    free(file);
}

/* Log-density of a component (k-means: minus the squared distance). */
static double log_density(const fgmm_test_clusters *clusters, int64_t row, int32_t j)
{
    const fgmm_model *model = clusters->model;
    double square = 0;
    for (int32_t d = 0; d < clusters->dim; d++) {
        double x = clusters->rows[row * clusters->dim + d] - model->means[j * clusters->dim + d];
        square += x * x;
    }
    if (model->algorithm == FGMM_KMEANS)
        return -square;
    double variance = model->covariances[j];
    return log(model->weights[j]) - 0.5 * clusters->dim * log(2 * M_PI * variance) - 0.5 * square / variance;
}

fgmm_dataset *fgmm_test_clusters_open(const fgmm_test_clusters *clusters, const char *file)
{
    fgmm_dataset *dataset = NULL;
    const char *source = fgmm_test_path(file);
    fgmm_test_clusters_write(clusters, 0, clusters->n, source);
    if (fgmm_dataset_open(&source, 1, NULL, &dataset) != FGMM_OK) {
        fprintf(stderr, "%s\n", fgmm_error_message());
        exit(1);
    }
    return dataset;
}

void fgmm_test_clusters_queries(const fgmm_test_clusters *clusters, int32_t n, float *queries)
{
    for (int32_t i = 0; i < n * clusters->dim; i++)
        queries[i] = (float)clusters->rows[i * 7] + (i % 3 == 0 ? 0.5f : 0.0f);
}

fgmm_build_options fgmm_test_build_options(fgmm_assign_rule rule, int32_t max_lists)
{
    fgmm_build_options options;
    fgmm_build_defaults(&options);
    options.rule = rule;
    options.max_lists = max_lists;
    options.resources.backend = FGMM_BACKEND_CPU;
    options.resources.threads = 1;
    return options;
}

int32_t fgmm_test_lists_of(const fgmm_test_clusters *clusters, int64_t row, double tau, int32_t most,
                           int32_t *lists, double *margin)
{
    double *l = malloc((size_t)clusters->k * sizeof *l), largest = -INFINITY, sum = 0;
    int32_t kept = 0;
    for (int32_t j = 0; j < clusters->k; j++) {
        l[j] = log_density(clusters, row, j);
        largest = fmax(largest, l[j]);
    }
    for (int32_t j = 0; j < clusters->k; j++)
        sum += exp(l[j] - largest);
    for (; kept < most && kept < clusters->k; kept++) {
        int32_t best = 0;
        for (int32_t j = 1; j < clusters->k; j++)
            if (l[j] > l[best])
                best = j;
        double share = exp(l[best] - largest) / sum;
        if (kept > 0) {
            *margin = fmin(*margin, fabs(share - tau));
            if (share < tau)
                break;
        }
        lists[kept] = best;
        l[best] = -INFINITY;
    }
    free(l);
    return kept;
}

double fgmm_test_distance(const fgmm_test_clusters *clusters, int64_t row, const float *query)
{
    double square = 0;
    for (int32_t d = 0; d < clusters->dim; d++) {
        double x = (double)clusters->rows[row * clusters->dim + d] - (double)query[d];
        square += x * x;
    }
    return square;
}
