/* The half-precision screen for Hopper, as C sees it. It fills the same candidate lists as the generic screen
 * (kernels.h), from one fp16 product with fp32 sums; its bounds are wider, and hold all the same. */
#ifndef FGMM_SM90_SCREEN_H
#define FGMM_SM90_SCREEN_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    FGMM_SM90_TILE = 128, /* components a record */
    FGMM_SM90_MAX_TILES = (1 << 20) / FGMM_SM90_TILE,
    FGMM_SM90_EXTRA = 16, /* columns beside the mean: the rest of a component's log-density */
    FGMM_SM90_MAX_DIM = 128
};

/* Of the components that can be chosen at all (a finite offset). */
typedef struct {
    double spread; /* a power of two >= any |mean - origin| in any dimension */
    double factor; /* the largest factor on the squared distance to be screened as it is; larger ones are
                      taken for this one, which costs their tile its lower bounds */
    bool cut;      /* there are larger ones */
    double offset; /* >= any |offset| */
    double narrow; /* the largest factor of all over the typical one */
} fgmm_sm90_range;

typedef struct {
    void *records;  /* [tiles][fgmm__sm90_record_bytes]: means in fp16, swizzled; [2][128][8] extra columns;
                       [4] fp32 widths */
    int32_t *order; /* [tiles * FGMM_SM90_TILE] the component in each place, -1: none; NULL: places are
                       components */
    int32_t tiles, halves;
    float scale; /* on rows; a power of two, so that fp16 neither overflows nor loses small values */
    float unit;  /* bits of log2-density that 1 of the product stands for, a power of two */
    float span;  /* keep_bits in units */
} fgmm_sm90_tables;

/* Which of Hopper's screens serves a model (choose.cu). tied: rows and means are whitened on the device. */
typedef enum {
    FGMM_SM90_NONE,
    FGMM_SM90_NARROW /* screen.h */,
    FGMM_SM90_WIDE /* wide.h */,
    FGMM_SM90_FULL /* full_screen.h */
} fgmm_sm90_screen;
fgmm_sm90_screen fgmm__sm90_serves(fgmm_form form, bool tied, int32_t k, int32_t dim);

int64_t fgmm__sm90_record_bytes(int32_t dim);
/* Records, at most. Where factors are cut there is one more than components fill, for those alone; but not
 * where numbers of tiles would get too large. */
int32_t fgmm__sm90_most_tiles(int32_t k);

/* Rows further than 64 spread from the origin become dense. tables->records has room for
 * fgmm__sm90_most_tiles(k) records and is 16-byte aligned, tables->order for their places; it is set to NULL
 * where it is not used. The other fields are filled in. */
int fgmm__launch_sm90_tables(const fgmm_model_view *model, const double *origin, const float *origin32,
                             fgmm_sm90_range range, fgmm_sm90_tables *tables, fgmm_stream stream);
/* As fgmm__launch_screen, but lists tell places where tables->order is not NULL. multiprocessors: of the
 * device.
 */
int fgmm__launch_sm90_screen(const fgmm_row_view *rows, const fgmm_sm90_tables *tables, int32_t least,
                             const fgmm_candidate_lists *lists, int multiprocessors, fgmm_stream stream);
/* order.cu: fills tables->order, by which factors above `most` come behind the others, in tiles of their own;
 * places in lists to components. */
int fgmm__launch_sm90_order(const fgmm_model_view *model, double most, const fgmm_sm90_tables *tables,
                            fgmm_stream stream);
int fgmm__launch_sm90_renumber(const fgmm_candidate_lists *lists, int32_t rows,
                               const fgmm_sm90_tables *tables, fgmm_stream stream);

#ifdef __cplusplus
}
#endif
#endif
