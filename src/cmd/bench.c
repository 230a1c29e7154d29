/* fgmm bench: how fast the parts are, and how close to what the machine can do. */
#include "cmd/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "backend/measure.h"
#include "base/status.h"
#include "base/version.h"

static const struct {
    const char *name;
    fgmm_status (*run)(fgmm_bench *bench);
} benches[] = {
    {"estep", fgmm__bench_estep}, {"kmeans", fgmm__bench_kmeans},   {"gemm", fgmm__bench_gemm},
    {"copy", fgmm__bench_copy},   {"h2d", fgmm__bench_h2d},         {"allreduce", fgmm__bench_allreduce},
    {"read", fgmm__bench_read},   {"shuffle", fgmm__bench_shuffle}, {"search", fgmm__bench_search},
};
enum { N_BENCHES = sizeof benches / sizeof *benches };

static const char usage[] =
    "[mpirun -n R] fgmm bench estep|kmeans|gemm|copy|h2d|allreduce|read|shuffle|search [DATA...] [OPTIONS]";
static const char description[] =
    "Checks the answer against a plain float64 reference, then times; prints one JSON object.\n"
    "estep, kmeans: one E-step (k-means: nearest centroids) over DATA or over rows of a known mixture, "
    "resident, with the reduction over ranks. On a GPU, for spherical, diag and k-means, it is a whole "
    "iteration "
    "of fit: parameters are on the device; tables, E-step, reduction, M-step and what the host reads of it "
    "are "
    "timed. `timed` says which.\n"
    "gemm: the vendor's large product. copy: within the backend's memory. h2d: pinned host memory to the "
    "GPU. allreduce: 64-bit sums over ranks. read: DATA through the readers. shuffle: rows to the ranks that "
    "own them, in rounds, as build sends them.\n"
    "search: a batch of queries in K lists of rows of a known mixture, in the backend's memory; the CPU "
    "answers some of them, too.";

double fgmm__bench_times(fgmm_bench *bench, double *seconds)
{
    double median = fgmm__median(seconds, (int)bench->reps);
    cJSON_AddNumberToObject(bench->line, "ms_median", 1e3 * median);
    cJSON_AddNumberToObject(bench->line, "ms_min", 1e3 * seconds[0]);
    cJSON_AddNumberToObject(bench->line, "reps", (double)bench->reps);
    cJSON_AddNumberToObject(bench->line, "warmups", FGMM_BENCH_WARM_UPS);
    return median;
}

fgmm_status fgmm__bench_agree_times(fgmm_bench *bench, fgmm_status mine, double *seconds)
{
    fgmm_status status = fgmm__comm_agree(bench->comm, mine);
    return status != FGMM_OK ? status : fgmm__comm_max_f64(bench->comm, seconds, (size_t)bench->reps);
}

static fgmm_status check(const fgmm_bench *b, const char *name, int *which)
{
    for (*which = 0; *which < N_BENCHES && strcmp(benches[*which].name, name) != 0;)
        ++*which;
    if (*which == N_BENCHES)
        return fgmm__fail(FGMM_ERR_INPUT,
                          "no bench `%s`; there are estep kmeans gemm copy h2d allreduce read shuffle search",
                          name);
    if (b->rows < 1 || b->dim < 1 || b->dim > (1 << 20) || b->k < 1 || b->k > INT32_MAX)
        return fgmm__fail(FGMM_ERR_INPUT, "--rows, --dim and -k must be at least 1");
    if (b->reps < 1 || b->reps > FGMM_BENCH_MAX_REPS)
        return fgmm__fail(FGMM_ERR_INPUT, "--reps must lie between 1 and %d", FGMM_BENCH_MAX_REPS);
    if (!(b->condition >= 1 && b->condition <= 1e12))
        return fgmm__fail(FGMM_ERR_INPUT, "--condition must lie between 1 and 1e12");
    if (b->condition > 1 && (benches[*which].run != fgmm__bench_estep || b->n_data > 0 ||
                             (b->covariance != FGMM_DIAG && b->covariance != FGMM_FULL)))
        return fgmm__fail(FGMM_ERR_INPUT,
                          "--condition is for `bench estep --covariance diag|full` without DATA");
    if (b->model != NULL && (b->n_data == 0 || (benches[*which].run != fgmm__bench_estep &&
                                                benches[*which].run != fgmm__bench_kmeans)))
        return fgmm__fail(FGMM_ERR_INPUT, "--model is for `bench estep DATA` and `bench kmeans DATA`");
    if (b->bytes < 8)
        return fgmm__fail(FGMM_ERR_INPUT, "--bytes must be at least 8");
    return FGMM_OK;
}

/* Every line says where it was measured. */
static void add_place(fgmm_bench *b)
{
    cJSON_AddStringToObject(b->line, "device", b->device != NULL ? fgmm__device_name(b->device) : "cpu");
    cJSON_AddNumberToObject(b->line, "threads", b->threads);
    cJSON_AddStringToObject(b->line, "host", fgmm__comm_host(b->comm));
    cJSON_AddStringToObject(b->line, "commit", FGMM_COMMIT);
}

static void print_line(const fgmm_bench *b)
{
    char *text = cJSON_PrintUnformatted(b->line);
    if (text != NULL)
        printf("%s\n", text);
    free(text);
    fflush(stdout);
}

fgmm_status fgmm__cmd_bench(int argc, char **argv)
{
    fgmm_status status = FGMM_OK;
    fgmm_bench b = {.rows = 200000,
                    .dim = 128,
                    .k = 1024,
                    .seed = 1,
                    .reps = 7,
                    .bytes = 64 << 20,
                    .spread = 0.1,
                    .queries = 10000,
                    .nprobe = 32,
                    .neighbors = 10,
                    .condition = 1};
    int n_positionals = 0, which = 0;
    bool done;
    const char **positionals = calloc((size_t)argc + 1, sizeof *positionals);
    const fgmm_option table[] = {
        {"--rows", FGMM_OPT_COUNT, &b.rows, "N", "rows of all ranks together (200k)"},
        {"--dim", FGMM_OPT_COUNT, &b.dim, "D", "dimensions (128)"},
        {"-k,--components", FGMM_OPT_COUNT, &b.k, "K", "components (1024)"},
        {"--model", FGMM_OPT_TEXT, &b.model, "MODEL.h5",
         "estep, kmeans: parameters for DATA, with their own K and shape (means are sampled from DATA)"},
        {"--covariance", FGMM_OPT_CHOICE, &b.covariance, "spherical|diag|tied|full",
         "shape of the components (spherical)"},
        {"--dtype", FGMM_OPT_CHOICE, &b.dtype, "f32|f16|u8|i8", "element type of the rows (f32)"},
        {"--spread", FGMM_OPT_REAL, &b.spread, "S",
         "standard deviation of the components, in units of half the width of the cube of their means (0.1)"},
        {"--condition", FGMM_OPT_REAL, &b.condition, "C",
         "estep, diag and full: condition number of the components' covariances, standard deviations lying "
         "evenly around --spread (1)"},
        {"--seed", FGMM_OPT_COUNT, &b.seed, "N", "of the rows (1)"},
        {"--reps", FGMM_OPT_COUNT, &b.reps, "R", "timed repeats, after 2 warm-ups (7)"},
        {"--bytes", FGMM_OPT_BYTES, &b.bytes, "BYTES",
         "bytes of copy, h2d and allreduce, and of a round of shuffle (64MiB)"},
        {"--queries", FGMM_OPT_COUNT, &b.queries, "Q", "search: queries a batch (10k)"},
        {"--nprobe", FGMM_OPT_COUNT, &b.nprobe, "P", "search: lists a query (32)"},
        {"--neighbors", FGMM_OPT_COUNT, &b.neighbors, "N", "search: neighbours a query (10)"},
        {"--residency", FGMM_OPT_CHOICE, &b.residency, "auto|device|host|stream",
         "where the rows live (auto)"},
        {NULL, FGMM_OPT_FLAG, NULL, NULL, NULL},
    };
    if (positionals == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory");
    FGMM_TRY(fgmm__cmd_parse(argc, argv, usage, description, table, positionals, &n_positionals, &done));
    if (done)
        goto cleanup;
    if (n_positionals < 1)
        FGMM_FAIL(FGMM_ERR_INPUT, "name a bench: estep kmeans gemm copy h2d allreduce read shuffle search");
    b.data = positionals + 1;
    b.n_data = n_positionals - 1;
    FGMM_TRY(check(&b, positionals[0], &which));
    b.comm = fgmm__cmd_comm();
    b.threads = fgmm__cmd_threads();
    FGMM_TRY(fgmm__device_open(b.comm, (fgmm_backend_kind)fgmm__globals()->backend, &b.device));
    b.line = cJSON_CreateObject();
    cJSON_AddStringToObject(b.line, "bench", benches[which].name);
    cJSON_AddStringToObject(b.line, "backend", b.device != NULL ? "cuda" : "cpu");
    cJSON_AddNumberToObject(b.line, "ranks", fgmm_comm_size(b.comm));
    FGMM_TRY(benches[which].run(&b));
    add_place(&b);
    if (fgmm_comm_rank(b.comm) == 0)
        print_line(&b);
cleanup:
    cJSON_Delete(b.line);
    fgmm__device_close(b.device);
    free(positionals);
    return status;
}
