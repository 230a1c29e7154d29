#include "init/init.h"

#include "base/philox.h"
#include "data/sample.h"

#include <math.h>
#include <stdlib.h>

enum { ORIGIN_ROWS = 4096 };

fgmm_status fgmm__init_random(const fgmm_dataset *dataset, fgmm_comm *comm, uint64_t seed, int32_t k,
                              double *means)
{
    fgmm_status status = FGMM_OK;
    float *rows = NULL;
    FGMM_TRY(fgmm__sample_rows(dataset, comm, seed, FGMM_RNG_START_ROWS, k, NULL, &rows));
    size_t values = (size_t)k * (size_t)fgmm_dataset_dim(dataset);
    for (size_t i = 0; i < values; i++)
        means[i] = rows[i];
cleanup:
    free(rows);
    return status;
}

fgmm_status fgmm__init_origin(const fgmm_dataset *dataset, fgmm_comm *comm, uint64_t seed, double *origin)
{
    fgmm_status status = FGMM_OK;
    float *rows = NULL;
    int32_t dim = fgmm_dataset_dim(dataset);
    fgmm_dtype dtype = fgmm_dataset_dtype(dataset);
    int64_t n = fgmm_dataset_rows(dataset) < ORIGIN_ROWS ? fgmm_dataset_rows(dataset) : ORIGIN_ROWS;
    FGMM_TRY(fgmm__sample_rows(dataset, comm, seed, FGMM_RNG_SAMPLE, n, NULL, &rows));
    for (int32_t d = 0; d < dim; d++) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += rows[(size_t)i * dim + d];
        /* rounded to what fp32 holds, so that every backend subtracts the same number */
        origin[d] =
            dtype == FGMM_U8 || dtype == FGMM_I8 ? rint(sum / (double)n) : (double)(float)(sum / (double)n);
    }
cleanup:
    free(rows);
    return status;
}
