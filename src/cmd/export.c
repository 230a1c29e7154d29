#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/event.h"
#include "base/log.h"
#include "base/status.h"
#include "export/centroids.h"
#include "cmd/resources.h"
#include "export/faiss.h"
#include "io/h5_describe.h"
#include "ivf/assign.h"
#include "ivf/index.h"
#include "model/model.h"

static const char usage[] =
    "fgmm export INDEX.h5 --to faiss -o FILE | fgmm export INDEX.h5|MODEL.h5 --to faiss --coarse -o FILE | "
    "fgmm export MODEL.h5 --to npy|fbin -o FILE";
static const char description[] =
    "Writes an index for FAISS (f32 rows as an IndexIVFFlat, u8 and f16 as an IndexIVFScalarQuantizer that "
    "keeps their bits, i8 in one of fp16, which holds them exactly); or, with --coarse, a trained "
    "IndexIVFFlat without rows, to go on with in FAISS: add rows to it, or make its quantizer that of an "
    "IndexIVFPQ; or a model's centroids as a file of rows.";

enum { TO_NOTHING = -1, TO_FAISS, TO_NPY, TO_FBIN };

static const char *output;
static int to = TO_NOTHING;
static bool on_disk, primary_only, coarse;
static int as, metric = -1;

static const fgmm_option table[] = {
    {"-o,--output", FGMM_OPT_TEXT, &output, "FILE", "where it goes"},
    {"--to", FGMM_OPT_CHOICE, &to, "faiss|npy|fbin", "faiss: an index; npy, fbin: the centroids of a model"},
    {"--ondisk", FGMM_OPT_FLAG, &on_disk, NULL,
     "faiss: lists in FILE.ivfdata, which FAISS maps instead of reading"},
    {"--primary-only", FGMM_OPT_FLAG, &primary_only, NULL,
     "faiss: each row in its most likely list alone (FAISS would return a row of several lists once for "
     "each)"},
    {"--as", FGMM_OPT_CHOICE, &as, "own|f32",
     "faiss: rows in their own type, or as 32-bit floats: from the index of u8 rows of a dimension that 16 "
     "divides, FAISS searches with queries cut to whole numbers from 0 to 255 (own)"},
    {"--coarse", FGMM_OPT_FLAG, &coarse, NULL, "faiss: centroids alone, lists stay empty"},
    {"--metric", FGMM_OPT_CHOICE, &metric, "l2|cosine|ip",
     "--coarse of a model: ip makes lists for the largest inner product (the model's)"},
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
    if (to != TO_FAISS && (on_disk || primary_only || as != 0 || coarse))
        FGMM_FAIL(FGMM_ERR_INPUT, "--ondisk, --primary-only, --as and --coarse go with --to faiss");
    if (coarse && (on_disk || primary_only || as != 0))
        FGMM_FAIL(FGMM_ERR_INPUT, "--coarse writes no rows: leave --ondisk, --primary-only and --as out");
    if (!coarse && metric >= 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "--metric goes with --coarse: what was built keeps its own");
    if (to != TO_FAISS) {
        const char *extension = to == TO_NPY ? ".npy" : ".fbin", *dot = strrchr(output, '.');
        if (dot == NULL || strcmp(dot, extension) != 0)
            FGMM_FAIL(FGMM_ERR_INPUT, "-o %s: the name of such a file ends in %s", output, extension);
    }
    FGMM_TRY(fgmm__cmd_check_output(output));
cleanup:
    return status;
}

static void tell_of_queries(fgmm_metric of)
{
    if (of == FGMM_COSINE)
        fgmm__info("the rows are of unit length: scale queries to unit length before searching in FAISS");
}

static void tell_differences(const fgmm_index *index, fgmm_dtype stored)
{
    fgmm_dtype dtype = fgmm_index_dtype(index);
    if (dtype != stored)
        fgmm__info("%s rows become %s floats", fgmm_dtype_name(dtype),
                   stored == FGMM_F16 ? "16-bit" : "32-bit");
    if (stored == FGMM_U8 && fgmm_index_dim(index) % 16 == 0)
        fgmm__info("FAISS will cut queries to whole numbers from 0 to 255; --as f32 leaves them whole");
    tell_of_queries(fgmm_index_metric(index));
    if (fgmm_index_postings(index) > fgmm_index_rows(index) && !primary_only)
        fgmm__warn("rows are in several lists: FAISS returns such a row once for each; --primary-only writes "
                   "it once");
}

static fgmm_status export_index(const char *path, fgmm_comm *comm)
{
    enum { AS_F32 = 1 };
    fgmm_status status = FGMM_OK;
    fgmm_index *index = NULL;
    fgmm_faiss_options options = {.on_disk = on_disk, .primary_only = primary_only, .as_f32 = as == AS_F32};
    int64_t rows;
    FGMM_TRY(fgmm_index_open(path, &index));
    FGMM_TRY(fgmm__index_need_vectors(index));
    fgmm_dtype stored = fgmm__faiss_stored(index, options.as_f32);
    tell_differences(index, stored);
    FGMM_TRY(fgmm__export_faiss(index, output, &options, comm, &rows));
    printf("%lld vectors in %d lists, %s\n", (long long)rows, fgmm_index_lists(index),
           fgmm__faiss_kind(stored));
cleanup:
    fgmm_index_close(index);
    return status;
}

static fgmm_status write_coarse(const fgmm_faiss_coarse *from)
{
    fgmm_status status = FGMM_OK;
    tell_of_queries(from->metric);
    FGMM_TRY(fgmm__export_faiss_coarse(from, output));
    printf("%d empty lists of dimension %d, %s\n", from->k, from->dim, fgmm__faiss_kind(FGMM_F32));
cleanup:
    return status;
}

static fgmm_status export_index_coarse(const char *path)
{
    fgmm_status status = FGMM_OK;
    fgmm_index *index = NULL;
    FGMM_TRY(fgmm_index_open(path, &index));
    if (metric >= 0 && (fgmm_metric)metric != fgmm_index_metric(index))
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: built with --metric %s", path,
                  fgmm_metric_name(fgmm_index_metric(index)));
    fgmm_faiss_coarse from = fgmm__faiss_coarse(index);
    FGMM_TRY(write_coarse(&from));
cleanup:
    fgmm_index_close(index);
    return status;
}

static fgmm_status export_model_coarse(const char *path)
{
    fgmm_status status = FGMM_OK;
    fgmm_model *model = NULL;
    float *centroids = NULL;
    FGMM_TRY(fgmm_model_read(path, &model));
    fgmm_metric of = metric < 0 ? fgmm_model_metric(model) : (fgmm_metric)metric;
    FGMM_TRY(fgmm__check_metric(fgmm_model_metric(model), of));
    FGMM_TRY(fgmm__model_centroids(model, &centroids));
    fgmm_faiss_coarse from = {
        .k = fgmm_model_k(model), .dim = fgmm_model_dim(model), .metric = of, .centroids = centroids};
    FGMM_TRY(write_coarse(&from));
cleanup:
    free(centroids);
    fgmm_model_destroy(model);
    return status;
}

static fgmm_status export_coarse(const char *path)
{
    fgmm_status status = FGMM_OK;
    char format[32] = "";
    bool sealed;
    if (fgmm__is_h5(path))
        FGMM_TRY(fgmm__h5_kind(path, format, sizeof format, &sealed));
    status = strcmp(format, "fgmm-ivf") == 0 ? export_index_coarse(path) : export_model_coarse(path);
cleanup:
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
        status = coarse           ? export_coarse(arguments[0])
                 : to == TO_FAISS ? export_index(arguments[0], comm)
                                  : export_model(arguments[0]);
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
