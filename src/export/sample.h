/* Rows drawn from a model, as a file. */
#ifndef FGMM_EXPORT_SAMPLE_H
#define FGMM_EXPORT_SAMPLE_H

#include "comm/comm.h"
#include "fgmm/model.h"

/* Local (one rank). Writes rows [0, n) of the draw (model/draw.h) in the element type `dtype`, which the
 * format of the path's extension must hold. comm: ticked during the work, may be NULL. *clipped: values
 * outside of an integer type. */
fgmm_status fgmm__export_sample(const fgmm_model *model, int64_t n, uint64_t seed, fgmm_dtype dtype,
                                const char *path, fgmm_comm *comm, int64_t *clipped);

#endif
