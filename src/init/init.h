/* Starts of a fit: the first means, chosen from rows of the data. */
#ifndef FGMM_INIT_INIT_H
#define FGMM_INIT_INIT_H

#include "backend/backend.h"
#include "data/shard.h"
#include "data/weights.h"
#include "fgmm/dataset.h"
#include "model/model.h"

/* k-means++ looks at this many rows a component at most, and is used up to this many components. */
enum { FGMM_KMEANSPP_ROWS = 64, FGMM_KMEANSPP_MAX_K = 8192 };

/* All collective; the same on any number of ranks. means: [k][dim] float64, on every rank. */

/* k distinct rows, one drawn in each of k equal strata. */
fgmm_status fgmm__init_random(const fgmm_dataset *dataset, fgmm_comm *comm, uint64_t seed, int32_t k,
                              double *means);

/* k-means++ (Arthur & Vassilvitskii 2007) on a seeded sample of min(N, 64 k) rows. weights: of rows, NULL:
 * each counts as one. */
fgmm_status fgmm__init_kmeanspp(const fgmm_dataset *dataset, const fgmm_weights *weights, fgmm_comm *comm,
                                uint64_t seed, int32_t k, double *means);

/* k-means++ among `n` rows ([n][dim]; weights [n] or NULL). Local: on one rank, while the others wait in an
 * agreement. */
fgmm_status fgmm__kmeanspp_among(const float *rows, const double *weights, int64_t n, int32_t dim,
                                 fgmm_comm *comm, uint64_t seed, int32_t k, double *means);

/* What a start that looks at all rows works with. */
typedef struct {
    fgmm_comm *comm;
    fgmm_backend *backend;
    const fgmm_dataset *dataset;
    fgmm_shard *shard;           /* loaded */
    const fgmm_weights *weights; /* of rows, loaded; NULL: each counts as one */
    const double *origin;        /* [dim] */
} fgmm_init_place;

/* k-means|| (Bahmani, Moseley, Vattani, Kumar & Vassilvitskii 2012) on all rows: FGMM_PARALLEL_ROUNDS times
 * each row is drawn by itself, with a chance of 7/8 k times its share of all squared distances from the
 * candidates so far; then k-means++ among the candidates, each of which weighs what is nearest to it. Takes
 * FGMM_PARALLEL_ROW_BYTES a row of the shard, and some 5 k candidates. Gives k means of the backend's own
 * arithmetic: those of CPU and GPU may differ. */
enum { FGMM_PARALLEL_ROUNDS = 5, FGMM_PARALLEL_ROW_BYTES = 8 };
fgmm_status fgmm__init_parallel(const fgmm_init_place *place, uint64_t seed, int32_t k, double *means);

/* The origin of the arithmetic: the mean of a seeded sample, rounded to integers for u8 and i8 rows. origin:
 * [dim]. */
fgmm_status fgmm__init_origin(const fgmm_dataset *dataset, fgmm_comm *comm, uint64_t seed, double *origin);

#endif
