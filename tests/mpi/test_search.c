/* Searching and ground truth at 1 to 4 ranks: what is found, met and counted is what a plain implementation
 * finds, meets and counts. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/status.h"
#include "export/faiss.h"
#include "ivf/index.h"
#include "ivf/search.h"
#include "support/files.h"
#include "support/lists.h"
#include "support/ranks.h"

enum { ROWS = 4500, K = 13, DIM = 12, QUERIES = 37, NEAREST = 9 };

static fgmm_test_clusters clusters;
static fgmm_dataset *dataset;
static float queries[QUERIES * DIM];
static char *index_paths[2]; /* by rule */

/* ---- the plain implementation ---- */

typedef struct {
    double distance;
    int64_t id;
} pair;

static int by_distance(const void *a, const void *b)
{
    const pair *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* The `k` nearest of the rows marked in `among` (NULL: all). */
static void plain_nearest(const float *query, const bool *among, int32_t k, int64_t *ids, float *distances)
{
    static pair all[ROWS];
    int n = 0;
    for (int64_t i = 0; i < ROWS; i++)
        if (among == NULL || among[i])
            all[n++] = (pair){fgmm_test_distance(&clusters, i, query), i};
    qsort(all, (size_t)n, sizeof *all, by_distance);
    for (int32_t i = 0; i < k; i++) {
        ids[i] = i < n ? all[i].id : -1;
        distances[i] = i < n ? (float)all[i].distance : INFINITY;
    }
}

/* What the lists of a query are ordered by: its distance to the centroid, or minus its log-density under the
 * model, in nats. */
static double plain_farness(const fgmm_index *index, const float *query, int32_t j, fgmm_probe_order order)
{
    double sum = 0, pi = acos(-1), variance = fgmm_model_covariances(clusters.model)[j];
    for (int32_t d = 0; d < DIM; d++) {
        double centre = order == FGMM_PROBE_CENTROID ? (double)index->centroids[j * DIM + d]
                                                     : fgmm_model_means(clusters.model)[j * DIM + d];
        sum += (centre - (double)query[d]) * (centre - (double)query[d]);
    }
    if (order == FGMM_PROBE_CENTROID)
        return sum;
    return sum / (2 * variance) + DIM * log(2 * pi * variance) / 2 -
           log(fgmm_model_weights(clusters.model)[j]);
}

/* Marks the rows in the first nprobe lists of the query; returns how many postings these lists hold. */
static int64_t plain_probe(const fgmm_index *index, const float *query, int32_t nprobe,
                           fgmm_probe_order order, bool *among, int64_t *distinct)
{
    pair lists[K];
    int64_t scanned = 0;
    for (int32_t j = 0; j < K; j++)
        lists[j] = (pair){plain_farness(index, query, j, order), j};
    qsort(lists, K, sizeof *lists, by_distance);
    memset(among, 0, ROWS * sizeof *among);
    *distinct = 0;
    for (int32_t p = 0; p < nprobe; p++)
        for (uint64_t at = index->offsets[lists[p].id]; at < index->offsets[lists[p].id + 1]; at++) {
            int64_t id = fgmm__index_id(index, at);
            *distinct += !among[id];
            among[id] = true;
            scanned++;
        }
    return scanned;
}

static bool same_results(const int64_t *ids, const float *distances, const int64_t *true_ids,
                         const float *true_distances, size_t n)
{
    return memcmp(ids, true_ids, n * sizeof *ids) == 0 &&
           memcmp(distances, true_distances, n * sizeof *distances) == 0;
}

/* ---- the cases ---- */

static bool search_agrees(const fgmm_index *index, int32_t nprobe, fgmm_probe_order order)
{
    static int64_t ids[QUERIES * NEAREST], true_ids[QUERIES * NEAREST];
    static float distances[QUERIES * NEAREST], true_distances[QUERIES * NEAREST];
    static bool among[ROWS];
    fgmm_search_report report;
    int64_t scanned = 0, distinct = 0, different;
    for (int q = 0; q < QUERIES; q++) {
        scanned += plain_probe(index, queries + q * DIM, nprobe, order, among, &different);
        distinct += different;
        plain_nearest(queries + q * DIM, among, NEAREST, true_ids + q * NEAREST,
                      true_distances + q * NEAREST);
    }
    fgmm_error_clear();
    fgmm_searcher *searcher = NULL;
    bool done =
        fgmm__searcher_create(comm, index, FGMM_BACKEND_CPU, 1, NULL, &searcher) == FGMM_OK &&
        fgmm__searcher_probe_by(searcher, order) == FGMM_OK &&
        fgmm__searcher_run(searcher, queries, QUERIES, NEAREST, nprobe, ids, distances, &report) == FGMM_OK;
    fgmm__searcher_destroy(searcher);
    return done && report.lists == nprobe &&
           same_results(ids, distances, true_ids, true_distances, QUERIES * NEAREST) &&
           report.scanned == (double)scanned / QUERIES && report.distinct == (double)distinct / QUERIES &&
           (index->multi ? nprobe == 1 || distinct < scanned : distinct == scanned);
}

static void search_finds_and_counts_what_a_plain_implementation_does(void **state)
{
    (void)state;
    static const int32_t nprobes[] = {1, 2, 5, K};
    for (int rule = 0; rule < 2; rule++) {
        fgmm_index *index = NULL;
        bool fine = fgmm_index_open(index_paths[rule], &index) == FGMM_OK &&
                    index->multi == (rule == FGMM_ASSIGN_TAU);
        assert_true(on_all_ranks(fine));
        for (size_t i = 0; i < sizeof nprobes / sizeof *nprobes; i++)
            for (int order = FGMM_PROBE_CENTROID; order <= FGMM_PROBE_POSTERIOR; order++)
                assert_true(on_all_ranks(search_agrees(index, nprobes[i], (fgmm_probe_order)order)));
        fgmm_index_close(index);
    }
}

static void ground_truth_is_exact_up_to_all_rows(void **state)
{
    (void)state;
    static const int32_t ks[] = {1, NEAREST, ROWS};
    fgmm_resources resources = {
        .backend = FGMM_BACKEND_CPU, .threads = 1, .residency = FGMM_RESIDENCY_STREAM, .tile_rows = 1024};
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        int32_t k = ks[i];
        size_t n = (size_t)QUERIES * (size_t)k;
        int64_t *ids = malloc(n * sizeof *ids), *true_ids = malloc(n * sizeof *ids);
        float *distances = malloc(n * sizeof *distances), *true_distances = malloc(n * sizeof *distances);
        for (int q = 0; q < QUERIES; q++)
            plain_nearest(queries + q * DIM, NULL, k, true_ids + q * k, true_distances + q * k);
        fgmm_error_clear();
        bool fine =
            fgmm_groundtruth(comm, dataset, queries, QUERIES, k, &resources, ids, distances) == FGMM_OK &&
            same_results(ids, distances, true_ids, true_distances, n);
        free(ids);
        free(true_ids);
        free(distances);
        free(true_distances);
        assert_true(on_all_ranks(fine));
    }
    int64_t id;
    float distance;
    fgmm_error_clear();
    fgmm_status status = fgmm_groundtruth(comm, dataset, queries, 1, ROWS + 1, &resources, &id, &distance);
    assert_true(on_all_ranks(status == FGMM_ERR_INPUT));
}

static void recall_is_the_share_of_true_neighbours_found(void **state)
{
    (void)state;
    const int64_t found[] = {5, 1, 2, -1, 7, 8}, truth[] = {1, 2, 3, 4, 9, 7, -1, -1};
    assert_true(fabs(fgmm__recall(found, 3, truth, 4, 2) - 3.0 / 5) < 1e-12);
}

/* ---- the export, read back by its documented layout ---- */

typedef struct {
    const char *at, *end;
} cursor;

static uint64_t take(cursor *c, int bytes)
{
    uint64_t value = 0;
    if (c->end - c->at < bytes)
        fail_msg("the file ends early");
    memcpy(&value, c->at, (size_t)bytes);
    c->at += bytes;
    return value;
}

static bool tag_is(cursor *c, const char *tag)
{
    uint64_t word = take(c, 4);
    return memcmp(&word, tag, 4) == 0;
}

static bool header_is(cursor *c, int64_t rows)
{
    bool same = take(c, 4) == DIM && take(c, 8) == (uint64_t)rows;
    same = same && take(c, 8) == 1 << 20 && take(c, 8) == 1 << 20;
    return same && take(c, 1) == 1 && take(c, 4) == 1;
}

/* Rows are bytes: FAISS's scalar quantiser takes them as they are. */
static bool quantizer_is(cursor *c)
{
    enum { AS_THEY_ARE = 5 };
    bool same = take(c, 4) == AS_THEY_ARE && take(c, 4) == 0 && take(c, 4) == 0;
    same = same && take(c, 8) == DIM && take(c, 8) == DIM && take(c, 8) == 0;
    return same && take(c, 8) == DIM && take(c, 1) == 0;
}

static bool export_is(const fgmm_index *index, const char *path, const fgmm_faiss_options *options,
                      int64_t total)
{
    size_t value_bytes = options->as_f32 ? sizeof(float) : 1;
    size_t n = 0;
    char *bytes = fgmm_test_read_file(path, &n);
    cursor c = {bytes, bytes + n};
    bool same = tag_is(&c, options->as_f32 ? "IwFl" : "IwSq") && header_is(&c, total) && take(&c, 8) == K &&
                take(&c, 8) == 1 && tag_is(&c, "IxF2") && header_is(&c, K) && take(&c, 8) == K * DIM &&
                memcmp(c.at, index->centroids, K * DIM * sizeof(float)) == 0;
    c.at += K * DIM * sizeof(float);
    same = same && take(&c, 1) == 0 && take(&c, 8) == 0 && (options->as_f32 || quantizer_is(&c)) &&
           tag_is(&c, "ilar") && take(&c, 8) == K && take(&c, 8) == value_bytes * DIM && tag_is(&c, "full") &&
           take(&c, 8) == K;
    uint64_t sizes[K] = {0}, sum = 0;
    for (int32_t j = 0; same && j < K; j++)
        sum += sizes[j] = take(&c, 8);
    same = same && sum == (uint64_t)total;
    for (int32_t j = 0; same && j < K; j++) {
        const char *ids = c.at + sizes[j] * DIM * value_bytes;
        uint64_t i = 0;
        for (uint64_t p = index->offsets[j]; same && p < index->offsets[j + 1]; p++) {
            if (options->primary_only && !fgmm__index_primary(index, p))
                continue;
            int64_t id;
            memcpy(&id, ids + i++ * sizeof id, sizeof id);
            same = id == fgmm__index_id(index, p);
            for (int32_t d = 0; same && d < DIM; d++) {
                float value = (unsigned char)*c.at;
                if (options->as_f32)
                    memcpy(&value, c.at, sizeof value);
                c.at += value_bytes;
                same = value == (float)clusters.rows[id * DIM + d];
            }
        }
        same = same && i == sizes[j];
        c.at = ids + sizes[j] * sizeof(int64_t);
    }
    same = same && c.at == c.end;
    free(bytes);
    return same;
}

static void an_export_has_the_layout_of_faiss(void **state)
{
    (void)state;
    char name[64];
    snprintf(name, sizeof name, "search-%d-%d.faiss", size, rank);
    char *path = strdup(fgmm_test_path(name));
    bool fine = true;
    for (int rule = 0; rule < 2; rule++)
        for (int way = 0; way < 4; way++) {
            int primary = way % 2;
            fgmm_index *index = NULL;
            int64_t rows = 0;
            fgmm_faiss_options options = {.primary_only = primary, .as_f32 = way >= 2};
            fine = fine && fgmm_index_open(index_paths[rule], &index) == FGMM_OK &&
                   fgmm__export_faiss(index, path, &options, NULL, &rows) == FGMM_OK &&
                   rows == (primary ? ROWS : fgmm_index_postings(index)) &&
                   export_is(index, path, &options, rows);
            fgmm_index_close(index);
        }
    remove(path);
    free(path);
    assert_true(on_all_ranks(fine));
}

static bool build(int rule)
{
    char name[64];
    fgmm_build_options options = fgmm_test_build_options((fgmm_assign_rule)rule, 4);
    options.tau = 0.07;
    snprintf(name, sizeof name, "search-%d-%d.h5", size, rule);
    index_paths[rule] = strdup(fgmm_test_path(name));
    return fgmm_build(comm, dataset, clusters.model, index_paths[rule], &options, NULL) == FGMM_OK;
}

int main(int argc, char **argv)
{
    fgmm_test_ranks_start(&argc, &argv);
    char name[64];
    snprintf(name, sizeof name, "search-%d-%d.u8bin", size, rank);
    fgmm_test_clusters_create(ROWS, K, DIM, FGMM_GMM, &clusters);
    dataset = fgmm_test_clusters_open(&clusters, name);
    fgmm_test_clusters_queries(&clusters, QUERIES, queries);
    if (!build(FGMM_ASSIGN_HARD) || !build(FGMM_ASSIGN_TAU))
        return 1;
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(search_finds_and_counts_what_a_plain_implementation_does),
        cmocka_unit_test(ground_truth_is_exact_up_to_all_rows),
        cmocka_unit_test(recall_is_the_share_of_true_neighbours_found),
        cmocka_unit_test(an_export_has_the_layout_of_faiss),
    };
    int failed = cmocka_run_group_tests(cases, NULL, NULL);
    free(index_paths[0]);
    free(index_paths[1]);
    fgmm_dataset_close(dataset);
    fgmm_test_clusters_destroy(&clusters);
    return fgmm_test_ranks_end(failed);
}
