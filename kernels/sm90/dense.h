/* Dense rows of spherical mixtures on Hopper: all components of a row at once, as two products of
 * half-precision parts with fp32 sums, for rows whose log-densities fp32 can hold. */
#ifndef FGMM_SM90_DENSE_H
#define FGMM_SM90_DENSE_H

#include "kernels/kernels.h"
#include "kernels/sm90/screen.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    FGMM_DENSE_COMPONENTS = 128, /* of a block */
    FGMM_DENSE_BLOCKS = 16,      /* of a cluster, at most */
    FGMM_DENSE_ROWS = 64,        /* a tile of rows */
    FGMM_DENSE_ROW_PARTS = 2     /* halves a value of a row takes, at most */
};

/* A component beside its mean, in units of the product. */
typedef struct {
    float offset; /* of the log-density at the pivot, less `shift` */
    float factor; /* on the squared length, less that of all */
} fgmm_dense_component;

/* What rows may be: functions of a row's distance from the pivot (dense_tables.cu). */
typedef struct {
    double factor, shift;            /* a row's log-densities are taken from shift - factor * square */
    double most, slope, curve, best; /* they are at most min(most + slope n + curve n^2, best + factor n^2) */
    double fall;                     /* the largest is at least -fall n */
    double size, bend;               /* no term is larger than size + slope n + bend n^2 */
} fgmm_dense_bounds;

/* Partial results over 64 components. */
typedef struct {
    double live, factor, offset, slope, largest;
    double mean[FGMM_SM90_MAX_DIM]; /* sum of 2 factor * mean */
} fgmm_dense_part;

typedef struct {
    void *means; /* [blocks][2 groups][2 parts][halves][64][64] halves, swizzled: 2 F (mean - pivot) gain /
                    scale */
    fgmm_dense_component *components; /* [blocks * 128] */
    double *at_pivot, *factors;       /* [blocks * 128]: log-densities at the pivot; F */
    float *pivot;                     /* [dim padded to 64] */
    fgmm_dense_bounds *bounds;        /* [1] */
    fgmm_dense_part *parts;           /* [blocks * 2] */
    int32_t blocks, halves;           /* of 128 components; of 64 dimensions */
    int32_t row_parts;                /* halves a value of a row takes */
    float scale, gain;                /* on rows; on sums: powers of two */
} fgmm_sm90_dense;

/* Rows on their way: of each quantum, tiles of 64 rows. */
typedef struct {
    void *tiles;     /* [quanta][16][fgmm__sm90_dense_tile_bytes] */
    int32_t *counts; /* [quanta]: rows in them */
} fgmm_dense_operand;

/* Whether they serve: then `screen` is FGMM_SM90_NARROW. */
bool fgmm__sm90_dense_serves(const fgmm_model_view *model, fgmm_sm90_screen screen);
int64_t fgmm__sm90_dense_bytes(int32_t k, int32_t dim); /* of the model */
int64_t fgmm__sm90_dense_tile_bytes(int32_t row_parts, int32_t dim);
/* Places the arrays in `memory`, 1,024-byte aligned. */
fgmm_sm90_dense fgmm__sm90_dense_place(int32_t k, int32_t dim, void *memory);
/* Fills them, for rows of this type and origin. origin_most: >= |origin| in any dimension. */
int fgmm__launch_sm90_dense_tables(const fgmm_model_view *model, const fgmm_row_view *rows,
                                   fgmm_sm90_range range, double origin_most, fgmm_sm90_dense *dense,
                                   fgmm_stream stream);
/* Takes the rows that fp32 can hold out of the lists and converts them. */
int fgmm__launch_sm90_dense_rows(const fgmm_row_view *rows, const fgmm_sm90_dense *dense,
                                 const fgmm_dense_lists *lists, const fgmm_dense_operand *operand,
                                 fgmm_stream stream);
/* Adds them to the statistics. multiprocessors: of the device. */
int fgmm__launch_sm90_dense_sums(const fgmm_row_view *rows, const fgmm_model_view *model,
                                 const fgmm_sm90_dense *dense, const fgmm_dense_operand *operand,
                                 const fgmm_stats_view *stats, int multiprocessors, fgmm_stream stream);

#ifdef __cplusplus
}
#endif
#endif
