/* Searching lists on a device, as C sees it: for each list the queries that visit it, a tile of tensor-core
 * products that rules pairs out, and the exact k nearest of what is left. A launcher enqueues on `stream` and
 * returns cudaGetLastError() as an int. All pointers are device memory; a view owns nothing. */
#ifndef FGMM_KERNELS_LISTS_H
#define FGMM_KERNELS_LISTS_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    FGMM_LISTS_MOST_NEAREST = 1024, /* k */
    FGMM_LISTS_MOST_CHUNK = 4096,   /* rows of a list that a block takes at a time */
    FGMM_LISTS_GROUP = 256,         /* queries that it takes, at most */
    FGMM_LISTS_WHOLE_DIMS = 4096,   /* the most for products in whole numbers: sums stay below 2^30 */
    FGMM_LISTS_SAMPLED = 16         /* lists that a query's first bound is made from, at most */
};

/* Bounds and screened distances are compared as 32-bit keys: whole numbers, or the bits of floats >= 0. */
#define FGMM_LISTS_NO_BOUND 0xffffffffu

/* What the screen needs of a row beside its values: half of |x - centre|^2, rounded down, and |x - centre|,
 * rounded up. half_square -infinity: fp32 cannot hold it, the row is never ruled out. */
typedef struct {
    float half_square, length;
} fgmm_list_norm;

/* Rows on the device. List j has its rows at places begin[j] .. begin[j] + size[j] - 1; size 0: not here. */
typedef struct {
    const char *rows; /* [places][pitch bytes], zero past dim */
    int32_t pitch;    /* a multiple of 16, and of 8 elements */
    fgmm_row_type type;
    int32_t dim, lists;
    const int64_t *ids; /* [places]; NULL: first_id + place */
    int64_t first_id;
    const uint32_t *begin; /* [lists] */
    const int32_t *size;   /* [lists] */
    const float *centres;  /* [lists][dim]: near the rows, so that rounding to fp16 costs little */
    int32_t *squares;      /* [places] |x|^2, for products in whole numbers; else NULL */
    fgmm_list_norm *norms; /* [places] for those in fp16; else NULL */
    uint32_t *longest;     /* [lists] bits of the greatest length */
} fgmm_list_view;

/* A pair of query and row that the screen could not rule out. */
typedef struct {
    uint32_t place, lower, upper; /* keys of bounds of the distance; equal for whole numbers */
} fgmm_list_find;

typedef struct {
    double distance;
    int64_t id;
} fgmm_list_near; /* fgmm_neighbor of backend/backend.h */

/* The queries of a batch and what was found for them so far. */
typedef struct {
    int32_t n, dim, k, nprobe;
    bool whole;            /* products in whole numbers */
    bool repeats;          /* a row may be in several lists */
    const float *values;   /* [n][dim] */
    uint8_t *bytes;        /* [n][byte_pitch]: the values in the rows' type, zero past dim */
    int32_t byte_pitch;    /* a multiple of 16 */
    int32_t *squares;      /* [n] |q|^2 */
    int32_t *not_whole;    /* [1] becomes 1 where a value is not of the rows' type */
    const int32_t *probes; /* [n][probe_pitch] lists, of which the first nprobe are searched */
    int32_t probe_pitch;
    uint32_t *bounds;      /* [n] key that a distance must not exceed */
    uint32_t *counts;      /* [n] finds, counting on past the capacity */
    fgmm_list_find *finds; /* [n][capacity] */
    uint32_t capacity;
    uint32_t *sample; /* [n][sample_lists][sample_rows / sample_fold] least keys of upper bounds; ~0: none */
    int32_t sample_lists, sample_rows, sample_fold; /* fold: rows a key, 1 or 8 */
    fgmm_list_near *nearest;                        /* [n][k], nearest first */
    int32_t *nearest_counts;                        /* [n] */
    int32_t *overflowed;                            /* [n] numbers of queries whose finds had no room */
    int32_t *n_overflowed;                          /* [1] */
} fgmm_list_queries;

/* Queries that visit the same list, as many as a block takes. */
typedef struct {
    int32_t list, first, count; /* entries [first, first + count) of visitors */
    int32_t item;               /* the first of this group's items, one a chunk of the list */
} fgmm_list_group;

/* (query, list) pairs sorted by list. */
typedef struct {
    int32_t *counts;         /* [lists + 1] zero before grouping */
    int32_t *visitors;       /* [pairs] numbers of queries; sampling: query * sample_lists + slot */
    fgmm_list_group *groups; /* [lists + pairs / group_queries] */
    int32_t group_queries;   /* as fgmm__list_group_queries says */
    int32_t chunk_rows;      /* rows of a list that a block takes at a time, at most FGMM_LISTS_MOST_CHUNK */
    int32_t *state;          /* [3] groups, items, the next item */
} fgmm_list_plan;

/* What the order of lists takes of a query, in units of 1 / (row scale * its own scale). */
typedef struct {
    float scale, width; /* of its operand; the error a unit of a centroid's length */
    float low, high;    /* its part of bounds of half the distance */
} fgmm_list_rank_query;

/* The order of lists: centroids and queries as operands of a product in fp16 about the centroids' mean. */
typedef struct {
    fgmm_list_view centroids; /* the rows of one list, f32, with norms */
    void *rows;               /* [padded_rows][pieces][64] halves */
    void *queries;            /* [padded_queries][pieces][64] halves, as lists_tile.cuh orders an operand */
    fgmm_list_rank_query *terms;
    int32_t pieces, padded_rows, padded_queries, tile_queries; /* as fgmm__list_rank_shape says */
    int32_t fold; /* centroids whose least upper bound is a key of the sample */
} fgmm_list_rank;

/* lists_plan.cu */
/* squares and norms of the rows that are here, and the longest of each list. */
int fgmm__launch_list_norms(const fgmm_list_view *lists, fgmm_stream stream);
/* No finds, no bounds; zeros: [n], become so. */
int fgmm__launch_list_begin(const fgmm_list_queries *queries, int32_t *zeros, fgmm_stream stream);
/* Values as bytes, where they are. */
int fgmm__launch_list_bytes(const fgmm_list_queries *queries, fgmm_row_type type, fgmm_stream stream);
/* Sorts the pairs whose list is here; sampling: the first sample_lists of each query without a bound. */
int fgmm__launch_list_plan(const fgmm_list_view *lists, const fgmm_list_queries *queries,
                           const fgmm_list_plan *plan, bool sampling, fgmm_stream stream);
/* A query's first bound from its sample; and no query has overflowed. */
int fgmm__launch_list_bounds(const fgmm_list_queries *queries, fgmm_stream stream);
/* Probes from the nearest centroids: probes[n][nprobe] of `ranked` (nearest ids). */
int fgmm__launch_list_probes(const fgmm_list_queries *ranked, int32_t *probes, fgmm_stream stream);

/* lists_tile.cu */
/* The queries a block of the tile takes where rows have so many dimensions; 0: too many dimensions. */
int32_t fgmm__list_group_queries(int32_t dim, bool whole);
/* sampling: fills the sample with upper bounds of the first sample_rows rows of each list, else appends
 * finds. */
int fgmm__launch_list_tile(const fgmm_list_view *lists, const fgmm_list_queries *queries,
                           const fgmm_list_plan *plan, bool sampling, fgmm_stream stream);

/* lists_rank.cu */
/* Sets the shape; false: too many dimensions, or too many of the lists are wanted. */
bool fgmm__list_rank_shape(int32_t lists, int32_t dim, int32_t n, int32_t nprobe, fgmm_list_rank *rank);
size_t fgmm__list_rank_row_bytes(const fgmm_list_rank *rank); /* of both operands */
size_t fgmm__list_rank_query_bytes(const fgmm_list_rank *rank);
/* The operands, of centroids and of queries. */
int fgmm__launch_list_rank_rows(const fgmm_list_rank *rank, fgmm_stream stream);
int fgmm__launch_list_rank_queries(const fgmm_list_rank *rank, const fgmm_list_queries *queries,
                                   fgmm_stream stream);
/* bounding: fills the sample, [n][padded_rows / fold] keys (floats, of half the distance in the query's
 * units); else appends the finds that the bounds, in the same units, leave. */
int fgmm__launch_list_rank(const fgmm_list_rank *rank, const fgmm_list_queries *queries, bool bounding,
                           fgmm_stream stream);

/* lists_select.cu */
/* Finds and the nearest so far become the nearest; counts become zero, bounds shrink. Queries with more finds
 * than fit keep what they had and are listed as overflowed. */
int fgmm__launch_list_select(const fgmm_list_view *lists, const fgmm_list_queries *queries,
                             fgmm_stream stream);
/* The overflowed queries (all: every query) against all rows of their lists that are here, exactly. */
int fgmm__launch_list_exact(const fgmm_list_view *lists, const fgmm_list_queries *queries, bool all,
                            fgmm_stream stream);

#ifdef __cplusplus
}
#endif
#endif
