#include "ivf/results_file.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/h5.h"
#include "io/knn.h"
#include "io/writer.h"

static bool ends_with(const char *path, const char *end)
{
    size_t length = strlen(path), tail = strlen(end);
    return length >= tail && strcmp(path + length - tail, end) == 0;
}

static bool is_hdf5(const char *path)
{
    return ends_with(path, ".h5") || ends_with(path, ".hdf5");
}

fgmm_status fgmm__results_check(const char *path, int settings, int64_t rows)
{
    if (is_hdf5(path))
        return FGMM_OK;
    if (!ends_with(path, ".ivecs") && !ends_with(path, ".ibin"))
        return fgmm__fail(FGMM_ERR_INPUT, "%s: neighbours are written as .h5, .ivecs or .ibin", path);
    if (settings > 1)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: holds the results of one nprobe; give one, or write to .h5",
                          path);
    if (rows > (int64_t)INT32_MAX + 1)
        return fgmm__fail(FGMM_ERR_INPUT,
                          "%s: the format has 32-bit ids, too few for %lld rows; write to .h5", path,
                          (long long)rows);
    return FGMM_OK;
}

static fgmm_status write_hdf5(const char *path, int settings, int64_t queries, int32_t k, const int64_t *ids,
                              const float *distances)
{
    fgmm_status status = FGMM_OK;
    char *aside = NULL;
    hid_t file = H5I_INVALID_HID;
    hsize_t shape[3] = {(hsize_t)settings, (hsize_t)queries, (hsize_t)k};
    int drop = settings == 1 ? 1 : 0;
    FGMM_TRY(fgmm__aside_name(path, &aside));
    FGMM_TRY(fgmm__h5_create_small(aside, &file));
    FGMM_TRY(fgmm__h5_write(file, "ids", H5T_NATIVE_INT64, 3 - drop, shape + drop, ids));
    FGMM_TRY(fgmm__h5_write(file, "distances", H5T_NATIVE_FLOAT, 3 - drop, shape + drop, distances));
    status = fgmm__h5_close(file, path);
    file = H5I_INVALID_HID;
    FGMM_TRY(status);
    FGMM_TRY(fgmm__aside_commit(aside, path));
cleanup:
    if (file >= 0)
        fgmm__h5_close(file, path);
    if (status != FGMM_OK && aside != NULL)
        unlink(aside);
    free(aside);
    return status;
}

fgmm_status fgmm__results_write(const char *path, int settings, int64_t queries, int32_t k, int64_t *ids,
                                float *distances)
{
    if (is_hdf5(path))
        return write_hdf5(path, settings, queries, k, ids, distances);
    return fgmm__knn_write(path, &(fgmm_knn){.queries = queries, .k = k, .ids = ids, .distances = distances},
                           NULL);
}
