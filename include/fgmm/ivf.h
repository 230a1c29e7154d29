/* Inverted lists from a model: assigning rows, building an index over ranks, searching it, and exact
 * neighbours to judge it by. */
#ifndef FGMM_IVF_H
#define FGMM_IVF_H

#include "fgmm/comm.h"
#include "fgmm/dataset.h"
#include "fgmm/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where a pass over the data runs and what it may take. */
typedef struct {
    fgmm_backend_kind backend;
    int threads; /* a rank; 0: size of the affinity mask */
    fgmm_residency residency;
    int64_t device_memory_bytes, host_memory_bytes; /* caps a rank; 0: automatic */
    int64_t tile_rows;                              /* 0: by size */
} fgmm_resources;

/* ---- assigning rows to components ---- */

typedef struct {
    int32_t top; /* components kept a row, 1..64 */
    double tau;  /* responsibilities below it are dropped; the first is always kept */
    fgmm_resources resources;
} fgmm_assign_options;

typedef struct {
    double mean_log_likelihood; /* a row, nats; k-means: minus the mean squared distance */
    double seconds;
    char residency[64]; /* where this rank's shard lived */
} fgmm_assign_report;

void fgmm_assign_defaults(fgmm_assign_options *options);
/* Collective. Writes labels [N][top] int32 (-1 where fewer), responsibilities [N][top] f32 and log_prob [N]
 * f64 (nats; k-means: minus the squared distance) to the HDF5 file `path`. Every rank writes its own rows.
 * report may be NULL. */
fgmm_status fgmm_assign(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_model *model,
                        const char *path, const fgmm_assign_options *options, fgmm_assign_report *report);

/* ---- building an index ---- */

/* Under every rule a row's first list is that of its most likely component (k-means: the nearest centroid),
 * with centroid c_1; d_j = |x-c_j|^2.
 *   hard     that list alone
 *   tau      and every component with a responsibility of tau or more, at most max_lists in all
 *   soar     and the list of least d_j + lambda ((x-c_1).(x-c_j))^2 / d_1
 *   closure  and, from near to far, every list with d_j at most (1+epsilon)^2 times the nearest's, but one
 *            whose centroid is nearer to that of a list already taken than to the row; at most max_lists
 *   need     and the lists where a search looks first that starts from the rows that have this one among
 *            their nearest; takes a replication; at most max_lists */
typedef enum {
    FGMM_ASSIGN_HARD,
    FGMM_ASSIGN_TAU,
    FGMM_ASSIGN_SOAR,
    FGMM_ASSIGN_CLOSURE,
    FGMM_ASSIGN_NEED
} fgmm_assign_rule;

typedef struct {
    fgmm_assign_rule rule;
    double tau;         /* < 0: 1/K */
    double lambda;      /* 0.5 */
    double epsilon;     /* < 0: 0.1 */
    double replication; /* 0: as tau and epsilon say, with soar two lists a row. R >= 1: finds the tau, the
                           epsilon, the rows that soar gives a second list (those with the least score over
                           |x-c_1|^2) or the copies that are needed most, so that the lists hold as many
                           postings as do not exceed R times the rows */
    int32_t max_lists;  /* 8 */
    int32_t neighbors;  /* need: how many of its nearest rows a row needs; 40 */
    int32_t sketch; /* principal coordinates stored a posting, with which searching passes over rows that are
                       too far, at no change of its answers; needs the vectors; 0: none */
    int store_vectors; /* 1 */
    const char *ids;   /* a file of ids, .npy ('<i8') or .i64bin (u32 rows, u32 1, i64 ids), not negative and
                          each of one row alone; NULL: row numbers */
    const char
        *append; /* an index to whose rows those of the data are added: the new one has its model, rule,
                    parameters and sketches, and the model, the rule and store_vectors that are given here
                    are not looked at. Its rows come first, row numbers go on from there. NULL: none */
    const char *checkpoint; /* a file for the record of a build that is stopped or fails once all lists are
                               known; they lie beside it, 4 bytes a posting. NULL: nothing is kept */
    int resume;             /* go on from the checkpoint; without one start afresh */
    fgmm_resources resources;
    int64_t window_bytes; /* memory of a rank for postings on their way, from which they are written in order;
                             the more, the longer the runs in the file. 0: a quarter of host_memory_bytes, or
                             from the memory there is */
    int64_t exchange_bytes; /* a round of the exchange sends at most so many bytes a rank; 0: 64 MiB, or an
                               eighth of that memory */
} fgmm_build_options;

/* Bytes of all ranks, and the seconds that the slowest was at work on them. */
typedef struct {
    int64_t bytes;
    double seconds;
} fgmm_stage_rate;

typedef struct {
    int64_t postings;
    double tau, epsilon, soar_limit, least_gain; /* of the rule, as given or as found for the replication */
    int64_t looked_all; /* rows whose further lists took all centroids, not the nearest few alone */
    int64_t list_min, list_median, list_p99, list_max; /* postings a list */
    int64_t windows,
        rounds;   /* times that gathered postings were written, and rounds of the exchange, a rank */
    int64_t rows; /* of the index */
    /* in all; of the stages one after another. copy: of the index that rows were added to */
    double seconds, load_seconds, assign_seconds, copy_seconds, write_seconds;
    fgmm_stage_rate assign;          /* of rows; no bytes where an earlier run had done it */
    double assign_read_wait_seconds; /* of it: that the average rank waited for reads */
    fgmm_stage_rate read, exchange,
        write; /* of the last, beside one another; read: no bytes of resident rows */
    double read_wait_seconds, exchange_wait_seconds, write_wait_seconds,
        peers_wait_seconds; /* that the average rank waited for them */
    int64_t peak_bytes;     /* largest resident set of a rank's process */
    int64_t bytes_written;
    char residency[64]; /* where this rank's shard lived */
} fgmm_build_report;

void fgmm_build_defaults(fgmm_build_options *options);
/* Collective. Writes the index at `path` when it is whole; searches are by the dataset's metric: FGMM_IP
 * takes a model of FGMM_L2. report may be NULL. FGMM_STOPPED: stopped on request, and the checkpoint is
 * written. Without a checkpoint a stop leaves nothing and is FGMM_ERR_RUNTIME. The lists of the rows lie in
 * files beside the checkpoint, or in nameless ones beside `path`, while it works. */
fgmm_status fgmm_build(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_model *model,
                       const char *path, const fgmm_build_options *options, fgmm_build_report *report);

/* ---- searching ---- */

typedef struct fgmm_index fgmm_index;
/* Local. Checks the hash, opens for reading; vectors stay in the file and are read list by list.
 * FGMM_ERR_INPUT names the fault. */
fgmm_status fgmm_index_open(const char *path, fgmm_index **out);
void fgmm_index_close(fgmm_index *index); /* accepts NULL */
int64_t fgmm_index_rows(const fgmm_index *index);
int64_t fgmm_index_postings(const fgmm_index *index);
int32_t fgmm_index_lists(const fgmm_index *index);
int32_t fgmm_index_dim(const fgmm_index *index);
fgmm_metric fgmm_index_metric(const fgmm_index *index);
fgmm_dtype fgmm_index_dtype(const fgmm_index *index);

typedef struct {
    double scanned;  /* mean vectors met a query, repeats counted */
    double distinct; /* repeats not counted */
    double full;     /* distances computed: distinct, or what the index's sketches did not rule out */
    double sketches; /* sketches looked at, each (M+1)/D of a distance; 0 without */
    /* Distances to centroids: K, or what finding the nearest by sketches of theirs took: the numbers read of
     * sketches, centroids and the directions of the sketches, over D. */
    double centroids;
    double seconds;
    double lists; /* mean lists probed a query */
} fgmm_search_report;

/* Collective: queries are dealt to the ranks; ids and distances ([n][k], -1 and inf where fewer, squared L2
 * ascending, ties to the smaller id; of an index for FGMM_IP inner products descending, -inf where fewer) are
 * whole on every rank. queries: [n][dim] float on every rank (cosine: of unit length). report may be NULL. A
 * list whose vectors do not match their hash is FGMM_ERR_INPUT. */
fgmm_status fgmm_search(fgmm_comm *comm, const fgmm_index *index, const float *queries, int64_t n, int32_t k,
                        int32_t nprobe, fgmm_backend_kind backend, int threads, int64_t *ids,
                        float *distances, fgmm_search_report *report);

/* Collective: the k nearest rows of each query among all rows of the dataset, exact (distances in float64),
 * ties to the smaller id; distances as fgmm_search has them, by the dataset's metric. queries: [n][dim] float
 * on every rank; ids, distances: [n][k], whole on every rank. k at most the number of rows. */
fgmm_status fgmm_groundtruth(fgmm_comm *comm, const fgmm_dataset *dataset, const float *queries, int64_t n,
                             int32_t k, const fgmm_resources *resources, int64_t *ids, float *distances);

#ifdef __cplusplus
}
#endif
#endif
