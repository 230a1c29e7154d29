#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/event.h"
#include "base/log.h"
#include "base/status.h"
#include "cmd/cmd.h"
#include "export/centroids.h"
#include "export/faiss.h"

static const char usage[] =
    "fgmm export INDEX.h5 --to faiss -o FILE | fgmm export MODEL.h5 --to npy|fbin -o FILE";
static const char description[] =
    "Writes an index as a FAISS IndexIVFFlat, or a model's centroids as a file of rows.";

enum { TO_NOTHING = -1, TO_FAISS, TO_NPY, TO_FBIN };

static const char *output;
static int to = TO_NOTHING;
static bool on_disk, primary_only;

static const fgmm_option table[] = {
    {"-o,--output", FGMM_OPT_TEXT, &output, "FILE", "where it goes"},
    {"--to", FGMM_OPT_CHOICE, &to, "faiss|npy|fbin", "faiss: an index; npy, fbin: the centroids of a model"},
    {"--ondisk", FGMM_OPT_FLAG, &on_disk, NULL,
     "faiss: lists in FILE.ivfdata, which FAISS maps instead of reading"},
    {"--primary-only", FGMM_OPT_FLAG, &primary_only, NULL, "faiss: each row in its most likely list alone"},
    {NULL, FGMM_OPT_FLAG, NULL, NULL, NULL},
};

static fgmm_status check(int n_arguments)
{
    fgmm_status status = FGMM_OK;
    if (n_arguments != 1)
        FGMM_FAIL(FGMM_ERR_INPUT, "needs one index or model: %s", usage);
    if (output == NULL)
        FGMM_FAIL(FGMM_ERR_INPUT, "needs -o FILE");
    if (to == TO_NOTHING)
        FGMM_FAIL(FGMM_ERR_INPUT, "needs --to faiss, npy or fbin");
    if (to != TO_FAISS && (on_disk || primary_only))
        FGMM_FAIL(FGMM_ERR_INPUT, "--ondisk and --primary-only go with --to faiss");
    if (to != TO_FAISS) {
        const char *extension = to == TO_NPY ? ".npy" : ".fbin", *dot = strrchr(output, '.');
        if (dot == NULL || strcmp(dot, extension) != 0)
            FGMM_FAIL(FGMM_ERR_INPUT, "-o %s: the name of such a file ends in %s", output, extension);
    }
    FGMM_TRY(fgmm__cmd_check_output(output));
cleanup:
    return status;
}

static void warn_differences(const fgmm_index *index)
{
    if (fgmm_index_dtype(index) != FGMM_F32)
        fgmm__info("%s vectors become 32-bit floats: FAISS's IndexIVFFlat holds no others",
                   fgmm_dtype_name(fgmm_index_dtype(index)));
    if (fgmm_index_metric(index) == FGMM_COSINE)
        fgmm__info("the rows are of unit length: scale queries to unit length before searching in FAISS");
    if (fgmm_index_postings(index) > fgmm_index_rows(index) && !primary_only)
        fgmm__warn("rows are in several lists: FAISS returns such a row once for each; --primary-only writes "
                   "it once");
}

static fgmm_status export_index(const char *path, fgmm_comm *comm)
{
    fgmm_status status = FGMM_OK;
    fgmm_index *index = NULL;
    fgmm_faiss_options options = {.on_disk = on_disk, .primary_only = primary_only};
    int64_t rows;
    FGMM_TRY(fgmm_index_open(path, &index));
    warn_differences(index);
    FGMM_TRY(fgmm__export_faiss(index, output, &options, comm, &rows));
    printf("%lld vectors in %d lists\n", (long long)rows, fgmm_index_lists(index));
cleanup:
    fgmm_index_close(index);
    return status;
}

static fgmm_status export_model(const char *path)
{
    fgmm_status status = FGMM_OK;
    fgmm_model *model = NULL;
    FGMM_TRY(fgmm_model_read(path, &model));
    FGMM_TRY(fgmm__export_centroids(model, output));
    printf("%d centroids of dimension %d\n", fgmm_model_k(model), fgmm_model_dim(model));
cleanup:
    fgmm_model_destroy(model);
    return status;
}

fgmm_status fgmm__cmd_export(int argc, char **argv)
{
    fgmm_status status = FGMM_OK;
    const char **arguments = NULL;
    int n_arguments = 0;
    bool done;
    FGMM_ALLOC(arguments, argc, "arguments");
    FGMM_TRY(fgmm__cmd_parse(argc, argv, usage, description, table, arguments, &n_arguments, &done));
    if (done)
        goto cleanup;
    fgmm_comm *comm = fgmm__cmd_comm();
    double start = fgmm__seconds();
    FGMM_TRY(fgmm__comm_agree(comm, check(n_arguments)));
    FGMM_TRY(fgmm__cmd_start_event("export", NULL, 0, NULL));
    if (fgmm_comm_rank(comm) == 0) { /* the others wait in main's agreement */
        status = to == TO_FAISS ? export_index(arguments[0], comm) : export_model(arguments[0]);
        if (status == FGMM_STOPPED)
            status = fgmm__fail(FGMM_ERR_RUNTIME, "stopped on request; nothing was written");
        FGMM_TRY(status);
        cJSON *event = fgmm__event_new("end");
        cJSON_AddStringToObject(event, "command", "export");
        cJSON_AddNumberToObject(event, "seconds", fgmm__seconds() - start);
        fgmm__event_emit(event);
    }
cleanup:
    free(arguments);
    return status;
}
