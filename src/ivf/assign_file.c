/* fgmm_assign: every rank assigns its rows and writes them into one file. */
#include <math.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "io/h5_shared.h"
#include "ivf/assign.h"

void fgmm_assign_defaults(fgmm_assign_options *options)
{
    *options = (fgmm_assign_options){.top = 1};
}

/* A sum of doubles that does not depend on the order or on the ranks: whole parts and fractions apart, both
 * integers. */
typedef struct {
    int64_t whole, fraction; /* units 1 and 2^-28 */
} exact_sum;

static void exact_add(exact_sum *sum, double value)
{
    double whole = floor(value);
    sum->whole += (int64_t)whole;
    sum->fraction += llrint((value - whole) * 0x1p28);
}

struct output {
    fgmm_h5_shared shared;
    hid_t labels, responsibilities, log_prob;
    int64_t rows;
    int32_t top;
};

static fgmm_status lay_out(hid_t file, void *context)
{
    fgmm_status status = FGMM_OK;
    const struct output *output = context;
    hsize_t shape[2] = {(hsize_t)output->rows, (hsize_t)output->top};
    const struct {
        const char *name;
        hid_t type;
        int rank;
    } datasets[] = {{"labels", H5T_NATIVE_INT32, 2},
                    {"responsibilities", H5T_NATIVE_FLOAT, 2},
                    {"log_prob", H5T_NATIVE_DOUBLE, 1}};
    for (int i = 0; i < 3; i++) {
        hid_t dataset = H5I_INVALID_HID;
        FGMM_TRY(
            fgmm__h5_dataset(file, datasets[i].name, datasets[i].type, datasets[i].rank, shape, &dataset));
        H5Dclose(dataset);
    }
cleanup:
    return status;
}

static fgmm_status open_output(struct output *output, fgmm_comm *comm, const char *path)
{
    enum { HEADERS = 16 << 10 };
    fgmm_status status = FGMM_OK;
    FGMM_TRY(fgmm__h5_shared_create(comm, path, output->rows * (output->top + 1) * 8 + HEADERS, lay_out,
                                    output, &output->shared));
    output->labels = H5Dopen2(output->shared.file, "labels", H5P_DEFAULT);
    output->responsibilities = H5Dopen2(output->shared.file, "responsibilities", H5P_DEFAULT);
    output->log_prob = H5Dopen2(output->shared.file, "log_prob", H5P_DEFAULT);
    if (output->labels < 0 || output->responsibilities < 0 || output->log_prob < 0)
        status = fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot open its datasets", path);
    FGMM_TRY(fgmm__comm_agree(comm, status));
cleanup:
    return status;
}

static void close_datasets(struct output *output)
{
    hid_t *datasets[] = {&output->labels, &output->responsibilities, &output->log_prob};
    for (int i = 0; i < 3; i++) {
        if (*datasets[i] >= 0)
            H5Dclose(*datasets[i]);
        *datasets[i] = H5I_INVALID_HID;
    }
}

/* Applies tau, converts to nats, writes the tile, adds to the sum of log-likelihoods. Every rank writes by
 * itself: the places were fixed when the datasets were made. */
static fgmm_status write_tile(struct output *output, fgmm_assigner *assigner, double tau, double nats,
                              exact_sum *sum)
{
    fgmm_status status = FGMM_OK;
    int64_t begin = assigner->tile.begin, rows = assigner->tile.rows;
    int32_t top = assigner->top;
    for (int64_t i = 0; i < rows; i++) {
        for (int32_t j = fgmm__assigner_kept(assigner, i, tau); j < top; j++) {
            assigner->labels[i * top + j] = -1;
            assigner->responsibilities[i * top + j] = 0;
        }
        assigner->log_density[i] *= nats;
        exact_add(sum, assigner->log_density[i]);
    }
    FGMM_TRY(fgmm__h5_write_rows(output->labels, H5T_NATIVE_INT32, begin, rows, top, assigner->labels,
                                 H5P_DEFAULT));
    FGMM_TRY(fgmm__h5_write_rows(output->responsibilities, H5T_NATIVE_FLOAT, begin, rows, top,
                                 assigner->responsibilities, H5P_DEFAULT));
    FGMM_TRY(fgmm__h5_write_rows(output->log_prob, H5T_NATIVE_DOUBLE, begin, rows, 0, assigner->log_density,
                                 H5P_DEFAULT));
cleanup:
    return status;
}

static fgmm_status assign_rows(fgmm_workplace *place, const fgmm_model *model,
                               const fgmm_assign_options *options, struct output *output, exact_sum *sum)
{
    fgmm_status status = FGMM_OK;
    fgmm_assigner *assigner = NULL;
    double nats = fgmm_model_algorithm(model) == FGMM_KMEANS ? 1 : M_LN2;
    fgmm__progress_begin("assign", "rows", fgmm__shard_end(place->shard) - fgmm__shard_begin(place->shard));
    FGMM_TRY(fgmm__assigner_create(place, model, false, options->top, &assigner));
    for (;;) {
        FGMM_TRY(fgmm__assigner_next(assigner));
        if (assigner->tile.rows == 0)
            break;
        FGMM_TRY(write_tile(output, assigner, options->tau, nats, sum));
        fgmm__progress_add(assigner->tile.rows);
    }
cleanup:
    if (status != FGMM_OK)
        fgmm__comm_announce_failure(place->comm);
    fgmm__progress_end();
    fgmm__assigner_destroy(assigner);
    return status;
}

fgmm_status fgmm__assign(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_model *model,
                         const char *path, const fgmm_assign_options *options, fgmm_started *started,
                         fgmm_assign_report *report)
{
    fgmm_status status = FGMM_OK;
    fgmm_workplace place = {0};
    struct output output = {.labels = H5I_INVALID_HID,
                            .responsibilities = H5I_INVALID_HID,
                            .log_prob = H5I_INVALID_HID,
                            .rows = fgmm_dataset_rows(dataset),
                            .top = options->top};
    exact_sum sum = {0, 0};
    double start = fgmm__seconds();
    status = fgmm__check_model(dataset, model);
    if (status == FGMM_OK && (options->top < 1 || options->top > FGMM_MAX_TOP))
        status = fgmm__fail(FGMM_ERR_INPUT, "--top %d: must be 1 to %d", options->top, FGMM_MAX_TOP);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__workplace_open(comm, dataset, &options->resources, fgmm_model_covariance(model),
                                  fgmm_model_k(model), started, &place));
    FGMM_TRY(open_output(&output, comm, path));
    FGMM_TRY(fgmm__comm_agree(comm, assign_rows(&place, model, options, &output, &sum)));
    close_datasets(&output);
    FGMM_TRY(fgmm__h5_shared_close(&output.shared));
    FGMM_TRY(fgmm__h5_shared_commit(&output.shared));
    FGMM_TRY(fgmm__comm_sum_i64(comm, &sum.whole, 1));
    FGMM_TRY(fgmm__comm_sum_i64(comm, &sum.fraction, 1));
    if (report != NULL) {
        report->mean_log_likelihood =
            ((double)sum.whole + (double)sum.fraction * 0x1p-28) / (double)fgmm_dataset_rows(dataset);
        report->seconds = fgmm__seconds() - start;
        snprintf(report->residency, sizeof report->residency, "%s", fgmm__shard_where(place.shard));
    }
cleanup:
    close_datasets(&output);
    fgmm__h5_shared_abandon(&output.shared);
    fgmm__workplace_close(&place);
    return fgmm__stopped_without_trace(status, path);
}

fgmm_status fgmm_assign(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_model *model,
                        const char *path, const fgmm_assign_options *options, fgmm_assign_report *report)
{
    return fgmm__assign(comm, dataset, model, path, options, NULL, report);
}
