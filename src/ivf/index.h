/* The index file: how it lies on disk, writing it from all ranks, reading it list by list.
 *
 *   attributes    format="fgmm-ivf", version, metric, dtype, n_rows, n_postings, assign, tau, max_lists,
 *                 id_source (rows or user); soar: lambda, soar_limit; closure: epsilon;
 *                 need: neighbors, least_gain
 *   centroids     f32 [K][D]
 *   list_offsets  u64 [K+1]     list j holds postings list_offsets[j] .. list_offsets[j+1]-1, by row
 *   list_hashes   u64 [K]       with vectors: sum over the list (mod 2^64) of xxh3(row's bytes, seed =
 *                               place in the list)
 *   ids           i64 [P]
 *   primary       u8 [P]        1: the row's first list; where rows may be in several lists only
 *   vectors       dtype [P][D]  absent when only ids are stored
 *   sketch/mean, sketch/basis   f64 [D], [M][D]; where built with a sketch (ivf/sketch.h)
 *   sketch/values f32 [P][M+1]
 *   model/                      the model
 *   stop/                       the rule of search --recall-target, once one was learnt
 */
#ifndef FGMM_IVF_INDEX_H
#define FGMM_IVF_INDEX_H

#include <stdbool.h>
#include "comm/comm.h"
#include "ivf/rules.h"
#include "ivf/sketch.h"

enum { FGMM_INDEX_VERSION = 1 };

struct fgmm_index {
    char *path;
    int file;                   /* for reading vectors */
    const unsigned char *bytes; /* the whole file, mapped */
    size_t size_bytes;
    fgmm_metric metric;
    fgmm_dtype dtype;
    int64_t rows, postings;
    int32_t k, dim;
    bool multi;                                           /* a row may be in several lists */
    uint64_t *offsets;                                    /* [k+1] */
    uint64_t *hashes;                                     /* [k], NULL without vectors */
    float *centroids;                                     /* [k][dim] */
    fgmm_sketch *sketch;                                  /* NULL: none */
    uint64_t ids_at, primary_at, vectors_at, sketches_at; /* bytes from the start of the file; 0: absent */
};

static inline uint64_t fgmm__index_list_size(const fgmm_index *index, int32_t list)
{
    return index->offsets[list + 1] - index->offsets[list];
}

int64_t fgmm__index_id(const fgmm_index *index, uint64_t posting);
bool fgmm__index_primary(const fgmm_index *index,
                         uint64_t posting); /* the row's first list (always, where rows are in one) */
/* Refuses an index that stores ids alone. */
fgmm_status fgmm__index_need_vectors(const fgmm_index *index);

/* What one row adds to the hash of its list. */
uint64_t fgmm__row_hash(const void *row, size_t bytes, uint64_t place_in_list);

/* Reading lists in pieces of bounded size; a list's hash is checked when it has been read whole for the first
 * time. Local. FGMM_TRY(fgmm__lists_start(lists, j)); for (;;) { FGMM_TRY(fgmm__lists_next(lists)); if
 * (lists->n == 0) break; ... } */
typedef struct {
    const fgmm_index *index;
    int64_t capacity; /* postings a piece */
    int64_t n;        /* postings of this piece; 0: the list is over */
    void *vectors;    /* [n][dim] of the index's dtype */
    int64_t *ids;     /* [n] */
    float *sketches;  /* [n][m+1]; NULL where the index has none */
    int32_t list;
    uint64_t at; /* first posting of the next piece */
    uint64_t hash;
    bool *verified; /* [k] */
} fgmm_lists;
fgmm_status fgmm__lists_create(const fgmm_index *index, fgmm_lists **out);
void fgmm__lists_destroy(fgmm_lists *lists); /* accepts NULL */
void fgmm__lists_start(fgmm_lists *lists, int32_t list);
fgmm_status fgmm__lists_next(fgmm_lists *lists);

/* ---- writing ---- */

/* What an index is made of beside its postings. */
typedef struct {
    const fgmm_model *model;
    fgmm_metric metric; /* of the searches to come */
    fgmm_dtype dtype;
    int64_t rows, postings;
    const fgmm_rule *rule;
    bool vectors, user_ids;
    const fgmm_sketch *sketch; /* with vectors; NULL: none. Outlives the writer */
    int threads;               /* for making sketches */
    const uint64_t *offsets;   /* [k+1] */
} fgmm_index_layout;

typedef struct fgmm_index_writer fgmm_index_writer;

/* Collective. Lays out the file beside `path`, reserves its space on disk and opens it on all ranks.
 * FGMM_ERR_RUNTIME when there is no space. */
fgmm_status fgmm__index_create(fgmm_comm *comm, const char *path, const fgmm_index_layout *layout,
                               fgmm_index_writer **out);
/* Local, from one thread at a time: postings [begin, begin+n). primary and vectors may be NULL where the
 * layout has none. Makes their sketches, for which it takes 4 (m+1) bytes a posting of the call. Postings may
 * come in any order, each from one rank. */
fgmm_status fgmm__index_put(fgmm_index_writer *writer, int64_t begin, int64_t n, const int64_t *ids,
                            const uint8_t *primary, const void *vectors);
/* Collective: hashes [k], whole on rank 0; seals, renames; *bytes (rank 0): the length of the file. The
 * writer is gone afterwards, and the file too on failure. */
fgmm_status fgmm__index_finish(fgmm_index_writer *writer, const uint64_t *hashes, int64_t *bytes);
/* Collective: removes what was written; accepts NULL. */
void fgmm__index_abandon(fgmm_index_writer *writer);

#endif
