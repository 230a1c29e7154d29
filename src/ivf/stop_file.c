/* The stop rule in an index: group `stop`, with attributes for what a reader wants to see and small datasets
 * for the regression. */
#define _GNU_SOURCE /* fallocate */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "io/h5.h"
#include "ivf/index.h"
#include "ivf/stop.h"

enum { STOP_VERSION = 1, ROOM_BYTES = 128 << 10 /* more than the group and HDF5's own take */ };

static const char *const orders[] = {"centroid", "posterior"};

/* ---- writing ---- */

static fgmm_status put_target(hid_t group, const char *what, int target, double value)
{
    char name[32];
    snprintf(name, sizeof name, "%s_%g", what, fgmm__stop_targets[target]);
    return fgmm__h5_put_f64(group, name, value);
}

static fgmm_status put_rule(hid_t group, const fgmm_stop_rule *rule)
{
    fgmm_status status = FGMM_OK;
    const hsize_t features = FGMM_STOP_FEATURES;
    FGMM_TRY(fgmm__h5_put_i64(group, "version", STOP_VERSION));
    FGMM_TRY(fgmm__h5_put_i64(group, "k", rule->k));
    FGMM_TRY(fgmm__h5_put_i64(group, "max_probes", rule->max_probes));
    FGMM_TRY(fgmm__h5_put_text(group, "probe_by", orders[rule->probe_by]));
    FGMM_TRY(fgmm__h5_put_i64(group, "training_queries", rule->queries));
    for (int i = 0; i < FGMM_STOP_TARGETS; i++) {
        FGMM_TRY(put_target(group, "threshold", i, rule->thresholds[i]));
        FGMM_TRY(put_target(group, "lists", i, rule->lists[i]));
    }
    FGMM_TRY(fgmm__h5_put_f64(group, "intercept", rule->to_come.intercept));
    FGMM_TRY(fgmm__h5_write(group, "mean", H5T_NATIVE_DOUBLE, 1, &features, rule->to_come.mean));
    FGMM_TRY(fgmm__h5_write(group, "scale", H5T_NATIVE_DOUBLE, 1, &features, rule->to_come.scale));
    FGMM_TRY(fgmm__h5_write(group, "weights", H5T_NATIVE_DOUBLE, 1, &features, rule->to_come.weights));
cleanup:
    return status;
}

static fgmm_status replace_group(const char *path, const fgmm_stop_rule *rule)
{
    fgmm_status status = FGMM_OK;
    hid_t file = H5I_INVALID_HID, group = H5I_INVALID_HID;
    fgmm__h5_lock();
    FGMM_TRY(fgmm__h5_open_write(path, NULL, &file));
    if (H5Lexists(file, "stop", H5P_DEFAULT) > 0 && H5Ldelete(file, "stop", H5P_DEFAULT) < 0)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: its old stop rule cannot be removed", path);
    FGMM_TRY(fgmm__h5_group(file, "stop", &group));
    FGMM_TRY(put_rule(group, rule));
cleanup:
    if (group >= 0)
        H5Gclose(group);
    fgmm_status closed = fgmm__h5_close(file, path);
    fgmm__h5_unlock();
    return status != FGMM_OK ? status : closed;
}

/* Takes room behind the file's end without changing its length: HDF5 does not survive a full disk. What is
 * not used is given back when HDF5 sets the length. */
static fgmm_status reserve(const fgmm_index *index)
{
    fgmm_status status = FGMM_OK;
    struct rlimit limit;
    int file = open(index->path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: cannot be written: %s", index->path, strerror(errno));
    /* The kernel holds a limit on files' sizes against writes, not against this. */
    bool too_large = getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
                     index->size_bytes + ROOM_BYTES > limit.rlim_cur;
    if (too_large)
        errno = EFBIG;
    if (too_large || (fallocate(file, FALLOC_FL_KEEP_SIZE, (off_t)index->size_bytes, ROOM_BYTES) != 0 &&
                      errno != EOPNOTSUPP))
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: no room for the stop rule: %s; the index is as it was", index->path,
                  strerror(errno));
cleanup:
    if (file >= 0)
        close(file);
    return status;
}

fgmm_status fgmm__stop_write(const fgmm_index *index, const fgmm_stop_rule *rule)
{
    fgmm_status status = FGMM_OK;
    uint64_t vectors = (uint64_t)index->postings * (uint64_t)index->dim * fgmm_dtype_bytes(index->dtype);
    bool skip = index->vectors_at > 0 && vectors > 0;
    FGMM_TRY(reserve(index));
    FGMM_TRY(fgmm__h5_break_seal(index->path));
    FGMM_TRY(replace_group(index->path, rule));
    FGMM_TRY(fgmm__h5_seal(index->path, NULL, skip ? index->vectors_at : 0,
                           skip ? index->vectors_at + vectors : 0));
cleanup:
    return status;
}

/* ---- reading ---- */

static fgmm_status get_target(hid_t group, const char *what, int target, double *value)
{
    char name[32];
    snprintf(name, sizeof name, "%s_%g", what, fgmm__stop_targets[target]);
    return fgmm__h5_get_f64(group, name, value);
}

static fgmm_status get_rule(hid_t group, fgmm_stop_rule *rule)
{
    fgmm_status status = FGMM_OK;
    int64_t k, max_probes;
    char order[16];
    fgmm_poisson *to_come = &rule->to_come;
    FGMM_TRY(fgmm__h5_get_i64(group, "k", &k));
    FGMM_TRY(fgmm__h5_get_i64(group, "max_probes", &max_probes));
    FGMM_TRY(fgmm__h5_get_text(group, "probe_by", order, sizeof order));
    FGMM_TRY(fgmm__h5_get_i64(group, "training_queries", &rule->queries));
    rule->k = k > 0 && k <= INT32_MAX ? (int32_t)k : 0;
    rule->max_probes = max_probes > 0 && max_probes <= INT32_MAX ? (int32_t)max_probes : 0;
    rule->probe_by = strcmp(order, orders[1]) == 0 ? FGMM_PROBE_POSTERIOR : FGMM_PROBE_CENTROID;
    for (int i = 0; i < FGMM_STOP_TARGETS; i++) {
        FGMM_TRY(get_target(group, "threshold", i, &rule->thresholds[i]));
        FGMM_TRY(get_target(group, "lists", i, &rule->lists[i]));
    }
    to_come->n_features = FGMM_STOP_FEATURES;
    FGMM_TRY(fgmm__h5_get_f64(group, "intercept", &to_come->intercept));
    FGMM_TRY(fgmm__h5_read(group, "mean", H5T_NATIVE_DOUBLE, FGMM_STOP_FEATURES, to_come->mean));
    FGMM_TRY(fgmm__h5_read(group, "scale", H5T_NATIVE_DOUBLE, FGMM_STOP_FEATURES, to_come->scale));
    FGMM_TRY(fgmm__h5_read(group, "weights", H5T_NATIVE_DOUBLE, FGMM_STOP_FEATURES, to_come->weights));
cleanup:
    return status;
}

static bool is_sound(const fgmm_index *index, const fgmm_stop_rule *rule)
{
    bool sound = rule->k > 0 && rule->max_probes > 0 && rule->max_probes <= index->k &&
                 isfinite(rule->to_come.intercept);
    for (int i = 0; i < FGMM_STOP_TARGETS; i++)
        sound = sound && isfinite(rule->thresholds[i]) && rule->thresholds[i] > 0;
    for (int i = 0; i < FGMM_STOP_FEATURES; i++)
        sound = sound && isfinite(rule->to_come.mean[i]) && isfinite(rule->to_come.weights[i]) &&
                rule->to_come.scale[i] > 0;
    return sound;
}

fgmm_status fgmm__stop_read(const fgmm_index *index, fgmm_stop_rule *rule)
{
    fgmm_status status = FGMM_OK;
    hid_t file = H5I_INVALID_HID, group = H5I_INVALID_HID;
    int64_t version = 0;
    *rule = (fgmm_stop_rule){.k = 0};
    fgmm__h5_lock();
    FGMM_TRY(fgmm__h5_open(index->path, NULL, &file));
    if (H5Lexists(file, "stop", H5P_DEFAULT) <= 0)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: holds no stop rule for --recall-target; learn one with fgmm search %s TRAIN_QUERIES "
                  "--learn-stop, or give --nprobe",
                  index->path, index->path);
    group = H5Gopen2(file, "stop", H5P_DEFAULT);
    if (group < 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: damaged: its stop rule is no group", index->path);
    FGMM_TRY(fgmm__h5_get_i64(group, "version", &version));
    if (version != STOP_VERSION)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: stop rule of version %lld, this program reads version %d; learn it again with "
                  "--learn-stop",
                  index->path, (long long)version, STOP_VERSION);
    FGMM_TRY(get_rule(group, rule));
    if (!is_sound(index, rule))
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: its stop rule makes no sense; learn it again with --learn-stop",
                  index->path);
cleanup:
    if (group >= 0)
        H5Gclose(group);
    fgmm__h5_close(file, index->path);
    fgmm__h5_unlock();
    return status;
}
