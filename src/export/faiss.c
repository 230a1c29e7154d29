/* The layout, in the order it is written:
 *   32-bit floats: "IwFl" ivf      other types: "IwSq" ivf  quantizer of values  u64 code_size  u8
 * by_residual=0 then the inverted lists ivf: header(ntotal)  u64 nlist  u64 nprobe  coarse quantizer  u8 0
 * u64 0 (no direct map) coarse quantizer: "IxF2" (inner product: "IxFI") header(nlist)  u64 nlist*d  f32
 * centroids quantizer of values: i32 type (4: fp16, 5: 8 bits as they are)  i32 0  f32 0  u64 d  u64
 * code_size  u64 0 (nothing trained) inverted lists, in memory: "ilar" u64 nlist  u64 code_size, then sizes:
 * "full" u64 nlist u64 size...  or, where at most half of the lists are filled, "sprs" u64 2*filled {u64
 * list, u64 size}...; then per filled list its codes and i64 ids or on disk: "ilod" u64 nlist  u64 code_size
 * u64 nlist {u64 size, u64 capacity, u64 offset}...  u64 nslots {u64 offset, u64 capacity}... u64 length,
 * name of the data file  u64 its bytes; the data file holds per list codes and i64 ids header(n): i32 d  i64
 * n  i64 2^20  i64 2^20  u8 trained=1  i32 metric (0: inner product, 1: L2) */
#include "export/faiss.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "io/reader.h"
#include "io/writer.h"
#include "ivf/index.h"

/* A file under way. A failure to write is remembered and told once, at the end. */
typedef struct {
    char *path, *aside;
    FILE *stream;
} target;

struct export
{
    fgmm_faiss_coarse coarse;
    const fgmm_index *index; /* NULL: the lists stay empty */
    fgmm_faiss_options options;
    fgmm_comm *comm;
    fgmm_dtype stored;
    size_t code_bytes; /* of a row */
    uint64_t *sizes;   /* [k] postings exported */
    uint64_t total;
    fgmm_lists *lists;
    float *values; /* a row on its way to another type */
    void *code;
    int64_t *ids;
    target file, data;
};

fgmm_dtype fgmm__faiss_stored(const fgmm_index *index, bool as_f32)
{
    static const fgmm_dtype stored[] = {
        [FGMM_F32] = FGMM_F32, [FGMM_F16] = FGMM_F16, [FGMM_U8] = FGMM_U8, [FGMM_I8] = FGMM_F16};
    return as_f32 ? FGMM_F32 : stored[index->dtype];
}

const char *fgmm__faiss_kind(fgmm_dtype stored)
{
    return stored == FGMM_F32   ? "IndexIVFFlat (32-bit floats)"
           : stored == FGMM_F16 ? "IndexIVFScalarQuantizer (QT_fp16)"
                                : "IndexIVFScalarQuantizer (QT_8bit_direct)";
}

static fgmm_status open_target(target *t, const char *path)
{
    fgmm_status status = FGMM_OK;
    t->path = strdup(path);
    if (t->path == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory");
    FGMM_TRY(fgmm__aside_name(path, &t->aside));
    t->stream = fopen(t->aside, "wb");
    if (t->stream == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot be created: %s", path, strerror(errno));
cleanup:
    return status;
}

static fgmm_status commit_target(target *t)
{
    bool failed = fflush(t->stream) != 0 || ferror(t->stream) != 0;
    int why = errno;
    failed = fclose(t->stream) != 0 || failed;
    t->stream = NULL;
    if (failed)
        return fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot be written: %s", t->path, strerror(why));
    fgmm_status status = fgmm__aside_commit(t->aside, t->path);
    if (status == FGMM_OK) {
        free(t->aside);
        t->aside = NULL;
    }
    return status;
}

static void discard_target(target *t)
{
    if (t->stream != NULL)
        fclose(t->stream);
    if (t->aside != NULL)
        unlink(t->aside);
    free(t->aside);
    free(t->path);
}

static void put_tag(FILE *f, const char tag[static 4])
{
    fwrite(tag, 1, 4, f);
}

static void put_u64(FILE *f, uint64_t value)
{
    fwrite(&value, sizeof value, 1, f);
}

static void put_i32(FILE *f, int32_t value)
{
    fwrite(&value, sizeof value, 1, f);
}

static void put_u8(FILE *f, unsigned char value)
{
    fwrite(&value, 1, 1, f);
}

static void put_header(const struct export *e, uint64_t rows)
{
    enum { UNUSED = 1 << 20, INNER_PRODUCT = 0, L2 = 1 };
    FILE *f = e->file.stream;
    put_i32(f, e->coarse.dim);
    put_u64(f, rows);
    put_u64(f, UNUSED);
    put_u64(f, UNUSED);
    put_u8(f, 1); /* trained */
    put_i32(f, e->coarse.metric == FGMM_IP ? INNER_PRODUCT : L2);
}

static void put_ivf(const struct export *e)
{
    FILE *f = e->file.stream;
    const fgmm_faiss_coarse *coarse = &e->coarse;
    size_t values = (size_t)coarse->k * (size_t)coarse->dim;
    put_header(e, e->total);
    put_u64(f, (uint64_t)coarse->k);
    put_u64(f, 1); /* nprobe */
    put_tag(f, coarse->metric == FGMM_IP ? "IxFI" : "IxF2");
    put_header(e, (uint64_t)coarse->k);
    put_u64(f, values);
    fwrite(coarse->centroids, sizeof(float), values, f);
    put_u8(f, 0); /* no direct map */
    put_u64(f, 0);
}

/* How FAISS makes floats of the codes. */
static void put_value_quantizer(const struct export *e)
{
    enum { FP16 = 4, BYTES_AS_THEY_ARE = 5 };
    FILE *f = e->file.stream;
    put_i32(f, e->stored == FGMM_F16 ? FP16 : BYTES_AS_THEY_ARE);
    put_i32(f, 0); /* how a range is found, and its parameter: no range is needed */
    put_i32(f, 0);
    put_u64(f, (uint64_t)e->coarse.dim);
    put_u64(f, e->code_bytes);
    put_u64(f, 0); /* nothing was trained */
}

/* Everything before the inverted lists. */
static void put_index(const struct export *e)
{
    FILE *f = e->file.stream;
    put_tag(f, e->stored == FGMM_F32 ? "IwFl" : "IwSq");
    put_ivf(e);
    if (e->stored == FGMM_F32)
        return;
    put_value_quantizer(e);
    put_u64(f, e->code_bytes);
    put_u8(f, 0); /* codes are of rows, not of residuals */
}

static void count_lists(struct export *e)
{
    for (int32_t j = 0; e->index != NULL && j < e->index->k; j++) {
        for (uint64_t p = e->index->offsets[j]; p < e->index->offsets[j + 1]; p++)
            e->sizes[j] += !e->options.primary_only || fgmm__index_primary(e->index, p);
        e->total += e->sizes[j];
    }
}

static void put_row(struct export *e, const void *row, FILE *to)
{
    size_t dim = (size_t)e->coarse.dim;
    fgmm_dtype dtype = e->index->dtype;
    if (dtype != e->stored) {
        fgmm__to_f32(dtype, row, dim, e->values);
        fgmm__from_f32(e->stored, e->values, dim, e->code);
        row = e->code;
    }
    fwrite(row, e->code_bytes, 1, to);
}

/* Appends the list's vectors to `to` and its ids to the end of those. */
static fgmm_status put_list(struct export *e, int32_t list, FILE *to)
{
    fgmm_status status = FGMM_OK;
    const fgmm_index *index = e->index;
    size_t row_bytes = (size_t)index->dim * fgmm_dtype_bytes(index->dtype), kept = 0;
    uint64_t posting = index->offsets[list];
    fgmm__lists_start(e->lists, list);
    for (;;) {
        if (e->comm != NULL)
            FGMM_TRY(fgmm__comm_tick(e->comm));
        FGMM_TRY(fgmm__lists_next(e->lists));
        if (e->lists->n == 0)
            break;
        for (int64_t i = 0; i < e->lists->n; i++, posting++) {
            if (e->options.primary_only && !fgmm__index_primary(index, posting))
                continue;
            put_row(e, (const char *)e->lists->vectors + (size_t)i * row_bytes, to);
            e->ids[kept++] = e->lists->ids[i];
        }
    }
    fwrite(e->ids, sizeof *e->ids, kept, to);
cleanup:
    return status;
}

static fgmm_status put_lists(struct export *e, FILE *to)
{
    for (int32_t j = 0; j < e->coarse.k; j++) {
        fgmm_status status = e->sizes[j] > 0 ? put_list(e, j, to) : FGMM_OK;
        if (status != FGMM_OK)
            return status;
    }
    return FGMM_OK;
}

static fgmm_status put_memory_lists(struct export *e)
{
    FILE *f = e->file.stream;
    int32_t k = e->coarse.k, filled = 0;
    for (int32_t j = 0; j < k; j++)
        filled += e->sizes[j] > 0;
    put_tag(f, "ilar");
    put_u64(f, (uint64_t)k);
    put_u64(f, e->code_bytes);
    if (filled > k / 2) {
        put_tag(f, "full");
        put_u64(f, (uint64_t)k);
        fwrite(e->sizes, sizeof *e->sizes, (size_t)k, f);
    } else {
        put_tag(f, "sprs");
        put_u64(f, 2 * (uint64_t)filled);
        for (int32_t j = 0; j < k; j++)
            if (e->sizes[j] > 0) {
                put_u64(f, (uint64_t)j);
                put_u64(f, e->sizes[j]);
            }
    }
    return put_lists(e, f);
}

/* The data file is named by its full path, so that FAISS finds it from any folder. */
static fgmm_status put_data_name(struct export *e)
{
    char folder[PATH_MAX], full[PATH_MAX];
    const char *slash = strrchr(e->data.path, '/');
    int length = slash == NULL ? 1 : slash == e->data.path ? 1 : (int)(slash - e->data.path);
    snprintf(folder, sizeof folder, "%.*s", length, slash == NULL ? "." : e->data.path);
    if (realpath(folder, full) == NULL)
        return fgmm__fail(FGMM_ERR_RUNTIME, "%s: %s", folder, strerror(errno));
    const char *name = slash == NULL ? e->data.path : slash + 1;
    put_u64(e->file.stream, strlen(full) + 1 + strlen(name));
    fprintf(e->file.stream, "%s/%s", full, name);
    return FGMM_OK;
}

static fgmm_status put_disk_lists(struct export *e)
{
    FILE *f = e->file.stream;
    uint64_t at = 0;
    put_tag(f, "ilod");
    put_u64(f, (uint64_t)e->coarse.k);
    put_u64(f, e->code_bytes);
    put_u64(f, (uint64_t)e->coarse.k);
    for (int32_t j = 0; j < e->coarse.k; j++) {
        put_u64(f, e->sizes[j]);
        put_u64(f, e->sizes[j]); /* capacity: full */
        put_u64(f, at);
        at += e->sizes[j] * (e->code_bytes + sizeof(int64_t));
    }
    put_u64(f, 0); /* no free slots */
    fgmm_status status = put_data_name(e);
    put_u64(f, at);
    return status != FGMM_OK ? status : put_lists(e, e->data.stream);
}

static fgmm_status prepare(struct export *e, const char *path)
{
    fgmm_status status = FGMM_OK;
    uint64_t longest = 1;
    char data_path[PATH_MAX];
    e->code_bytes = (size_t)e->coarse.dim * fgmm_dtype_bytes(e->stored);
    FGMM_ALLOC(e->sizes, e->coarse.k, "list sizes");
    if (e->index != NULL)
        FGMM_TRY(fgmm__lists_create(e->index, &e->lists));
    count_lists(e);
    for (int32_t j = 0; j < e->coarse.k; j++)
        if (e->sizes[j] > longest)
            longest = e->sizes[j];
    FGMM_ALLOC(e->values, e->coarse.dim, "a row");
    FGMM_TRY(fgmm__alloc(1, e->code_bytes, "a row", &e->code));
    FGMM_ALLOC(e->ids, longest, "the ids of a list");
    FGMM_TRY(open_target(&e->file, path));
    if (e->options.on_disk) {
        if (snprintf(data_path, sizeof data_path, "%s.ivfdata", path) >= (int)sizeof data_path)
            FGMM_FAIL(FGMM_ERR_INPUT, "%s: the name is too long", path);
        FGMM_TRY(open_target(&e->data, data_path));
    }
cleanup:
    return status;
}

static fgmm_status write_export(struct export *e, const char *path)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(prepare(e, path));
    put_index(e);
    FGMM_TRY(e->options.on_disk ? put_disk_lists(e) : put_memory_lists(e));
    if (e->options.on_disk)
        FGMM_TRY(commit_target(&e->data));
    FGMM_TRY(commit_target(&e->file));
cleanup:
    discard_target(&e->file);
    discard_target(&e->data);
    fgmm__lists_destroy(e->lists);
    free(e->sizes);
    free(e->values);
    free(e->code);
    free(e->ids);
    return status;
}

fgmm_status fgmm__export_faiss(const fgmm_index *index, const char *path, const fgmm_faiss_options *options,
                               fgmm_comm *comm, int64_t *rows)
{
    struct export e = {.coarse = fgmm__faiss_coarse(index),
                       .index = index,
                       .options = *options,
                       .comm = comm,
                       .stored = fgmm__faiss_stored(index, options->as_f32)};
    fgmm_status status = write_export(&e, path);
    *rows = (int64_t)e.total;
    return status;
}

fgmm_faiss_coarse fgmm__faiss_coarse(const fgmm_index *index)
{
    return (fgmm_faiss_coarse){
        .k = index->k, .dim = index->dim, .metric = index->metric, .centroids = index->centroids};
}

fgmm_status fgmm__export_faiss_coarse(const fgmm_faiss_coarse *coarse, const char *path)
{
    struct export e = {.coarse = *coarse, .stored = FGMM_F32};
    return write_export(&e, path);
}
