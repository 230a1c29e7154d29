#include <stdio.h>
#include <stdlib.h>

#include "base/event.h"
#include "base/status.h"
#include "cmd/resources.h"
#include "ivf/ivf.h"

static const char usage[] = "[mpirun -n R] fgmm assign DATA... MODEL.h5 -o OUT.h5 [OPTIONS]";
static const char description[] = "Writes the most likely components of every row (labels, responsibilities) "
                                  "and the row's log-density (log_prob, nats).";

static const char *output;
static int64_t top = 1;
static double tau;
static int metric = -1;
static fgmm_resource_options resources;

static const fgmm_option table[] = {
    {"-o,--output", FGMM_OPT_TEXT, &output, "OUT.h5", "where the assignments go"},
    {"--top", FGMM_OPT_COUNT, &top, "M", "components kept a row, 1 to 64 (1)"},
    {"--tau", FGMM_OPT_REAL, &tau, "T", "drop responsibilities below T; the first is always kept (0)"},
    {"--metric", FGMM_OPT_CHOICE, &metric, "l2|cosine|ip",
     "cosine scales every row to unit length; ip is not for components (the model's)"},
    FGMM_RESOURCE_OPTIONS(resources),
    {NULL, FGMM_OPT_FLAG, NULL, NULL, NULL},
};

static fgmm_status open_inputs(const char **arguments, int n, fgmm_dataset **dataset, fgmm_model **model)
{
    fgmm_status status = FGMM_OK;
    fgmm_dataset_options options = {.row_end = -1, .dot_as_l2 = 1};
    if (n < 2)
        FGMM_FAIL(FGMM_ERR_INPUT, "needs data and a model: %s", usage);
    if (output == NULL)
        FGMM_FAIL(FGMM_ERR_INPUT, "needs -o OUT.h5");
    if (top < 1 || top > 64)
        FGMM_FAIL(FGMM_ERR_INPUT, "--top %lld: must be 1 to 64", (long long)top);
    FGMM_TRY(fgmm__cmd_refuse_ip(metric));
    FGMM_TRY(fgmm__cmd_check_output(output));
    FGMM_TRY(fgmm_model_read(arguments[n - 1], model));
    options.metric = metric < 0 ? fgmm_model_metric(*model) : (fgmm_metric)metric;
    FGMM_TRY(fgmm_dataset_open(arguments, n - 1, &options, dataset));
cleanup:
    return status;
}

static void tell(const fgmm_assign_report *report, int64_t rows, bool kmeans)
{
    if (kmeans)
        printf("mean squared distance %.9g\n", -report->mean_log_likelihood);
    else
        printf("mean log-likelihood   %.9g nats a row\n", report->mean_log_likelihood);
    printf("rows                  %lld in %.2f s, %.0f rows/s\n", (long long)rows, report->seconds,
           (double)rows / report->seconds);
    printf("rows lived in         %s\n", report->residency);
    fflush(stdout);
    cJSON *event = fgmm__event_new("end");
    cJSON_AddStringToObject(event, "command", "assign");
    cJSON_AddNumberToObject(event, kmeans ? "mean_squared_distance" : "log_likelihood",
                            kmeans ? -report->mean_log_likelihood : report->mean_log_likelihood);
    cJSON_AddNumberToObject(event, "rows", (double)rows);
    cJSON_AddNumberToObject(event, "seconds", report->seconds);
    cJSON_AddStringToObject(event, "residency", report->residency);
    fgmm__event_emit(event);
}

static fgmm_status announce(const fgmm_device *device, int64_t my_rows, const char *residency)
{
    return fgmm__cmd_start_event("assign", device, my_rows, residency);
}

fgmm_status fgmm__cmd_assign(int argc, char **argv)
{
    fgmm_status status = FGMM_OK;
    const char **arguments = NULL;
    int n_arguments = 0;
    bool done;
    fgmm_dataset *dataset = NULL;
    fgmm_model *model = NULL;
    fgmm_assign_report report;
    FGMM_ALLOC(arguments, argc, "arguments");
    FGMM_TRY(fgmm__cmd_parse(argc, argv, usage, description, table, arguments, &n_arguments, &done));
    if (done)
        goto cleanup;
    fgmm_comm *comm = fgmm__cmd_comm();
    FGMM_TRY(fgmm__comm_agree(comm, open_inputs(arguments, n_arguments, &dataset, &model)));
    int64_t rows = fgmm_dataset_rows(dataset);
    fgmm_assign_options options = {
        .top = (int32_t)top, .tau = tau, .resources = fgmm__cmd_resources(&resources)};
    FGMM_TRY(fgmm__assign(comm, dataset, model, output, &options, announce, &report));
    if (fgmm_comm_rank(comm) == 0)
        tell(&report, rows, fgmm_model_algorithm(model) == FGMM_KMEANS);
cleanup:
    fgmm_dataset_close(dataset);
    fgmm_model_destroy(model);
    free(arguments);
    return status;
}
