#include "export/sample.h"

#include <omp.h>
#include <stdlib.h>

#include "base/log.h"
#include "io/reader.h"
#include "io/writer.h"
#include "model/draw.h"

enum { PIECE_BYTES = 16 << 20 };

typedef struct {
    fgmm_draw *draw;
    int32_t dim;
    fgmm_dtype dtype;
    int64_t piece_rows;
    double *room;  /* [threads][dim] */
    float *floats; /* [piece_rows][dim] */
    void *stored;  /* [piece_rows][dim] of dtype */
} sampler;

static fgmm_status create(sampler *s, const fgmm_model *model, uint64_t seed)
{
    fgmm_status status = FGMM_OK;
    size_t dim = (size_t)s->dim;
    s->piece_rows = (int64_t)(PIECE_BYTES / (dim * sizeof(float))) + 1;
    FGMM_TRY(fgmm__draw_create(model, seed, &s->draw));
    FGMM_ALLOC(s->room, dim * (size_t)omp_get_max_threads(), "drawn rows");
    FGMM_ALLOC(s->floats, dim * (size_t)s->piece_rows, "drawn rows");
    FGMM_TRY(fgmm__alloc(dim * (size_t)s->piece_rows, fgmm_dtype_bytes(s->dtype), "drawn rows", &s->stored));
cleanup:
    return status;
}

static fgmm_status put_piece(sampler *s, fgmm_writer *writer, int64_t begin, int64_t n, int64_t *clipped)
{
    int32_t column;
    size_t values = (size_t)n * (size_t)s->dim;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        fgmm__draw_row(s->draw, begin + i, s->room + (size_t)omp_get_thread_num() * (size_t)s->dim,
                       s->floats + (size_t)i * (size_t)s->dim);
    fgmm__from_f32(s->dtype, s->floats, values, s->stored);
    *clipped += fgmm__count_clipped(s->dtype, s->floats, values);
    int64_t bad = fgmm__find_nonfinite(s->dtype, s->stored, n, s->dim, &column);
    if (bad >= 0)
        return fgmm__fail(FGMM_ERR_INPUT, "row %lld of the sample holds %g (column %d), too large for %s",
                          (long long)(begin + bad), (double)s->floats[bad * s->dim + column], column,
                          fgmm_dtype_name(s->dtype));
    return fgmm__writer_append(writer, s->stored, n);
}

fgmm_status fgmm__export_sample(const fgmm_model *model, int64_t n, uint64_t seed, fgmm_dtype dtype,
                                const char *path, fgmm_comm *comm, int64_t *clipped)
{
    fgmm_status status = FGMM_OK;
    fgmm_writer *writer = NULL;
    sampler s = {.dim = fgmm_model_dim(model), .dtype = dtype};
    *clipped = 0;
    fgmm__progress_begin("drawing", "rows", n);
    FGMM_TRY(create(&s, model, seed));
    FGMM_TRY(fgmm__writer_open(path, n, s.dim, dtype, &writer));
    for (int64_t begin = 0; begin < n; begin += s.piece_rows) {
        int64_t count = n - begin < s.piece_rows ? n - begin : s.piece_rows;
        FGMM_TRY(put_piece(&s, writer, begin, count, clipped));
        fgmm__progress_add(count);
        if (comm != NULL)
            FGMM_TRY(fgmm__comm_tick(comm));
    }
    fgmm_writer *whole = writer;
    writer = NULL;
    FGMM_TRY(fgmm__writer_finish(whole));
cleanup:
    fgmm__progress_end();
    fgmm__writer_abandon(writer);
    fgmm__draw_destroy(s.draw);
    free(s.room);
    free(s.floats);
    free(s.stored);
    return status;
}
