/* Second lists of soar: first lists up, second ones home. */
#include "backend/cuda_backend.h"
#include "kernels/soar.h"

/* What a row takes beside itself: two lists and a key. */
static const size_t row_bytes = 2 * sizeof(int32_t) + sizeof(double);

int64_t fgmm__cuda_soar_bytes(int32_t k, int32_t dim)
{
    return (int64_t)k * dim * (int64_t)sizeof(double) + FGMM_SOAR_ROWS * (int64_t)row_bytes;
}

fgmm_status fgmm__cuda_soar_begin(fgmm_backend *backend, const double *means, int32_t k, int32_t dim,
                                  double lambda)
{
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    cuda->soar = (fgmm_soar_view){.k = k, .dim = dim, .lambda = lambda};
    return fgmm__cuda_put(cuda, BUFFER_SOAR_MEANS, means, (size_t)k * (size_t)dim * sizeof *means,
                          &cuda->soar.means);
}

fgmm_status fgmm__cuda_soar_tile(fgmm_backend *backend, const fgmm_tile *tile, const int32_t *first,
                                 int32_t *second, double *keys)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    fgmm_soar_view view = cuda->soar;
    size_t n = (size_t)tile->rows;
    double *on_device = NULL;
    FGMM_TRY(fgmm__cuda_reserve(cuda, BUFFER_SOAR_ROWS, n * row_bytes, &on_device));
    int32_t *firsts = (int32_t *)(on_device + n);
    view.data = tile->data;
    view.type = (fgmm_row_type)tile->dtype;
    view.rows = (int32_t)n;
    view.keys = on_device;
    view.first = firsts;
    view.second = firsts + n;
    FGMM_TRY(fgmm__cuda_upload(cuda, firsts, first, n * sizeof *first));
    FGMM_LAUNCH(fgmm__launch_soar(&view, cuda->stream));
    const fgmm__cuda_copy home[] = {{second, view.second, n * sizeof *second},
                                    {keys, view.keys, n * sizeof *keys}};
    FGMM_TRY(fgmm__cuda_downloads(cuda, home, 2));
cleanup:
    return status;
}
