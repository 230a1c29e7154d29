/* The Hopper screen for full components, as C sees it: upper bounds of all log2-densities of a chunk's rows
 * from one fp16 product (full_screen.cu says how). It fills lists of candidates (kernels.h: fgmm_full_pairs),
 * whose values full_pairs.cu computes in float64. */
#ifndef FGMM_SM90_FULL_SCREEN_H
#define FGMM_SM90_FULL_SCREEN_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    FGMM_FULL_TILE = 16,       /* components a record */
    FGMM_FULL_COLUMNS = 8,     /* of the product a component has */
    FGMM_FULL_ROW_GROUP = 256, /* rows are padded to a multiple of this */
    FGMM_FULL_MAX_DIM = 128,
    FGMM_FULL_CHUNK_QUANTA = 99 /* a chunk is three waves of 256 rows on 132 multiprocessors; lists and values
                                   of its rows are 130 MB */
};

typedef struct {
    void *records; /* [tiles][fgmm__full_record_bytes]: seven vectors a component; full_tables.cu */
    void *wholes;  /* [k][fgmm__full_whole_bytes]: its factor */
    int32_t k, tiles, halves;
    float scale; /* on rows; a power of two, so that fp16 neither overflows nor loses small values */
} fgmm_full_tables;

/* Rows in fp16, scaled, in the layout of the product's operand. */
typedef struct {
    void *halves;  /* [rows padded / 64][halves][64][64] halves, swizzled; 16-byte aligned */
    float *square; /* [rows padded]: squared norms; infinity: not to be screened */
} fgmm_full_rows;

int64_t fgmm__full_record_bytes(int32_t dim);
int64_t fgmm__full_whole_bytes(int32_t dim);
/* Bytes of `halves` for so many rows, a multiple of FGMM_FULL_ROW_GROUP. */
int64_t fgmm__full_row_bytes(int32_t dim, int32_t rows);

/* spread: a power of two >= any |mean - origin| in any dimension. tables->records and ->wholes have room, and
 * are 16-byte aligned; the other fields are filled in. */
int fgmm__launch_full_tables(const fgmm_model_view *model, const double *origin, const float *origin32,
                             double spread, fgmm_full_tables *tables, fgmm_stream stream);
/* The chunk's rows; open: only those of them, n_open, in that order. Rows further than 64 spread from the
 * origin are marked. */
int fgmm__launch_full_rows(const fgmm_row_view *rows, const fgmm_full_tables *tables, const int32_t *open,
                           const int32_t *n_open, const fgmm_full_rows *to, fgmm_stream stream);
/* Of `count` rows, all of a chunk: makes lists of one entry: the component with the largest upper bound;
 * runner_up is the largest of the others. Marked rows become dense. multiprocessors: of the device. */
int fgmm__launch_full_best(const fgmm_full_tables *tables, const fgmm_full_rows *rows, int32_t count,
                           const fgmm_full_pairs *pairs, int multiprocessors, fgmm_stream stream);
/* Of open rows, at most `count`: adds to their lists the other components whose upper bound reaches the row's
 * threshold; a row with more than FGMM_CANDIDATES in all becomes dense. The first takes seven vectors of each
 * component for its bounds, the other the whole factor, sixteen times the work. */
int fgmm__launch_full_candidates(const fgmm_full_tables *tables, const fgmm_full_rows *rows, int32_t count,
                                 const fgmm_full_pairs *pairs, int multiprocessors, fgmm_stream stream);
int fgmm__launch_full_whole(const fgmm_full_tables *tables, const fgmm_full_rows *rows,
                            const fgmm_full_pairs *pairs, int multiprocessors, fgmm_stream stream);

#ifdef __cplusplus
}
#endif
#endif
