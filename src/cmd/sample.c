/* fgmm sample: rows drawn from a model. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/event.h"
#include "base/log.h"
#include "base/status.h"
#include "cmd/cmd.h"
#include "export/sample.h"
#include "io/writer.h"

static const char usage[] = "fgmm sample MODEL.h5 -n N -o FILE [OPTIONS]";
static const char description[] = "Writes N rows drawn from the mixture, in the format of FILE's extension: "
                                  ".fvecs .bvecs .fbin .f16bin .u8bin "
                                  ".i8bin .npy .h5 (dataset /train). A row depends on the model, its number "
                                  "and the seed alone, so a longer sample "
                                  "begins with a shorter one. A k-means model is taken as spherical "
                                  "components. Rows from a model fitted with "
                                  "--metric cosine are not scaled.";

static const char *output;
static int64_t n_rows, seed;
static int dtype; /* 0: as the format has it, else f32; then fgmm_dtype + 1 */

static const fgmm_option table[] = {
    {"-n,--rows", FGMM_OPT_COUNT, &n_rows, "N", "rows to draw (required)"},
    {"-o,--output", FGMM_OPT_TEXT, &output, "FILE", "where they go (required)"},
    {"--seed", FGMM_OPT_COUNT, &seed, "S", "seed of the draw (0)"},
    {"--dtype", FGMM_OPT_CHOICE, &dtype, "auto|f32|f16|u8|i8",
     "element type; auto: what the format holds, else f32; integers are rounded and clipped (auto)"},
    {NULL, FGMM_OPT_FLAG, NULL, NULL, NULL},
};

static fgmm_status open_inputs(const char **arguments, int n, fgmm_model **model, fgmm_dtype *type)
{
    fgmm_status status = FGMM_OK;
    int fixed;
    if (n != 1)
        FGMM_FAIL(FGMM_ERR_INPUT, "needs one model: %s", usage);
    if (n_rows < 1)
        FGMM_FAIL(FGMM_ERR_INPUT, "needs -n N, the number of rows, at least 1");
    if (output == NULL)
        FGMM_FAIL(FGMM_ERR_INPUT, "needs -o FILE");
    FGMM_TRY(fgmm__cmd_check_output(output));
    FGMM_TRY(fgmm__writer_dtype(output, type, &fixed));
    if (!fixed)
        *type = FGMM_F32;
    if (dtype > 0)
        *type = (fgmm_dtype)(dtype - 1);
    FGMM_TRY(fgmm_model_read(arguments[0], model));
cleanup:
    return status;
}

static void tell(const fgmm_model *model, fgmm_dtype type, int64_t clipped, double seconds)
{
    if (clipped > 0)
        fgmm__warn("%s: %lld values lay outside of %s and were clipped", output, (long long)clipped,
                   fgmm_dtype_name(type));
    fgmm__info("%s: %lld rows x %d %s", output, (long long)n_rows, fgmm_model_dim(model),
               fgmm_dtype_name(type));
    cJSON *event = fgmm__event_new("end");
    cJSON_AddStringToObject(event, "command", "sample");
    cJSON_AddNumberToObject(event, "rows", (double)n_rows);
    cJSON_AddNumberToObject(event, "seconds", seconds);
    fgmm__event_emit(event);
}

fgmm_status fgmm__cmd_sample(int argc, char **argv)
{
    fgmm_status status = FGMM_OK;
    const char **arguments = NULL;
    int n = 0;
    bool done;
    fgmm_model *model = NULL;
    fgmm_dtype type = FGMM_F32;
    FGMM_ALLOC(arguments, argc, "arguments");
    FGMM_TRY(fgmm__cmd_parse(argc, argv, usage, description, table, arguments, &n, &done));
    if (done)
        goto cleanup;
    fgmm_comm *comm = fgmm__cmd_comm();
    double start = fgmm__seconds();
    FGMM_TRY(fgmm__comm_agree(comm, open_inputs(arguments, n, &model, &type)));
    FGMM_TRY(fgmm__cmd_start_event("sample", NULL, 0, NULL));
    if (fgmm_comm_rank(comm) == 0) { /* the others wait in main's agreement */
        int64_t clipped;
        status = fgmm__export_sample(model, n_rows, (uint64_t)seed, type, output, comm, &clipped);
        if (status == FGMM_STOPPED)
            status = fgmm__fail(FGMM_ERR_RUNTIME, "stopped on request; nothing was written");
        FGMM_TRY(status);
        tell(model, type, clipped, fgmm__seconds() - start);
    }
cleanup:
    fgmm_model_destroy(model);
    free(arguments);
    return status;
}
