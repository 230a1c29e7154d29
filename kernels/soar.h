/* Second lists of soar on a device, as C sees it. A launcher enqueues on `stream` and returns
 * cudaGetLastError() as an int. All pointers are device memory; a view owns nothing. */
#ifndef FGMM_KERNELS_SOAR_H
#define FGMM_KERNELS_SOAR_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *data; /* [rows][dim] of type */
    fgmm_row_type type;
    int32_t rows, dim, k;
    const double *means; /* [k][dim] */
    double lambda;
    const int32_t *first; /* [rows] first lists */
    int32_t *second;      /* [rows] the others of the least score; -1 where k is 1 */
    double *keys; /* [rows] that score over the first list's squared distance, infinite where it is 0 */
} fgmm_soar_view;

int fgmm__launch_soar(const fgmm_soar_view *view, fgmm_stream stream);

#ifdef __cplusplus
}
#endif
#endif
