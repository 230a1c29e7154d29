#include "cmd/resources.h"

#include <stdlib.h>

#include "base/status.h"
#include "data/dataset.h"
#include "io/reader.h"

fgmm_resources fgmm__cmd_resources(const fgmm_resource_options *options)
{
    const fgmm_globals *globals = fgmm__globals();
    return (fgmm_resources){
        .backend = (fgmm_backend_kind)globals->backend,
        .threads = fgmm__cmd_threads(),
        .residency = (fgmm_residency)options->residency,
        .device_memory_bytes = options->device_memory_bytes,
        .host_memory_bytes = options->host_memory_bytes,
        .tile_rows = globals->tile_rows,
    };
}

fgmm_status fgmm__cmd_refuse_ip(int metric)
{
    if (metric != FGMM_IP)
        return FGMM_OK;
    return fgmm__fail(FGMM_ERR_INPUT,
                      "--metric ip: components are made by the squared distance: give l2, and ip to build, "
                      "groundtruth and search");
}

/* The sources that queries are read from. */
static fgmm_status queries_sources(const char *const *sources, int n, char ***out)
{
    fgmm_status status = FGMM_OK;
    FGMM_ALLOC(*out, n, "queries");
    for (int i = 0; i < n; i++)
        FGMM_TRY(fgmm__queries_source(sources[i], &(*out)[i]));
cleanup:
    return status;
}

fgmm_status fgmm__cmd_read_queries(const char *const *sources, int n_sources, fgmm_metric metric, int32_t dim,
                                   const char *against, float **out, int64_t *n)
{
    fgmm_status status = FGMM_OK;
    fgmm_dataset *dataset = NULL;
    void *rows = NULL;
    float *queries = NULL;
    char **named = NULL;
    fgmm_dataset_options options = {.row_begin = 0, .row_end = -1, .metric = metric};
    FGMM_TRY(queries_sources(sources, n_sources, &named));
    FGMM_TRY(fgmm_dataset_open((const char *const *)named, n_sources, &options, &dataset));
    if (fgmm_dataset_dim(dataset) != dim)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: queries of dimension %d, %s has %d", fgmm_dataset_name(dataset),
                  fgmm_dataset_dim(dataset), against, dim);
    int64_t count = fgmm_dataset_rows(dataset);
    fgmm_dtype dtype = fgmm_dataset_dtype(dataset);
    FGMM_TRY(fgmm__alloc((size_t)count, (size_t)dim * fgmm_dtype_bytes(dtype), "queries", &rows));
    FGMM_ALLOC(queries, count * dim, "queries");
    FGMM_TRY(fgmm_dataset_read(dataset, 0, count, rows));
    FGMM_TRY(fgmm__dataset_check_finite(dataset, 0, count, rows));
    fgmm__to_f32(dtype, rows, (size_t)count * (size_t)dim, queries);
    *out = queries;
    *n = count;
    queries = NULL;
cleanup:
    for (int i = 0; named != NULL && i < n_sources; i++)
        free(named[i]);
    free(named);
    free(queries);
    free(rows);
    fgmm_dataset_close(dataset);
    return status;
}

fgmm_status fgmm__cmd_small_count(const char *option, int64_t value, int32_t *out)
{
    if (value < 1 || value > INT32_MAX)
        return fgmm__fail(FGMM_ERR_INPUT, "%s %lld: must be 1 to %d", option, (long long)value, INT32_MAX);
    *out = (int32_t)value;
    return FGMM_OK;
}
