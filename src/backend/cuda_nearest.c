/* The k nearest among all rows of a dataset, which pass by as tiles: each piece of a tile is a list that
 * every query visits. */
#include "backend/cuda_finder.h"

#include <stdlib.h>

struct fgmm__cuda_nearest {
    fgmm__cuda_finder finder;
    fgmm__cuda_room centre, begin, size, longest, squares, norms, rows;
    int64_t seen; /* rows so far */
    int32_t k;
    bool begun; /* the type of the rows is known */
    fgmm_list_view view;
};

void fgmm__cuda_nearest_destroy(fgmm__cuda_nearest *nearest)
{
    if (nearest == NULL)
        return;
    fgmm_device *device = nearest->finder.cuda->base.device;
    fgmm__cuda_finder_free(&nearest->finder);
    fgmm__device_free(device, nearest->centre.pointer);
    fgmm__device_free(device, nearest->begin.pointer);
    fgmm__device_free(device, nearest->size.pointer);
    fgmm__device_free(device, nearest->longest.pointer);
    fgmm__device_free(device, nearest->squares.pointer);
    fgmm__device_free(device, nearest->norms.pointer);
    fgmm__device_free(device, nearest->rows.pointer);
    free(nearest);
}

/* Rows are looked at about the mean of the queries. */
static fgmm_status put_centre(fgmm__cuda_nearest *nearest, const float *queries, int64_t n, int32_t dim)
{
    fgmm_status status = FGMM_OK;
    float *mean = NULL, *centre = NULL;
    fgmm__cuda_backend *cuda = nearest->finder.cuda;
    FGMM_ALLOC(mean, dim, "the queries' mean");
    for (int32_t d = 0; d < dim; d++) {
        double sum = 0;
        for (int64_t q = 0; q < n; q++)
            sum += queries[q * dim + d];
        mean[d] = (float)(sum / (double)n);
    }
    size_t bytes = (size_t)dim * sizeof *mean;
    FGMM_TRY(fgmm__cuda_make_room(cuda->base.device, &nearest->centre, bytes, "the queries' mean", &centre));
    FGMM_TRY(fgmm__cuda_upload(cuda, centre, mean, bytes));
    nearest->view.centres = centre;
cleanup:
    free(mean);
    return status;
}

fgmm_status fgmm__cuda_nearest_begin(fgmm_backend *backend, const float *queries, int64_t n, int32_t dim,
                                     int32_t k)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = (fgmm__cuda_backend *)backend;
    fgmm__cuda_nearest *nearest = cuda->nearest;
    if (nearest == NULL) {
        FGMM_ALLOC(nearest, 1, "the nearest rows");
        nearest->finder.cuda = cuda;
        cuda->nearest = nearest;
    }
    nearest->seen = 0;
    nearest->k = k;
    nearest->begun = false;
    nearest->view = (fgmm_list_view){.dim = dim, .lists = 1};
    FGMM_TRY(put_centre(nearest, queries, n, dim));
    FGMM_TRY(fgmm__cuda_finder_queries(&nearest->finder, queries, n, dim));
cleanup:
    return status;
}

/* Where the type of the rows is known. */
static fgmm_status begin_rows(fgmm__cuda_nearest *nearest, fgmm_dtype dtype)
{
    fgmm_status status = FGMM_OK;
    bool whole = false;
    if (nearest->begun)
        return FGMM_OK;
    if (fgmm__cuda_list_bytes_serve(dtype, nearest->view.dim)) {
        FGMM_TRY(fgmm__cuda_finder_bytes(&nearest->finder, dtype));
        FGMM_TRY(fgmm__cuda_finder_whole(&nearest->finder, &whole));
    }
    FGMM_TRY(fgmm__cuda_finder_begin(&nearest->finder, nearest->k, NULL, 1, 1, 1, INT32_MAX, false, whole));
    nearest->view.type = (fgmm_row_type)dtype;
    nearest->begun = true;
cleanup:
    return status;
}

/* The tile's rows at the pitch of lists: themselves where that is theirs, else a copy. */
static fgmm_status place_rows(fgmm__cuda_nearest *nearest, const fgmm_tile *tile, const char **rows)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = nearest->finder.cuda;
    size_t row_bytes = (size_t)tile->dim * fgmm_dtype_bytes(tile->dtype);
    size_t pitch = (size_t)fgmm__cuda_list_pitch(tile->dtype, tile->dim);
    char *copy = NULL;
    *rows = tile->data;
    if (pitch == row_bytes && (uintptr_t)tile->data % 16 == 0)
        goto cleanup;
    FGMM_TRY(fgmm__cuda_make_room(cuda->base.device, &nearest->rows, (size_t)tile->rows * pitch,
                                  "padded rows", &copy));
    FGMM_CUDA(cudaMemsetAsync(copy, 0, (size_t)tile->rows * pitch, cuda->stream));
    FGMM_CUDA(cudaMemcpy2DAsync(copy, pitch, tile->data, row_bytes, row_bytes, (size_t)tile->rows,
                                cudaMemcpyDeviceToDevice, cuda->stream));
    *rows = copy;
cleanup:
    return status;
}

static fgmm_status scan_piece(fgmm__cuda_nearest *nearest, const char *rows, int64_t first_id, int64_t n)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_backend *cuda = nearest->finder.cuda;
    fgmm_device *device = cuda->base.device;
    fgmm_list_view *view = &nearest->view;
    bool whole = nearest->finder.queries.whole;
    uint32_t zero = 0, *begin = NULL;
    int32_t count = (int32_t)n, *size = NULL;
    view->rows = rows;
    view->first_id = first_id;
    view->squares = NULL;
    view->norms = NULL;
    FGMM_TRY(fgmm__cuda_make_room(device, &nearest->begin, sizeof zero, "a list of rows", &begin));
    FGMM_TRY(fgmm__cuda_make_room(device, &nearest->size, sizeof count, "a list of rows", &size));
    FGMM_TRY(fgmm__cuda_upload(cuda, begin, &zero, sizeof zero));
    FGMM_TRY(fgmm__cuda_upload(cuda, size, &count, sizeof count));
    view->begin = begin;
    view->size = size;
    FGMM_TRY(fgmm__cuda_make_room(device, &nearest->longest, sizeof *view->longest, "a list of rows",
                                  &view->longest));
    if (whole)
        FGMM_TRY(fgmm__cuda_make_room(device, &nearest->squares, (size_t)n * sizeof *view->squares,
                                      "constants of rows", &view->squares));
    else
        FGMM_TRY(fgmm__cuda_make_room(device, &nearest->norms, (size_t)n * sizeof *view->norms,
                                      "constants of rows", &view->norms));
    FGMM_LAUNCH(fgmm__launch_list_norms(view, cuda->stream));
    FGMM_TRY(fgmm__cuda_finder_scan(&nearest->finder, view));
cleanup:
    return status;
}

fgmm_status fgmm__cuda_nearest_tile(fgmm_backend *backend, const fgmm_tile *tile)
{
    fgmm_status status = FGMM_OK;
    fgmm__cuda_nearest *nearest = ((fgmm__cuda_backend *)backend)->nearest;
    const char *rows = NULL;
    FGMM_TRY(begin_rows(nearest, tile->dtype));
    FGMM_TRY(place_rows(nearest, tile, &rows));
    nearest->view.pitch = fgmm__cuda_list_pitch(tile->dtype, tile->dim);
    for (int64_t at = 0, n; at < tile->rows; at += n) {
        n = fgmm__cuda_finder_piece(&nearest->finder, nearest->seen);
        n = n < tile->rows - at ? n : tile->rows - at;
        FGMM_TRY(scan_piece(nearest, rows + at * nearest->view.pitch, tile->begin + at, n));
        nearest->seen += n;
    }
cleanup:
    return status;
}

fgmm_status fgmm__cuda_nearest_end(fgmm_backend *backend, fgmm_neighbor *nearest, int32_t *counts)
{
    fgmm__cuda_nearest *found = ((fgmm__cuda_backend *)backend)->nearest;
    if (found->begun)
        return fgmm__cuda_finder_read(&found->finder, nearest, counts, NULL);
    for (int64_t q = 0; q < found->finder.queries.n; q++) /* no row came */
        counts[q] = 0;
    return FGMM_OK;
}
