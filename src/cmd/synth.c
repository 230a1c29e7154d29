/* fgmm synth: the rows of a synthetic mixture as a file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/log.h"
#include "cmd/cmd.h"
#include "data/copy.h"
#include "io/writer.h"

static const char usage[] = "[mpirun -n R] fgmm synth SPEC OUT [OPTIONS]";
static const char description[] =
    "Writes the rows of a known mixture to OUT in the format of its extension.\n"
    "SPEC: n=1M,d=128,k=1024 and, where wanted, seed=0 dtype=f32|f16|u8|i8 spread=0.1 anisotropy=1 "
    "weights=equal|zipf noise=0, all joined by commas.\n"
    "spread: standard deviation of a component, in halves of the cube's edge that means are drawn from; "
    "anisotropy: largest over smallest standard deviation; noise: share of uniform rows.\n"
    "A row depends on its number and the seed alone.";

static fgmm_status check_dtype(const char *path, const fgmm_dataset *dataset)
{
    fgmm_dtype held, made = fgmm_dataset_dtype(dataset);
    int fixed;
    fgmm_status status = fgmm__writer_dtype(path, &held, &fixed);
    if (status == FGMM_OK && fixed && held != made)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: this format holds %s; add dtype=%s to the spec", path,
                          fgmm_dtype_name(held), fgmm_dtype_name(held));
    return status;
}

static fgmm_status open_spec(const char **arguments, int n, fgmm_dataset **dataset)
{
    fgmm_status status = FGMM_OK;
    char *spec = NULL;
    const char *sources[1];
    if (n != 2)
        FGMM_FAIL(FGMM_ERR_INPUT, "a spec and an output are needed; usage: %s", usage);
    FGMM_TRY(fgmm__cmd_check_output(arguments[1]));
    bool prefixed = strncmp(arguments[0], "synth:", 6) == 0;
    FGMM_ALLOC(spec, strlen(arguments[0]) + 7, "the spec");
    sprintf(spec, "%s%s", prefixed ? "" : "synth:", arguments[0]);
    sources[0] = spec;
    FGMM_TRY(fgmm_dataset_open(sources, 1, NULL, dataset));
    FGMM_TRY(check_dtype(arguments[1], *dataset));
cleanup:
    free(spec);
    return status;
}

fgmm_status fgmm__cmd_synth(int argc, char **argv)
{
    fgmm_status status = FGMM_OK;
    const char **arguments = NULL;
    fgmm_dataset *dataset = NULL;
    int n = 0;
    bool done = false;
    const fgmm_option table[] = {{NULL, FGMM_OPT_FLAG, NULL, NULL, NULL}};
    FGMM_ALLOC(arguments, argc, "the arguments");
    FGMM_TRY(fgmm__cmd_parse(argc, argv, usage, description, table, arguments, &n, &done));
    if (done)
        goto cleanup;
    fgmm_comm *comm = fgmm__cmd_comm();
    FGMM_TRY(fgmm__comm_agree(comm, open_spec(arguments, n, &dataset)));
    FGMM_TRY(fgmm__copy_rows(comm, dataset, NULL, 0, fgmm_dataset_dtype(dataset), arguments[1]));
    fgmm__info("%s: %lld rows x %d %s", arguments[1], (long long)fgmm_dataset_rows(dataset),
               fgmm_dataset_dim(dataset), fgmm_dtype_name(fgmm_dataset_dtype(dataset)));
cleanup:
    fgmm_dataset_close(dataset);
    free(arguments);
    return status;
}
