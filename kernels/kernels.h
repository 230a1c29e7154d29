/* The kernels as C sees them: views of device memory, and one launcher a kernel. A launcher enqueues on
 * `stream` and returns cudaGetLastError() as an int (0: launched). All pointers are device memory; a view
 * owns nothing. */
#ifndef FGMM_KERNELS_H
#define FGMM_KERNELS_H

#include <stdalign.h>
#include <stdbool.h>
#include <stdint.h>
#include "fgmm/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *fgmm_stream; /* cudaStream_t */

enum {
    FGMM_KERNEL_QUANTUM = 1024, /* rows; the dense path's unit, FGMM_QUANTUM of data/partition.h */
    FGMM_CHUNK_QUANTA = 396,    /* a chunk: on 132 multiprocessors 12 waves of 256 rows or 16 of 192, so that
                                   the start and the end of a kernel weigh little */
    FGMM_CHUNK_ROWS = FGMM_CHUNK_QUANTA * FGMM_KERNEL_QUANTUM,
    FGMM_CANDIDATES = 64,                 /* components the screen keeps a row; a row with more is dense */
    FGMM_DENSE_ROW = FGMM_CANDIDATES + 1, /* a row's count when it is dense */
    FGMM_SLAB_COLUMNS = 16384,            /* columns of 1,024 doubles in the dense path's slab: 128 MiB */
    FGMM_SCREEN_TILE = 128,               /* components a tile of the screen's tables */
    FGMM_SCREEN_DIMS = 16,                /* the tables' dimensions are padded to a multiple of this */
    FGMM_SMALL_COMPONENTS = 64,           /* most that small.cu serves */
    FGMM_PAIRS_A_ROW = 4,                 /* places for pairs, on average */
    FGMM_PAIR_COUNTS = 16                 /* counts of pairs are padded to a multiple of this */
};

typedef enum {
    FGMM_ROWS_F32,
    FGMM_ROWS_F16,
    FGMM_ROWS_U8,
    FGMM_ROWS_I8,
    FGMM_ROWS_F64
} fgmm_row_type; /* first four: fgmm_dtype */

/* Rows of one chunk. The kernels compute on value - origin. */
typedef struct {
    const void *data;      /* [rows][dim] of type */
    const double *origin;  /* [dim] */
    const float *origin32; /* [dim padded to FGMM_SCREEN_DIMS], for the screen */
    fgmm_row_type type;
    int32_t rows, dim;
} fgmm_row_view;

/* How the distance of a row to a component is measured; a tied model is spherical on whitened rows. */
typedef enum { FGMM_FORM_SPHERICAL, FGMM_FORM_DIAG, FGMM_FORM_FULL } fgmm_form;

typedef struct {
    fgmm_form form;
    bool hard;
    int32_t k, dim;
    const double *offset; /* [k] */
    const double
        *mean; /* [k][dim], relative to the origin of the rows that distances are taken of (tied: whitened) */
    const double
        *centre; /* [k][dim], relative to the origin of the original rows: second moments are about it */
    const double *factor; /* spherical [k]: on the squared distance; diag [k][dim]; full [k][dim][dim], upper
                             triangular */
    double keep_bits;     /* a component this far below the row's best is dropped */
} fgmm_model_view;

/* The model as the screen reads it, fp32, tile by tile (written by fgmm__launch_screen_tables). */
typedef struct {
    float *mean;  /* [tiles][dim_padded][128]: mean, or for diag mean * factor */
    float *scale; /* diag: [tiles][dim_padded][128]: factor; else NULL */
    float *terms; /* [tiles*128][4]: upper offset, lower offset, factor on the squared distance, error a unit
                     of distance */
    int32_t tiles, dim_padded;
} fgmm_screen_tables;

typedef struct {
    int32_t component;
    float upper; /* upper bound of the log2-density */
} fgmm_candidate;

typedef struct {
    fgmm_candidate *entries; /* [rows][FGMM_CANDIDATES], in an order that depends on row and model alone */
    int32_t *counts;         /* [rows]; FGMM_DENSE_ROW: not held here */
} fgmm_candidate_lists;

/* The statistics (model/stats.h) on the device, with the grid. */
typedef struct {
    int64_t *n, *s, *q_high, *q_low, *log_high, *log_low, *rows, *pairs;
    const double *inverse_bound;    /* [dim], powers of two */
    double inverse_spherical_bound; /* and so are these */
    double inverse_log_bound;
    double one;     /* 2^bits */
    int32_t moment; /* fgmm_moment */
    bool sums;      /* false: log and pairs alone */
} fgmm_stats_view;

enum {
    FGMM_KERNEL_MOMENT_NONE,
    FGMM_KERNEL_MOMENT_SPHERICAL,
    FGMM_KERNEL_MOMENT_DIAG,
    FGMM_KERNEL_MOMENT_FULL
};

/* A kept pair of a row of the chunk and a component. */
typedef struct {
    alignas(16) int32_t row; /* aligned, to be read and written at once */
    int32_t component;       /* -1: no pair in this place */
    int32_t rank;            /* among the component's pairs */
    int32_t weight;          /* place of its weight; -1: the row's only candidate, responsibility 1 */
} fgmm_pair;

typedef struct {
    alignas(16) double r; /* responsibility */
    double distance;      /* squared, without the factor (spherical alone) */
} fgmm_pair_weight;

/* Zero before the first chunk; each chunk leaves the first three zero again. */
typedef struct {
    int32_t wanted, finished; /* further pairs asked for; blocks that are done */
    int32_t sorting;          /* offsets are there, pairs may be sorted */
    int32_t extras, total;    /* places in use behind the rows' own; pairs in `sorted` */
} fgmm_pair_state;

/* Where the pairs of a chunk are sorted. Place i < rows is the first pair of row i, further pairs follow; a
 * row whose pairs find no room is added to the statistics at once. */
typedef struct {
    fgmm_pair *pairs;          /* [capacity] */
    fgmm_pair *sorted;         /* [capacity], by component */
    fgmm_pair_weight *weights; /* [capacity] */
    int32_t *counts, *offsets; /* [k padded to FGMM_PAIR_COUNTS]; counts zero before the first chunk */
    fgmm_pair_state *state;
    int32_t capacity; /* at least the rows of a chunk */
} fgmm_pair_view;

/* Pairs of full components: what the Hopper screen (sm90/full_screen.h) leaves of a chunk, scored in float64.
 * An item is row * FGMM_CANDIDATES + place: a place in the row's list. A row's first entry is its likely best
 * component. */
typedef struct {
    fgmm_candidate_lists lists;
    double *values;     /* [rows][FGMM_CANDIDATES]: log2-densities, then responsibilities (0: dropped) */
    float *runner_up;   /* [rows]: no other component than the first entry's has a larger log2-density */
    float *threshold;   /* [rows]: components under it do not matter; of open rows */
    int32_t *open;      /* [rows]: rows for which others than the first may matter, in any order */
    int32_t *crowded;   /* [rows]: open rows that have got many entries */
    int32_t *n_open;    /* [1] */
    int32_t *n_crowded; /* [1] */
    int32_t *sorted;    /* [rows * FGMM_CANDIDATES]: items by component, in any order within one */
    int32_t *counts,
        *ends; /* [k]: items of a component (zero before the first chunk); where they end in `sorted` */
    int32_t k;
} fgmm_full_pairs;

typedef struct {
    int32_t top;
    int32_t *labels;         /* [rows][top] */
    float *responsibilities; /* [rows][top] */
    double *log_density;     /* [rows] */
} fgmm_assignment_view;

/* The dense rows of a chunk: per quantum the numbers (in the chunk) of its dense rows, ascending. */
typedef struct {
    int32_t *rows;        /* [quanta][1024] */
    int32_t *counts;      /* [quanta] */
    int32_t *home_counts; /* [quanta] the same in pinned memory, for the host */
} fgmm_dense_lists;

/* What the dense path computes at one time: some quanta of a chunk by a range of components. */
typedef struct {
    fgmm_dense_lists lists;
    double *slab;      /* [quanta of the group][k_count][1024]: log2-densities, then responsibilities */
    double *row_max;   /* [quanta of the group][1024]: of the components so far */
    double *row_sum;   /* the same: sum of 2^(l - row_max) */
    int32_t *row_best; /* the same: the most likely component, ties to the smaller number */
    double *top_value; /* [quanta of the group][1024][top], descending; assignment only */
    int32_t *top_component;
    int32_t k_begin, k_count;
    int32_t quanta;                     /* in this group */
    int32_t max_rows;                   /* most dense rows in a quantum of the group */
    int16_t quantum[FGMM_CHUNK_QUANTA]; /* their numbers in the chunk */
} fgmm_dense_group;

/* screen.cu */
int fgmm__launch_screen_tables(const fgmm_model_view *model, const double *origin, const float *origin32,
                               const fgmm_screen_tables *tables, fgmm_stream stream);
/* A row with fewer than `least` candidates becomes dense. */
int fgmm__launch_screen(const fgmm_row_view *rows, const fgmm_model_view *model,
                        const fgmm_screen_tables *tables, int32_t least, const fgmm_candidate_lists *lists,
                        fgmm_stream stream);
/* pairs.cu, sums.cu, select.cu: rows for distances (`metric`) and for sums (`original`) are the same but for
 * tied models. launch_pairs leaves work->sorted and the lists of dense rows, and adds the log-densities of
 * rows with several candidates; launch_sums adds all else. */
int fgmm__launch_pairs(const fgmm_row_view *metric, const fgmm_row_view *original,
                       const fgmm_model_view *model, const fgmm_candidate_lists *lists,
                       const fgmm_dense_lists *dense, const fgmm_pair_view *work,
                       const fgmm_stats_view *stats, int multiprocessors, fgmm_stream stream);
int fgmm__launch_sums(const fgmm_row_view *metric, const fgmm_row_view *original,
                      const fgmm_model_view *model, const fgmm_pair_view *work, const fgmm_stats_view *stats,
                      int multiprocessors, fgmm_stream stream);
/* values: of the entries, as in fgmm_full_pairs; NULL: they are computed. */
int fgmm__launch_select(const fgmm_row_view *metric, const fgmm_model_view *model,
                        const fgmm_candidate_lists *lists, const double *values,
                        const fgmm_assignment_view *out, fgmm_stream stream);
/* full_pairs.cu: the first entries' values and which rows are open; the open rows' other entries' values;
 * responsibilities, and the log-densities to the statistics. A row of which
 * fewer than `least` components are known to be its most likely ones becomes dense. */
int fgmm__launch_full_first(const fgmm_row_view *rows, const fgmm_model_view *model,
                            const fgmm_full_pairs *pairs, fgmm_stream stream);
/* Finds the crowded rows and empties their lists but for the first entry. */
int fgmm__launch_full_crowded(int32_t rows, const fgmm_full_pairs *pairs, fgmm_stream stream);
int fgmm__launch_full_others(const fgmm_row_view *rows, const fgmm_model_view *model, int32_t least,
                             const fgmm_full_pairs *pairs, fgmm_stream stream);
int fgmm__launch_full_responsibilities(const fgmm_row_view *rows, const fgmm_model_view *model,
                                       const fgmm_full_pairs *pairs, const fgmm_stats_view *stats,
                                       fgmm_stream stream);
/* full_sums.cu: n, s and the full moments of the kept items. */
int fgmm__launch_full_sums(const fgmm_row_view *rows, const fgmm_model_view *model,
                           const fgmm_full_pairs *pairs, const fgmm_stats_view *stats, fgmm_stream stream);
/* unpack.cu: full[k][dim][dim], zeros below the diagonal, from packed[k][dim (dim + 1) / 2], rows of the
 * upper triangle one after the other. */
int fgmm__launch_unpack(const double *packed, double *full, int32_t k, int32_t dim, fgmm_stream stream);
/* dense.cu. counts NULL: all rows are dense. */
int fgmm__launch_dense_lists(const int32_t *counts, int32_t rows, const fgmm_dense_lists *lists,
                             fgmm_stream stream);
int fgmm__launch_dense_logits(const fgmm_row_view *metric, const fgmm_model_view *model,
                              const fgmm_dense_group *group, fgmm_stream stream);
int fgmm__launch_dense_reduce(const fgmm_dense_group *group, fgmm_stream stream);
int fgmm__launch_dense_responsibilities(const fgmm_model_view *model, const fgmm_dense_group *group,
                                        const fgmm_stats_view *stats, fgmm_stream stream);
/* dense_top.cu */
int fgmm__launch_dense_top(const fgmm_dense_group *group, int32_t top, fgmm_stream stream);
int fgmm__launch_dense_write(const fgmm_model_view *model, const fgmm_dense_group *group,
                             const fgmm_assignment_view *out, fgmm_stream stream);
/* dense_sums.cu */
int fgmm__launch_dense_sums(const fgmm_row_view *original, const fgmm_model_view *model,
                            const fgmm_dense_group *group, const fgmm_stats_view *stats, fgmm_stream stream);
int fgmm__launch_dense_scatter(const fgmm_row_view *original, const fgmm_model_view *model,
                               const fgmm_dense_group *group, const fgmm_stats_view *stats,
                               fgmm_stream stream);
/* whiten.cu: exact[row][j] = sum_{i<=j} (x - origin)_i factor[i][j]; rounded: the same in fp32. rounded may
 * be NULL. */
int fgmm__launch_whiten(const fgmm_row_view *rows, const double *factor, double *exact, float *rounded,
                        fgmm_stream stream);
/* poor.cu: rows whose log-density is not above a limit, in any order. count goes on past the places. */
enum { FGMM_POOR_PLACES = 4096 };
typedef struct {
    double log_density[FGMM_POOR_PLACES];
    int32_t row[FGMM_POOR_PLACES]; /* of the chunk */
    int32_t count;
} fgmm_poor_list;
int fgmm__launch_poor(const double *log_density, int32_t rows, double limit, fgmm_poor_list *list,
                      fgmm_stream stream);
/* small.cu: the whole E-step of few components and dimensions, without screen, pairs and dense path. Any
 * number of rows. multiprocessors: of the device. */
bool fgmm__small_serves(fgmm_form form, int32_t moment, int32_t k, int32_t dim);
int fgmm__launch_small(const fgmm_row_view *rows, const fgmm_model_view *model, const fgmm_stats_view *stats,
                       int multiprocessors, fgmm_stream stream);
/* mstep.cu: a mixture between two E-steps, for spherical, diagonal and hard (k-means) components. Everything
 * but weights, means and covariances is a function of these and of the data's range. */
typedef struct {
    double *weights;                  /* [k] */
    double *means;                    /* [k][dim], not relative to the origin */
    double *covariances;              /* [k], diag [k][dim]; NULL for hard */
    double *offset, *centre, *factor; /* as in fgmm_model_view; its mean and centre are the same here */
    double *bound, *inverse_bound;    /* [dim]: of the grid */
} fgmm_mixture_view;

/* What the host learns of a mixture, and of the E-step that it was made from. */
typedef struct {
    int64_t log_high, log_low, rows, pairs; /* as in fgmm_stats_view */
    int64_t flagged;                        /* components that starved or have no positive variance */
    double spherical_bound, log_bound;      /* of the grid */
    /* Of components with a finite offset: the largest |mean - origin| in any dimension, the largest factor on
     * the squared distance and |offset|, the sum of log2 of the factors, the number of components. Factors
     * are those of spherical forms. */
    double spread, factor, offset, factor_logs, live;
    double breadth; /* 0, or what fgmm__launch_breadth found */
} fgmm_mixture_summary;

/* What one block of a kernel found of its components. */
typedef struct {
    double spread, factor, offset, factor_logs, live, flagged;
    double least_log, most_log; /* bounds of a row's log2-density */
} fgmm_mixture_part;

enum { FGMM_MSTEP_BLOCKS = 1024 };

typedef struct {
    fgmm_form form;
    bool hard;
    int32_t k, dim;
    int64_t rows;                   /* that the E-step saw, to be written to its words; 0: they hold it */
    double reg_covar, starved_rows; /* components that hold fewer rows starve */
    const double *origin;           /* [dim] */
    const double *low, *high;       /* [dim] range of all rows and the origin, relative to it */
    double range_bound;       /* power of two >= the sum of squares of the powers of two >= high - low */
    double *most;             /* [2][dim]: -low and high, extended by the means; [dim] each */
    fgmm_mixture_part *parts; /* [FGMM_MSTEP_BLOCKS] */
    int32_t *finished;        /* 0; left so */
    void *clear;              /* set to zero, [clear_bytes], a multiple of 16: words of the next E-step */
    int64_t clear_bytes;
} fgmm_mstep_view;

/* Starts: the rest of `next` from its weights, means and covariances. stats NULL: *out has no E-step's sums.
 * Else these come first, from the sums of the E-step over `old`. out: pinned memory. */
int fgmm__launch_mstep(const fgmm_mstep_view *view, const fgmm_mixture_view *old,
                       const fgmm_stats_view *stats, const fgmm_mixture_view *next, fgmm_mixture_summary *out,
                       fgmm_stream stream);
/* breadth.cu: out->breadth, how many components a row of a spherical mixture has within keep_bits of its
 * best, roughly. view: its parts and finished serve once more. At most 8 * FGMM_MSTEP_BLOCKS components. */
int fgmm__launch_breadth(const fgmm_mstep_view *view, const fgmm_mixture_view *mixture, double keep_bits,
                         fgmm_mixture_summary *out, fgmm_stream stream);
/* neighbors.cu: hits [capacity] (fgmm_hit), n_hits counts on past the capacity. */
typedef struct {
    const float *queries;  /* [n][dim] */
    const int32_t *subset; /* [n_queries] numbers of queries, or NULL */
    const double *bounds;  /* [n_queries] */
    const void *rows;      /* [n_rows][dim] of type */
    fgmm_row_type type;
    int32_t n_queries, n_rows, dim;
    void *hits;
    int64_t capacity;
    unsigned long long *n_hits;
} fgmm_neighbor_view;
int fgmm__launch_neighbors(const fgmm_neighbor_view *view, fgmm_stream stream);

#ifdef __cplusplus
}
#endif
#endif
