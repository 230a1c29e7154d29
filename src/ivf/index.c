#include "ivf/index.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "io/h5.h"

enum { PIECE_BYTES = 32 << 20 }; /* of a list read at once */

/* ---- opening ---- */

static fgmm_status read_attributes(fgmm_index *index, hid_t file)
{
    fgmm_status status = FGMM_OK;
    char format[32], metric[16], dtype[16];
    int64_t version;
    if (!fgmm__h5_has(file, "format"))
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: not an index (it has no attribute `format`); make one with fgmm build",
                  index->path);
    FGMM_TRY(fgmm__h5_get_text(file, "format", format, sizeof format));
    if (strcmp(format, "fgmm-ivf") != 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: not an index but a file of format %s; make one with fgmm build",
                  index->path, format);
    FGMM_TRY(fgmm__h5_get_i64(file, "version", &version));
    if (version != FGMM_INDEX_VERSION)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: index of version %lld, this program reads version %d", index->path,
                  (long long)version, FGMM_INDEX_VERSION);
    FGMM_TRY(fgmm__h5_get_text(file, "metric", metric, sizeof metric));
    FGMM_TRY(fgmm__h5_get_text(file, "dtype", dtype, sizeof dtype));
    FGMM_TRY(fgmm__h5_get_i64(file, "n_rows", &index->rows));
    FGMM_TRY(fgmm__h5_get_i64(file, "n_postings", &index->postings));
    int known = -1;
    for (int i = FGMM_L2; i <= FGMM_IP; i++)
        if (strcmp(metric, fgmm_metric_name((fgmm_metric)i)) == 0)
            known = i;
    if (known < 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: unknown metric %s", index->path, metric);
    index->metric = (fgmm_metric)known;
    known = -1;
    for (int type = FGMM_F32; type <= FGMM_I8; type++)
        if (strcmp(dtype, fgmm_dtype_name((fgmm_dtype)type)) == 0)
            known = type;
    if (known < 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: unknown dtype %s", index->path, dtype);
    index->dtype = (fgmm_dtype)known;
cleanup:
    return status;
}

/* Where a contiguous dataset of `bytes` bytes begins in the file. */
static fgmm_status locate(const fgmm_index *index, hid_t file, const char *name, uint64_t bytes, uint64_t *at)
{
    hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    haddr_t offset = dataset < 0 ? HADDR_UNDEF : H5Dget_offset(dataset);
    if (dataset >= 0)
        H5Dclose(dataset);
    if (offset == HADDR_UNDEF || offset > index->size_bytes || bytes > index->size_bytes - offset)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: damaged: dataset %s is missing or cut short", index->path,
                          name);
    *at = offset;
    return FGMM_OK;
}

static fgmm_status read_sketch(fgmm_index *index, hid_t file)
{
    fgmm_status status = FGMM_OK;
    hsize_t shape[2];
    int rank;
    double *mean = NULL, *basis = NULL;
    size_t dim = (size_t)index->dim;
    if (!fgmm__h5_has_dataset(file, "sketch/basis"))
        return FGMM_OK;
    FGMM_TRY(fgmm__h5_shape(file, "sketch/basis", 2, &rank, shape));
    if (rank != 2 || shape[0] < 1 || shape[0] > dim || shape[1] != dim)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: damaged: the basis of its sketch is not [M][D]", index->path);
    FGMM_ALLOC(mean, dim, "a sketch");
    FGMM_ALLOC(basis, shape[0] * dim, "a sketch");
    FGMM_TRY(fgmm__h5_read(file, "sketch/mean", H5T_NATIVE_DOUBLE, dim, mean));
    FGMM_TRY(fgmm__h5_read(file, "sketch/basis", H5T_NATIVE_DOUBLE, shape[0] * dim, basis));
    FGMM_TRY(locate(index, file, "sketch/values", (uint64_t)index->postings * (shape[0] + 1) * sizeof(float),
                    &index->sketches_at));
    FGMM_TRY(fgmm__sketch_of(mean, basis, (int32_t)shape[0], index->dim, index->path, &index->sketch));
cleanup:
    free(mean);
    free(basis);
    return status;
}

static fgmm_status read_datasets(fgmm_index *index, hid_t file)
{
    fgmm_status status = FGMM_OK;
    hsize_t shape[2];
    int rank;
    FGMM_TRY(fgmm__h5_shape(file, "centroids", 2, &rank, shape));
    if (rank != 2 || shape[0] == 0 || shape[0] > INT32_MAX || shape[1] == 0 || shape[1] > INT32_MAX ||
        index->postings < 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: damaged: centroids are not [K][D]", index->path);
    index->k = (int32_t)shape[0];
    index->dim = (int32_t)shape[1];
    size_t k = shape[0], dim = shape[1];
    uint64_t postings = (uint64_t)index->postings;
    FGMM_ALLOC(index->centroids, k * dim, "centroids");
    FGMM_ALLOC(index->offsets, k + 1, "list offsets");
    FGMM_TRY(fgmm__h5_read(file, "centroids", H5T_NATIVE_FLOAT, k * dim, index->centroids));
    FGMM_TRY(fgmm__h5_read(file, "list_offsets", H5T_NATIVE_UINT64, k + 1, index->offsets));
    for (size_t j = 0; j < k; j++)
        if (index->offsets[j] > index->offsets[j + 1])
            FGMM_FAIL(FGMM_ERR_INPUT, "%s: damaged: list %zu ends before it begins", index->path, j);
    if (index->offsets[0] != 0 || index->offsets[k] != postings)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: damaged: the lists do not add up to %lld postings", index->path,
                  (long long)index->postings);
    FGMM_TRY(locate(index, file, "ids", postings * sizeof(int64_t), &index->ids_at));
    index->multi = fgmm__h5_has_dataset(file, "primary");
    if (index->multi)
        FGMM_TRY(locate(index, file, "primary", postings, &index->primary_at));
    FGMM_TRY(read_sketch(index, file));
    if (!fgmm__h5_has_dataset(file, "vectors"))
        goto cleanup;
    FGMM_TRY(
        locate(index, file, "vectors", postings * dim * fgmm_dtype_bytes(index->dtype), &index->vectors_at));
    FGMM_ALLOC(index->hashes, k, "list hashes");
    FGMM_TRY(fgmm__h5_read(file, "list_hashes", H5T_NATIVE_UINT64, k, index->hashes));
cleanup:
    return status;
}

static fgmm_status map_file(fgmm_index *index)
{
    struct stat info;
    index->file = open(index->path, O_RDONLY | O_CLOEXEC);
    if (index->file < 0 || fstat(index->file, &info) != 0)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: cannot open: %s", index->path, strerror(errno));
    if (!S_ISREG(info.st_mode) || info.st_size == 0)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: not an index; make one with fgmm build", index->path);
    index->size_bytes = (size_t)info.st_size;
    void *bytes = mmap(NULL, index->size_bytes, PROT_READ, MAP_SHARED, index->file, 0);
    if (bytes == MAP_FAILED)
        return fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot map: %s", index->path, strerror(errno));
    index->bytes = bytes;
    return FGMM_OK;
}

fgmm_status fgmm_index_open(const char *path, fgmm_index **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_index *index = NULL;
    hid_t file = H5I_INVALID_HID;
    bool sealed;
    FGMM_ALLOC(index, 1, "an index");
    index->file = -1;
    index->path = strdup(path);
    if (index->path == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory");
    FGMM_TRY(map_file(index));
    FGMM_TRY(fgmm__h5_check_seal(path, &sealed));
    if (!sealed)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: not an index (no hash at its start); make one with fgmm build", path);
    fgmm__h5_lock();
    status = fgmm__h5_open(path, NULL, &file);
    if (status == FGMM_OK)
        status = read_attributes(index, file);
    if (status == FGMM_OK)
        status = read_datasets(index, file);
    if (file >= 0)
        fgmm__h5_close(file, path);
    fgmm__h5_unlock();
    FGMM_TRY(status);
    *out = index;
    index = NULL;
cleanup:
    fgmm_index_close(index);
    return status;
}

void fgmm_index_close(fgmm_index *index)
{
    if (index == NULL)
        return;
    if (index->bytes != NULL)
        munmap((void *)index->bytes, index->size_bytes);
    if (index->file >= 0)
        close(index->file);
    free(index->centroids);
    free(index->offsets);
    free(index->hashes);
    fgmm__sketch_destroy(index->sketch);
    free(index->path);
    free(index);
}

int64_t fgmm_index_rows(const fgmm_index *index)
{
    return index->rows;
}

int64_t fgmm_index_postings(const fgmm_index *index)
{
    return index->postings;
}

int32_t fgmm_index_lists(const fgmm_index *index)
{
    return index->k;
}

int32_t fgmm_index_dim(const fgmm_index *index)
{
    return index->dim;
}

fgmm_metric fgmm_index_metric(const fgmm_index *index)
{
    return index->metric;
}

fgmm_dtype fgmm_index_dtype(const fgmm_index *index)
{
    return index->dtype;
}

int64_t fgmm__index_id(const fgmm_index *index, uint64_t posting)
{
    int64_t id; /* HDF5 does not align datasets */
    memcpy(&id, index->bytes + index->ids_at + posting * sizeof id, sizeof id);
    return id;
}

bool fgmm__index_primary(const fgmm_index *index, uint64_t posting)
{
    return !index->multi || index->bytes[index->primary_at + posting] != 0;
}

fgmm_status fgmm__index_need_vectors(const fgmm_index *index)
{
    if (index->vectors_at != 0)
        return FGMM_OK;
    return fgmm__fail(
        FGMM_ERR_INPUT,
        "%s: holds ids alone (built with --vectors no): there are no vectors to work on; build it with them",
        index->path);
}

uint64_t fgmm__row_hash(const void *row, size_t bytes, uint64_t place_in_list)
{
    return XXH3_64bits_withSeed(row, bytes, place_in_list);
}

/* ---- lists ---- */

fgmm_status fgmm__lists_create(const fgmm_index *index, fgmm_lists **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_lists *lists = NULL;
    size_t row_bytes = (size_t)index->dim * fgmm_dtype_bytes(index->dtype);
    FGMM_TRY(fgmm__index_need_vectors(index));
    FGMM_ALLOC(lists, 1, "reading lists");
    lists->index = index;
    lists->capacity = row_bytes < PIECE_BYTES ? (int64_t)(PIECE_BYTES / row_bytes) : 1;
    int64_t longest = 1;
    for (int32_t j = 0; j < index->k; j++)
        if ((int64_t)fgmm__index_list_size(index, j) > longest)
            longest = (int64_t)fgmm__index_list_size(index, j);
    if (lists->capacity > longest)
        lists->capacity = longest;
    FGMM_ALLOC(lists->ids, lists->capacity, "reading lists");
    FGMM_ALLOC(lists->verified, index->k, "reading lists");
    FGMM_TRY(fgmm__alloc((size_t)lists->capacity, row_bytes, "reading lists", &lists->vectors));
    if (index->sketch != NULL)
        FGMM_ALLOC(lists->sketches, lists->capacity * (index->sketch->m + 1), "reading lists");
    *out = lists;
    lists = NULL;
cleanup:
    fgmm__lists_destroy(lists);
    return status;
}

void fgmm__lists_destroy(fgmm_lists *lists)
{
    if (lists == NULL)
        return;
    free(lists->ids);
    free(lists->vectors);
    free(lists->sketches);
    free(lists->verified);
    free(lists);
}

void fgmm__lists_start(fgmm_lists *lists, int32_t list)
{
    lists->list = list;
    lists->at = lists->index->offsets[list];
    lists->hash = 0;
}

static fgmm_status read_bytes(const fgmm_index *index, void *to, size_t bytes, uint64_t at)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t got = pread(index->file, (char *)to + done, bytes - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot read vectors: %s", index->path,
                              got < 0 ? strerror(errno) : "the file ends early");
        done += (size_t)got;
    }
    return FGMM_OK;
}

/* Adds the rows of the piece just read to the list's hash and compares it at the list's end. */
static fgmm_status verify(fgmm_lists *lists, size_t row_bytes)
{
    const fgmm_index *index = lists->index;
    uint64_t place = lists->at - index->offsets[lists->list];
    for (int64_t i = 0; i < lists->n; i++)
        lists->hash +=
            fgmm__row_hash((char *)lists->vectors + (size_t)i * row_bytes, row_bytes, place + (uint64_t)i);
    if (place + (uint64_t)lists->n < fgmm__index_list_size(index, lists->list))
        return FGMM_OK;
    if (lists->hash != index->hashes[lists->list])
        return fgmm__fail(
            FGMM_ERR_INPUT,
            "%s: damaged: the vectors of list %d do not match their hash; build the index again", index->path,
            lists->list);
    lists->verified[lists->list] = true;
    return FGMM_OK;
}

fgmm_status fgmm__lists_next(fgmm_lists *lists)
{
    fgmm_status status = FGMM_OK;
    const fgmm_index *index = lists->index;
    size_t row_bytes = (size_t)index->dim * fgmm_dtype_bytes(index->dtype);
    int64_t left = (int64_t)(index->offsets[lists->list + 1] - lists->at);
    lists->n = left < lists->capacity ? left : lists->capacity;
    if (lists->n == 0)
        return FGMM_OK;
    FGMM_TRY(read_bytes(index, lists->vectors, (size_t)lists->n * row_bytes,
                        index->vectors_at + lists->at * row_bytes));
    if (!lists->verified[lists->list])
        FGMM_TRY(verify(lists, row_bytes));
    memcpy(lists->ids, index->bytes + index->ids_at + lists->at * sizeof(int64_t),
           (size_t)lists->n * sizeof(int64_t));
    if (lists->sketches != NULL) {
        size_t sketch_bytes = (size_t)(index->sketch->m + 1) * sizeof *lists->sketches;
        memcpy(lists->sketches, index->bytes + index->sketches_at + lists->at * sketch_bytes,
               (size_t)lists->n * sketch_bytes);
    }
    lists->at += (uint64_t)lists->n;
cleanup:
    return status;
}
