/* Writing an index: rank 0 lays the file out with HDF5, which says where in the file each dataset lies; then
 * all ranks write into these places as into any file. HDF5 in parallel would have all ranks write together,
 * on the main thread, and nothing could go on beside it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/h5_shared.h"
#include "ivf/index.h"
#include "model/model.h"

/* Where a dataset of postings (or lists) begins, in bytes of the file; 0: absent. */
typedef struct {
    uint64_t ids, primary, vectors, hashes, sketches;
} places;

struct fgmm_index_writer {
    fgmm_h5_shared shared;
    int file;
    places at;
    size_t row_bytes;
    int32_t k;
    int64_t postings;
    fgmm_dtype dtype;
    const fgmm_sketch *sketch;
    float *values; /* [values_room][m+1] sketches of some vectors */
    int64_t values_room;
    int threads;
};

void fgmm__index_abandon(fgmm_index_writer *writer)
{
    if (writer == NULL)
        return;
    if (writer->file >= 0)
        close(writer->file);
    fgmm__h5_shared_abandon(&writer->shared);
    free(writer->values);
    free(writer);
}

/* ---- layout: rank 0 ---- */

/* A dataset whose values come later; *at: its place in the file. */
static fgmm_status add_dataset(hid_t file, const char *name, hid_t type, int rank, const hsize_t *shape,
                               uint64_t *at)
{
    fgmm_status status = FGMM_OK;
    hid_t dataset = H5I_INVALID_HID;
    FGMM_TRY(fgmm__h5_dataset(file, name, type, rank, shape, &dataset));
    haddr_t offset = H5Dget_offset(dataset);
    if (offset == HADDR_UNDEF)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "cannot find the place of dataset %s in an index", name);
    *at = offset;
cleanup:
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

static fgmm_status put_sketch(hid_t file, const fgmm_index_layout *layout, uint64_t *at)
{
    fgmm_status status = FGMM_OK;
    hid_t group = H5I_INVALID_HID;
    const fgmm_sketch *sketch = layout->sketch;
    hsize_t basis[2] = {(hsize_t)sketch->m, (hsize_t)sketch->dim};
    hsize_t values[2] = {(hsize_t)layout->postings, (hsize_t)sketch->m + 1};
    FGMM_TRY(fgmm__h5_group(file, "sketch", &group));
    FGMM_TRY(fgmm__h5_write(group, "mean", H5T_NATIVE_DOUBLE, 1, basis + 1, sketch->mean));
    FGMM_TRY(fgmm__h5_write(group, "basis", H5T_NATIVE_DOUBLE, 2, basis, sketch->basis));
    FGMM_TRY(add_dataset(group, "values", H5T_NATIVE_FLOAT, 2, values, at));
cleanup:
    if (group >= 0)
        H5Gclose(group);
    return status;
}

typedef struct {
    const fgmm_index_layout *layout;
    places at;
} laying;

static fgmm_status lay_out(hid_t file, void *context)
{
    fgmm_status status = FGMM_OK;
    laying *l = context;
    const fgmm_index_layout *layout = l->layout;
    hsize_t lists = (hsize_t)fgmm_model_k(layout->model), offsets = lists + 1;
    hsize_t postings[2] = {(hsize_t)layout->postings, (hsize_t)fgmm_model_dim(layout->model)};
    FGMM_TRY(put_attributes(file, layout));
    FGMM_TRY(put_model(file, layout->model));
    FGMM_TRY(fgmm__h5_write(file, "list_offsets", H5T_NATIVE_UINT64, 1, &offsets, layout->offsets));
    FGMM_TRY(add_dataset(file, "ids", H5T_NATIVE_INT64, 1, postings, &l->at.ids));
    if (fgmm__rule_is_multi(layout->rule))
        FGMM_TRY(add_dataset(file, "primary", H5T_NATIVE_UINT8, 1, postings, &l->at.primary));
    if (layout->vectors) {
        FGMM_TRY(add_dataset(file, "list_hashes", H5T_NATIVE_UINT64, 1, &lists, &l->at.hashes));
        FGMM_TRY(add_dataset(file, "vectors", fgmm__h5_type(layout->dtype), 2, postings, &l->at.vectors));
    }
    if (layout->sketch != NULL)
        FGMM_TRY(put_sketch(file, layout, &l->at.sketches));
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

static fgmm_status write_at(const fgmm_index_writer *writer, const void *bytes, size_t n, uint64_t at)
{
    for (size_t done = 0; done < n;) {
        ssize_t written =
            pwrite(writer->file, (const char *)bytes + done, n - done, (off_t)(at + (uint64_t)done));
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot be written: %s", writer->shared.path,
                              written < 0 ? strerror(errno) : "no space left");
        done += (size_t)written;
    }
    return FGMM_OK;
}

static fgmm_status open_file(fgmm_index_writer *writer)
{
    writer->file = open(writer->shared.aside, O_WRONLY | O_CLOEXEC);
    if (writer->file >= 0)
        return FGMM_OK;
    return fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot be opened for writing: %s", writer->shared.path,
                      strerror(errno));
}

fgmm_status fgmm__index_create(fgmm_comm *comm, const char *path, const fgmm_index_layout *layout,
                               fgmm_index_writer **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_index_writer *writer = NULL;
    laying l = {.layout = layout};
    status = fgmm__alloc(1, sizeof *writer, "writing an index", (void **)&writer);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    *writer = (fgmm_index_writer){.file = -1,
                                  .k = fgmm_model_k(layout->model),
                                  .postings = layout->postings,
                                  .dtype = layout->dtype,
                                  .sketch = layout->sketch,
                                  .threads = layout->threads};
    if (layout->vectors)
        writer->row_bytes = (size_t)fgmm_model_dim(layout->model) * fgmm_dtype_bytes(layout->dtype);
    FGMM_TRY(fgmm__h5_shared_lay_out(comm, path, file_bytes(layout), lay_out, &l, &writer->shared));
    FGMM_TRY(fgmm__comm_bcast(comm, &l.at, sizeof l.at, 0));
    writer->at = l.at;
    FGMM_TRY(fgmm__comm_agree(comm, open_file(writer)));
    *out = writer;
    writer = NULL;
cleanup:
    fgmm__index_abandon(writer);
    return status;
}

/* A few are made by one thread: waking the others takes longer. */
static fgmm_status put_sketches(fgmm_index_writer *writer, int64_t begin, int64_t n, const void *vectors)
{
    enum { FEW = 64 };
    fgmm_status status = FGMM_OK;
    size_t sketch_bytes = (size_t)(writer->sketch->m + 1) * sizeof *writer->values;
    if (n > writer->values_room) {
        free(writer->values);
        writer->values = NULL;
        writer->values_room = 0;
        FGMM_TRY(fgmm__alloc((size_t)n, sketch_bytes, "sketches of rows", (void **)&writer->values));
        writer->values_room = n;
    }
    FGMM_TRY(fgmm__sketch_rows(writer->sketch, vectors, writer->dtype, n, n < FEW ? 1 : writer->threads,
                               writer->values));
    FGMM_TRY(write_at(writer, writer->values, (size_t)n * sketch_bytes,
                      writer->at.sketches + (uint64_t)begin * sketch_bytes));
cleanup:
    return status;
}

fgmm_status fgmm__index_put(fgmm_index_writer *writer, int64_t begin, int64_t n, const int64_t *ids,
                            const uint8_t *primary, const void *vectors)
{
    fgmm_status status = FGMM_OK;
    size_t count = (size_t)n, row_bytes = writer->row_bytes;
    uint64_t first = (uint64_t)begin;
    FGMM_TRY(write_at(writer, ids, count * sizeof *ids, writer->at.ids + first * sizeof *ids));
    if (writer->at.primary != 0)
        FGMM_TRY(write_at(writer, primary, count, writer->at.primary + first));
    if (writer->at.vectors != 0)
        FGMM_TRY(write_at(writer, vectors, count * row_bytes, writer->at.vectors + first * row_bytes));
    if (writer->sketch != NULL)
        FGMM_TRY(put_sketches(writer, begin, n, vectors));
cleanup:
    return status;
}

/* Every rank's part is on disk, as the ranks of other nodes see it, before rank 0 seals the file. */
static fgmm_status close_file(fgmm_index_writer *writer, const uint64_t *hashes)
{
    fgmm_status status = FGMM_OK;
    if (writer->at.hashes != 0 && fgmm_comm_rank(writer->shared.comm) == 0)
        status = write_at(writer, hashes, (size_t)writer->k * sizeof *hashes, writer->at.hashes);
    if (fsync(writer->file) != 0 && status == FGMM_OK)
        status =
            fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot be written: %s", writer->shared.path, strerror(errno));
    close(writer->file);
    writer->file = -1;
    return status;
}

fgmm_status fgmm__index_finish(fgmm_index_writer *writer, const uint64_t *hashes, int64_t *bytes)
{
    fgmm_status status = FGMM_OK;
    fgmm_h5_shared *shared = &writer->shared;
    uint64_t skip_begin = writer->at.vectors,
             skip_end = skip_begin + (uint64_t)writer->postings * writer->row_bytes;
    FGMM_TRY(fgmm__comm_agree(shared->comm, close_file(writer, hashes)));
    FGMM_TRY(
        fgmm__comm_agree(shared->comm, fgmm__h5_seal(shared->aside, shared->comm, skip_begin, skip_end)));
    FGMM_TRY(fgmm__h5_shared_commit(shared));
    *bytes = shared->bytes;
cleanup:
    fgmm__index_abandon(writer);
    return status;
}
