/* The distance that users see: float64, term by term in the order of dimensions, without contraction, as the
 * CPU computes it. */
#ifndef FGMM_GENERIC_EXACT_CUH
#define FGMM_GENERIC_EXACT_CUH

#include "kernels/generic/rows.cuh"

namespace fgmm
{

template <typename T>
__device__ double exact_distance(const float *query /* [dim] */, const T *row /* [dim] */, int dim)
{
    double sum = 0;
    for (int d = 0; d < dim; d++) {
        const double t = __dsub_rn(to_double(row[d]), to_double(query[d]));
        sum = __dadd_rn(sum, __dmul_rn(t, t));
    }
    return sum;
}

} // namespace fgmm

#endif
