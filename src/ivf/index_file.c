/* Writing an index from all ranks: rank 0 lays the file out, then all ranks write their regions of it. */
#include <stdlib.h>

#include "io/h5_shared.h"
#include "ivf/index.h"
#include "model/model.h"

enum { SLICE_BYTES = 512 << 20 }; /* a rank and write; MPI-IO under HDF5 counts in ints */

struct fgmm_index_writer {
    fgmm_h5_shared shared;
    hid_t ids, primary, vectors, sketches; /* datasets; < 0 where absent */
    hid_t transfer;                        /* collective */
    const fgmm_sketch *sketch;
    float *values; /* [values_room][m+1] sketches of a slice */
    int64_t values_room;
    int threads;
    fgmm_dtype dtype;
    int32_t k, dim;
    uint64_t skip_begin, skip_end; /* the vectors: bytes the seal leaves out */
};

static void close_datasets(fgmm_index_writer *writer)
{
    hid_t *datasets[] = {&writer->ids, &writer->primary, &writer->vectors, &writer->sketches};
    for (int i = 0; i < 4; i++) {
        if (*datasets[i] >= 0)
            H5Dclose(*datasets[i]);
        *datasets[i] = H5I_INVALID_HID;
    }
    if (writer->transfer >= 0)
        H5Pclose(writer->transfer);
    writer->transfer = H5I_INVALID_HID;
}

void fgmm__index_abandon(fgmm_index_writer *writer)
{
    if (writer == NULL)
        return;
    close_datasets(writer);
    fgmm__h5_shared_abandon(&writer->shared);
    free(writer->values);
    free(writer);
}

/* ---- layout: rank 0 ---- */

/* A dataset whose place in the file is fixed now and whose values come later. */
static fgmm_status add_dataset(hid_t file, const char *name, hid_t type, int rank, const hsize_t *shape)
{
    hid_t dataset = H5I_INVALID_HID;
    fgmm_status status = fgmm__h5_dataset(file, name, type, rank, shape, &dataset);
    if (dataset >= 0)
        H5Dclose(dataset);
    return status;
}

static fgmm_status put_attributes(hid_t file, const fgmm_index_layout *layout)
{
    fgmm_status status = FGMM_OK;
    const fgmm_rule *rule = layout->rule;
    FGMM_TRY(fgmm__h5_put_text(file, "format", "fgmm-ivf"));
    FGMM_TRY(fgmm__h5_put_i64(file, "version", FGMM_INDEX_VERSION));
    FGMM_TRY(fgmm__h5_put_text(file, "metric", fgmm_metric_name(layout->metric)));
    FGMM_TRY(fgmm__h5_put_text(file, "dtype", fgmm_dtype_name(layout->dtype)));
    FGMM_TRY(fgmm__h5_put_i64(file, "n_rows", layout->rows));
    FGMM_TRY(fgmm__h5_put_i64(file, "n_postings", layout->postings));
    FGMM_TRY(fgmm__h5_put_text(file, "assign", fgmm__rule_name(rule->rule)));
    FGMM_TRY(fgmm__h5_put_f64(file, "tau", rule->rule == FGMM_ASSIGN_TAU ? rule->tau : 0));
    FGMM_TRY(fgmm__h5_put_i64(file, "max_lists", rule->max_lists));
    FGMM_TRY(fgmm__h5_put_text(file, "id_source", layout->user_ids ? "user" : "rows"));
    if (rule->rule == FGMM_ASSIGN_SOAR) {
        FGMM_TRY(fgmm__h5_put_f64(file, "lambda", rule->lambda));
        FGMM_TRY(fgmm__h5_put_f64(file, "soar_limit", rule->soar_limit));
    }
    if (rule->rule == FGMM_ASSIGN_CLOSURE)
        FGMM_TRY(fgmm__h5_put_f64(file, "epsilon", rule->epsilon));
    if (rule->rule == FGMM_ASSIGN_NEED) {
        FGMM_TRY(fgmm__h5_put_i64(file, "neighbors", rule->neighbors));
        FGMM_TRY(fgmm__h5_put_f64(file, "least_gain", rule->least_gain));
    }
cleanup:
    return status;
}

static fgmm_status put_model(hid_t file, const fgmm_model *model)
{
    fgmm_status status = FGMM_OK;
    float *centroids = NULL;
    hid_t group = H5I_INVALID_HID;
    hsize_t shape[2] = {(hsize_t)fgmm_model_k(model), (hsize_t)fgmm_model_dim(model)};
    FGMM_TRY(fgmm__model_centroids(model, &centroids));
    FGMM_TRY(fgmm__h5_write(file, "centroids", H5T_NATIVE_FLOAT, 2, shape, centroids));
    FGMM_TRY(fgmm__h5_group(file, "model", &group));
    FGMM_TRY(fgmm__model_put(model, (int64_t)group));
cleanup:
    if (group >= 0)
        H5Gclose(group);
    free(centroids);
    return status;
}

static fgmm_status put_sketch(hid_t file, const fgmm_index_layout *layout)
{
    fgmm_status status = FGMM_OK;
    hid_t group = H5I_INVALID_HID;
    const fgmm_sketch *sketch = layout->sketch;
    hsize_t basis[2] = {(hsize_t)sketch->m, (hsize_t)sketch->dim};
    hsize_t values[2] = {(hsize_t)layout->postings, (hsize_t)sketch->m + 1};
    FGMM_TRY(fgmm__h5_group(file, "sketch", &group));
    FGMM_TRY(fgmm__h5_write(group, "mean", H5T_NATIVE_DOUBLE, 1, basis + 1, sketch->mean));
    FGMM_TRY(fgmm__h5_write(group, "basis", H5T_NATIVE_DOUBLE, 2, basis, sketch->basis));
    FGMM_TRY(add_dataset(group, "values", H5T_NATIVE_FLOAT, 2, values));
cleanup:
    if (group >= 0)
        H5Gclose(group);
    return status;
}

static fgmm_status lay_out(hid_t file, void *context)
{
    fgmm_status status = FGMM_OK;
    const fgmm_index_layout *layout = context;
    hsize_t lists = (hsize_t)fgmm_model_k(layout->model), offsets = lists + 1;
    hsize_t postings[2] = {(hsize_t)layout->postings, (hsize_t)fgmm_model_dim(layout->model)};
    FGMM_TRY(put_attributes(file, layout));
    FGMM_TRY(put_model(file, layout->model));
    FGMM_TRY(fgmm__h5_write(file, "list_offsets", H5T_NATIVE_UINT64, 1, &offsets, layout->offsets));
    FGMM_TRY(add_dataset(file, "ids", H5T_NATIVE_INT64, 1, postings));
    if (fgmm__rule_is_multi(layout->rule))
        FGMM_TRY(add_dataset(file, "primary", H5T_NATIVE_UINT8, 1, postings));
    if (layout->vectors) {
        FGMM_TRY(add_dataset(file, "list_hashes", H5T_NATIVE_UINT64, 1, &lists));
        FGMM_TRY(add_dataset(file, "vectors", fgmm__h5_type(layout->dtype), 2, postings));
    }
    if (layout->sketch != NULL)
        FGMM_TRY(put_sketch(file, layout));
cleanup:
    return status;
}

/* Bytes of the file: what stands in its datasets, and room for HDF5's own. */
static int64_t file_bytes(const fgmm_index_layout *layout)
{
    enum { HEADERS = 64 << 10 };
    const fgmm_model *model = layout->model;
    int64_t k = model->k, dim = model->dim,
            row = layout->vectors ? dim * (int64_t)fgmm_dtype_bytes(layout->dtype) : 0;
    int64_t parameters =
        k + k * dim + dim + (int64_t)fgmm__covariance_count(model->covariance, model->k, model->dim);
    if (layout->sketch != NULL) {
        row += (layout->sketch->m + 1) * (int64_t)sizeof(float);
        parameters += (layout->sketch->m + 1) * dim;
    }
    return layout->postings * (row + (int64_t)sizeof(int64_t) + 1) + 8 * (parameters + 2 * model->n_iter) +
           4 * k * dim + 16 * k + HEADERS;
}

/* ---- writing: all ranks ---- */

static fgmm_status open_datasets(fgmm_index_writer *writer, const fgmm_index_layout *layout)
{
    fgmm_status status = FGMM_OK;
    writer->transfer = H5Pcreate(H5P_DATASET_XFER);
    if (writer->transfer < 0 || H5Pset_dxpl_mpio(writer->transfer, H5FD_MPIO_COLLECTIVE) < 0)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot ask HDF5 for collective writes", writer->shared.path);
    writer->ids = H5Dopen2(writer->shared.file, "ids", H5P_DEFAULT);
    if (fgmm__rule_is_multi(layout->rule))
        writer->primary = H5Dopen2(writer->shared.file, "primary", H5P_DEFAULT);
    if (layout->vectors) {
        writer->vectors = H5Dopen2(writer->shared.file, "vectors", H5P_DEFAULT);
        haddr_t at = H5Dget_offset(writer->vectors);
        if (at == HADDR_UNDEF)
            FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot find the place of the vectors in the file",
                      writer->shared.path);
        writer->skip_begin = at;
        writer->skip_end =
            at + (uint64_t)layout->postings * (uint64_t)writer->dim * fgmm_dtype_bytes(layout->dtype);
    }
    if (layout->sketch != NULL) {
        writer->sketches = H5Dopen2(writer->shared.file, "sketch/values", H5P_DEFAULT);
        if (writer->sketches < 0)
            FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot open the index's sketches", writer->shared.path);
    }
    if (writer->ids < 0 || (fgmm__rule_is_multi(layout->rule) && writer->primary < 0))
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot open the index's datasets", writer->shared.path);
cleanup:
    return status;
}

fgmm_status fgmm__index_create(fgmm_comm *comm, const char *path, const fgmm_index_layout *layout,
                               fgmm_index_writer **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_index_writer *writer = NULL;
    status = fgmm__alloc(1, sizeof *writer, "writing an index", (void **)&writer);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    *writer = (fgmm_index_writer){.ids = H5I_INVALID_HID,
                                  .primary = H5I_INVALID_HID,
                                  .vectors = H5I_INVALID_HID,
                                  .sketches = H5I_INVALID_HID,
                                  .sketch = layout->sketch,
                                  .threads = layout->threads,
                                  .transfer = H5I_INVALID_HID,
                                  .dtype = layout->dtype,
                                  .k = fgmm_model_k(layout->model),
                                  .dim = fgmm_model_dim(layout->model)};
    FGMM_TRY(
        fgmm__h5_shared_create(comm, path, file_bytes(layout), lay_out, (void *)layout, &writer->shared));
    FGMM_TRY(fgmm__comm_agree(comm, open_datasets(writer, layout)));
    *out = writer;
    writer = NULL;
cleanup:
    fgmm__index_abandon(writer);
    return status;
}

/* One slice of every dataset; all are written, whatever becomes of the first, since the writes are
 * everybody's. */
static fgmm_status write_slice(fgmm_index_writer *writer, int64_t begin, int64_t n, const int64_t *ids,
                               const uint8_t *primary, const void *vectors)
{
    fgmm_status status[4] = {FGMM_OK, FGMM_OK, FGMM_OK, FGMM_OK};
    status[0] = fgmm__h5_write_rows(writer->ids, H5T_NATIVE_INT64, begin, n, 0, ids, writer->transfer);
    if (writer->primary >= 0)
        status[1] =
            fgmm__h5_write_rows(writer->primary, H5T_NATIVE_UINT8, begin, n, 0, primary, writer->transfer);
    if (writer->vectors >= 0)
        status[2] = fgmm__h5_write_rows(writer->vectors, fgmm__h5_type(writer->dtype), begin, n, writer->dim,
                                        vectors, writer->transfer);
    if (writer->sketches >= 0)
        status[3] = fgmm__h5_write_rows(writer->sketches, H5T_NATIVE_FLOAT, begin, n, writer->sketch->m + 1,
                                        writer->values, writer->transfer);
    for (int i = 0; i < 4; i++)
        if (status[i] != FGMM_OK)
            return status[i];
    return FGMM_OK;
}

/* Sketches of a slice of vectors, for write_slice. */
static fgmm_status make_sketches(fgmm_index_writer *writer, int64_t n, const void *vectors)
{
    fgmm_status status = FGMM_OK;
    if (writer->sketch == NULL || n == 0)
        return FGMM_OK;
    if (n > writer->values_room) {
        free(writer->values);
        writer->values = NULL;
        FGMM_ALLOC(writer->values, n * (writer->sketch->m + 1), "sketches of rows");
        writer->values_room = n;
    }
    FGMM_TRY(fgmm__sketch_rows(writer->sketch, vectors, writer->dtype, n, writer->threads, writer->values));
cleanup:
    return status;
}

fgmm_status fgmm__index_write(fgmm_index_writer *writer, int64_t begin, int64_t n, int64_t most,
                              const int64_t *ids, const uint8_t *primary, const void *vectors)
{
    fgmm_status status = FGMM_OK;
    size_t row_bytes = (size_t)writer->dim * fgmm_dtype_bytes(writer->dtype);
    int64_t slice = SLICE_BYTES / (int64_t)(row_bytes > sizeof *ids ? row_bytes : sizeof *ids);
    if (slice < 1)
        slice = 1;
    for (int64_t at = 0; at < most; at += slice) {
        int64_t left = n > at ? n - at : 0, count = left < slice ? left : slice, skip = count > 0 ? at : 0;
        const char *rows = (const char *)vectors + (size_t)skip * row_bytes;
        FGMM_TRY(fgmm__comm_agree(writer->shared.comm, make_sketches(writer, count, rows)));
        status = write_slice(writer, begin + skip, count, ids + skip, primary != NULL ? primary + skip : NULL,
                             rows);
        FGMM_TRY(fgmm__comm_agree(writer->shared.comm, status));
    }
cleanup:
    return status;
}

static fgmm_status write_hashes(fgmm_index_writer *writer, const uint64_t *hashes)
{
    hid_t dataset = H5Dopen2(writer->shared.file, "list_hashes", H5P_DEFAULT);
    if (dataset < 0)
        return fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot write the index's hashes", writer->shared.path);
    int64_t n = fgmm_comm_rank(writer->shared.comm) == 0 ? writer->k : 0;
    fgmm_status status = fgmm__h5_write_rows(dataset, H5T_NATIVE_UINT64, 0, n, 0, hashes, writer->transfer);
    H5Dclose(dataset);
    return status;
}

fgmm_status fgmm__index_finish(fgmm_index_writer *writer, const uint64_t *hashes, int64_t *bytes)
{
    fgmm_status status = FGMM_OK;
    fgmm_h5_shared *shared = &writer->shared;
    if (writer->vectors >= 0)
        FGMM_TRY(fgmm__comm_agree(shared->comm, write_hashes(writer, hashes)));
    close_datasets(writer);
    FGMM_TRY(fgmm__h5_shared_close(shared));
    FGMM_TRY(fgmm__comm_agree(
        shared->comm, fgmm__h5_seal(shared->aside, shared->comm, writer->skip_begin, writer->skip_end)));
    FGMM_TRY(fgmm__h5_shared_commit(shared));
    *bytes = shared->bytes;
cleanup:
    fgmm__index_abandon(writer);
    return status;
}
