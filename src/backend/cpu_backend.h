/* The CPU backend's own parts. Arithmetic is float64 throughout. Rows are worked on in blocks of fixed shape
 * at fixed global places (the last one padded with zeros), products run on one thread each, and threads take
 * whole blocks: so a row's bits depend neither on tiles nor on threads. */
#ifndef FGMM_BACKEND_CPU_BACKEND_H
#define FGMM_BACKEND_CPU_BACKEND_H

#include "backend/backend.h"
#include "base/clones.h"
#include "data/partition.h"

/* Eight float64 lanes, whatever the registers' width is. Never passed by value. */
typedef double fgmm__lanes __attribute__((vector_size(64), aligned(8), may_alias));
enum { FGMM_LANES = 8 };

/* A component that matters for a row. */
typedef struct {
    int32_t k;
    int32_t row;  /* within the block */
    double value; /* log2-density l, later the responsibility */
} fgmm__cpu_pair;

typedef struct {
    fgmm__cpu_pair *at;
    size_t n, capacity;
} fgmm__cpu_pairs;

fgmm_status fgmm__cpu_pairs_reserve(fgmm__cpu_pairs *pairs,
                                    size_t more); /* room for n + more; keeps the contents */
void fgmm__cpu_pairs_free(fgmm__cpu_pairs *pairs);

/* Components prepared for products (cpu_model.c). */
typedef struct {
    fgmm_covariance shape;
    bool hard;
    int32_t k, dim;
    int32_t block_rows; /* FGMM_BLOCK, fewer when k is huge: a function of k alone */
    int32_t chunk;      /* components a product */
    double *origin;     /* [dim] */
    double *means;      /* [k][dim] relative to origin */
    double *offsets;    /* [k] */
    double *factors;    /* as in fgmm_components */
    double
        *centres; /* [k][dim] means in the space where densities are spheres (tied: means U); else = means */
    double *linear;    /* [k][dim] factor of x in the expanded form; NULL for full */
    double *quadratic; /* [k][dim] diag: F^2, factor of x o x; else NULL */
    double *constants; /* [k] offset - |F mean|^2; NULL for full */
    double *scales;    /* [k] f^2 of spherical; ones for hard and tied; NULL for diag and full */
    double margin; /* bits below a row's largest that are kept: 30, diag 45, full 72, + log2 k; 0 for hard */
    double slack_row; /* |error of an expanded l| <= slack_row * |x|^2 + slack_constant */
    double slack_constant;
} fgmm__cpu_model;

/* The shape of work: functions of k alone. */
int32_t fgmm__cpu_block_rows(int32_t k);
int32_t fgmm__cpu_chunk(int32_t k);

fgmm_status fgmm__cpu_model_create(const fgmm_components *components, fgmm__cpu_model **out);
void fgmm__cpu_model_destroy(fgmm__cpu_model *model); /* accepts NULL */
int64_t fgmm__cpu_model_bytes(fgmm_covariance shape, int32_t k, int32_t dim);

/* l_k in difference form; y: the row in the space of centres. Not for full. */
double fgmm__cpu_exact_logit(const fgmm__cpu_model *m, const double *y, int32_t k);

/* What one thread needs to find the candidates of a block (cpu_logits.c). */
typedef struct {
    int32_t top;
    double *logits;           /* [block_rows][chunk] */
    double *scratch;          /* [block_rows][dim] rows squared, whitened or less a mean */
    double *x2;               /* [block_rows] |x|^2 in the space of centres */
    double *best;             /* [block_rows] running maximum of l */
    double *limits;           /* [block_rows] below these an l does not matter */
    double *ranked;           /* [block_rows][top] the best l so far, descending (top > 1) */
    int32_t *found;           /* [chunk] */
    fgmm__cpu_pairs gathered; /* by chunk, row, k */
    fgmm__cpu_pairs sorted;   /* the candidates: by row, then k */
    size_t *starts;           /* [block_rows+1] of rows in `sorted` */
} fgmm__cpu_work;

fgmm_status fgmm__cpu_work_create(const fgmm__cpu_model *model, int32_t top, fgmm__cpu_work **out);
void fgmm__cpu_work_destroy(fgmm__cpu_work *work); /* accepts NULL */
int64_t fgmm__cpu_work_bytes(int32_t k, int32_t dim);

/* Rows of a tile, less the origin, to x [block_rows][dim]; rows past the tile's end become zero. Returns the
 * rows loaded. */
int32_t fgmm__cpu_load(const fgmm__cpu_model *model, const fgmm_tile *tile, int64_t first, double *x);

/* All components within `margin` of each row's largest l, and at least the `top` largest; hard: those that
 * may be among the `top` nearest. Fills work->sorted (value = l; in difference form wherever the expanded
 * form could be inexact) and work->starts. */
fgmm_status fgmm__cpu_candidates(const fgmm__cpu_model *model, fgmm__cpu_work *work, const double *x,
                                 int32_t rows);

/* Turns the candidates of one row into responsibilities in place; returns log2 of the density. Not for hard.
 */
double fgmm__cpu_normalise(fgmm__cpu_pair *pairs, size_t n);

/* Sum of (a-b)^2 in eight lanes, the same order everywhere. */
double fgmm__cpu_distance(const double *a, const double *b, int32_t dim);
double fgmm__cpu_norm2(const double *a, int32_t dim); /* of a squared, in the same way */

typedef struct fgmm__cpu_estep fgmm__cpu_estep;
typedef struct fgmm__cpu_queries fgmm__cpu_queries;

typedef struct {
    fgmm_backend base;
    fgmm__cpu_estep *estep;       /* between begin and end */
    fgmm__cpu_model *assign;      /* of assign_begin */
    fgmm__cpu_work **assign_work; /* [threads] */
    double **assign_rows;         /* [threads] blocks of rows */
    int32_t assign_top;
    fgmm__cpu_queries *queries; /* of queries_begin */
} fgmm__cpu_backend;

/* Local: looks after the peers from time to time; a backend without communicator is alone. */
fgmm_status fgmm__cpu_tick(const fgmm_backend *backend);

fgmm_status fgmm__cpu_estep_begin(fgmm_backend *backend, const fgmm_components *components,
                                  const fgmm_grid *grid, fgmm_moment moment, bool want_sums);
fgmm_status fgmm__cpu_estep_tile(fgmm_backend *backend, const fgmm_tile *tile);
fgmm_status fgmm__cpu_estep_end(fgmm_backend *backend, fgmm_stats *stats);
void fgmm__cpu_estep_destroy(fgmm__cpu_estep *estep); /* accepts NULL */
int64_t fgmm__cpu_estep_bytes(fgmm_moment moment, int32_t k, int32_t dim);

fgmm_status fgmm__cpu_assign_begin(fgmm_backend *backend, const fgmm_components *components, int32_t top);
fgmm_status fgmm__cpu_assign_tile(fgmm_backend *backend, const fgmm_tile *tile, int32_t *labels,
                                  float *responsibilities, double *log_density);
void fgmm__cpu_assign_free(fgmm__cpu_backend *cpu);

fgmm_status fgmm__cpu_queries_begin(fgmm_backend *backend, const float *queries, int64_t n, int32_t dim);
fgmm_status fgmm__cpu_products_begin(fgmm_backend *backend, const float *queries, int64_t n, int32_t dim);
fgmm_status fgmm__cpu_neighbors(fgmm_backend *backend, const int32_t *subset, int32_t n_subset,
                                const double *bounds, const void *rows, fgmm_dtype dtype, int32_t n_rows,
                                fgmm_hit *hits, int64_t capacity, int64_t *n_hits);
void fgmm__cpu_queries_destroy(fgmm__cpu_queries *queries); /* accepts NULL */

#endif
