#include "backend/poor.h"

#include <math.h>
#include <stdlib.h>

fgmm_status fgmm__poor_create(int32_t capacity, fgmm_poor **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_poor *poor = NULL;
    FGMM_ALLOC(poor, 1, "badly explained rows");
    FGMM_ALLOC(poor->heap, capacity, "badly explained rows");
    poor->capacity = capacity;
    *out = poor;
    poor = NULL;
cleanup:
    fgmm__poor_destroy(poor);
    return status;
}

void fgmm__poor_destroy(fgmm_poor *poor)
{
    if (poor == NULL)
        return;
    free(poor->heap);
    free(poor->labels);
    free(poor->log_density);
    free(poor);
}

int fgmm__poor_compare(const void *a, const void *b)
{
    const fgmm_poor_row *x = a, *y = b;
    if (x->log_density != y->log_density)
        return x->log_density < y->log_density ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

double fgmm__poor_limit(const fgmm_poor *poor)
{
    return poor->size < poor->capacity ? INFINITY : poor->heap[0].log_density;
}

void fgmm__poor_offer(fgmm_poor *poor, fgmm_poor_row row)
{
    fgmm_poor_row *heap = poor->heap;
    int32_t i = 0;
    if (poor->size < poor->capacity) {
        for (i = poor->size++; i > 0 && fgmm__poor_compare(&heap[(i - 1) / 2], &row) < 0; i = (i - 1) / 2)
            heap[i] = heap[(i - 1) / 2];
    } else {
        if (fgmm__poor_compare(&row, &heap[0]) >= 0)
            return;
        for (int32_t child = 1; child < poor->size; child = 2 * i + 1) {
            if (child + 1 < poor->size && fgmm__poor_compare(&heap[child], &heap[child + 1]) < 0)
                child++;
            if (fgmm__poor_compare(&heap[child], &row) <= 0)
                break;
            heap[i] = heap[child];
            i = child;
        }
    }
    heap[i] = row;
}

/* All log-densities come to the host. */
static fgmm_status tile_by_assignment(fgmm_backend *backend, const fgmm_tile *tile, fgmm_poor *poor)
{
    fgmm_status status = FGMM_OK;
    if (tile->rows > poor->room) {
        free(poor->labels);
        free(poor->log_density);
        poor->labels = NULL, poor->log_density = NULL;
        poor->room = 0;
        FGMM_ALLOC(poor->labels, tile->rows, "labels of a tile");
        FGMM_ALLOC(poor->log_density, tile->rows, "log-densities of a tile");
        poor->room = tile->rows;
    }
    FGMM_TRY(backend->ops->assign_tile(backend, tile, poor->labels, NULL, poor->log_density));
    for (int64_t i = 0; i < tile->rows; i++)
        if (!(poor->log_density[i] > fgmm__poor_limit(poor)) && /* as nearly all are */
            (tile->weights == NULL || tile->weights[i] > 0))
            fgmm__poor_offer(poor, (fgmm_poor_row){poor->log_density[i], tile->begin + i});
cleanup:
    return status;
}

fgmm_status fgmm__poor_tile(fgmm_backend *backend, const fgmm_tile *tile, fgmm_poor *poor)
{
    if (backend->ops->poor_tile != NULL)
        return backend->ops->poor_tile(backend, tile, poor);
    return tile_by_assignment(backend, tile, poor);
}
