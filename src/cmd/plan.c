/* fgmm plan: what a fit will take, before there is a job. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/event.h"
#include "base/status.h"
#include "cmd/resources.h"
#include "data/memory.h"
#include "fit/forecast.h"

static const char usage[] = "fgmm plan -n N -d D -k K [OPTIONS]";
static const char description[] = "Says what a fit of N rows of dimension D will take: memory a rank, where "
                                  "the rows will live, bytes read and "
                                  "exchanged, seconds an iteration; and prints the head of a batch file for "
                                  "Slurm. Nothing is read or computed.";

enum { AUTO_DEVICE_GIB = 72 };

static int64_t rows, dim, k, gpus, nodes = 1, max_iter = 100;
static int algorithm, covariance, dtype;
static int64_t rate, read_rate = (int64_t)1 << 30;
static fgmm_resource_options resources;

static const fgmm_option table[] = {
    {"-n,--rows", FGMM_OPT_COUNT, &rows, "N", "rows (required)"},
    {"-d,--dim", FGMM_OPT_COUNT, &dim, "D", "dimension (required)"},
    {"-k,--components", FGMM_OPT_COUNT, &k, "K", "components (required)"},
    {"--algorithm", FGMM_OPT_CHOICE, &algorithm, "gmm|kmeans", "what will be fitted (gmm)"},
    {"--covariance", FGMM_OPT_CHOICE, &covariance, "spherical|diag|tied|full",
     "shape of a component (spherical)"},
    {"--dtype", FGMM_OPT_CHOICE, &dtype, "f32|f16|u8|i8", "element type of the rows (f32)"},
    {"--nodes", FGMM_OPT_COUNT, &nodes, "M", "nodes (1)"},
    {"--gpus", FGMM_OPT_COUNT, &gpus, "G",
     "GPUs a node, a rank each; 0: one rank a node computes on its CPUs (0)"},
    {"--max-iter", FGMM_OPT_COUNT, &max_iter, "I",
     "iterations, for the time that the batch file asks for (100)"},
    {"--residency", FGMM_OPT_CHOICE, &resources.residency, "auto|device|host|stream",
     "where the rows are to live (auto)"},
    {"--device-memory", FGMM_OPT_BYTES, &resources.device_memory_bytes, "BYTES",
     "device memory a rank may take (72GiB: nine tenths of a GPU of 80)"},
    {"--host-memory", FGMM_OPT_BYTES, &resources.host_memory_bytes, "BYTES",
     "host memory a rank may take (its share of nine tenths of what this machine has)"},
    {"--rate", FGMM_OPT_COUNT, &rate, "R",
     "rows a second of one rank's E-step: rows_per_s of fgmm bench estep with these numbers where the job "
     "will run (of "
     "GPUs the figures of a H200, rows most of which belong to one component; of CPUs unknown)"},
    {"--read-rate", FGMM_OPT_BYTES, &read_rate, "BYTES",
     "bytes a second that a rank reads from files (1GiB)"},
    {NULL, FGMM_OPT_FLAG, NULL, NULL, NULL},
};

static fgmm_status request_of(int n_arguments, fgmm_forecast_request *out)
{
    fgmm_status status = FGMM_OK;
    int32_t shape[2];
    *out = (fgmm_forecast_request){.rows = rows};
    if (n_arguments != 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "takes options alone: %s", usage);
    FGMM_TRY(fgmm__cmd_small_count("-d", dim, &out->dim));
    FGMM_TRY(fgmm__cmd_small_count("-k", k, &out->k));
    FGMM_TRY(fgmm__cmd_small_count("--nodes", nodes, &shape[0]));
    FGMM_TRY(fgmm__cmd_small_count("--gpus", gpus > 0 ? gpus : 1, &shape[1]));
    if (nodes > 1 << 20 || gpus > 1 << 10)
        FGMM_FAIL(FGMM_ERR_INPUT, "--nodes %lld --gpus %lld: no such machine", (long long)nodes,
                  (long long)gpus);
    if (read_rate < 1)
        FGMM_FAIL(FGMM_ERR_INPUT, "--read-rate must be above 0");
    out->nodes = shape[0];
    out->ranks_per_node = shape[1];
    out->gpus = gpus > 0;
    out->algorithm = (fgmm_algorithm)algorithm;
    out->covariance = (fgmm_covariance)covariance;
    out->dtype = (fgmm_dtype)dtype;
    out->residency = (fgmm_residency)resources.residency;
    out->tile_rows = fgmm__globals()->tile_rows;
    out->device_memory_bytes =
        resources.device_memory_bytes > 0 ? resources.device_memory_bytes : (int64_t)AUTO_DEVICE_GIB << 30;
    int64_t here = fgmm__memory_available();
    out->host_memory_bytes = resources.host_memory_bytes > 0 ? resources.host_memory_bytes
                                                             : (here - here / 10) / out->ranks_per_node;
    out->rows_per_second = (double)rate;
    out->read_bytes_per_second = (double)read_rate;
cleanup:
    return status;
}

static double gib(int64_t bytes)
{
    return (double)bytes / (double)((int64_t)1 << 30);
}

static void print_forecast(const fgmm_forecast_request *r, const fgmm_forecast *f)
{
    printf("ranks            %lld on %d node%s, %s each\n", (long long)f->ranks, r->nodes,
           r->nodes == 1 ? "" : "s", r->gpus ? "a GPU" : "all CPUs of a node");
    printf("rows a rank      %lld of %lld, %.3f of %.3f GiB\n", (long long)f->rows, (long long)r->rows,
           (double)f->rows / (double)r->rows * gib(f->data_bytes), gib(f->data_bytes));
    printf("rows will live   %s\n", f->where);
    if (r->gpus)
        printf("device memory    %.3f GiB a rank of %.3f, of which workspace %.3f\n", gib(f->device_bytes),
               gib(r->device_memory_bytes), gib(f->workspace_bytes));
    printf("host memory      %.3f GiB a rank of %.3f", gib(f->host_bytes), gib(r->host_memory_bytes));
    if (!r->gpus)
        printf(", of which workspace %.3f (by this machine's cores)", gib(f->workspace_bytes));
    printf("\nread             %.3f GiB once; %.3f GiB a rank in each iteration\n", gib(f->data_bytes),
           gib(f->streamed_bytes));
    if (r->gpus)
        printf("copied           %.3f GiB to each device in each iteration\n", gib(f->copied_bytes));
    printf("exchanged        %.6f GiB a rank in each iteration\n", gib(f->exchanged_bytes));
    if (f->seconds > 0)
        printf("an iteration     %.3g s at %.3g rows/s a rank%s\n", f->seconds, f->rows_per_second,
               r->rows_per_second > 0 ? "" : ", as a H200 with rows most of which belong to one component");
    else
        printf("an iteration     unknown: give --rate, the rows_per_s of fgmm bench estep --dim %d -k %d "
               "--covariance %s "
               "--dtype %s\n",
               r->dim, r->k, fgmm_covariance_name(r->covariance), fgmm_dtype_name(r->dtype));
}

/* Room for what is not reckoned with: libraries, HDF5, the file cache. */
static void print_batch_head(const fgmm_forecast_request *r, const fgmm_forecast *f)
{
    enum { SPARE_GIB = 4 };
    double memory = ceil(gib(f->host_bytes) * 1.1) + SPARE_GIB;
    printf("\n#SBATCH --nodes=%d\n#SBATCH --ntasks-per-node=%d\n", r->nodes, r->ranks_per_node);
    if (r->gpus)
        printf("#SBATCH --gpus-per-task=1\n");
    printf("#SBATCH --mem=%.0fG\n", memory * r->ranks_per_node);
    if (f->seconds > 0) {
        double reading = (double)f->data_bytes / (double)f->ranks / r->read_bytes_per_second;
        double minutes = ceil((reading + 1.2 * f->seconds * (double)(max_iter + 2)) / 60) + 5;
        printf("#SBATCH --time=%.0f:%02.0f:00\n", floor(minutes / 60), fmod(minutes, 60));
    }
    printf("#SBATCH --signal=B:USR1@120\n#SBATCH --requeue\n#SBATCH --open-mode=append\n");
    fflush(stdout);
}

static void log_end(const fgmm_forecast *f)
{
    cJSON *event = fgmm__event_new("end");
    cJSON_AddStringToObject(event, "command", "plan");
    cJSON_AddNumberToObject(event, "ranks", (double)f->ranks);
    cJSON_AddNumberToObject(event, "rows", (double)f->rows);
    cJSON_AddStringToObject(event, "residency", f->where);
    cJSON_AddNumberToObject(event, "workspace_bytes", (double)f->workspace_bytes);
    cJSON_AddNumberToObject(event, "host_bytes", (double)f->host_bytes);
    cJSON_AddNumberToObject(event, "device_bytes", (double)f->device_bytes);
    cJSON_AddNumberToObject(event, "data_bytes", (double)f->data_bytes);
    cJSON_AddNumberToObject(event, "streamed_bytes", (double)f->streamed_bytes);
    cJSON_AddNumberToObject(event, "copied_bytes", (double)f->copied_bytes);
    cJSON_AddNumberToObject(event, "exchanged_bytes", (double)f->exchanged_bytes);
    if (f->seconds > 0)
        cJSON_AddNumberToObject(event, "iteration_seconds", f->seconds);
    fgmm__event_emit(event);
}

fgmm_status fgmm__cmd_plan(int argc, char **argv)
{
    fgmm_status status = FGMM_OK;
    const char **arguments = NULL;
    int n = 0;
    bool done;
    fgmm_forecast_request request;
    fgmm_forecast forecast;
    FGMM_ALLOC(arguments, argc, "arguments");
    FGMM_TRY(fgmm__cmd_parse(argc, argv, usage, description, table, arguments, &n, &done));
    if (done)
        goto cleanup;
    fgmm_comm *comm = fgmm__cmd_comm();
    status = request_of(n, &request);
    if (status == FGMM_OK)
        status = fgmm__forecast(&request, &forecast);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    if (fgmm_comm_rank(comm) == 0) {
        print_forecast(&request, &forecast);
        print_batch_head(&request, &forecast);
        log_end(&forecast);
    }
cleanup:
    free(arguments);
    return status;
}
