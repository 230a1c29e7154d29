#include "ivf/append.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "io/h5.h"
#include "model/model.h"

enum { PIECE_BYTES = 8 << 20 };

/* ---- what an index says of itself ---- */

static fgmm_status read_rule(fgmm_append *old, hid_t file)
{
    fgmm_status status = FGMM_OK;
    const char *path = old->index->path;
    fgmm_rule *rule = &old->rule;
    char name[16], source[16];
    int64_t max_lists;
    FGMM_TRY(fgmm__h5_get_text(file, "assign", name, sizeof name));
    FGMM_TRY(fgmm__h5_get_text(file, "id_source", source, sizeof source));
    FGMM_TRY(fgmm__h5_get_i64(file, "max_lists", &max_lists));
    int which = FGMM_ASSIGN_HARD;
    while (which < FGMM_ASSIGN_NEED && strcmp(name, fgmm__rule_name((fgmm_assign_rule)which)) != 0)
        which++;
    if (which == FGMM_ASSIGN_NEED)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: its lists are those of --assign %s, which depend on all rows: build the index anew",
                  path, name);
    *rule = (fgmm_rule){.rule = (fgmm_assign_rule)which,
                        .max_lists = (int32_t)max_lists,
                        .soar_limit = INFINITY,
                        .known = INFINITY};
    if (max_lists < 1 || max_lists > 64)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: damaged: %lld lists a row", path, (long long)max_lists);
    FGMM_TRY(fgmm__h5_get_f64(file, "tau", &rule->tau));
    if (rule->rule == FGMM_ASSIGN_SOAR) {
        FGMM_TRY(fgmm__h5_get_f64(file, "lambda", &rule->lambda));
        FGMM_TRY(fgmm__h5_get_f64(file, "soar_limit", &rule->soar_limit));
    }
    if (rule->rule == FGMM_ASSIGN_CLOSURE)
        FGMM_TRY(fgmm__h5_get_f64(file, "epsilon", &rule->epsilon));
    old->user_ids = strcmp(source, "user") == 0;
cleanup:
    return status;
}

static fgmm_status read_model(fgmm_append *old, hid_t file)
{
    fgmm_status status = FGMM_OK;
    const char *path = old->index->path;
    hid_t group = H5Gopen2(file, "model", H5P_DEFAULT);
    if (group < 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: damaged: the group `model` is missing", path);
    FGMM_TRY(fgmm__model_get((int64_t)group, path, &old->model));
    if (old->model->k != old->index->k || old->model->dim != old->index->dim)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: damaged: its model is not that of its lists", path);
cleanup:
    if (group >= 0)
        H5Gclose(group);
    return status;
}

fgmm_status fgmm__append_open(const char *path, fgmm_append **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_append *old = NULL;
    hid_t file = H5I_INVALID_HID;
    FGMM_ALLOC(old, 1, "an index");
    FGMM_TRY(fgmm_index_open(path, &old->index));
    fgmm__h5_lock();
    status = fgmm__h5_open(path, NULL, &file);
    if (status == FGMM_OK)
        status = read_rule(old, file);
    if (status == FGMM_OK)
        status = read_model(old, file);
    old->learnt = status == FGMM_OK && H5Lexists(file, "stop", H5P_DEFAULT) > 0;
    if (file >= 0)
        fgmm__h5_close(file, path);
    fgmm__h5_unlock();
    FGMM_TRY(status);
    *out = old;
    old = NULL;
cleanup:
    fgmm__append_close(old);
    return status;
}

void fgmm__append_close(fgmm_append *old)
{
    if (old == NULL)
        return;
    fgmm_model_destroy(old->model);
    fgmm_index_close(old->index);
    free(old);
}

fgmm_status fgmm__append_check(const fgmm_append *old, const fgmm_dataset *dataset, bool ids)
{
    fgmm_status status = FGMM_OK;
    const fgmm_index *index = old->index;
    const char *name = fgmm_dataset_name(dataset);
    if (fgmm_dataset_dim(dataset) != index->dim)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: rows of dimension %d, but those of %s have %d", name,
                  fgmm_dataset_dim(dataset), index->path, index->dim);
    if (fgmm_dataset_dtype(dataset) != index->dtype)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: rows of type %s, but those of %s are %s (fgmm convert --dtype)", name,
                  fgmm_dtype_name(fgmm_dataset_dtype(dataset)), index->path, fgmm_dtype_name(index->dtype));
    if (fgmm_dataset_metric(dataset) != index->metric)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: is for the metric %s, not %s", index->path,
                  fgmm_metric_name(index->metric), fgmm_metric_name(fgmm_dataset_metric(dataset)));
    if (old->user_ids && !ids)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: its rows bear ids of your own: give those of the new rows with --ids",
                  index->path);
    if (old->learnt)
        fgmm__warn("%s: its stop rule was learnt for its lists and stays behind: learn one for the new index",
                   index->path);
cleanup:
    return status;
}

/* ---- its postings ---- */

/* Room for a piece of a list, which is copied at once. */
typedef struct {
    const fgmm_index *index;
    size_t row_bytes; /* 0: ids alone */
    int64_t capacity;
    int64_t *ids;
    uint8_t *primary;
    char *vectors;
    uint64_t *hashes; /* [k] of what was copied */
} copying;

static fgmm_status make_room(const fgmm_append *old, copying *c)
{
    fgmm_status status = FGMM_OK;
    const fgmm_index *index = old->index;
    *c = (copying){.index = index};
    if (index->vectors_at != 0)
        c->row_bytes = (size_t)index->dim * fgmm_dtype_bytes(index->dtype);
    c->capacity = PIECE_BYTES / (int64_t)(c->row_bytes + sizeof *c->ids) + 1;
    FGMM_ALLOC(c->ids, c->capacity, "postings of an index");
    FGMM_ALLOC(c->primary, c->capacity, "postings of an index");
    FGMM_TRY(fgmm__alloc((size_t)c->capacity, c->row_bytes, "postings of an index", (void **)&c->vectors));
    FGMM_ALLOC(c->hashes, index->k, "hashes of lists");
cleanup:
    return status;
}

static fgmm_status read_at(const fgmm_index *index, void *to, size_t bytes, uint64_t at)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t got = pread(index->file, (char *)to + done, bytes - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot be read: %s", index->path,
                              got < 0 ? strerror(errno) : "it ends early");
        done += (size_t)got;
    }
    return FGMM_OK;
}

/* Postings [from, from+n) of the index, all of one list, to where they stand from `to` on. */
static fgmm_status copy_piece(copying *c, int32_t list, uint64_t from, int64_t n, int64_t to,
                              fgmm_index_writer *writer)
{
    fgmm_status status = FGMM_OK;
    const fgmm_index *index = c->index;
    size_t count = (size_t)n;
    uint64_t place = from - index->offsets[list];
    FGMM_TRY(read_at(index, c->ids, count * sizeof *c->ids, index->ids_at + from * sizeof *c->ids));
    if (index->multi)
        FGMM_TRY(read_at(index, c->primary, count, index->primary_at + from));
    if (c->row_bytes > 0)
        FGMM_TRY(read_at(index, c->vectors, count * c->row_bytes, index->vectors_at + from * c->row_bytes));
    for (size_t i = 0; i < count && c->row_bytes > 0; i++)
        c->hashes[list] += fgmm__row_hash(c->vectors + i * c->row_bytes, c->row_bytes, place + i);
    FGMM_TRY(fgmm__index_put(writer, to, n, c->ids, c->primary, c->vectors));
cleanup:
    return status;
}

/* This rank's part: postings [begin, end), list by list. */
static fgmm_status copy_part(copying *c, fgmm_comm *comm, uint64_t begin, uint64_t end,
                             const uint64_t *offsets, fgmm_index_writer *writer)
{
    fgmm_status status = FGMM_OK;
    const uint64_t *its = c->index->offsets;
    int32_t list = 0;
    for (uint64_t at = begin; at < end;) {
        while (its[list + 1] <= at)
            list++;
        uint64_t until = its[list + 1] < end ? its[list + 1] : end;
        int64_t n = (int64_t)(until - at) < c->capacity ? (int64_t)(until - at) : c->capacity;
        FGMM_TRY(fgmm__comm_tick(comm));
        FGMM_TRY(copy_piece(c, list, at, n, (int64_t)(offsets[list] + at - its[list]), writer));
        at += (uint64_t)n;
    }
cleanup:
    return status;
}

/* Collective: what all ranks copied is what the index's hashes say. */
static fgmm_status check_copied(copying *c, fgmm_comm *comm, uint64_t *hashes)
{
    fgmm_status status = FGMM_OK;
    for (int32_t j = 0; j < c->index->k; j++)
        hashes[j] += c->hashes[j];
    FGMM_TRY(fgmm__comm_sum_i64(comm, (int64_t *)c->hashes, (size_t)c->index->k));
    for (int32_t j = 0; j < c->index->k && c->row_bytes > 0; j++)
        if (c->hashes[j] != c->index->hashes[j])
            FGMM_FAIL(FGMM_ERR_INPUT,
                      "%s: damaged: the vectors of list %d do not match their hash; build the index again",
                      c->index->path, j);
cleanup:
    return fgmm__comm_agree(comm, status);
}

fgmm_status fgmm__append_copy(const fgmm_append *old, fgmm_comm *comm, const uint64_t *offsets,
                              fgmm_index_writer *writer, uint64_t *hashes)
{
    fgmm_status status = FGMM_OK;
    copying c;
    uint64_t postings = (uint64_t)old->index->postings, ranks = (uint64_t)fgmm_comm_size(comm),
             rank = (uint64_t)fgmm_comm_rank(comm), share = (postings + ranks - 1) / ranks;
    uint64_t begin = rank * share < postings ? rank * share : postings,
             end = begin + share < postings ? begin + share : postings;
    status = make_room(old, &c);
    if (status == FGMM_OK)
        status = copy_part(&c, comm, begin, end, offsets, writer);
    if (status != FGMM_OK)
        fgmm__comm_announce_failure(comm);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(check_copied(&c, comm, hashes));
cleanup:
    free(c.ids);
    free(c.primary);
    free(c.vectors);
    free(c.hashes);
    return status;
}
