#include "export/centroids.h"

#include <stdlib.h>

#include "base/status.h"
#include "io/writer.h"
#include "model/model.h"

fgmm_status fgmm__export_centroids(const fgmm_model *model, const char *path)
{
    fgmm_status status = FGMM_OK;
    fgmm_writer *writer = NULL;
    float *rows = NULL;
    int32_t k = fgmm_model_k(model), dim = fgmm_model_dim(model);
    FGMM_TRY(fgmm__model_centroids(model, &rows));
    FGMM_TRY(fgmm__writer_open(path, k, dim, FGMM_F32, &writer));
    FGMM_TRY(fgmm__writer_append(writer, rows, k));
    status = fgmm__writer_finish(writer);
    writer = NULL;
cleanup:
    fgmm__writer_abandon(writer);
    free(rows);
    return status;
}
