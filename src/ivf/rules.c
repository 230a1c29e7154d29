#include "ivf/rules.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "io/reader.h"
#include "ivf/assign.h"
#include "ivf/need.h"
#include "ivf/spill.h"

const char *fgmm__rule_name(fgmm_assign_rule rule)
{
    static const char *const names[] = {"hard", "tau", "soar", "closure", "need"};
    return names[rule];
}

/* ---- parameters ---- */

static fgmm_status check_replication(const fgmm_build_options *options)
{
    fgmm_status status = FGMM_OK;
    double most = options->rule == FGMM_ASSIGN_SOAR ? 2 : options->max_lists;
    if (options->rule == FGMM_ASSIGN_HARD)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "--replication %g: hard lists hold each row once; give --assign tau, soar, closure or "
                  "need with it",
                  options->replication);
    if (!(options->replication >= 1 && options->replication <= most))
        FGMM_FAIL(FGMM_ERR_INPUT, "--replication %g: must be 1 to %g (%s)", options->replication, most,
                  options->rule == FGMM_ASSIGN_SOAR ? "soar adds one list a row" : "--max-lists");
    if (options->rule == FGMM_ASSIGN_TAU && options->tau >= 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "--replication finds tau: leave --tau out");
    if (options->rule == FGMM_ASSIGN_CLOSURE && options->epsilon >= 0)
        FGMM_FAIL(FGMM_ERR_INPUT, "--replication finds epsilon: leave --epsilon out");
cleanup:
    return status;
}

fgmm_status fgmm__rule_create(const fgmm_build_options *options, int32_t k, fgmm_rule *out)
{
    enum { DEFAULT_EPSILON_PERCENT = 10, MOST_NEIGHBORS = 1000 };
    fgmm_status status = FGMM_OK;
    *out = (fgmm_rule){.rule = options->rule,
                       .tau = options->tau < 0 ? 1.0 / k : options->tau,
                       .lambda = options->lambda,
                       .epsilon = options->epsilon < 0 ? DEFAULT_EPSILON_PERCENT / 100.0 : options->epsilon,
                       .soar_limit = INFINITY,
                       .max_lists = options->max_lists,
                       .neighbors = options->neighbors,
                       .window_bytes = options->window_bytes,
                       .replication = options->replication,
                       .known = INFINITY};
    if (!(out->tau <= 1))
        FGMM_FAIL(FGMM_ERR_INPUT, "--tau %g: a responsibility is at most 1", out->tau);
    if (options->max_lists < 1 || options->max_lists > FGMM_MAX_TOP)
        FGMM_FAIL(FGMM_ERR_INPUT, "--max-lists %d: must be 1 to %d", options->max_lists, FGMM_MAX_TOP);
    if (!(out->lambda >= 0 && out->lambda < INFINITY))
        FGMM_FAIL(FGMM_ERR_INPUT, "--lambda %g: must be 0 or more", out->lambda);
    if (!(out->epsilon < INFINITY))
        FGMM_FAIL(FGMM_ERR_INPUT, "--epsilon %g: must be 0 or more", out->epsilon);
    if (options->replication != 0)
        FGMM_TRY(check_replication(options));
    if (options->rule == FGMM_ASSIGN_NEED && options->replication == 0)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "--assign need copies as many rows as there is room for: give --replication");
    if (options->neighbors < 1 || options->neighbors > MOST_NEIGHBORS)
        FGMM_FAIL(FGMM_ERR_INPUT, "--neighbors %d: must be 1 to %d", options->neighbors, MOST_NEIGHBORS);
    if (options->rule == FGMM_ASSIGN_HARD)
        out->max_lists = 1;
    else if (options->rule == FGMM_ASSIGN_SOAR)
        out->max_lists = 2;
cleanup:
    return status;
}

/* ---- hard and tau: what the backend says ---- */

static fgmm_status keep_likely(const fgmm_rule *rule, const fgmm_assigner *assigner, fgmm_labels *labels)
{
    double keys[FGMM_MAX_TOP], tau = rule->tau;
    if (rule->replication > 0) /* every list to choose from that has any responsibility */
        tau = nextafter(0, 1);
    for (int64_t i = 0; i < assigner->tile.rows; i++) {
        int64_t at = i * assigner->top;
        int32_t kept = fgmm__rule_is_multi(rule) ? fgmm__assigner_kept(assigner, i, tau) : 1;
        for (int32_t j = 0; j < kept; j++)
            keys[j] = 1 / (double)assigner->responsibilities[at + j];
        fgmm_status status = fgmm__labels_append(labels, assigner->labels + at, keys, kept);
        if (status != FGMM_OK)
            return status;
    }
    return FGMM_OK;
}

static fgmm_status assign_likely(const fgmm_rule *rule, fgmm_workplace *place, const fgmm_model *model,
                                 fgmm_labels *labels)
{
    fgmm_status status = FGMM_OK;
    fgmm_assigner *assigner = NULL;
    FGMM_TRY(fgmm__assigner_create(place, model, false, rule->max_lists, &assigner));
    FGMM_TRY(fgmm__assigner_leave_out(assigner, labels));
    for (;;) {
        FGMM_TRY(fgmm__assigner_next(assigner));
        if (assigner->tile.rows == 0)
            break;
        FGMM_TRY(keep_likely(rule, assigner, labels));
        fgmm__progress_add(assigner->tile.rows);
    }
cleanup:
    fgmm__assigner_destroy(assigner);
    return status;
}

/* ---- soar and closure: the backend names the nearest centroids, the host chooses among them ---- */

enum { ROUND_ROWS = 4096 }; /* between two looks at the peers */

typedef struct {
    fgmm_spill spill;
    fgmm_workplace *place;
    fgmm_assigner *assigner; /* the nearest centroids of each row */
    fgmm_assigner *first;    /* the first lists; NULL: the nearest */
    fgmm_labels *labels;
    fgmm_near_list **work; /* [threads][k] */
    double **x;            /* [threads][dim] */
    float **x32;           /* [threads][dim] */
    /* of one round */
    int32_t *lists;        /* [ROUND_ROWS][most] */
    double *keys;          /* [ROUND_ROWS][most] */
    fgmm_spilled *spilled; /* [ROUND_ROWS] */
} spilling;

static void release(spilling *s)
{
    for (int t = 0; t < s->place->backend->threads; t++) {
        if (s->work != NULL)
            free(s->work[t]);
        if (s->x != NULL)
            free(s->x[t]);
        if (s->x32 != NULL)
            free(s->x32[t]);
    }
    free(s->work);
    free(s->x);
    free(s->x32);
    free(s->lists);
    free(s->keys);
    free(s->spilled);
    fgmm__assigner_destroy(s->assigner);
    fgmm__assigner_destroy(s->first);
}

static fgmm_status make_room(spilling *s)
{
    fgmm_status status = FGMM_OK;
    int threads = s->place->backend->threads;
    FGMM_ALLOC(s->work, threads, "further lists");
    FGMM_ALLOC(s->x, threads, "further lists");
    FGMM_ALLOC(s->x32, threads, "further lists");
    for (int t = 0; t < threads; t++) {
        FGMM_ALLOC(s->work[t], s->spill.k, "further lists");
        FGMM_ALLOC(s->x[t], s->spill.dim, "further lists");
        FGMM_ALLOC(s->x32[t], s->spill.dim, "further lists");
    }
    FGMM_ALLOC(s->lists, ROUND_ROWS * s->spill.most, "further lists");
    FGMM_ALLOC(s->keys, ROUND_ROWS * s->spill.most, "further lists");
    FGMM_ALLOC(s->spilled, ROUND_ROWS, "further lists");
cleanup:
    return status;
}

/* Row `i` of the tile, whose bytes are at `row`, as number `at` of the round. */
static void spill_row(spilling *s, int64_t i, const void *row, int64_t at)
{
    const fgmm_assigner *assigner = s->assigner;
    int32_t *lists = s->lists + at * s->spill.most, dim = s->spill.dim;
    const int32_t *nearest = assigner->labels + i * assigner->top;
    double *x = s->x[omp_get_thread_num()];
    float *x32 = s->x32[omp_get_thread_num()];
    fgmm__to_f32(assigner->tile.dtype, row, (size_t)dim, x32);
    for (int32_t d = 0; d < dim; d++)
        x[d] = (double)x32[d];
    lists[0] = s->first != NULL ? s->first->labels[i] : nearest[0];
    s->spilled[at] = fgmm__spill(&s->spill, x, nearest, assigner->top, s->work[omp_get_thread_num()], lists,
                                 s->keys + at * s->spill.most);
}

static fgmm_status spill_tile(spilling *s, fgmm_rule *rule)
{
    fgmm_status status = FGMM_OK;
    const fgmm_tile *tile = &s->assigner->tile;
    size_t row_bytes = (size_t)tile->dim * fgmm_dtype_bytes(tile->dtype);
    const void *rows;
    FGMM_TRY(fgmm__assigner_host_rows(s->assigner, &rows));
    for (int64_t begin = 0; begin < tile->rows; begin += ROUND_ROWS) {
        int64_t n = tile->rows - begin < ROUND_ROWS ? tile->rows - begin : ROUND_ROWS;
#pragma omp parallel for num_threads(s->place->backend->threads) schedule(dynamic, 64)
        for (int64_t i = 0; i < n; i++)
            spill_row(s, begin + i, (const char *)rows + (size_t)(begin + i) * row_bytes, i);
        for (int64_t i = 0; i < n; i++) {
            if (rule->rule == FGMM_ASSIGN_SOAR && s->keys[i * s->spill.most + 1] > rule->soar_limit)
                s->spilled[i].count = 1;
            rule->looked_all += s->spilled[i].looked_all;
            rule->known = fmin(rule->known, s->spilled[i].known);
            FGMM_TRY(fgmm__labels_append(s->labels, s->lists + i * s->spill.most, s->keys + i * s->spill.most,
                                         s->spilled[i].count));
        }
        FGMM_TRY(fgmm__comm_tick(s->place->comm));
        fgmm__progress_add(n);
    }
cleanup:
    return status;
}

/* A backend holds one model at a time: a mixture's first lists come from a second one. */
static fgmm_status open_assigners(spilling *s, const fgmm_model *model)
{
    fgmm_status status = FGMM_OK;
    int32_t top = s->spill.k < FGMM_MAX_TOP ? s->spill.k : FGMM_MAX_TOP;
    FGMM_TRY(fgmm__assigner_create(s->place, model, true, top, &s->assigner));
    FGMM_TRY(fgmm__assigner_leave_out(s->assigner, s->labels));
    if (s->place->second != NULL)
        FGMM_TRY(fgmm__assigner_create_second(s->place, model, false, 1, &s->first));
cleanup:
    return status;
}

static fgmm_status spill_pass(spilling *s, const fgmm_model *model, fgmm_rule *rule)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(make_room(s));
    FGMM_TRY(open_assigners(s, model));
    for (;;) {
        FGMM_TRY(fgmm__assigner_next(s->assigner));
        if (s->assigner->tile.rows == 0)
            break;
        if (s->first != NULL)
            FGMM_TRY(fgmm__assigner_follow(s->first, s->assigner));
        FGMM_TRY(spill_tile(s, rule));
    }
cleanup:
    return status;
}

static fgmm_status assign_spilled(fgmm_rule *rule, fgmm_workplace *place, const fgmm_model *model,
                                  double ratio, bool exhaustive, fgmm_labels *labels)
{
    spilling s = {.place = place, .labels = labels};
    s.spill = (fgmm_spill){.rule = rule->rule,
                           .lambda = rule->lambda,
                           .ratio = ratio,
                           .most = rule->max_lists,
                           .exhaustive = exhaustive,
                           .means = fgmm_model_means(model),
                           .k = fgmm_model_k(model),
                           .dim = fgmm_model_dim(model)};
    fgmm_status status = spill_pass(&s, model, rule);
    release(&s);
    return status;
}

/* ---- soar where the backend finds the second lists itself ---- */

static fgmm_status keep_seconds(const fgmm_rule *rule, const int32_t *first, const int32_t *second,
                                const double *second_keys, int64_t n, fgmm_labels *labels)
{
    fgmm_status status = FGMM_OK;
    for (int64_t i = 0; i < n; i++) {
        const int32_t lists[2] = {first[i], second[i]};
        const double keys[2] = {0, second_keys[i]};
        int32_t count = lists[1] < 0 || keys[1] > rule->soar_limit ? 1 : 2;
        FGMM_TRY(fgmm__labels_append(labels, lists, keys, count));
    }
cleanup:
    return status;
}

static fgmm_status assign_seconds(const fgmm_rule *rule, fgmm_workplace *place, const fgmm_model *model,
                                  fgmm_labels *labels)
{
    fgmm_status status = FGMM_OK;
    fgmm_assigner *assigner = NULL;
    int32_t *second = NULL;
    double *keys = NULL;
    const fgmm_backend_ops *ops = place->backend->ops;
    FGMM_ALLOC(second, FGMM_SOAR_ROWS, "second lists");
    FGMM_ALLOC(keys, FGMM_SOAR_ROWS, "second lists");
    FGMM_TRY(fgmm__assigner_create(place, model, false, 1, &assigner));
    FGMM_TRY(fgmm__assigner_leave_out(assigner, labels));
    FGMM_TRY(ops->soar_begin(place->backend, fgmm_model_means(model), fgmm_model_k(model),
                             fgmm_model_dim(model), rule->lambda));
    for (;;) {
        FGMM_TRY(fgmm__assigner_next(assigner));
        int64_t left = assigner->tile.rows;
        const int32_t *first = assigner->labels;
        if (left == 0)
            break;
        for (fgmm_tile part = assigner->tile; left > 0; left -= part.rows, first += part.rows) {
            part.rows = left < FGMM_SOAR_ROWS ? left : FGMM_SOAR_ROWS;
            part.data = (const char *)assigner->tile.data + (size_t)(assigner->tile.rows - left) *
                                                                (size_t)part.dim *
                                                                fgmm_dtype_bytes(part.dtype);
            FGMM_TRY(ops->soar_tile(place->backend, &part, first, second, keys));
            FGMM_TRY(keep_seconds(rule, first, second, keys, part.rows, labels));
            fgmm__progress_add(part.rows);
        }
    }
cleanup:
    free(second);
    free(keys);
    fgmm__assigner_destroy(assigner);
    return status;
}

static bool by_geometry(const fgmm_rule *rule)
{
    return rule->rule == FGMM_ASSIGN_SOAR || rule->rule == FGMM_ASSIGN_CLOSURE;
}

bool fgmm__rule_takes_two(const fgmm_rule *rule, const fgmm_model *model)
{
    return by_geometry(rule) && fgmm_model_algorithm(model) != FGMM_KMEANS;
}

/* ---- need: the lists of the rows that look for a row ---- */

/* The most likely list of each row of the shard. */
static fgmm_status first_lists(fgmm_workplace *place, const fgmm_model *model, int32_t **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_assigner *assigner = NULL;
    int64_t begin = fgmm__shard_begin(place->shard);
    FGMM_ALLOC(*out, fgmm__shard_end(place->shard) - begin, "first lists");
    FGMM_TRY(fgmm__assigner_create(place, model, false, 1, &assigner));
    for (;;) {
        FGMM_TRY(fgmm__assigner_next(assigner));
        const fgmm_tile *tile = &assigner->tile;
        if (tile->rows == 0)
            break;
        memcpy(*out + (tile->begin - begin), assigner->labels, (size_t)tile->rows * sizeof **out);
        fgmm__progress_add(tile->rows);
    }
cleanup:
    fgmm__assigner_destroy(assigner);
    return status;
}

/* A row's lists depend on others': what was found of them before a stop cannot be gone on from, but all can.
 */
static fgmm_status assign_needed(const fgmm_rule *rule, fgmm_workplace *place, const fgmm_model *model,
                                 fgmm_labels *labels)
{
    fgmm_status status = FGMM_OK;
    int32_t *first = NULL;
    int64_t begin = fgmm__shard_begin(place->shard), end = fgmm__shard_end(place->shard), unknown[] = {0};
    unknown[0] = fgmm__labels_find(labels, begin, end, false) < end;
    FGMM_TRY(fgmm__comm_max_i64(place->comm, unknown, 1));
    if (unknown[0] == 0)
        goto cleanup;
    status = first_lists(place, model, &first);
    if (status != FGMM_OK)
        fgmm__comm_announce_failure(place->comm);
    FGMM_TRY(fgmm__comm_agree(place->comm, status));
    FGMM_TRY(fgmm__need_assign(place, rule->graph, first, fgmm_model_k(model), rule->max_lists,
                               rule->window_bytes, labels));
cleanup:
    free(first);
    return status;
}

/* ---- a rule and its replication ---- */

fgmm_labels_shape fgmm__rule_shape(const fgmm_rule *rule, const fgmm_rule_files *files, int64_t begin,
                                   int64_t end)
{
    return (fgmm_labels_shape){.begin = begin,
                               .end = end,
                               .multi = fgmm__rule_is_multi(rule),
                               .seed = files->seed,
                               .path = files->path,
                               .keep = files->keep};
}

/* Lists of their final shape, or with keys to choose by. Local. */
static fgmm_status open_labels(const fgmm_rule *rule, const fgmm_workplace *place,
                               const fgmm_rule_files *files, bool keyed, fgmm_labels **out)
{
    fgmm_labels_shape shape =
        fgmm__rule_shape(rule, files, fgmm__shard_begin(place->shard), fgmm__shard_end(place->shard));
    shape.keyed = keyed;
    if (keyed)
        shape.path = files->keyed_path;
    return fgmm__labels_create(&shape, out);
}

/* ratio, exhaustive: of closure, see fgmm_spill. */
static fgmm_status assign(fgmm_rule *rule, fgmm_workplace *place, const fgmm_model *model, double ratio,
                          bool exhaustive, fgmm_labels *labels)
{
    int64_t rows = fgmm__shard_end(place->shard) - fgmm__shard_begin(place->shard);
    fgmm__progress_begin("assign", "rows", rule->rule == FGMM_ASSIGN_NEED ? 2 * rows : rows);
    bool there = rule->rule == FGMM_ASSIGN_SOAR && place->backend->ops->soar_begin != NULL;
    fgmm_status status = there               ? assign_seconds(rule, place, model, labels)
                         : by_geometry(rule) ? assign_spilled(rule, place, model, ratio, exhaustive, labels)
                         : rule->rule == FGMM_ASSIGN_NEED ? assign_needed(rule, place, model, labels)
                                                          : assign_likely(rule, place, model, labels);
    if (status != FGMM_OK)
        fgmm__comm_announce_failure(place->comm);
    fgmm__progress_end();
    return fgmm__comm_agree(place->comm, status);
}

/* What the limit means in the rule's own terms. -1 (nothing stays) gives parameters under which no row has a
 * second list. */
static void name_limit(fgmm_rule *rule, double limit)
{
    if (rule->rule == FGMM_ASSIGN_TAU) {
        rule->tau = limit < 0 ? 1 : (double)(float)(1 / limit); /* a responsibility was a float */
    } else if (rule->rule == FGMM_ASSIGN_CLOSURE) {
        rule->epsilon = limit < 0 ? -1 : sqrt(limit) - 1;
        while ((1 + rule->epsilon) * (1 + rule->epsilon) < limit) /* the root was rounded down */
            rule->epsilon = nextafter(rule->epsilon, INFINITY);
    } else if (rule->rule == FGMM_ASSIGN_NEED) {
        rule->least_gain =
            limit < 0 ? INFINITY : floor(1 / limit * (1 + 0x1p-40)); /* of a rounded quotient */
    } else {
        rule->soar_limit = limit;
    }
}

static fgmm_status warn_of_too_few(const fgmm_rule *rule, fgmm_comm *comm, int64_t postings, int64_t rows)
{
    fgmm_status status = fgmm__comm_sum_i64(comm, &postings, 1);
    if (status == FGMM_OK && (double)postings < floor(rule->replication * (double)rows))
        fgmm__warn("--replication %g: %.4f is all that this model and --max-lists %d give with --assign %s",
                   rule->replication, (double)postings / (double)rows, rule->max_lists,
                   fgmm__rule_name(rule->rule));
    return status;
}

/* Finds the limit among *keyed. Among the nearest centroids alone a row may miss lists. More to choose from
 * does not raise the limit, so a second pass need look farther only where the first one's limit lets in what
 * they do not show. That pass cannot be gone on from: *keyed is NULL where it is stopped. */
static fgmm_status find_limit(fgmm_rule *rule, fgmm_workplace *place, const fgmm_model *model,
                              const fgmm_rule_files *files, int64_t most, fgmm_labels **keyed, double *limit,
                              bool *all)
{
    fgmm_status status = FGMM_OK;
    fgmm_labels *whole = NULL;
    double known = rule->known;
    FGMM_TRY(fgmm__comm_min_f64(place->comm, &known, 1));
    FGMM_TRY(fgmm__labels_limit(*keyed, place->comm, most, limit, all));
    if (*all ? known == INFINITY : *limit < known)
        goto cleanup;
    fgmm__labels_destroy(*keyed);
    *keyed = NULL;
    rule->looked_all = 0;
    FGMM_TRY(fgmm__comm_agree(place->comm, open_labels(rule, place, files, true, &whole)));
    FGMM_TRY(assign(rule, place, model, *all ? INFINITY : *limit, true, whole));
    FGMM_TRY(fgmm__labels_limit(whole, place->comm, most, limit, all));
    rule->known = INFINITY;
    *keyed = whole;
    whole = NULL;
cleanup:
    fgmm__labels_destroy(whole);
    return status;
}

static fgmm_status replicate(fgmm_rule *rule, fgmm_workplace *place, const fgmm_model *model,
                             const fgmm_rule_files *files, fgmm_labels **labels)
{
    fgmm_status status = FGMM_OK;
    fgmm_labels *final = NULL;
    int64_t rows = fgmm__shard_end(place->shard) - fgmm__shard_begin(place->shard);
    double limit;
    bool all;
    FGMM_TRY(fgmm__comm_sum_i64(place->comm, &rows, 1));
    int64_t most = (int64_t)floor((rule->replication - 1) * (double)rows);
    FGMM_TRY(find_limit(rule, place, model, files, most, labels, &limit, &all));
    status = open_labels(rule, place, files, false, &final);
    if (status == FGMM_OK)
        status = fgmm__labels_trim(*labels, limit, place->comm, final);
    FGMM_TRY(fgmm__comm_agree(place->comm, status));
    if (all)
        FGMM_TRY(warn_of_too_few(rule, place->comm, fgmm__labels_postings(final), rows));
    name_limit(rule, limit);
    fgmm__labels_destroy(*labels);
    *labels = final;
    final = NULL;
cleanup:
    fgmm__labels_destroy(final);
    return status;
}

fgmm_status fgmm__rule_apply(fgmm_rule *rule, fgmm_workplace *place, const fgmm_model *model,
                             const fgmm_rule_files *files, fgmm_labels **out)
{
    fgmm_status status = FGMM_OK;
    bool seek = rule->replication > 0;
    double ratio = seek ? INFINITY : (1 + rule->epsilon) * (1 + rule->epsilon);
    status = open_labels(rule, place, files, seek, out);
    if (status == FGMM_OK && files->take != NULL)
        status = files->take(files->context, *out);
    FGMM_TRY(fgmm__comm_agree(place->comm, status));
    status = assign(rule, place, model, ratio, !seek, *out);
    if (status != FGMM_OK && rule->rule == FGMM_ASSIGN_NEED) {
        fgmm__labels_destroy(*out);
        *out = NULL;
    }
    FGMM_TRY(status);
    if (seek)
        FGMM_TRY(replicate(rule, place, model, files, out));
    FGMM_TRY(fgmm__comm_sum_i64(place->comm, &rule->looked_all, 1));
cleanup:
    return status;
}
