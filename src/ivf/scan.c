#include "ivf/scan.h"

#include <math.h>
#include <stdlib.h>

enum {
    HITS = 1 << 20,            /* pairs taken from the backend at once: 16 MiB */
    QUERIES_AT_ONCE = 1 << 16, /* fewer than HITS, so that one row always fits */
    CHUNK_BYTES = 64 << 20     /* of rows handed over at once */
};

struct fgmm_scan {
    fgmm_backend *backend;
    fgmm_hit *hits; /* [HITS] */
    double *bounds; /* [QUERIES_AT_ONCE] */
    int64_t chunk;  /* rows handed over at once, learnt from the number of hits */
};

fgmm_status fgmm__scan_create(fgmm_backend *backend, fgmm_scan **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_scan *scan = NULL;
    FGMM_ALLOC(scan, 1, "scanning");
    scan->backend = backend;
    scan->chunk = 1024;
    FGMM_ALLOC(scan->hits, HITS, "scanning");
    FGMM_ALLOC(scan->bounds, QUERIES_AT_ONCE, "scanning");
    *out = scan;
    scan = NULL;
cleanup:
    fgmm__scan_destroy(scan);
    return status;
}

void fgmm__scan_destroy(fgmm_scan *scan)
{
    if (scan == NULL)
        return;
    free(scan->hits);
    free(scan->bounds);
    free(scan);
}

/* Loads the bounds and says how many rows may go at once: while a query has no bound yet, every pair is a
 * hit. */
static int64_t chunk_rows(fgmm_scan *scan, const fgmm_top *top, const int32_t *subset, int32_t n_subset,
                          size_t row_bytes)
{
    bool unbounded = false;
    for (int32_t i = 0; i < n_subset; i++) {
        scan->bounds[i] = fgmm__top_bound(top, subset[i]);
        unbounded = unbounded || isinf(scan->bounds[i]);
    }
    int64_t limit = CHUNK_BYTES / (int64_t)row_bytes, chunk = scan->chunk;
    if (unbounded && chunk > HITS / n_subset)
        chunk = HITS / n_subset;
    if (chunk > limit)
        chunk = limit;
    return chunk < 1 ? 1 : chunk;
}

static fgmm_status scan_some(fgmm_scan *scan, fgmm_top *top, const int32_t *subset, int32_t n_subset,
                             const char *rows, fgmm_dtype dtype, int32_t dim, int64_t n_rows,
                             const int64_t *ids, int64_t first_id)
{
    fgmm_backend *backend = scan->backend;
    size_t row_bytes = (size_t)dim * fgmm_dtype_bytes(dtype);
    for (int64_t at = 0; at < n_rows;) {
        int64_t chunk = chunk_rows(scan, top, subset, n_subset, row_bytes), n_hits = 0;
        if (chunk > n_rows - at)
            chunk = n_rows - at;
        fgmm_status status =
            backend->ops->neighbors(backend, subset, n_subset, scan->bounds, rows + (size_t)at * row_bytes,
                                    dtype, (int32_t)chunk, scan->hits, HITS, &n_hits);
        if (status != FGMM_OK)
            return status;
        if (n_hits > HITS) { /* only some of the pairs fitted: come again with fewer rows */
            scan->chunk = chunk / 2;
            continue;
        }
        for (int64_t i = 0; i < n_hits; i++) {
            int64_t row = at + scan->hits[i].row;
            fgmm__top_push(top, subset[scan->hits[i].query], scan->hits[i].distance,
                           ids != NULL ? ids[row] : first_id + row);
        }
        at += chunk;
        if (n_hits < HITS / 4 && chunk >= scan->chunk)
            scan->chunk = 2 * chunk;
    }
    return FGMM_OK;
}

fgmm_status fgmm__scan_rows(fgmm_scan *scan, fgmm_top *top, const int32_t *subset, int32_t n_subset,
                            const void *rows, fgmm_dtype dtype, int32_t dim, int64_t n_rows,
                            const int64_t *ids, int64_t first_id)
{
    for (int32_t begin = 0; begin < n_subset; begin += QUERIES_AT_ONCE) {
        int32_t n = n_subset - begin < QUERIES_AT_ONCE ? n_subset - begin : QUERIES_AT_ONCE;
        fgmm_status status = scan_some(scan, top, subset + begin, n, rows, dtype, dim, n_rows, ids, first_id);
        if (status != FGMM_OK)
            return status;
    }
    return FGMM_OK;
}
