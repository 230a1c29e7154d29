/* Which screen serves a model on Hopper: a function of its shape, in one place. */
#include "kernels/sm90/full_screen.h"
#include "kernels/sm90/screen.h"

/* The narrow screen reads rows as they are stored and keeps a tile of them in shared memory; its tables need
 * the range of the means on the host, which those of whitened means are not. Below the bounds the products
 * would be padding for the most part, and the generic screen is as fast. */
fgmm_sm90_screen fgmm__sm90_serves(fgmm_form form, bool tied, int32_t k, int32_t dim)
{
    if (form == FGMM_FORM_FULL) /* without a screen every row is dense, so few components are no reason */
        return dim <= FGMM_FULL_MAX_DIM ? FGMM_SM90_FULL : FGMM_SM90_NONE;
    if (k < 256)
        return FGMM_SM90_NONE;
    if (form == FGMM_FORM_DIAG)
        return dim > 16 ? FGMM_SM90_WIDE : FGMM_SM90_NONE;
    if (dim > FGMM_SM90_MAX_DIM || tied)
        return dim > 32 ? FGMM_SM90_WIDE : FGMM_SM90_NONE;
    return dim > 32 ? FGMM_SM90_NARROW : FGMM_SM90_NONE;
}
