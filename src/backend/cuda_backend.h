/* The CUDA backend's own parts. A tile is worked on in chunks of whole quanta. In a chunk the screen leaves a
 * few candidates of each row, which are finished at once (sparse); rows with more are gathered and go the
 * dense path, group by group of quanta. Which rows those are the host learns some chunks later, so that the
 * device never waits for it. */
#ifndef FGMM_BACKEND_CUDA_BACKEND_H
#define FGMM_BACKEND_CUDA_BACKEND_H

#include "backend/backend.h"
#include "data/partition.h"
#include "device/cuda_check.h"
#include "kernels/kernels.h"
#include "kernels/soar.h"
#include "kernels/sm90/dense.h"
#include "kernels/sm90/full_screen.h"
#include "kernels/sm90/screen.h"
#include "kernels/sm90/wide.h"

_Static_assert((int)FGMM_QUANTUM == (int)FGMM_KERNEL_QUANTUM, "kernels cut rows at the same places");
_Static_assert((int)FGMM_MOMENT_FULL == (int)FGMM_KERNEL_MOMENT_FULL &&
                   (int)FGMM_MOMENT_DIAG == (int)FGMM_KERNEL_MOMENT_DIAG &&
                   (int)FGMM_MOMENT_SPHERICAL == (int)FGMM_KERNEL_MOMENT_SPHERICAL,
               "kernels number the moments alike");
_Static_assert((int)FGMM_F32 == (int)FGMM_ROWS_F32 && (int)FGMM_I8 == (int)FGMM_ROWS_I8,
               "kernels number the types alike");

/* For launchers: as FGMM_CUDA. */
#define FGMM_LAUNCH(call)                                                                                    \
    do {                                                                                                     \
        int launch_code_ = (call);                                                                           \
        if (launch_code_ != 0) {                                                                             \
            status = fgmm__cuda_failed((cudaError_t)launch_code_, #call, __FILE__, __LINE__);                \
            goto cleanup;                                                                                    \
        }                                                                                                    \
    } while (0)

/* Device buffers: taken when first needed, grown when a larger shape comes, kept until the backend goes. */
typedef enum {
    BUFFER_OFFSET,
    BUFFER_MEAN,
    BUFFER_CENTRE,
    BUFFER_FACTOR,
    BUFFER_WHITENING,
    BUFFER_ORIGIN,
    BUFFER_ORIGIN32,
    BUFFER_ZEROS,
    BUFFER_TABLE_MEAN,
    BUFFER_TABLE_SCALE,
    BUFFER_TABLE_TERMS,
    BUFFER_SM90_RECORDS,
    BUFFER_SM90_ORDER,
    BUFFER_SM90_WIDE,
    BUFFER_SM90_OPERAND,
    BUFFER_FULL_RECORDS,
    BUFFER_FULL_WHOLES,
    BUFFER_FULL_ROWS,
    BUFFER_FULL_VALUES,
    BUFFER_FULL_SORTED,
    BUFFER_FULL_BY_ROW,
    BUFFER_FULL_COUNTS,
    BUFFER_CANDIDATES,
    BUFFER_COUNTS,
    BUFFER_DENSE_ROWS,
    BUFFER_DENSE_COUNTS,
    BUFFER_DENSE_MODEL,
    BUFFER_DENSE_TILES,
    BUFFER_DENSE_HELD,
    BUFFER_SLAB,
    BUFFER_ROW_MAX,
    BUFFER_ROW_SUM,
    BUFFER_ROW_BEST,
    BUFFER_WHITENED,
    BUFFER_WHITENED32,
    BUFFER_WORDS,
    BUFFER_INVERSE_BOUND,
    BUFFER_PAIRS,
    BUFFER_MIXTURES,
    BUFFER_MSTEP,
    BUFFER_TOP_VALUE,
    BUFFER_TOP_COMPONENT,
    BUFFER_LABELS,
    BUFFER_RESPONSIBILITIES,
    BUFFER_LOG_DENSITY,
    BUFFER_POOR,
    BUFFER_QUERIES,
    BUFFER_SUBSET,
    BUFFER_QUERY_BOUNDS,
    BUFFER_ROWS,
    BUFFER_HITS,
    BUFFER_N_HITS,
    BUFFER_SOAR_MEANS,
    BUFFER_SOAR_ROWS,
    BUFFER_COUNT
} fgmm__cuda_buffer;

/* A model on the device. */
typedef struct {
    fgmm_model_view view;
    fgmm_sm90_screen screen;   /* which of Hopper's serves: then it has tables, and the generic one none */
    fgmm_screen_tables tables; /* not for full */
    fgmm_sm90_tables sm90;
    fgmm_sm90_wide wide;
    fgmm_full_tables full;
    fgmm_sm90_range range;
    double origin_most; /* |origin| in any dimension */
    double breadth;     /* kernels/breadth.h; 0: not known */
    bool tied;
    double *whitening; /* [dim][dim], tied alone */
    double *origin;    /* [dim] */
    float *origin32;   /* [dim padded] */
    double *zeros; /* [dim padded]: the origin of whitened rows, in fp64 and (the first half of the bytes) in
                      fp32 */
} fgmm__cuda_model;

/* How tiles are cut: a function of the model's shape alone. */
typedef struct {
    int32_t chunk_quanta;
    int32_t group_quanta;     /* of the dense path */
    int32_t group_components; /* components a pass of the dense path */
    int64_t operand_bytes;    /* of the wide screen, where it serves */
    int32_t chunks;           /* under way at a time, at most FGMM_CHUNKS_UNDER_WAY */
    bool all_dense;
} fgmm__cuda_plan;

/* Chunks whose dense rows the host has not looked after yet. A look costs a wait only at the end of a pass.
 */
enum { FGMM_CHUNKS_UNDER_WAY = 8 };

typedef struct {
    int slot;               /* which part of the buffers it uses, < plan.chunks */
    int64_t first;          /* row of the tile */
    fgmm_row_view original; /* as stored */
    fgmm_row_view metric; /* rows that distances are taken of: whitened in float64 for tied, else as stored */
    fgmm_row_view screened; /* the same for the screen: fp32 for tied */
    fgmm_dense_lists dense;
} fgmm__cuda_chunk;

typedef struct fgmm__cuda_backend fgmm__cuda_backend;

/* What a pass over a tile does with a chunk. */
typedef struct {
    int32_t least; /* candidates a row must have to be sparse */
    /* Enqueues the work of the sparse rows and the lists of the dense ones. */
    fgmm_status (*sparse)(fgmm__cuda_backend *cuda, const fgmm__cuda_chunk *chunk,
                          const fgmm_candidate_lists *lists);
    /* Takes rows out of the chunk's lists and adds them; the counts at home are those of what is left. May be
     * NULL. */
    fgmm_status (*held)(fgmm__cuda_backend *cuda, const fgmm__cuda_chunk *chunk);
    fgmm_status (*dense)(fgmm__cuda_backend *cuda, const fgmm__cuda_chunk *chunk, fgmm_dense_group *group);
    fgmm_status (*done)(fgmm__cuda_backend *cuda, const fgmm__cuda_chunk *chunk); /* may be NULL */
} fgmm__cuda_pass;

/* Dense rows that tensor cores add. */
typedef struct {
    fgmm_sm90_dense model;
    fgmm_dense_operand operand;
    bool ready; /* model is made, for rows of `type` */
    fgmm_row_type type;
} fgmm__cuda_dense;

typedef struct {
    fgmm__cuda_plan plan;
    fgmm_stats_view stats;
    fgmm_pair_view pairs;
    size_t n_words;
    int64_t rows; /* of this rank, so far */
    bool small;   /* kernels/generic/small.cu does all of it */
} fgmm__cuda_estep;

/* Where the words of the E-step after this one will be, where there is room for two. */
typedef struct {
    char *other;
    size_t bytes;
    bool clean; /* an M-step has cleared it */
} fgmm__cuda_words;

/* The mixture of a fit that stays here (cuda_mixture.c). The M-step makes the next one of two from the other.
 */
typedef struct {
    fgmm_mstep_view view;
    fgmm_moment moment;
    int bits; /* of the grid */
    struct {
        fgmm_mixture_view view;
        fgmm_mixture_summary summary;
    } sides[2];
    bool may_be_dense;          /* its breadth is asked for */
    int now;                    /* the side that holds the parameters */
    int summed;                 /* that of the last E-step */
    float *origin32;            /* [dim padded] */
    double origin_most;         /* |origin| in any dimension */
    fgmm_mixture_summary *home; /* pinned: the device writes it */
} fgmm__cuda_resident;

typedef struct {
    fgmm__cuda_plan plan;
    int32_t top;
    int32_t *labels;         /* where assign_tile's results go, host */
    float *responsibilities; /* or NULL */
    double *log_density;     /* or NULL */
    fgmm_poor *poor;         /* of poor_tile, as the next */
    int64_t begin;           /* global number of the tile's first row */
    void *staging;           /* pinned */
    size_t staging_bytes;
} fgmm__cuda_assign;

typedef struct fgmm__cuda_nearest fgmm__cuda_nearest; /* cuda_nearest.c */

/* Where pairs of full components are found and scored, chunk by chunk. */
typedef struct {
    fgmm_full_rows rows;
    fgmm_full_pairs pairs;
} fgmm__cuda_full;

struct fgmm__cuda_backend {
    fgmm_backend base;
    fgmm_stream stream;
    bool hopper; /* the device has the instructions of kernels/sm90 */
    struct {
        void *pointer;
        size_t bytes;
    } buffers[BUFFER_COUNT];
    struct {
        char *pointer; /* pinned */
        size_t bytes, used;
        fgmm_gpu_event *ready[2]; /* of long downloads, which use its halves in turn */
    } staging;
    int32_t *dense_counts; /* [FGMM_CHUNKS_UNDER_WAY][FGMM_CHUNK_QUANTA], pinned: of the chunk in each slot */
    fgmm_gpu_event *counts_ready[FGMM_CHUNKS_UNDER_WAY];
    struct {
        fgmm__cuda_chunk chunks[FGMM_CHUNKS_UNDER_WAY]; /* by slot */
        int64_t begun, ended;                           /* of this pass; the slots are used in turn */
    } queue;
    fgmm__cuda_model model;
    fgmm__cuda_full full;
    fgmm__cuda_dense dense;
    fgmm__cuda_estep estep;
    fgmm__cuda_words words;
    fgmm__cuda_resident resident;
    fgmm__cuda_assign assign;
    fgmm_soar_view soar; /* means, shape and lambda */
    int64_t n_queries;
    int32_t query_dim;
    fgmm__cuda_nearest *nearest; /* NULL until rows are searched */
};

/* cuda.c. A buffer of at least so many bytes; out points to a pointer of any type. What it held is lost when
 * it grows. */
fgmm_status fgmm__cuda_reserve(fgmm__cuda_backend *cuda, fgmm__cuda_buffer which, size_t bytes, void *out);
/* The same, filled as by fgmm__cuda_upload. */
fgmm_status fgmm__cuda_put(fgmm__cuda_backend *cuda, fgmm__cuda_buffer which, const void *from, size_t bytes,
                           void *out);

/* cuda_staging.c: copies through pinned memory, so that small ones cost no wait. */
/* Room for up to FGMM_STAGED bytes, to be filled and read by work that is enqueued before the next call of
 * any of these functions. */
enum { FGMM_STAGED = 8 << 20 };
fgmm_status fgmm__cuda_stage(fgmm__cuda_backend *cuda, size_t bytes, void *out);
/* Stream-ordered; `from` is pageable and may be reused on return. */
fgmm_status fgmm__cuda_upload(fgmm__cuda_backend *cuda, void *to, const void *from, size_t bytes);
/* Waits for all work of the stream. */
fgmm_status fgmm__cuda_download(fgmm__cuda_backend *cuda, void *to, const void *from, size_t bytes);
/* Several, with one wait. */
typedef struct {
    void *to;
    const void *from;
    size_t bytes;
} fgmm__cuda_copy;
fgmm_status fgmm__cuda_downloads(fgmm__cuda_backend *cuda, const fgmm__cuda_copy *copies, int n);
void fgmm__cuda_staging_free(fgmm__cuda_backend *cuda);

/* cuda_model.c: takes what it needs of `components`, but makes no tables. */
fgmm_status fgmm__cuda_load_model(fgmm__cuda_backend *cuda, const fgmm_components *components);
int64_t fgmm__cuda_model_bytes(fgmm_covariance shape, int32_t k, int32_t dim);
fgmm_form fgmm__cuda_form(fgmm_covariance shape);
/* Which of Hopper's screens serves the model whose view is set. */
fgmm_sm90_screen fgmm__cuda_screen_of(const fgmm__cuda_backend *cuda);
/* Chooses the screen of a model whose view and origins are set, and makes its tables: before the pass
 * begins. */
fgmm_status fgmm__cuda_make_tables(fgmm__cuda_backend *cuda, fgmm_sm90_range range);
/* The range of components on the host, where a screen wants it. */
fgmm_sm90_range fgmm__cuda_range_of(const fgmm__cuda_backend *cuda, const fgmm_components *components);
/* A component this far below a row's best, in bits, is dropped. */
double fgmm__cuda_keep_bits(fgmm_covariance shape, bool hard, int32_t k);
/* What the half-precision screen has to hold, of `live` components whose factors' log2 add up to factor_logs.
 */
fgmm_sm90_range fgmm__cuda_range(double spread, double factor, double offset, double factor_logs,
                                 double live);

/* cuda_full.c: full components where FGMM_SM90_FULL serves; elsewhere every row is dense. */
/* Factors cross to the device as triangles, whatever serves. */
fgmm_status fgmm__cuda_put_full_factors(fgmm__cuda_backend *cuda, const fgmm_components *components);
fgmm_status fgmm__cuda_make_full_tables(fgmm__cuda_backend *cuda, fgmm_sm90_range range);
int64_t fgmm__cuda_full_bytes(int32_t k, int32_t dim, int32_t chunk_quanta);
fgmm_status fgmm__cuda_reserve_full(fgmm__cuda_backend *cuda, int32_t chunk_quanta);
/* Lists, with the values of their entries in full.pairs; rows without `least` sure entries are dense. */
fgmm_status fgmm__cuda_screen_full(fgmm__cuda_backend *cuda, const fgmm_row_view *rows, int32_t least,
                                   const fgmm_candidate_lists *lists);
/* Adds the rows that fgmm__cuda_screen_full left sparse to the statistics. */
fgmm_status fgmm__cuda_add_full(fgmm__cuda_backend *cuda, const fgmm_row_view *rows);

/* cuda_pass.c. chunk_quanta, chunks: at most this many. */
fgmm__cuda_plan fgmm__cuda_plan_of(fgmm_covariance shape, int32_t k, int32_t dim, bool all_dense,
                                   int32_t chunk_quanta, int32_t chunks);
int64_t fgmm__cuda_plan_bytes(const fgmm__cuda_plan *plan, fgmm_covariance shape, int32_t dim);
/* Begins a pass: takes its buffers, so that a tile takes none, and forgets what is left of the one before. */
fgmm_status fgmm__cuda_begin_pass(fgmm__cuda_backend *cuda, const fgmm__cuda_plan *plan);
/* Dense rows of a lasting tile may be left for later tiles or the end of the pass. */
fgmm_status fgmm__cuda_run_tile(fgmm__cuda_backend *cuda, const fgmm__cuda_plan *plan,
                                const fgmm__cuda_pass *pass, const fgmm_tile *tile);
/* Whether chunks are left that have dense rows; all counts have arrived. */
bool fgmm__cuda_dense_left(const fgmm__cuda_backend *cuda, const fgmm__cuda_plan *plan);
/* Enqueues what is left; waits for the counts of dense rows. */
fgmm_status fgmm__cuda_end_pass(fgmm__cuda_backend *cuda, const fgmm__cuda_plan *plan,
                                const fgmm__cuda_pass *pass);
/* Sets the group to the next range of components; false when there is none. Start with k_count = 0. */
bool fgmm__cuda_next_components(const fgmm__cuda_plan *plan, int32_t k, fgmm_dense_group *group);

/* cuda_dense.c: dense rows that tensor cores add, of an E-step. */
bool fgmm__cuda_dense_serves(const fgmm__cuda_backend *cuda);
/* Whether so many rows are dense, or as good as dense, that none need be screened. */
bool fgmm__cuda_dense_prevails(const fgmm__cuda_backend *cuda, fgmm_sm90_range range);
/* The breadth of components on the host, where dense rows may be added so. */
double fgmm__cuda_breadth_of(const fgmm__cuda_backend *cuda, const fgmm_components *components);
int64_t fgmm__cuda_dense_bytes(int32_t k, int32_t dim, int32_t chunk_quanta);
fgmm_status fgmm__cuda_reserve_dense(fgmm__cuda_backend *cuda, int32_t chunk_quanta);
/* Takes the rows that fp32 can hold out of the chunk's lists; their counts come home. */
fgmm_status fgmm__cuda_add_dense_rows(fgmm__cuda_backend *cuda, const fgmm__cuda_chunk *chunk);

/* cuda_estep.c. An E-step over the model that is loaded, with the tables it needs; its grid is the caller's
 * to set. */
fgmm_status fgmm__cuda_estep_open(fgmm__cuda_backend *cuda, fgmm_covariance shape, fgmm_moment moment,
                                  bool want_sums, fgmm_sm90_range range);
/* The scalars of a grid; inverse_bound is apart. */
void fgmm__cuda_set_grid(fgmm_stats_view *view, double spherical_bound, double log_bound, int bits);
extern const fgmm__cuda_pass fgmm__cuda_estep_pass;

fgmm_status fgmm__cuda_estep_begin(fgmm_backend *backend, const fgmm_components *components,
                                   const fgmm_grid *grid, fgmm_moment moment, bool want_sums);
fgmm_status fgmm__cuda_estep_tile(fgmm_backend *backend, const fgmm_tile *tile);
fgmm_status fgmm__cuda_estep_end(fgmm_backend *backend, fgmm_stats *stats);
int64_t fgmm__cuda_estep_bytes(const fgmm__cuda_plan *plan, fgmm_moment moment, int32_t k, int32_t dim);

/* cuda_mixture.c */
extern const fgmm_resident_ops fgmm__cuda_resident_ops;
int64_t fgmm__cuda_mixture_bytes(fgmm_covariance shape, int32_t k, int32_t dim);
void fgmm__cuda_mixture_free(fgmm__cuda_backend *cuda);

fgmm_status fgmm__cuda_assign_begin(fgmm_backend *backend, const fgmm_components *components, int32_t top);
fgmm_status fgmm__cuda_assign_tile(fgmm_backend *backend, const fgmm_tile *tile, int32_t *labels,
                                   float *responsibilities, double *log_density);
fgmm_status fgmm__cuda_poor_tile(fgmm_backend *backend, const fgmm_tile *tile, fgmm_poor *poor);
int64_t fgmm__cuda_assign_bytes(fgmm_covariance shape, int32_t k, int32_t dim);

fgmm_status fgmm__cuda_queries_begin(fgmm_backend *backend, const float *queries, int64_t n, int32_t dim);
fgmm_status fgmm__cuda_neighbors(fgmm_backend *backend, const int32_t *subset, int32_t n_subset,
                                 const double *bounds, const void *rows, fgmm_dtype dtype, int32_t n_rows,
                                 fgmm_hit *hits, int64_t capacity, int64_t *n_hits);

/* cuda_soar.c */
fgmm_status fgmm__cuda_soar_begin(fgmm_backend *backend, const double *means, int32_t k, int32_t dim,
                                  double lambda);
fgmm_status fgmm__cuda_soar_tile(fgmm_backend *backend, const fgmm_tile *tile, const int32_t *first,
                                 int32_t *second, double *keys);
int64_t fgmm__cuda_soar_bytes(int32_t k, int32_t dim);

/* cuda_lists.c */
fgmm_status fgmm__cuda_lists_open(fgmm_backend *backend, const fgmm_list_table *table, int64_t memory_bytes,
                                  fgmm_backend_lists **out);
void fgmm__cuda_lists_close(fgmm_backend_lists *lists);
fgmm_status fgmm__cuda_lists_search(fgmm_backend_lists *lists, const float *queries, int64_t n, int32_t k,
                                    int32_t nprobe, int32_t choose, int32_t *probes, fgmm_neighbor *nearest,
                                    int32_t *counts, fgmm_list_times *times);

/* cuda_nearest.c */
fgmm_status fgmm__cuda_nearest_begin(fgmm_backend *backend, const float *queries, int64_t n, int32_t dim,
                                     int32_t k);
fgmm_status fgmm__cuda_nearest_tile(fgmm_backend *backend, const fgmm_tile *tile);
fgmm_status fgmm__cuda_nearest_end(fgmm_backend *backend, fgmm_neighbor *nearest, int32_t *counts);
void fgmm__cuda_nearest_destroy(fgmm__cuda_nearest *nearest); /* accepts NULL */

#endif
