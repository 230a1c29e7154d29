/* The half-precision screen of wide rows and of diagonal forms, as C sees it: rows are converted to fp16 in a
 * buffer, batch by batch, and multiplied with all components in slabs of 64 columns. Lists and bounds are
 * those of screen.h. */
#ifndef FGMM_SM90_WIDE_H
#define FGMM_SM90_WIDE_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    FGMM_SM90_WIDE_TILE = 256, /* components a record, */
    FGMM_SM90_KEPT_TILE = 128, /* and where a row has so few slabs that shared memory holds a tile of rows: */
    FGMM_SM90_KEPT_SLABS = 4,
    FGMM_SM90_SLAB = 64,   /* columns of rows and components that are in shared memory at a time */
    FGMM_SM90_BLOCKS = 132 /* at most: the multiprocessors of the largest device */
};

/* Units of the product, made on the device from the model's parameters. */
typedef struct {
    double unit;               /* bits of log2-density that 1 of the product stands for, a power of two */
    double most;               /* the largest strength to be screened as it is (wide_tables.cu) */
    float unit32;              /* unit */
    float span;                /* keep_bits in units */
    double strongest;          /* of all strengths; and so on: of the components that can be chosen at all */
    double offset;             /* >= any |offset| */
    long long exponents, live; /* sum of the strengths' exponents, and how many there are */
} fgmm_sm90_units;

typedef struct {
    unsigned char
        *records;  /* [tiles]: [2][tile][8] extra columns, [slabs][tile][64] columns, fp16, swizzled */
    float *widths; /* [tiles][tile / 128][4]: of 128 components */
    float *scale;  /* [octets * 8]: on rows, powers of two, so that fp16 neither overflows nor loses
                      small values */
    float *shift;  /* [octets * 8]: - scale * origin */
    float *spread; /* [octets * 8]: what the scale was made of */
    fgmm_sm90_units *units;
    int32_t tile; /* components a record */
    int32_t tiles, slabs;
    int32_t octets; /* eights of dimensions; a row has its values in so many pieces of 16 bytes, and, */
    bool squares;   /* in diagonal forms, its squares in as many more */
} fgmm_sm90_wide;

/* Bytes of the tables, and the tables in so many bytes at `memory`, which is 256-byte aligned. */
int64_t fgmm__sm90_wide_bytes(fgmm_form form, int32_t k, int32_t dim);
fgmm_sm90_wide fgmm__sm90_wide_place(fgmm_form form, int32_t k, int32_t dim, void *memory);
/* Bytes of the room for converted rows, two tiles a block. */
int64_t fgmm__sm90_operand_bytes(fgmm_form form, int32_t dim);

/* Fills the tables. */
int fgmm__launch_sm90_wide_tables(const fgmm_model_view *model, const double *origin, const float *origin32,
                                  const fgmm_sm90_wide *tables, fgmm_stream stream);
/* As fgmm__launch_screen. operand: 16-byte aligned. multiprocessors: of the device. */
int fgmm__launch_sm90_wide_screen(const fgmm_row_view *rows, const fgmm_sm90_wide *tables, void *operand,
                                  int32_t least, const fgmm_candidate_lists *lists, int multiprocessors,
                                  fgmm_stream stream);

#ifdef __cplusplus
}
#endif
#endif
