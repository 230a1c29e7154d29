/* Rows against the neighbours found so far: asks the backend for pairs within each query's bound and pushes
 * them. */
#ifndef FGMM_IVF_SCAN_H
#define FGMM_IVF_SCAN_H

#include "backend/backend.h"
#include "ivf/top.h"

typedef struct fgmm_scan fgmm_scan;

/* Local. The backend stays the caller's and has been given its queries (queries_begin) before
 * fgmm__scan_rows. */
fgmm_status fgmm__scan_create(fgmm_backend *backend, fgmm_scan **out);
void fgmm__scan_destroy(fgmm_scan *scan); /* accepts NULL */

/* Local. Offers rows ([n_rows][dim] of dtype, host) to the queries subset[n_subset] (numbers of both the
 * backend's queries and top's). Row i has the id ids[i]; ids NULL: first_id + i. */
fgmm_status fgmm__scan_rows(fgmm_scan *scan, fgmm_top *top, const int32_t *subset, int32_t n_subset,
                            const void *rows, fgmm_dtype dtype, int32_t dim, int64_t n_rows,
                            const int64_t *ids, int64_t first_id);

#endif
