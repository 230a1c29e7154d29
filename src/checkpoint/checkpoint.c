#define _GNU_SOURCE /* asprintf */

#include "checkpoint/checkpoint.h"

#include "base/log.h"
#include "io/h5.h"
#include "io/writer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHECKPOINT_VERSION = 2 };

static fgmm_status older_name(const char *path, char **out)
{
    if (asprintf(out, "%s.1", path) < 0) {
        *out = NULL;
        return fgmm__fail(FGMM_ERR_RUNTIME, "out of memory: a file name");
    }
    return FGMM_OK;
}

/* NULL: nothing. */
static fgmm_status put_model(hid_t file, const char *name, const fgmm_model *model)
{
    fgmm_status status = FGMM_OK;
    hid_t group = -1;
    if (model == NULL)
        return FGMM_OK;
    FGMM_TRY(fgmm__h5_group(file, name, &group));
    FGMM_TRY(fgmm__model_put(model, group));
cleanup:
    if (group >= 0)
        H5Gclose(group);
    return status;
}

static fgmm_status put(const fgmm_checkpoint *checkpoint, hid_t file)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(fgmm__h5_put_text(file, "format", "fgmm-checkpoint"));
    FGMM_TRY(fgmm__h5_put_i64(file, "version", CHECKPOINT_VERSION));
    FGMM_TRY(fgmm__h5_put_i64(file, "phase", checkpoint->phase));
    FGMM_TRY(fgmm__h5_put_i64(file, "stopped", checkpoint->stopped));
    FGMM_TRY(fgmm__h5_put_i64(file, "data_fingerprint", (int64_t)checkpoint->data_fingerprint));
    FGMM_TRY(fgmm__h5_put_i64(file, "options_hash", (int64_t)checkpoint->options_hash));
    FGMM_TRY(fgmm__h5_put_i64(file, "run", checkpoint->run));
    FGMM_TRY(put_model(file, "model", checkpoint->model));
    FGMM_TRY(put_model(file, "best", checkpoint->best));
cleanup:
    return status;
}

fgmm_status fgmm__checkpoint_write(const char *path, const fgmm_checkpoint *checkpoint)
{
    fgmm_status status = FGMM_OK;
    hid_t file = -1;
    char *aside = NULL, *older = NULL;
    FGMM_TRY(older_name(path, &older));
    FGMM_TRY(fgmm__aside_name(path, &aside));
    FGMM_TRY(fgmm__h5_create_small(aside, &file));
    FGMM_TRY(put(checkpoint, file));
    status = fgmm__h5_close(file, aside);
    file = -1;
    if (status != FGMM_OK)
        goto cleanup;
    FGMM_TRY(fgmm__h5_seal(aside, NULL, 0, 0));
    if (rename(path, older) != 0 && errno != ENOENT)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: cannot keep the checkpoint before: %s", path, strerror(errno));
    FGMM_TRY(fgmm__aside_commit(aside, path));
cleanup:
    if (file >= 0)
        fgmm__h5_close(file, aside);
    if (status != FGMM_OK && aside != NULL)
        unlink(aside);
    free(aside);
    free(older);
    return status;
}

static fgmm_status get_model(hid_t file, const char *path, const char *name, fgmm_model **out)
{
    fgmm_status status = FGMM_OK;
    fgmm__h5_lock();
    hid_t group = H5Gopen2(file, name, H5P_DEFAULT);
    fgmm__h5_unlock();
    if (group < 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: the group `%s` is missing", path, name);
    FGMM_TRY(fgmm__model_get(group, path, out));
cleanup:
    if (group >= 0)
        H5Gclose(group);
    return status;
}

static fgmm_status read_one(const char *path, fgmm_checkpoint *out)
{
    fgmm_status status = FGMM_OK;
    hid_t file = -1;
    bool sealed = false;
    char format[32];
    int64_t version, phase, stopped, data, options;
    fgmm_checkpoint read = {0};
    FGMM_TRY(fgmm__h5_check_seal(path, &sealed));
    if (!sealed)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: not a checkpoint of fgmm", path);
    FGMM_TRY(fgmm__h5_open(path, NULL, &file));
    FGMM_TRY(fgmm__h5_get_text(file, "format", format, sizeof format));
    FGMM_TRY(fgmm__h5_get_i64(file, "version", &version));
    if (strcmp(format, "fgmm-checkpoint") != 0 || version != CHECKPOINT_VERSION)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: not a checkpoint of this version (format `%s`, version %lld)", path,
                  format, (long long)version);
    FGMM_TRY(fgmm__h5_get_i64(file, "phase", &phase));
    FGMM_TRY(fgmm__h5_get_i64(file, "stopped", &stopped));
    FGMM_TRY(fgmm__h5_get_i64(file, "data_fingerprint", &data));
    FGMM_TRY(fgmm__h5_get_i64(file, "options_hash", &options));
    read = (fgmm_checkpoint){.phase = (fgmm_phase)phase,
                             .stopped = stopped != 0,
                             .data_fingerprint = (uint64_t)data,
                             .options_hash = (uint64_t)options};
    FGMM_TRY(fgmm__h5_get_i64(file, "run", &read.run));
    if (read.phase != FGMM_PHASE_START)
        FGMM_TRY(get_model(file, path, "model", &read.model));
    if (read.run > 0)
        FGMM_TRY(get_model(file, path, "best", &read.best));
    *out = read;
    read = (fgmm_checkpoint){0};
cleanup:
    fgmm_model_destroy(read.model);
    fgmm_model_destroy(read.best);
    if (file >= 0)
        fgmm__h5_close(file, path);
    return status;
}

fgmm_status fgmm__checkpoint_read(const char *path, fgmm_checkpoint *out, bool *found)
{
    fgmm_status status = FGMM_OK;
    char *older = NULL;
    FGMM_TRY(older_name(path, &older));
    bool first = access(path, F_OK) == 0, second = access(older, F_OK) == 0;
    *found = first || second;
    if (first) {
        status = read_one(path, out);
        if (status == FGMM_OK || !second)
            goto cleanup;
        fgmm__warn("%s; going back to the one before, %s", fgmm_error_message(), older);
        fgmm_error_clear();
    }
    if (second)
        status = read_one(older, out);
cleanup:
    free(older);
    return status;
}

void fgmm__checkpoint_remove(const char *path)
{
    char *older = NULL;
    unlink(path);
    if (older_name(path, &older) == FGMM_OK)
        unlink(older);
    free(older);
}
