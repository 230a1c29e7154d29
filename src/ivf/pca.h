/* Principal directions of a sample by orthogonal iteration on its covariance: orthonormal to rounding, and as
 * near to the true ones as a fixed number of iterations brings them, which for a sketch is near enough. */
#ifndef FGMM_IVF_PCA_H
#define FGMM_IVF_PCA_H

#include "comm/comm.h"

/* Local but for fgmm__comm_tick. sample: [n][dim], centred in place; m at most dim. mean: [dim]; basis:
 * [m][dim], by falling variance. The same bits on any number of threads. FGMM_STOPPED on request. */
fgmm_status fgmm__pca(fgmm_comm *comm, float *sample, int64_t n, int32_t dim, int32_t m, int threads,
                      double *mean, double *basis);
/* Local. Makes the m rows of `basis` ([m][dim]) orthonormal one after the other; what is nothing once the
 * ones before are taken out is replaced by a unit vector. */
void fgmm__orthonormalise(double *basis, int32_t m, int32_t dim);

#endif
