/* fgmm convert: rows of any files into one file of any format. */
#include <stdlib.h>
#include <string.h>
#include "base/log.h"
#include "base/philox.h"
#include "cmd/cmd.h"
#include "data/copy.h"
#include "data/sample.h"
#include "io/writer.h"

static const char usage[] = "[mpirun -n R] fgmm convert IN... OUT [OPTIONS]";
static const char description[] =
    "Reads IN as one array of rows and writes them to OUT in the format of its extension:\n"
    ".fvecs .bvecs .fbin .f16bin .u8bin .i8bin .npy .h5 (dataset /train).";

typedef struct {
    const char *rows;
    int dtype; /* 0: as the format has it, else as the input; then fgmm_dtype + 1 */
    int metric;
    int64_t sample, seed;
} arguments;

static fgmm_status choose_dtype(const arguments *a, const fgmm_dataset *dataset, const char *path,
                                fgmm_dtype *dtype)
{
    int fixed;
    fgmm_status status = fgmm__writer_dtype(path, dtype, &fixed);
    if (a->dtype > 0)
        *dtype = (fgmm_dtype)(a->dtype - 1);
    else if (status == FGMM_OK && !fixed)
        *dtype = fgmm_dataset_dtype(dataset);
    return status;
}

static fgmm_status open_input(const arguments *a, const char **sources, int n, fgmm_dataset **dataset,
                              fgmm_dtype *dtype)
{
    fgmm_status status = FGMM_OK;
    fgmm_dataset_options options = {.row_end = -1, .metric = (fgmm_metric)a->metric, .dot_as_l2 = 1};
    if (n < 2)
        FGMM_FAIL(FGMM_ERR_INPUT, "an input and an output are needed; usage: %s", usage);
    FGMM_TRY(fgmm__cmd_check_output(sources[n - 1]));
    if (a->rows)
        FGMM_TRY(fgmm__cmd_parse_rows(a->rows, &options));
    FGMM_TRY(fgmm_dataset_open(sources, n - 1, &options, dataset));
    if (a->sample < 0 || a->sample > fgmm_dataset_rows(*dataset))
        FGMM_FAIL(FGMM_ERR_INPUT, "--sample %lld: there are %lld rows", (long long)a->sample,
                  (long long)fgmm_dataset_rows(*dataset));
    FGMM_TRY(choose_dtype(a, *dataset, sources[n - 1], dtype));
cleanup:
    return status;
}

static fgmm_status convert(const arguments *a, const char **sources, int n)
{
    fgmm_status status = FGMM_OK;
    fgmm_comm *comm = fgmm__cmd_comm();
    fgmm_dataset *dataset = NULL;
    int64_t *sample = NULL;
    fgmm_dtype dtype = FGMM_F32;
    FGMM_TRY(fgmm__comm_agree(comm, open_input(a, sources, n, &dataset, &dtype)));
    if (a->sample > 0)
        FGMM_TRY(
            fgmm__sample_rows(dataset, comm, (uint64_t)a->seed, FGMM_RNG_SAMPLE, a->sample, &sample, NULL));
    FGMM_TRY(fgmm__copy_rows(comm, dataset, sample, a->sample, dtype, sources[n - 1]));
    fgmm__info("%s: %lld rows x %d %s", sources[n - 1],
               (long long)(sample ? a->sample : fgmm_dataset_rows(dataset)), fgmm_dataset_dim(dataset),
               fgmm_dtype_name(dtype));
cleanup:
    free(sample);
    fgmm_dataset_close(dataset);
    return status;
}

fgmm_status fgmm__cmd_convert(int argc, char **argv)
{
    fgmm_status status = FGMM_OK;
    arguments a = {.rows = NULL};
    const char **sources = NULL;
    int n = 0;
    bool done = false;
    const fgmm_option table[] = {
        {"--rows", FGMM_OPT_TEXT, &a.rows, "A:B", "rows A to B-1 of IN alone (all)"},
        {"--dtype", FGMM_OPT_CHOICE, &a.dtype, "auto|f32|f16|u8|i8",
         "element type of OUT; auto: what the format holds, else that of IN; integers are rounded and "
         "clipped (auto)"},
        {"--sample", FGMM_OPT_COUNT, &a.sample, "N",
         "N rows drawn one from each of N equal parts, in row order (all rows)"},
        {"--seed", FGMM_OPT_COUNT, &a.seed, "S", "seed of the sample (0)"},
        {"--metric", FGMM_OPT_CHOICE, &a.metric, "l2|cosine", "cosine scales every row to unit length (l2)"},
        {NULL, FGMM_OPT_FLAG, NULL, NULL, NULL},
    };
    FGMM_ALLOC(sources, argc, "the arguments");
    FGMM_TRY(fgmm__cmd_parse(argc, argv, usage, description, table, sources, &n, &done));
    if (!done)
        status = convert(&a, sources, n);
cleanup:
    free(sources);
    return status;
}
