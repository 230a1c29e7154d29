/* Adding responsibilities to statistics in fixed point: the second phase of the CPU's E-step. */
#ifndef FGMM_BACKEND_CPU_SUMS_H
#define FGMM_BACKEND_CPU_SUMS_H

#include "backend/cpu_backend.h"

/* Rows of one block and their pairs, sorted by bucket, then row, then component. */
typedef struct {
    int32_t n_rows;              /* the others of the block are padding */
    double *x;                   /* [block_rows][dim] less the origin */
    const fgmm__cpu_pair *pairs; /* value: responsibility */
    size_t *starts;              /* [n_buckets+1] */
} fgmm__cpu_block;

typedef struct fgmm__cpu_sums_work fgmm__cpu_sums_work;

typedef struct {
    const fgmm__cpu_model *model; /* the E-step's */
    fgmm_stats *stats;
    int32_t width; /* components a bucket: the unit of a thread's work; a function of k alone */
    int shift;     /* width = 1 << shift */
    int32_t n_buckets;
    int threads;
    double step;       /* 2^bits */
    double *s_inverse; /* [dim]     2^bits / bound[d] */
    double *q_inverse; /* [dim]     2^bits / bound[d]^2 (diag) */
    double *bounds;    /* [dim] */
    double q_spherical_inverse;
    fgmm__cpu_sums_work **work; /* [threads] */
} fgmm__cpu_sums;

fgmm_status fgmm__cpu_sums_create(const fgmm__cpu_model *model, const fgmm_grid *grid, fgmm_moment moment,
                                  int threads, fgmm__cpu_sums **out);
void fgmm__cpu_sums_destroy(fgmm__cpu_sums *sums); /* accepts NULL */

/* Adds whole quanta (of `quantum` blocks each, the last one may be shorter), in parallel over buckets. */
void fgmm__cpu_sums_add(fgmm__cpu_sums *sums, const fgmm__cpu_block *blocks, int32_t n_blocks,
                        int32_t quantum);

#endif
