/* fgmm_assign: every rank assigns its rows and writes them into one file. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "io/h5.h"
#include "io/writer.h"
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
    sum->fraction += (int64_t)((value - whole) * 0x1p28);
}

struct output {
    hid_t file, labels, responsibilities, log_prob;
    char *aside;
    bool exists;
};

static fgmm_status open_output(struct output *output, fgmm_comm *comm, const char *path, int64_t rows,
                               int32_t top)
{
    fgmm_status status = FGMM_OK;
    hsize_t shape[2] = {(hsize_t)rows, (hsize_t)top};
    char name[4096] = "";
    if (fgmm_comm_rank(comm) == 0) {
        status = fgmm__aside_name(path, &output->aside);
        if (status == FGMM_OK)
            snprintf(name, sizeof name, "%s", output->aside);
    }
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_bcast(comm, name, sizeof name, 0));
    output->exists = fgmm_comm_rank(comm) == 0;
    FGMM_TRY(fgmm__comm_agree(comm, fgmm__h5_create(name, comm, &output->file)));
    FGMM_TRY(fgmm__comm_agree(
        comm, fgmm__h5_dataset(output->file, "labels", H5T_NATIVE_INT32, 2, shape, &output->labels)));
    FGMM_TRY(fgmm__comm_agree(comm, fgmm__h5_dataset(output->file, "responsibilities", H5T_NATIVE_FLOAT, 2,
                                                     shape, &output->responsibilities)));
    FGMM_TRY(fgmm__comm_agree(
        comm, fgmm__h5_dataset(output->file, "log_prob", H5T_NATIVE_DOUBLE, 1, shape, &output->log_prob)));
cleanup:
    return status;
}

/* Rows [begin, begin+n): each rank by itself, the places were fixed when the datasets were made. */
static fgmm_status write_rows(hid_t dataset, hid_t type, int64_t begin, int64_t n, int32_t columns,
                              const void *data)
{
    int rank = columns > 0 ? 2 : 1;
    hsize_t start[2] = {(hsize_t)begin, 0}, count[2] = {(hsize_t)n, (hsize_t)columns};
    hid_t target = H5Dget_space(dataset), memory = H5Screate_simple(rank, count, NULL);
    bool written = H5Sselect_hyperslab(target, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
                   H5Dwrite(dataset, type, memory, target, H5P_DEFAULT, data) >= 0;
    H5Sclose(memory);
    H5Sclose(target);
    return written ? FGMM_OK
                   : fgmm__fail(FGMM_ERR_RUNTIME, "cannot write assignments (disk full or failing)");
}

static fgmm_status close_output(struct output *output, fgmm_comm *comm)
{
    hid_t *datasets[] = {&output->labels, &output->responsibilities, &output->log_prob};
    for (int i = 0; i < 3; i++)
        if (*datasets[i] >= 0)
            H5Dclose(*datasets[i]);
    hid_t file = output->file;
    output->file = H5I_INVALID_HID;
    return file < 0 ? FGMM_OK : fgmm__comm_agree(comm, fgmm__h5_close(file, "the assignments"));
}

/* Applies tau, converts to nats, writes the tile, adds to the sum of log-likelihoods. */
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
    FGMM_TRY(write_rows(output->labels, H5T_NATIVE_INT32, begin, rows, top, assigner->labels));
    FGMM_TRY(
        write_rows(output->responsibilities, H5T_NATIVE_FLOAT, begin, rows, top, assigner->responsibilities));
    FGMM_TRY(write_rows(output->log_prob, H5T_NATIVE_DOUBLE, begin, rows, 0, assigner->log_density));
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
    FGMM_TRY(fgmm__assigner_create(place, model, options->top, &assigner));
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

fgmm_status fgmm_assign(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_model *model,
                        const char *path, const fgmm_assign_options *options, fgmm_assign_report *report)
{
    fgmm_status status = FGMM_OK;
    fgmm_workplace place = {0};
    struct output output = {H5I_INVALID_HID, H5I_INVALID_HID, H5I_INVALID_HID, H5I_INVALID_HID, NULL, false};
    exact_sum sum = {0, 0};
    double start = fgmm__seconds();
    status = fgmm__check_model(dataset, model);
    if (status == FGMM_OK && (options->top < 1 || options->top > FGMM_MAX_TOP))
        status = fgmm__fail(FGMM_ERR_INPUT, "--top %d: must be 1 to %d", options->top, FGMM_MAX_TOP);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__workplace_open(comm, dataset, &options->resources, fgmm_model_covariance(model),
                                  fgmm_model_k(model), &place));
    FGMM_TRY(open_output(&output, comm, path, fgmm_dataset_rows(dataset), options->top));
    FGMM_TRY(fgmm__comm_agree(comm, assign_rows(&place, model, options, &output, &sum)));
    FGMM_TRY(close_output(&output, comm));
    if (output.exists) {
        status = fgmm__aside_commit(output.aside, path);
        output.exists = status != FGMM_OK;
    }
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_sum_i64(comm, &sum.whole, 1));
    FGMM_TRY(fgmm__comm_sum_i64(comm, &sum.fraction, 1));
    if (report != NULL) {
        report->mean_log_likelihood =
            ((double)sum.whole + (double)sum.fraction * 0x1p-28) / (double)fgmm_dataset_rows(dataset);
        report->seconds = fgmm__seconds() - start;
        snprintf(report->residency, sizeof report->residency, "%s", fgmm__shard_where(place.shard));
    }
cleanup:
    if (status != FGMM_OK) {
        close_output(&output, comm);
        if (output.exists)
            unlink(output.aside);
    }
    free(output.aside);
    fgmm__workplace_close(&place);
    return fgmm__stopped_without_trace(status, path);
}
