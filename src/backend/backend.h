/* What computes: one table, filled by cpu.c and cuda.c. Rows come as tiles (data/tile.h); results that users
 * see are the same on both within the precision of fp32, and bitwise the same on any number of ranks, tiles
 * and threads of one. */
#ifndef FGMM_BACKEND_BACKEND_H
#define FGMM_BACKEND_BACKEND_H

#include "data/tile.h"
#include "device/device.h"
#include "model/stats.h"

typedef struct fgmm_backend fgmm_backend;
typedef struct fgmm_poor fgmm_poor; /* poor.h */

/* A responsibility is kept when its log2-density is within 20 + log2(k) bits (or more) of the row's largest:
 * the mass left out is below 2^-20. */
enum { FGMM_MASS_BITS = 20 };

/* One pair of query and row found by `neighbors`. */
typedef struct {
    int32_t query;   /* index into the queries of this call */
    int32_t row;     /* index into the rows of this call */
    double distance; /* squared L2 (products_begin: minus the inner product), from the stored values in
                        float64, terms added in the order of dimensions */
} fgmm_hit;

/* What stays the same in a fit whose parameters live with the backend. */
typedef struct {
    int64_t rows;            /* of the whole dataset */
    const double *min, *max; /* [dim] range of all rows */
    double reg_covar;
} fgmm_em_terms;

/* What the host learns of an iteration there. */
typedef struct {
    double log; /* as fgmm__stats_log */
    int64_t rows, pairs;
    bool flagged; /* a component starved or is not positive definite: there is no M-step, the parameters stay
                   */
} fgmm_em_step;

/* EM with parameters that stay with the backend: load, then E-step after E-step (begin, estep_tile..., end),
 * each with an M-step behind it. Other uses of the backend between two E-steps are allowed. */
typedef struct {
    bool (*serves)(fgmm_algorithm algorithm, fgmm_covariance covariance);
    /* Copies weights, means and covariances; everything else is derived from them, as after an M-step. */
    fgmm_status (*load)(fgmm_backend *backend, const fgmm_model *model, const fgmm_em_terms *terms);
    fgmm_status (*begin)(fgmm_backend *backend);
    /* Collective: sums over all ranks, the M-step. */
    fgmm_status (*end)(fgmm_backend *backend, fgmm_em_step *step);
    /* What the last E-step found, on every rank; the caller destroys both. */
    fgmm_status (*sums)(fgmm_backend *backend, fgmm_grid **grid, fgmm_stats **stats);
    /* Weights, means and covariances as they are now, into a model of the same shape. */
    fgmm_status (*fetch)(fgmm_backend *backend, fgmm_model *model);
} fgmm_resident_ops;

/* A row near a query. */
typedef struct {
    double distance; /* as of fgmm_hit */
    int64_t id;
} fgmm_neighbor;

static inline bool fgmm__nearer(fgmm_neighbor a, fgmm_neighbor b)
{
    return a.distance < b.distance || (a.distance == b.distance && a.id < b.id);
}

/* Lists that a backend searches. It takes what it needs of the arrays and asks for rows when it wants them.
 */
typedef struct {
    int32_t lists, dim;
    fgmm_dtype dtype;
    bool repeats;            /* a row may be in several lists */
    const uint64_t *offsets; /* [lists+1] list j has offsets[j+1] - offsets[j] rows */
    const float *centroids;  /* [lists][dim] */
    /* Rows begin, begin+1, .. of a list, `n` of them, and their ids, into host memory. A list is read from
     * its first row on, without gaps, before another is begun. */
    fgmm_status (*read)(void *context, int32_t list, int64_t begin, int64_t n, void *rows, int64_t *ids);
    void *context;
} fgmm_list_table;

/* What a search in lists took. */
typedef struct {
    double device_seconds; /* from the first kernel to the last, waits for rows included */
    int64_t bytes_brought; /* of rows that were not on the device */
} fgmm_list_times;

typedef struct fgmm_backend_lists fgmm_backend_lists;

typedef struct {
    const char *name; /* "cpu", "cuda" */
    /* Local. threads: CPU threads to use. device: NULL for the CPU. */
    fgmm_status (*create)(fgmm_comm *comm, fgmm_device *device, int threads, fgmm_backend **out);
    void (*destroy)(fgmm_backend *backend);
    /* Bytes (device memory under CUDA) this backend takes for a model of this shape beside the shard:
     * O(k*dim) + a bounded workspace. */
    int64_t (*workspace_bytes)(fgmm_covariance shape, fgmm_moment moment, int32_t k, int32_t dim);

    /* E-step: begin, tiles, end. begin copies what it needs of components and grid. moment FGMM_MOMENT_NONE
     * with want_sums false: the log-likelihood alone. Tiles may be computed asynchronously. end is
     * collective: sums over all ranks into stats (host). */
    fgmm_status (*estep_begin)(fgmm_backend *backend, const fgmm_components *components,
                               const fgmm_grid *grid, fgmm_moment moment, bool want_sums);
    fgmm_status (*estep_tile)(fgmm_backend *backend, const fgmm_tile *tile);
    fgmm_status (*estep_end)(fgmm_backend *backend, fgmm_stats *stats);
    const fgmm_resident_ops *resident; /* NULL: the M-step is the host's (model/mstep.h) */

    /* Assignment: the `top` most likely components of each row (top <= FGMM_MAX_TOP), most likely first, ties
     * to the smaller number. Results lie in host memory when assign_tile returns: labels [rows][top] (-1
     * where k < top), responsibilities [rows][top] (hard: 1, 0...), log_density [rows] in base 2 (hard: minus
     * squared distance); responsibilities and log_density may be NULL. */
    fgmm_status (*assign_begin)(fgmm_backend *backend, const fgmm_components *components, int32_t top);
    fgmm_status (*assign_tile)(fgmm_backend *backend, const fgmm_tile *tile, int32_t *labels,
                               float *responsibilities, double *log_density);
    /* Offers the tile's rows that may be among the worst explained ones, as fgmm__poor_tile, which does it
     * where this is NULL. */
    fgmm_status (*poor_tile)(fgmm_backend *backend, const fgmm_tile *tile, fgmm_poor *poor);

    /* Second lists of soar, which differ from the first (ivf/spill.h, and its numbers to the bit): of each
     * row the list and its key. means [k][dim]; first, second (-1 where k is 1) and keys [rows]: all host.
     * Tiles have at most FGMM_SOAR_ROWS rows. NULL where they are the host's to find. */
    fgmm_status (*soar_begin)(fgmm_backend *backend, const double *means, int32_t k, int32_t dim,
                              double lambda);
    fgmm_status (*soar_tile)(fgmm_backend *backend, const fgmm_tile *tile, const int32_t *first,
                             int32_t *second, double *keys);

    /* Neighbours: all pairs (query, row) with squared distance <= bound[query]. queries_begin keeps the
     * queries ([n][dim] float, host) on the backend. neighbors takes a subset of them (subset [n_subset]
     * indices, NULL: all n) with bounds [n_subset] against rows in host memory ([rows][dim] of dtype). Hits
     * in any order; *n_hits may exceed capacity: then the first `capacity` are valid, and the caller comes
     * again with fewer rows. hit.query is an index into the subset. */
    fgmm_status (*queries_begin)(fgmm_backend *backend, const float *queries, int64_t n, int32_t dim);
    /* As queries_begin, but what `neighbors` compares with the bounds is then minus the inner product. NULL
     * where the backend does not know it. */
    fgmm_status (*products_begin)(fgmm_backend *backend, const float *queries, int64_t n, int32_t dim);
    fgmm_status (*neighbors)(fgmm_backend *backend, const int32_t *subset, int32_t n_subset,
                             const double *bounds, const void *rows, fgmm_dtype dtype, int32_t n_rows,
                             fgmm_hit *hits, int64_t capacity, int64_t *n_hits);

    /* Searching lists in the backend's own memory; NULL where rows go through `neighbors` (the CPU). All
     * local. memory_bytes: cap on what the lists take, 0: what is free, less what a search needs. Lists that
     * do not fit are brought when they are visited; those visited most by the first batch stay. */
    fgmm_status (*lists_open)(fgmm_backend *backend, const fgmm_list_table *table, int64_t memory_bytes,
                              fgmm_backend_lists **out);
    void (*lists_close)(fgmm_backend_lists *lists); /* accepts NULL */
    /* The k nearest rows (k <= FGMM_MOST_NEAREST) of each of n queries ([n][dim]) in the lists
     * probes[n][nprobe]. choose: 0, or nprobe to FGMM_MOST_NEAREST: probes[n][choose] are set first, to the
     * lists whose centroids are nearest, ties to the smaller number, and the first nprobe are searched.
     * nearest [n][k], nearest first, ties to the smaller id; counts [n]: how many there are. All host. times
     * may be NULL. */
    fgmm_status (*lists_search)(fgmm_backend_lists *lists, const float *queries, int64_t n, int32_t k,
                                int32_t nprobe, int32_t choose, int32_t *probes, fgmm_neighbor *nearest,
                                int32_t *counts, fgmm_list_times *times);

    /* The k nearest (k <= FGMM_MOST_NEAREST) among the rows of tiles, whose ids are their global numbers:
     * begin, tiles (in the backend's memory), end. NULL where there are no lists either. */
    fgmm_status (*nearest_begin)(fgmm_backend *backend, const float *queries, int64_t n, int32_t dim,
                                 int32_t k);
    fgmm_status (*nearest_tile)(fgmm_backend *backend, const fgmm_tile *tile);
    fgmm_status (*nearest_end)(fgmm_backend *backend, fgmm_neighbor *nearest, int32_t *counts);
} fgmm_backend_ops;

enum { FGMM_MAX_TOP = 64, FGMM_MOST_NEAREST = 1024, FGMM_SOAR_ROWS = 256 << 10 };

/* The start of every backend; implementations embed it as their first member. */
struct fgmm_backend {
    const fgmm_backend_ops *ops;
    fgmm_comm *comm;
    fgmm_device *device; /* NULL on the CPU */
    int threads;
};

extern const fgmm_backend_ops fgmm__backend_cpu;
extern const fgmm_backend_ops fgmm__backend_cuda; /* defined when built with CUDA (FGMM_HAVE_CUDA) */

/* The table of the kind that computes on GPUs, or of the other; NULL where it was not built. */
const fgmm_backend_ops *fgmm__backend_ops_of(bool gpus);
/* Collective: the backend of an opened device (NULL: CPU). */
fgmm_status fgmm__backend_create(fgmm_comm *comm, fgmm_device *device, int threads, fgmm_backend **out);
void fgmm__backend_destroy(fgmm_backend *backend); /* accepts NULL */

#endif
