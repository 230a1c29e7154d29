/* A short sketch of each row that tells a lower bound of its distance to a query: with v = x - mean and an
 * orthonormal basis U [m][dim], the coordinates z = U v and the length r = |v - U'z| of what they leave out.
 * Then |x-q| >= |(z_x, r_x) - (z_q, r_q)|, since the parts left out differ by at least their lengths'
 * difference.
 *
 * Sketches are rounded: fgmm__sketch_slack bounds by how much, so that the bound stays one. With u = 2^-53,
 * |v| as the unit, and B the basis as it is, U its nearest orthonormal one:
 *   |B - U| <= delta := |BB' - 1|, measured (and the rounding of measuring it added)
 *   z in float64 is off by eta <= delta + sqrt(m) (dim+4) u
 *   r^2 = |v|^2 - |z|^2 by kappa <= 3 eta + (dim + 2m + 16) u, hence r by sqrt(kappa) at most
 *   and storing both as floats by 2^-24 in all. */
#ifndef FGMM_IVF_SKETCH_H
#define FGMM_IVF_SKETCH_H

#include "comm/comm.h"
#include "fgmm/dataset.h"

typedef struct {
    int32_t m, dim;
    double *mean;   /* [dim] */
    double *basis;  /* [m][dim] */
    double *turned; /* [dim][m] the same, for the loops */
    double share;   /* slack of a sketch over its row's |v|: eta + sqrt(kappa) + 2^-24 */
} fgmm_sketch;

/* Collective. The m principal directions of a seeded sample of the rows, the same on any number of ranks. */
fgmm_status fgmm__sketch_create(fgmm_comm *comm, const fgmm_dataset *dataset, int32_t m, int threads,
                                fgmm_sketch **out);
/* Local but for fgmm__comm_tick. The m principal directions of a sample, [n][dim], which is centred in place.
 */
fgmm_status fgmm__sketch_fit(fgmm_comm *comm, float *sample, int64_t n, int32_t dim, int32_t m, int threads,
                             fgmm_sketch **out);
/* Local. From a mean [dim] and a basis [m][dim] read from a file, which are copied; FGMM_ERR_INPUT when the
 * basis is not orthonormal to far better than a sketch needs. */
fgmm_status fgmm__sketch_of(const double *mean, const double *basis, int32_t m, int32_t dim, const char *file,
                            fgmm_sketch **out);
void fgmm__sketch_destroy(fgmm_sketch *sketch); /* accepts NULL */

/* Local. rows: [n][dim] of dtype; out: [n][m+1], z then r. */
fgmm_status fgmm__sketch_rows(const fgmm_sketch *sketch, const void *rows, fgmm_dtype dtype, int64_t n,
                              int threads, float *out);
/* Local. The same of one query ([dim]), in float64. */
void fgmm__sketch_query(const fgmm_sketch *sketch, const float *query, double *out);
/* At most how far a sketch is from the exact one; length: of the sketch itself, [m+1] elements. */
double fgmm__sketch_slack(const fgmm_sketch *sketch, double length);
/* A row whose sketch differs from the query's by more than this in the sum of squares (in float64) is farther
 * than `bound`, the squared distance as searching computes it. slack: of the row's and the query's sketches
 * together. */
double fgmm__sketch_limit(const fgmm_sketch *sketch, double bound, double slack);
/* The other way round: what the squared distance, as searching computes it, is above (or zero) where the
 * sketches' sum of squared differences is `apart`. */
double fgmm__sketch_least(const fgmm_sketch *sketch, double apart, double slack);
/* The same of n sums: apart, out: [n]. */
void fgmm__sketch_leasts(const fgmm_sketch *sketch, const double *apart, int32_t n, double slack,
                         double *out);

#endif
