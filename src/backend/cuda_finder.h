/* Finding the k nearest rows of a batch of queries in lists that lie on the device: the queries, their bounds
 * and what was found for them, and one scan of some lists (kernels/lists.h). Local; stream-ordered on the
 * kernel stream unless said otherwise. */
#ifndef FGMM_BACKEND_CUDA_FINDER_H
#define FGMM_BACKEND_CUDA_FINDER_H

#include "backend/cuda_backend.h"
#include "kernels/lists.h"

/* Device memory that is kept and grows when more is needed. */
typedef struct {
    void *pointer;
    size_t bytes;
} fgmm__cuda_room;

/* out points to a pointer of any type. What it held is lost when it grows. */
fgmm_status fgmm__cuda_make_room(fgmm_device *device, fgmm__cuda_room *room, size_t bytes, const char *what,
                                 void *out);

enum { FGMM__FINDER_ROOMS = 16 };

typedef struct {
    fgmm__cuda_backend *cuda;
    fgmm__cuda_room rooms[FGMM__FINDER_ROOMS];
    fgmm_list_queries queries;
    fgmm_list_plan plan;
    int32_t *zeros;        /* [n] probes of a search with one list */
    int32_t *not_whole;    /* pinned: what queries.not_whole became, */
    fgmm_gpu_event *known; /* when this has happened */
} fgmm__cuda_finder;

void fgmm__cuda_finder_free(fgmm__cuda_finder *finder);

/* Copies the queries ([n][dim], host) to the device. */
fgmm_status fgmm__cuda_finder_queries(fgmm__cuda_finder *finder, const float *queries, int64_t n,
                                      int32_t dim);
/* Writes the queries as bytes, where they are whole numbers of the type (u8 or i8). */
fgmm_status fgmm__cuda_finder_bytes(fgmm__cuda_finder *finder, fgmm_dtype dtype);
/* Whether they all were. Waits for that. */
fgmm_status fgmm__cuda_finder_whole(fgmm__cuda_finder *finder, bool *whole);
/* Begins to look for k nearest, none found yet. probes: [n][pitch], device (NULL: list 0 alone). mean_rows:
 * of a list. whole: in whole numbers, as fgmm__cuda_finder_whole said. */
fgmm_status fgmm__cuda_finder_begin(fgmm__cuda_finder *finder, int32_t k, const int32_t *probes,
                                    int32_t pitch, int32_t nprobe, int32_t lists, double mean_rows,
                                    bool repeats, bool whole);
/* Offers the rows that are here to the queries whose lists they are in. */
fgmm_status fgmm__cuda_finder_scan(fgmm__cuda_finder *finder, const fgmm_list_view *lists);
/* Finds the nprobe nearest centroids instead: begins, scans. rank: shaped for these queries and nprobe. */
fgmm_status fgmm__cuda_finder_rank(fgmm__cuda_finder *finder, const fgmm_list_rank *rank, int32_t nprobe);
/* Rows that may be offered as one list, after `seen` others in no special order, so that finds have room. */
int64_t fgmm__cuda_finder_piece(const fgmm__cuda_finder *finder, int64_t seen);
/* The nearest so far, nearest first (host: nearest [n][k], counts [n]); also: one copy more, or NULL. Waits.
 */
fgmm_status fgmm__cuda_finder_read(fgmm__cuda_finder *finder, fgmm_neighbor *nearest, int32_t *counts,
                                   const fgmm__cuda_copy *also);

/* Bytes of a row on the device: whole granules of 16 bytes and of 8 elements. */
int32_t fgmm__cuda_list_pitch(fgmm_dtype dtype, int32_t dim);
/* Whether products in whole numbers serve rows of this type. */
bool fgmm__cuda_list_bytes_serve(fgmm_dtype dtype, int32_t dim);

#endif
