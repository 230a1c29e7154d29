/* Inverted lists from a model, built over ranks, and searching them. */
#ifndef FGMM_IVF_H
#define FGMM_IVF_H

#include "fgmm/comm.h"
#include "fgmm/dataset.h"
#include "fgmm/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { FGMM_ASSIGN_HARD, FGMM_ASSIGN_TAU } fgmm_assign_rule;

typedef struct {
    fgmm_assign_rule rule;
    double tau;          /* < 0: 1/K */
    int32_t max_lists;   /* 8 */
    int store_vectors;   /* 1 */
    fgmm_backend_kind backend;
    int threads;
    fgmm_residency residency;
    int64_t device_memory_bytes, host_memory_bytes, tile_rows;
} fgmm_build_options;

typedef struct {
    int64_t postings;
    int64_t list_min, list_median, list_p99, list_max; /* postings a list */
    double seconds, assign_seconds, exchange_seconds, write_seconds;
    int64_t bytes_written;
} fgmm_build_report;

void fgmm_build_defaults(fgmm_build_options *options);
/* Collective. Writes the index at `path` when it is whole. report may be NULL. */
fgmm_status fgmm_build(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_model *model, const char *path,
                       const fgmm_build_options *options, fgmm_build_report *report);

typedef struct fgmm_index fgmm_index;
/* Local. Checks the hash, opens for reading; vectors stay in the file and are read list by list. FGMM_ERR_INPUT names the fault. */
fgmm_status fgmm_index_open(const char *path, fgmm_index **out);
void fgmm_index_close(fgmm_index *index);
int64_t fgmm_index_rows(const fgmm_index *index);
int64_t fgmm_index_postings(const fgmm_index *index);
int32_t fgmm_index_lists(const fgmm_index *index);
int32_t fgmm_index_dim(const fgmm_index *index);

typedef struct {
    double scanned;   /* mean vectors met a query, repeats counted */
    double distinct;  /* repeats not counted; centroid distances (K a query) are apart */
    double seconds;
} fgmm_search_report;

/* Collective: queries are dealt to the ranks; ids and distances ([n][k], -1 and inf where fewer, squared L2 ascending, ties to the
 * smaller id) are whole on every rank. queries: [n][dim] float on every rank. report may be NULL. */
fgmm_status fgmm_search(fgmm_comm *comm, const fgmm_index *index, const float *queries, int64_t n, int32_t k, int32_t nprobe,
                        fgmm_backend_kind backend, int threads, int64_t *ids, float *distances, fgmm_search_report *report);

#ifdef __cplusplus
}
#endif
#endif
