#include "backend/cuda_rank.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS, CENTRE, BEGIN, SIZE, NORMS, LONGEST, ROW_OPERANDS, QUERY_OPERANDS, TERMS };
_Static_assert((int)TERMS + 1 == (int)FGMM__RANK_ROOMS, "every room has a place");

/* A room with these bytes; out points to a pointer of any type. from may be NULL. */
static fgmm_status put(fgmm__cuda_rank *rank, int which, const void *from, size_t bytes, void *out)
{
    fgmm_status status = FGMM_OK;
    void *to = NULL;
    FGMM_TRY(
        fgmm__cuda_make_room(rank->cuda->base.device, &rank->rooms[which], bytes, "the order of lists", &to));
    if (from != NULL)
        FGMM_TRY(fgmm__cuda_upload(rank->cuda, to, from, bytes));
    memcpy(out, &to, sizeof to);
cleanup:
    return status;
}

static fgmm_status put_view(fgmm__cuda_rank *rank, const float *centroids, int32_t n, int32_t dim)
{
    fgmm_status status = FGMM_OK;
    fgmm_list_view *view = &rank->view;
    int32_t pitch = fgmm__cuda_list_pitch(FGMM_F32, dim);
    char *rows = NULL;
    float *mean = NULL;
    uint32_t zero = 0;
    FGMM_ALLOC(rows, (size_t)n * (size_t)pitch, "centroids");
    FGMM_ALLOC(mean, dim, "centroids");
    for (int32_t j = 0; j < n; j++)
        memcpy(rows + (size_t)j * (size_t)pitch, centroids + (size_t)j * dim,
               (size_t)dim * sizeof *centroids);
    for (int32_t d = 0; d < dim; d++) {
        double sum = 0;
        for (int32_t j = 0; j < n; j++)
            sum += centroids[(size_t)j * dim + d];
        mean[d] = (float)(sum / n);
    }
    *view = (fgmm_list_view){.pitch = pitch, .type = FGMM_ROWS_F32, .dim = dim, .lists = 1};
    FGMM_TRY(put(rank, ROWS, rows, (size_t)n * (size_t)pitch, &view->rows));
    FGMM_TRY(put(rank, CENTRE, mean, (size_t)dim * sizeof *mean, &view->centres));
    FGMM_TRY(put(rank, BEGIN, &zero, sizeof zero, &view->begin));
    FGMM_TRY(put(rank, SIZE, &n, sizeof n, &view->size));
    FGMM_TRY(put(rank, NORMS, NULL, (size_t)n * sizeof *view->norms, &view->norms));
    FGMM_TRY(put(rank, LONGEST, NULL, sizeof *view->longest, &view->longest));
    FGMM_LAUNCH(fgmm__launch_list_norms(view, rank->cuda->stream));
cleanup:
    free(rows);
    free(mean);
    return status;
}

fgmm_status fgmm__cuda_rank_open(fgmm__cuda_rank *rank, fgmm__cuda_backend *cuda, const float *centroids,
                                 int32_t lists, int32_t dim)
{
    fgmm_status status = FGMM_OK;
    fgmm_list_rank shape = {.rows = NULL};
    rank->cuda = cuda;
    FGMM_TRY(put_view(rank, centroids, lists, dim));
    shape.centroids = rank->view;
    if (fgmm__list_rank_shape(lists, dim, 1, 1, &shape)) {
        FGMM_TRY(put(rank, ROW_OPERANDS, NULL, fgmm__list_rank_row_bytes(&shape), &rank->operands));
        shape.rows = rank->operands;
        FGMM_LAUNCH(fgmm__launch_list_rank_rows(&shape, cuda->stream));
    }
    rank->lists = lists;
    FGMM_TRY(fgmm__stream_sync(cuda->stream, cuda->base.comm));
cleanup:
    return status;
}

void fgmm__cuda_rank_close(fgmm__cuda_rank *rank)
{
    for (int r = 0; r < FGMM__RANK_ROOMS; r++)
        if (rank->cuda != NULL)
            fgmm__device_free(rank->cuda->base.device, rank->rooms[r].pointer);
    memset(rank, 0, sizeof *rank);
}

fgmm_status fgmm__cuda_rank_probes(fgmm__cuda_rank *rank, fgmm__cuda_finder *finder, int32_t nprobe,
                                   int32_t *probes)
{
    fgmm_status status = FGMM_OK;
    fgmm_list_rank work = {.centroids = rank->view, .rows = rank->operands};
    if (fgmm__list_rank_shape(rank->lists, rank->view.dim, finder->queries.n, nprobe, &work)) {
        FGMM_TRY(put(rank, QUERY_OPERANDS, NULL, fgmm__list_rank_query_bytes(&work), &work.queries));
        FGMM_TRY(put(rank, TERMS, NULL, (size_t)work.padded_queries * sizeof *work.terms, &work.terms));
        FGMM_TRY(fgmm__cuda_finder_rank(finder, &work, nprobe));
    } else { /* as rows of a list that every query visits */
        FGMM_TRY(fgmm__cuda_finder_begin(finder, nprobe, NULL, 1, 1, 1, rank->lists, false, false));
        FGMM_TRY(fgmm__cuda_finder_scan(finder, &rank->view));
    }
    FGMM_LAUNCH(fgmm__launch_list_probes(&finder->queries, probes, rank->cuda->stream));
cleanup:
    return status;
}
