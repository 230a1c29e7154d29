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
    FGMM_SM90_TERMS = 6,  /* floats a component beside its mean (with what the tile has in common); a record
                             stays a multiple of 1,024 bytes */
    FGMM_SM90_MAX_DIM = 128
};

typedef struct {
    void *records; /* [tiles][fgmm__sm90_record_bytes]: means in fp16, swizzled, then terms [6][128] fp32 */
    int32_t tiles, halves;
    float scale; /* a power of two on rows and means, so that fp16 neither overflows nor loses small values */
} fgmm_sm90_tables;

/* Whether this screen serves a model: spherical form, 32 < dim <= FGMM_SM90_MAX_DIM, k >= 256. */
bool fgmm__sm90_serves(fgmm_form form, int32_t k, int32_t dim);
int64_t fgmm__sm90_record_bytes(int32_t dim);

/* spread: a power of two >= any |mean - origin| in any dimension; rows further out than 8 spread become
 * dense. tables->records has room for `tiles` records and is 1,024-byte aligned; the other fields are filled
 * in. */
int fgmm__launch_sm90_tables(const fgmm_model_view *model, const double *origin, const float *origin32,
                             double spread, fgmm_sm90_tables *tables, fgmm_stream stream);
/* As fgmm__launch_screen. multiprocessors: of the device. */
int fgmm__launch_sm90_screen(const fgmm_row_view *rows, const fgmm_model_view *model,
                             const fgmm_sm90_tables *tables, int32_t least, const fgmm_candidate_lists *lists,
                             int multiprocessors, fgmm_stream stream);

#ifdef __cplusplus
}
#endif
#endif
