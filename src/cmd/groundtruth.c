#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/event.h"
#include "base/status.h"
#include "cmd/resources.h"
#include "ivf/ivf.h"
#include "ivf/results_file.h"
#include "io/knn.h"

static const char usage[] = "[mpirun -n R] fgmm groundtruth DATA... QUERIES -k 100 -o GT [OPTIONS]";
static const char description[] = "Finds the exact nearest rows of every query (squared L2, or the largest "
                                  "inner products; ties to the smaller row "
                                  "number).";

static const char *output;
static int64_t k = 100;
static int metric = FGMM_L2;
static fgmm_resource_options resources;

static const fgmm_option table[] = {
    {"-o,--output", FGMM_OPT_TEXT, &output, "GT",
     "where the neighbours go: .ibin, .ivecs or .h5 (in the layout of ann-benchmarks, without the rows)"},
    {"-k,--neighbors", FGMM_OPT_COUNT, &k, "K", "neighbours a query, up to the number of rows (100)"},
    FGMM_METRIC_OPTION(metric, "l2"),
    FGMM_RESOURCE_OPTIONS(resources),
    {NULL, FGMM_OPT_FLAG, NULL, NULL, NULL},
};

static fgmm_status open_inputs(const char **arguments, int n, fgmm_dataset **dataset, fgmm_knn *found,
                               float **queries)
{
    fgmm_status status = FGMM_OK;
    fgmm_dataset_options options = {.row_end = -1, .metric = (fgmm_metric)metric};
    if (n < 2)
        FGMM_FAIL(FGMM_ERR_INPUT, "needs data and queries: %s", usage);
    if (output == NULL)
        FGMM_FAIL(FGMM_ERR_INPUT, "needs -o GT");
    FGMM_TRY(fgmm__cmd_small_count("-k", k, &found->k));
    FGMM_TRY(fgmm__cmd_check_output(output));
    FGMM_TRY(fgmm_dataset_open(arguments, n - 1, &options, dataset));
    FGMM_TRY(fgmm__results_check(output, 1, fgmm_dataset_rows(*dataset)));
    if (k > fgmm_dataset_rows(*dataset))
        FGMM_FAIL(FGMM_ERR_INPUT, "-k %lld: there are only %lld rows in %s", (long long)k,
                  (long long)fgmm_dataset_rows(*dataset), fgmm_dataset_name(*dataset));
    FGMM_TRY(fgmm__cmd_read_queries(arguments + n - 1, 1, (fgmm_metric)metric, fgmm_dataset_dim(*dataset),
                                    fgmm_dataset_name(*dataset), queries, &found->queries));
    FGMM_ALLOC(found->ids, found->queries * found->k, "neighbours");
    FGMM_ALLOC(found->distances, found->queries * found->k, "neighbours");
cleanup:
    return status;
}

static void tell(const fgmm_knn *found, int64_t rows, double seconds)
{
    printf("%lld queries, %d neighbours each among %lld rows in %.2f s\n", (long long)found->queries,
           found->k, (long long)rows, seconds);
    fflush(stdout);
    cJSON *event = fgmm__event_new("end");
    cJSON_AddStringToObject(event, "command", "groundtruth");
    cJSON_AddNumberToObject(event, "rows", (double)rows);
    cJSON_AddNumberToObject(event, "queries", (double)found->queries);
    cJSON_AddNumberToObject(event, "k", found->k);
    cJSON_AddNumberToObject(event, "seconds", seconds);
    fgmm__event_emit(event);
}

static fgmm_status announce(const fgmm_device *device, int64_t my_rows, const char *residency)
{
    return fgmm__cmd_start_event("groundtruth", device, my_rows, residency);
}

fgmm_status fgmm__cmd_groundtruth(int argc, char **argv)
{
    fgmm_status status = FGMM_OK;
    const char **arguments = NULL;
    int n_arguments = 0;
    bool done;
    fgmm_dataset *dataset = NULL;
    fgmm_knn found = {0};
    float *queries = NULL;
    FGMM_ALLOC(arguments, argc, "arguments");
    FGMM_TRY(fgmm__cmd_parse(argc, argv, usage, description, table, arguments, &n_arguments, &done));
    if (done)
        goto cleanup;
    fgmm_comm *comm = fgmm__cmd_comm();
    double start = fgmm__seconds();
    FGMM_TRY(fgmm__comm_agree(comm, open_inputs(arguments, n_arguments, &dataset, &found, &queries)));
    int64_t rows = fgmm_dataset_rows(dataset);
    fgmm_resources where = fgmm__cmd_resources(&resources);
    FGMM_TRY(fgmm__groundtruth(comm, dataset, queries, found.queries, found.k, &where, announce, found.ids,
                               found.distances));
    if (fgmm_comm_rank(comm) == 0) {
        fgmm_knn_about about = {
            .metric = (fgmm_metric)metric, .dim = fgmm_dataset_dim(dataset), .queries = queries};
        status = fgmm__knn_write(output, &found, &about);
        if (status == FGMM_OK)
            tell(&found, rows, fgmm__seconds() - start);
    }
cleanup:
    fgmm_dataset_close(dataset);
    fgmm__knn_free(&found);
    free(queries);
    free(arguments);
    return status;
}
