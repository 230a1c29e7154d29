/* k-means||: what k-means++ does in k passes over a sample, in a few passes over all rows. Distances are the
 * backend's; their sums are of integers, and a row's chance depends on its number, so any number of ranks
 * draws the same. */
#include "init/init.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/philox.h"
#include "data/dataset.h"
#include "data/sample.h"
#include "model/model.h"

typedef struct {
    const fgmm_init_place *place;
    uint64_t seed;
    int32_t k, dim;
    int64_t begin, rows; /* of the shard */
    float *nearest;      /* [rows] squared distance from the nearest candidate */
    int32_t *owner;      /* [rows] that candidate */
    float *candidates;   /* [n][dim], the same on all ranks */
    int64_t n;
    /* of a pass */
    int32_t *labels;
    double *log_density;
    int64_t room;
} seeding;

/* What a row counts for, at most 1. */
static double weight_of(const seeding *s, int64_t i)
{
    const fgmm_weights *weights = s->place->weights;
    return weights != NULL ? *fgmm__weights_from(weights, s->begin + i) : 1;
}

/* ---- distances ---- */

static fgmm_status components_of(const seeding *s, int64_t from, int32_t n, fgmm_components **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_model *model = NULL;
    FGMM_TRY(fgmm__model_create(FGMM_KMEANS, FGMM_SPHERICAL, n, s->dim, &model));
    memcpy(model->origin, s->place->origin, (size_t)s->dim * sizeof *model->origin);
    for (size_t i = 0; i < (size_t)n * (size_t)s->dim; i++)
        model->means[i] = s->candidates[(size_t)from * (size_t)s->dim + i];
    FGMM_TRY(fgmm__components_create(model, true, NULL, NULL, out));
cleanup:
    fgmm_model_destroy(model);
    return status;
}

static fgmm_status look_at_tile(seeding *s, const fgmm_tile *tile, int64_t from)
{
    fgmm_status status = FGMM_OK;
    fgmm_backend *backend = s->place->backend;
    if (tile->rows > s->room) {
        free(s->labels);
        free(s->log_density);
        s->labels = NULL, s->log_density = NULL;
        s->room = tile->rows;
        FGMM_ALLOC(s->labels, s->room, "labels of a tile");
        FGMM_ALLOC(s->log_density, s->room, "distances of a tile");
    }
    FGMM_TRY(backend->ops->assign_tile(backend, tile, s->labels, NULL, s->log_density));
    for (int64_t i = 0; i < tile->rows; i++) {
        int64_t at = tile->begin - s->begin + i;
        float distance = (float)fmax(0, -s->log_density[i]);
        if (distance < s->nearest[at]) {
            s->nearest[at] = distance;
            s->owner[at] = (int32_t)(from + s->labels[i]);
        }
    }
    fgmm__progress_add(tile->rows);
cleanup:
    return status;
}

/* All rows of the shard against candidates [from, from + n). */
static fgmm_status look(seeding *s, int64_t from, int32_t n)
{
    fgmm_status status = FGMM_OK;
    fgmm_components *components = NULL;
    fgmm_backend *backend = s->place->backend;
    FGMM_TRY(components_of(s, from, n, &components));
    FGMM_TRY(backend->ops->assign_begin(backend, components, 1));
    FGMM_TRY(fgmm__shard_start(s->place->shard));
    for (;;) {
        fgmm_tile tile;
        FGMM_TRY(fgmm__shard_next(s->place->shard, &tile));
        if (tile.rows == 0)
            break;
        FGMM_TRY(look_at_tile(s, &tile, from));
    }
cleanup:
    fgmm__components_destroy(components);
    if (status != FGMM_OK && status != FGMM_STOPPED)
        fgmm__comm_announce_failure(s->place->comm);
    return status;
}

/* Against all candidates from `from` on: k at a time, which is what the backend has memory for. */
static fgmm_status look_at_new(seeding *s, int64_t from)
{
    for (; from < s->n; from += s->k) {
        int32_t n = s->n - from < s->k ? (int32_t)(s->n - from) : s->k;
        fgmm_status status = fgmm__comm_agree(s->place->comm, look(s, from, n));
        if (status != FGMM_OK)
            return status;
    }
    return FGMM_OK;
}

/* ---- candidates ---- */

/* Collective: rows of these numbers ([count], this rank's, ascending) join the candidates. */
static fgmm_status add_candidates(seeding *s, const int64_t *mine, int64_t count)
{
    fgmm_status status = FGMM_OK;
    fgmm_comm *comm = s->place->comm;
    int64_t *counts = NULL, *all = NULL, total = 0;
    float *grown = NULL;
    int size = fgmm_comm_size(comm);
    FGMM_TRY(
        fgmm__comm_agree(comm, fgmm__alloc((size_t)size, sizeof *counts, "candidates", (void **)&counts)));
    FGMM_TRY(fgmm__comm_allgather(comm, &count, sizeof count, counts));
    for (int r = 0; r < size; r++)
        total += counts[r];
    if (total == 0)
        goto cleanup;
    status = fgmm__alloc((size_t)total, sizeof *all, "candidates", (void **)&all);
    if (status == FGMM_OK)
        status = fgmm__alloc((size_t)(s->n + total) * (size_t)s->dim, sizeof *grown, "candidates",
                             (void **)&grown);
    if (status == FGMM_OK && s->n + total > INT32_MAX)
        status = fgmm__fail(FGMM_ERR_RUNTIME, "more than 2^31 candidates for a start: lower -k");
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_allgatherv(comm, mine, counts, sizeof *all, all));
    size_t values = (size_t)s->n * (size_t)s->dim;
    if (s->n > 0)
        memcpy(grown, s->candidates, values * sizeof *grown);
    FGMM_TRY(fgmm__gather_rows(s->place->dataset, comm, all, total, grown + values));
    free(s->candidates);
    s->candidates = grown;
    s->n += total;
    grown = NULL;
cleanup:
    free(counts);
    free(all);
    free(grown);
    return status;
}

/* Collective. The sum over all rows of weight times squared distance. */
static fgmm_status total_cost(const seeding *s, double *out)
{
    fgmm_status status = FGMM_OK;
    double largest = 0;
    int exponent, bits = fgmm__grid_bits(fgmm_dataset_rows(s->place->dataset));
    int64_t sum = 0;
    for (int64_t i = 0; i < s->rows; i++)
        largest = fmax(largest, weight_of(s, i) * (double)s->nearest[i]);
    FGMM_TRY(fgmm__comm_max_f64(s->place->comm, &largest, 1));
    frexp(largest, &exponent);
    for (int64_t i = 0; i < s->rows; i++)
        sum += llrint(ldexp(weight_of(s, i) * (double)s->nearest[i], bits - exponent));
    FGMM_TRY(fgmm__comm_sum_i64(s->place->comm, &sum, 1));
    *out = ldexp((double)sum, exponent - bits);
cleanup:
    return status;
}

static double chance_of(const seeding *s, int64_t row, int32_t round)
{
    fgmm_philox p = fgmm__philox(s->seed, FGMM_RNG_CANDIDATES, (uint64_t)row, (uint32_t)round);
    uint64_t bits = (uint64_t)p.word[1] << 32 | p.word[0];
    return (double)(bits >> 11) * 0x1p-53;
}

/* One round: every row by itself. 7/8 k rows are expected, so that one look at them is nearly always enough.
 */
static fgmm_status draw_round(seeding *s, int32_t round)
{
    fgmm_status status = FGMM_OK;
    int64_t *drawn = NULL, count = 0, before = s->n;
    double cost;
    FGMM_TRY(total_cost(s, &cost));
    if (cost == 0)
        goto cleanup;
    for (int pass = 0; pass < 2; pass++) { /* counts, then writes */
        if (pass == 1)
            FGMM_TRY(fgmm__comm_agree(
                s->place->comm, fgmm__alloc((size_t)count, sizeof *drawn, "candidates", (void **)&drawn)));
        count = 0;
        for (int64_t i = 0; i < s->rows; i++) {
            double share = weight_of(s, i) * (double)s->nearest[i] / cost;
            if (chance_of(s, s->begin + i, round) >= 0.875 * s->k * share)
                continue;
            if (pass == 1)
                drawn[count] = s->begin + i;
            count++;
        }
    }
    FGMM_TRY(add_candidates(s, drawn, count));
    FGMM_TRY(look_at_new(s, before));
cleanup:
    free(drawn);
    return status;
}

/* Collective; weights: [n], of the rows that are nearest to each candidate. */
static fgmm_status weigh(const seeding *s, double *weights)
{
    fgmm_status status = FGMM_OK;
    int64_t *sums = NULL;
    int bits = fgmm__grid_bits(fgmm_dataset_rows(s->place->dataset));
    FGMM_TRY(fgmm__comm_agree(s->place->comm,
                              fgmm__alloc((size_t)s->n, sizeof *sums, "candidates", (void **)&sums)));
    for (int64_t i = 0; i < s->rows; i++)
        sums[s->owner[i]] += llrint(ldexp(weight_of(s, i), bits));
    FGMM_TRY(fgmm__comm_sum_i64(s->place->comm, sums, (size_t)s->n));
    for (int64_t j = 0; j < s->n; j++)
        weights[j] = ldexp((double)sums[j], -bits);
cleanup:
    free(sums);
    return status;
}

/* ---- the whole ---- */

static fgmm_status make_room(seeding *s)
{
    fgmm_status status = FGMM_OK;
    FGMM_ALLOC(s->nearest, s->rows, "distances of rows");
    FGMM_ALLOC(s->owner, s->rows, "distances of rows");
    for (int64_t i = 0; i < s->rows; i++)
        s->nearest[i] = INFINITY;
cleanup:
    return status;
}

/* The first candidate is any row. */
static fgmm_status draw_first(seeding *s)
{
    fgmm_status status = FGMM_OK;
    int64_t rows = fgmm_dataset_rows(s->place->dataset);
    int64_t row = (int64_t)fgmm__philox_below(s->seed, FGMM_RNG_KMEANSPP, 0, (uint64_t)rows);
    bool mine = row >= s->begin && row < s->begin + s->rows;
    FGMM_TRY(add_candidates(s, &row, mine ? 1 : 0));
    FGMM_TRY(look_at_new(s, 0));
cleanup:
    return status;
}

static fgmm_status recluster(const seeding *s, double *means)
{
    fgmm_status status = FGMM_OK;
    fgmm_comm *comm = s->place->comm;
    double *weights = NULL;
    FGMM_TRY(
        fgmm__comm_agree(comm, fgmm__alloc((size_t)s->n, sizeof *weights, "candidates", (void **)&weights)));
    FGMM_TRY(weigh(s, weights));
    if (fgmm_comm_rank(comm) == 0)
        status = fgmm__kmeanspp_among(s->candidates, weights, s->n, s->dim, comm, s->seed, s->k, means);
    FGMM_TRY(fgmm__comm_agree(comm, status));
    FGMM_TRY(fgmm__comm_bcast(comm, means, (size_t)s->k * (size_t)s->dim * sizeof *means, 0));
cleanup:
    free(weights);
    return status;
}

fgmm_status fgmm__init_parallel(const fgmm_init_place *place, uint64_t seed, int32_t k, double *means)
{
    fgmm_status status = FGMM_OK;
    seeding s = {.place = place, .seed = seed, .k = k, .dim = fgmm_dataset_dim(place->dataset)};
    s.begin = fgmm__shard_begin(place->shard);
    s.rows = fgmm__shard_end(place->shard) - s.begin;
    fgmm__progress_begin("k-means|| start", "rows", (FGMM_PARALLEL_ROUNDS + 1) * s.rows);
    FGMM_TRY(fgmm__comm_agree(place->comm, make_room(&s)));
    FGMM_TRY(draw_first(&s));
    for (int32_t round = 0; round < FGMM_PARALLEL_ROUNDS; round++)
        FGMM_TRY(draw_round(&s, round));
    fgmm__progress_end();
    fgmm__progress_begin("k-means|| start", "means", k);
    FGMM_TRY(recluster(&s, means));
cleanup:
    fgmm__progress_end();
    free(s.nearest);
    free(s.owner);
    free(s.candidates);
    free(s.labels);
    free(s.log_density);
    return status;
}
