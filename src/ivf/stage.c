#define _GNU_SOURCE /* asprintf */

#include "ivf/stage.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/log.h"
#include "io/h5.h"
#include "io/writer.h"

enum { RECORD_VERSION = 1 };

/* ---- names ---- */

static fgmm_status name_file(const char *path, int32_t generation, int rank, bool keyed, char **out)
{
    if (asprintf(out, "%s.%d-%d%s", path, generation, rank, keyed ? "k" : "") >= 0)
        return FGMM_OK;
    *out = NULL;
    return fgmm__fail(FGMM_ERR_RUNTIME, "out of memory: a file name");
}

/* Whether `name` is "BASE.G-R" or "BASE.G-Rk"; *generation and *keyed as they stand there. */
static bool is_file_of(const char *base, const char *name, int *generation, bool *keyed)
{
    size_t n = strlen(base);
    int rank, end = 0;
    if (strncmp(name, base, n) != 0 || name[n] != '.' ||
        sscanf(name + n + 1, "%d-%d%n", generation, &rank, &end) != 2 || end == 0)
        return false;
    const char *rest = name + n + 1 + end;
    *keyed = strcmp(rest, "k") == 0;
    return *keyed || rest[0] == '\0';
}

/* Removes the files of lists but those of one kind (generation < 0: all). What cannot be removed stays. */
static void clean(const char *path, int32_t generation, bool keyed)
{
    const char *slash = strrchr(path, '/'), *base = slash != NULL ? slash + 1 : path;
    char *folder = slash == NULL ? strdup(".") : strndup(path, (size_t)(slash - path) + 1), *file;
    DIR *directory = folder != NULL ? opendir(folder) : NULL;
    for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;) {
        int its_generation;
        bool its_keyed;
        if (!is_file_of(base, entry->d_name, &its_generation, &its_keyed) ||
            (its_generation == generation && its_keyed == keyed))
            continue;
        if (asprintf(&file, "%.*s%s", (int)(base - path), path, entry->d_name) >= 0) {
            unlink(file);
            free(file);
        }
    }
    if (directory != NULL)
        closedir(directory);
    free(folder);
}

/* ---- the record ---- */

static fgmm_status put(const fgmm_stage_record *r, hid_t file)
{
    fgmm_status status = FGMM_OK;
    const hsize_t ranks = (hsize_t)r->ranks;
    FGMM_TRY(fgmm__h5_put_text(file, "format", "fgmm-build"));
    FGMM_TRY(fgmm__h5_put_i64(file, "version", RECORD_VERSION));
    FGMM_TRY(fgmm__h5_put_text(file, "stage", r->complete ? "write" : "assign"));
    FGMM_TRY(fgmm__h5_put_i64(file, "stopped", r->stopped));
    FGMM_TRY(fgmm__h5_put_i64(file, "keyed", r->keyed));
    FGMM_TRY(fgmm__h5_put_i64(file, "data_fingerprint", (int64_t)r->data));
    FGMM_TRY(fgmm__h5_put_i64(file, "options_hash", (int64_t)r->options));
    FGMM_TRY(fgmm__h5_put_text(file, "backend", r->backend));
    FGMM_TRY(fgmm__h5_put_i64(file, "n_rows", r->rows));
    FGMM_TRY(fgmm__h5_put_i64(file, "generation", r->generation));
    FGMM_TRY(fgmm__h5_put_i64(file, "ranks", r->ranks));
    FGMM_TRY(fgmm__h5_put_f64(file, "tau", r->tau));
    FGMM_TRY(fgmm__h5_put_f64(file, "epsilon", r->epsilon));
    FGMM_TRY(fgmm__h5_put_f64(file, "soar_limit", r->soar_limit));
    FGMM_TRY(fgmm__h5_put_f64(file, "least_gain", r->least_gain));
    FGMM_TRY(fgmm__h5_put_f64(file, "known", r->known));
    FGMM_TRY(fgmm__h5_put_i64(file, "looked_all", r->looked_all));
    if (r->ranks > 0)
        FGMM_TRY(fgmm__h5_write(file, "bytes", H5T_NATIVE_INT64, 1, &ranks, r->bytes));
cleanup:
    return status;
}

static fgmm_status write_record(const char *path, const fgmm_stage_record *r)
{
    fgmm_status status = FGMM_OK;
    hid_t file = H5I_INVALID_HID;
    char *aside = NULL;
    FGMM_TRY(fgmm__aside_name(path, &aside));
    FGMM_TRY(fgmm__h5_create_small(aside, &file));
    FGMM_TRY(put(r, file));
    status = fgmm__h5_close(file, aside);
    file = H5I_INVALID_HID;
    FGMM_TRY(status);
    FGMM_TRY(fgmm__h5_seal(aside, NULL, 0, 0));
    FGMM_TRY(fgmm__aside_commit(aside, path));
cleanup:
    if (file >= 0)
        fgmm__h5_close(file, aside);
    if (status != FGMM_OK && aside != NULL)
        unlink(aside);
    free(aside);
    return status;
}

static fgmm_status get(const char *path, hid_t file, fgmm_stage_record *r)
{
    fgmm_status status = FGMM_OK;
    char format[32], stage[16];
    int64_t version, stopped, keyed, data, options, generation, ranks;
    FGMM_TRY(fgmm__h5_get_text(file, "format", format, sizeof format));
    FGMM_TRY(fgmm__h5_get_i64(file, "version", &version));
    if (strcmp(format, "fgmm-build") != 0 || version != RECORD_VERSION)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: not a checkpoint of a build of this version (format `%s`, version %lld)", path, format,
                  (long long)version);
    FGMM_TRY(fgmm__h5_get_text(file, "stage", stage, sizeof stage));
    FGMM_TRY(fgmm__h5_get_i64(file, "stopped", &stopped));
    FGMM_TRY(fgmm__h5_get_i64(file, "keyed", &keyed));
    FGMM_TRY(fgmm__h5_get_i64(file, "data_fingerprint", &data));
    FGMM_TRY(fgmm__h5_get_i64(file, "options_hash", &options));
    FGMM_TRY(fgmm__h5_get_text(file, "backend", r->backend, sizeof r->backend));
    FGMM_TRY(fgmm__h5_get_i64(file, "n_rows", &r->rows));
    FGMM_TRY(fgmm__h5_get_i64(file, "generation", &generation));
    FGMM_TRY(fgmm__h5_get_i64(file, "ranks", &ranks));
    FGMM_TRY(fgmm__h5_get_f64(file, "tau", &r->tau));
    FGMM_TRY(fgmm__h5_get_f64(file, "epsilon", &r->epsilon));
    FGMM_TRY(fgmm__h5_get_f64(file, "soar_limit", &r->soar_limit));
    FGMM_TRY(fgmm__h5_get_f64(file, "least_gain", &r->least_gain));
    FGMM_TRY(fgmm__h5_get_f64(file, "known", &r->known));
    FGMM_TRY(fgmm__h5_get_i64(file, "looked_all", &r->looked_all));
    r->complete = strcmp(stage, "write") == 0;
    r->stopped = stopped != 0;
    r->keyed = keyed != 0;
    r->data = (uint64_t)data;
    r->options = (uint64_t)options;
    r->generation = (int32_t)generation;
    r->ranks = (int32_t)ranks;
    FGMM_ALLOC(r->bytes, ranks, "a checkpoint");
    if (ranks > 0)
        FGMM_TRY(fgmm__h5_read(file, "bytes", H5T_NATIVE_INT64, (size_t)ranks, r->bytes));
cleanup:
    return status;
}

static fgmm_status read_record(const char *path, fgmm_stage_record *r)
{
    fgmm_status status = FGMM_OK;
    hid_t file = H5I_INVALID_HID;
    bool sealed = false;
    FGMM_TRY(fgmm__h5_check_seal(path, &sealed));
    if (!sealed)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: not a checkpoint of a build", path);
    FGMM_TRY(fgmm__h5_open(path, NULL, &file));
    FGMM_TRY(get(path, file, r));
cleanup:
    if (file >= 0)
        fgmm__h5_close(file, path);
    return status;
}

/* ---- going on ---- */

static fgmm_status resume(fgmm_stage *stage, const fgmm_stage_record *expected)
{
    fgmm_status status = FGMM_OK;
    fgmm_stage_record found = {.complete = false};
    const char *path = stage->path;
    if (access(path, F_OK) != 0) {
        fgmm__info("%s: no checkpoint; starting afresh", path);
        return FGMM_OK;
    }
    FGMM_TRY(read_record(path, &found));
    if (found.data != expected->data || found.rows != expected->rows)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: a checkpoint of other data; remove it or give the same files", path);
    if (found.options != expected->options)
        FGMM_FAIL(
            FGMM_ERR_INPUT,
            "%s: a checkpoint of another model or of other options; remove it or give the same line again",
            path);
    stage->record = found;
    found.bytes = NULL;
    fgmm__info("%s: going on %s", path,
               found.complete    ? "with the lists of all rows"
               : found.ranks > 0 ? "with the lists found so far"
                                 : "where nothing was found yet");
cleanup:
    free(found.bytes);
    return status;
}

/* Takes the blocks of this rank's rows out of the files that hold some of them. */
static fgmm_status take(void *context, fgmm_labels *labels)
{
    fgmm_status status = FGMM_OK;
    const fgmm_stage *stage = context;
    const fgmm_stage_record *r = &stage->record;
    char *path = NULL;
    for (int rank = 0; rank < r->ranks; rank++) {
        FGMM_TRY(name_file(stage->path, r->generation, rank, r->keyed, &path));
        FGMM_TRY(fgmm__labels_take(labels, path, r->bytes[rank]));
        free(path);
        path = NULL;
    }
cleanup:
    free(path);
    return status;
}

static fgmm_status name_files(fgmm_stage *stage, const char *output)
{
    fgmm_status status = FGMM_OK;
    const char *base = stage->path != NULL ? stage->path : output;
    int rank = fgmm_comm_rank(stage->comm);
    FGMM_TRY(name_file(base, stage->record.generation + 1, rank, false, &stage->labels_path));
    FGMM_TRY(name_file(base, stage->record.generation + 1, rank, true, &stage->keyed_path));
    const uint64_t made_from[] = {stage->record.data, stage->record.options};
    stage->files = (fgmm_rule_files){.path = stage->labels_path,
                                     .keyed_path = stage->keyed_path,
                                     .keep = stage->path != NULL,
                                     .seed = XXH3_64bits(made_from, sizeof made_from),
                                     .take = stage->record.ranks > 0 ? take : NULL,
                                     .context = stage};
cleanup:
    return status;
}

fgmm_status fgmm__stage_open(fgmm_comm *comm, const char *path, const char *output, bool again,
                             const fgmm_stage_record *expected, fgmm_stage *out)
{
    fgmm_status status = FGMM_OK;
    *out = (fgmm_stage){.comm = comm, .record = *expected};
    out->path = path != NULL ? strdup(path) : NULL;
    if (path != NULL && out->path == NULL)
        status = fgmm__fail(FGMM_ERR_RUNTIME, "out of memory");
    if (status == FGMM_OK && path != NULL && again)
        status = resume(out, expected);
    status = fgmm__comm_agree(comm, status);
    if (status != FGMM_OK) { /* what is there is not ours */
        free(out->path);
        out->path = NULL;
        goto cleanup;
    }
    if (path != NULL && out->record.ranks == 0 && fgmm_comm_rank(comm) == 0) {
        unlink(path);
        clean(path, -1, false);
    }
    FGMM_TRY(fgmm__comm_agree(comm, name_files(out, output)));
cleanup:
    return status;
}

fgmm_status fgmm__stage_check_backend(fgmm_stage *stage, const char *backend)
{
    char *its = stage->record.backend;
    if (stage->record.ranks > 0 && strcmp(its, backend) != 0)
        return fgmm__fail(FGMM_ERR_INPUT,
                          "%s: holds lists that the %s backend found, whose bits are not those of %s: give "
                          "--backend %s, or remove it",
                          stage->path, its, backend, its);
    snprintf(its, sizeof stage->record.backend, "%s", backend);
    return FGMM_OK;
}

void fgmm__stage_rule(const fgmm_stage *stage, fgmm_rule *rule)
{
    const fgmm_stage_record *r = &stage->record;
    if (r->ranks == 0)
        return;
    rule->known = r->known;
    if (r->complete || fgmm_comm_rank(stage->comm) == 0) /* else a sum over ranks is still to be taken */
        rule->looked_all = r->looked_all;
    if (!r->complete)
        return;
    rule->tau = r->tau;
    rule->epsilon = r->epsilon;
    rule->soar_limit = r->soar_limit;
    rule->least_gain = r->least_gain;
}

/* Collective: what these lists are, for the record. */
static fgmm_status describe(fgmm_stage *stage, fgmm_labels *labels, const fgmm_rule *rule, bool complete)
{
    fgmm_status status = FGMM_OK;
    fgmm_stage_record *r = &stage->record;
    int64_t bytes, *all = NULL, looked_all = rule->looked_all;
    double known = rule->known;
    status = fgmm__labels_sync(labels, &bytes);
    if (status == FGMM_OK)
        status = fgmm__alloc((size_t)fgmm_comm_size(stage->comm), sizeof *all, "a checkpoint", (void **)&all);
    FGMM_TRY(fgmm__comm_agree(stage->comm, status));
    FGMM_TRY(fgmm__comm_allgather(stage->comm, &bytes, sizeof bytes, all));
    FGMM_TRY(fgmm__comm_min_f64(stage->comm, &known, 1));
    if (!complete)
        FGMM_TRY(fgmm__comm_sum_i64(stage->comm, &looked_all, 1));
    r->complete = complete;
    r->keyed = !complete && rule->replication > 0;
    r->generation++;
    r->ranks = fgmm_comm_size(stage->comm);
    r->tau = rule->tau;
    r->epsilon = rule->epsilon;
    r->soar_limit = rule->soar_limit;
    r->least_gain = rule->least_gain;
    r->known = known;
    r->looked_all = looked_all;
    free(r->bytes);
    r->bytes = all;
    all = NULL;
cleanup:
    free(all);
    return status;
}

fgmm_status fgmm__stage_save(fgmm_stage *stage, fgmm_labels *labels, const fgmm_rule *rule, bool complete,
                             bool stopped)
{
    fgmm_status status = FGMM_OK;
    fgmm_stage_record *r = &stage->record;
    if (stage->path == NULL)
        return FGMM_OK;
    if (labels != NULL)
        FGMM_TRY(describe(stage, labels, rule, complete));
    r->stopped = stopped;
    if (fgmm_comm_rank(stage->comm) == 0) {
        status = write_record(stage->path, r);
        if (status == FGMM_OK && labels != NULL)
            clean(stage->path, r->generation, r->keyed);
    }
    FGMM_TRY(fgmm__comm_agree(stage->comm, status));
cleanup:
    return status;
}

void fgmm__stage_close(fgmm_stage *stage, bool remove)
{
    const fgmm_stage_record *r = &stage->record;
    if (stage->path != NULL && fgmm_comm_rank(stage->comm) == 0) {
        if (remove)
            unlink(stage->path);
        clean(stage->path, remove || r->ranks == 0 ? -1 : r->generation, r->keyed);
    }
    free(stage->record.bytes);
    free(stage->path);
    free(stage->labels_path);
    free(stage->keyed_path);
}
