/* An index with sketches at 1 to 4 ranks: the file is the same byte for byte, a search that passes over rows
 * by them finds the same to the bit as one that does not, and passes over what a plain implementation would.
 * The same of centroids that are passed over by sketches of theirs. */
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
#include <unistd.h>
#include "base/status.h"
#include "io/h5.h"
#include "ivf/index.h"
#include "ivf/stop.h"
#include "support/files.h"
#include "support/lists.h"
#include "support/ranks.h"

enum { CENTROID_SKETCH = 5 };
enum { ROWS = 4500, K = 40, DIM = 12, M = 4, QUERIES = 61, NEAREST = 9 };

static fgmm_test_clusters clusters;
static fgmm_dataset *dataset;
static float queries[QUERIES * DIM];

static const char *name_of(const char *what, int owner)
{
    char name[96];
    snprintf(name, sizeof name, "skim-%d-%d-%s", size, owner, what);
    return fgmm_test_path(name);
}

static fgmm_build_options options_of(fgmm_assign_rule rule)
{
    fgmm_build_options options = fgmm_test_build_options(rule, 4);
    options.sketch = M;
    options.replication = rule == FGMM_ASSIGN_HARD ? 0 : 1.6;
    return options;
}

static bool build(fgmm_comm *ranks, const char *path, const fgmm_build_options *options)
{
    fgmm_error_clear();
    return fgmm_build(ranks, dataset, clusters.model, path, options, NULL) == FGMM_OK;
}

static const fgmm_assign_rule rules[] = {FGMM_ASSIGN_HARD, FGMM_ASSIGN_SOAR, FGMM_ASSIGN_NEED};

/* ---- the file ---- */

/* Every posting's sketch is that of its row, from the stored mean and basis. */
static bool sketches_are_right(const fgmm_index *index)
{
    fgmm_lists *lists = NULL;
    bool right =
        index->sketch != NULL && index->sketch->m == M && fgmm__lists_create(index, &lists) == FGMM_OK;
    for (int32_t j = 0; right && j < K; j++)
        for (fgmm__lists_start(lists, j);
             (right = right && fgmm__lists_next(lists) == FGMM_OK) && lists->n > 0;)
            for (int64_t i = 0; i < lists->n; i++) {
                const float *sketch = lists->sketches + i * (M + 1);
                double rest[DIM], left = 0;
                for (int32_t d = 0; d < DIM; d++)
                    rest[d] = clusters.rows[lists->ids[i] * DIM + d] - index->sketch->mean[d];
                for (int32_t m = 0; m < M; m++) {
                    const double *direction = index->sketch->basis + m * DIM;
                    double along = 0;
                    for (int32_t d = 0; d < DIM; d++)
                        along += direction[d] * rest[d];
                    for (int32_t d = 0; d < DIM; d++)
                        rest[d] -= along * direction[d];
                    right = right && fabs(along - (double)sketch[m]) < 1e-4;
                }
                for (int32_t d = 0; d < DIM; d++)
                    left += rest[d] * rest[d];
                right = right && fabs(sqrt(left) - (double)sketch[M]) < 1e-4;
            }
    fgmm__lists_destroy(lists);
    return right;
}

static void sketches_are_stored_the_same_for_any_ranks_and_windows(void **state)
{
    (void)state;
    for (int r = 0; r < 3; r++) {
        char *path = strdup(name_of("lists.h5", -1)), *mine = strdup(name_of("alone.h5", rank));
        fgmm_build_options options = options_of(rules[r]), tight = options;
        fgmm_index *index = NULL;
        tight.resources.residency = FGMM_RESIDENCY_STREAM;
        tight.resources.tile_rows = 1024;
        tight.resources.threads = 2;
        tight.window_bytes = 50000;
        bool fine = build(comm, path, &options);
        fine = on_all_ranks(fine) && build(alone, mine, &tight) && fgmm_test_same_file(path, mine) &&
               fgmm_index_open(path, &index) == FGMM_OK && sketches_are_right(index);
        fgmm_index_close(index);
        unlink(mine);
        free(path);
        free(mine);
        assert_true(on_all_ranks(fine));
    }
}

/* ---- searching ---- */

typedef struct {
    int64_t ids[QUERIES * NEAREST];
    float distances[QUERIES * NEAREST];
    fgmm_search_report report;
} found;

static bool search_with(fgmm_comm *ranks, const fgmm_index *index, int threads, bool skip,
                        int32_t centroid_sketch, int32_t nprobe, found *out)
{
    fgmm_searcher *searcher = NULL;
    fgmm_error_clear();
    bool done = fgmm__searcher_create(ranks, index, FGMM_BACKEND_CPU, threads, NULL, &searcher) == FGMM_OK;
    if (done)
        fgmm__searcher_skip(searcher, skip);
    done = done && fgmm__searcher_centroid_sketch(searcher, centroid_sketch) == FGMM_OK &&
           fgmm__searcher_run(searcher, queries, QUERIES, NEAREST, nprobe, out->ids, out->distances,
                              &out->report) == FGMM_OK;
    fgmm__searcher_destroy(searcher);
    return done;
}

static bool search(fgmm_comm *ranks, const fgmm_index *index, int threads, bool skip, int32_t nprobe,
                   found *out)
{
    return search_with(ranks, index, threads, skip, 0, nprobe, out);
}

static bool same_finds(const found *a, const found *b)
{
    return memcmp(a->ids, b->ids, sizeof a->ids) == 0 &&
           memcmp(a->distances, b->distances, sizeof a->distances) == 0;
}

typedef struct {
    double distance;
    int64_t number;
} numbered;

static int by_distance(const void *a, const void *b)
{
    const numbered *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

/* Distances of one query that remain when rows are passed over whose sketch is farther than the NEAREST-th so
 * far by more than the share `margin`, row by row. */
static int64_t plain_full(const fgmm_index *index, const float *query, int32_t nprobe, double margin)
{
    static bool met[ROWS];
    numbered lists[K], best[NEAREST + 1];
    double own[M + 1];
    int64_t full = 0;
    int n = 0;
    memset(met, 0, sizeof met);
    fgmm__sketch_query(index->sketch, query, own);
    for (int32_t j = 0; j < K; j++) {
        lists[j] = (numbered){0, j};
        for (int32_t d = 0; d < DIM; d++)
            lists[j].distance += pow((double)index->centroids[j * DIM + d] - (double)query[d], 2);
    }
    qsort(lists, K, sizeof *lists, by_distance);
    for (int32_t p = 0; p < nprobe; p++)
        for (uint64_t at = index->offsets[lists[p].number]; at < index->offsets[lists[p].number + 1]; at++) {
            float sketch[M + 1];
            int64_t id = fgmm__index_id(index, at);
            double apart = 0;
            memcpy(sketch, index->bytes + index->sketches_at + at * sizeof sketch, sizeof sketch);
            for (int32_t m = 0; m <= M; m++)
                apart += pow((double)sketch[m] - own[m], 2);
            if (met[id] || (n == NEAREST && apart > best[NEAREST - 1].distance * (1 + margin)))
                continue;
            met[id] = true;
            full++;
            best[n++] = (numbered){fgmm_test_distance(&clusters, id, query), id};
            qsort(best, (size_t)n, sizeof *best, by_distance);
            n = n > NEAREST ? NEAREST : n;
        }
    return full;
}

static bool skipping_changes_nothing(const fgmm_index *index, int32_t nprobe)
{
    static found all, skimmed, other;
    int64_t least = 0, most = 0;
    bool fine = search(comm, index, 1, false, nprobe, &all) && search(comm, index, 1, true, nprobe, &skimmed);
    fine = on_all_ranks(fine) && search(alone, index, 3, true, nprobe, &other);
    for (int q = 0; q < QUERIES; q++) {
        least += plain_full(index, queries + q * DIM, nprobe, 0);
        most += plain_full(index, queries + q * DIM, nprobe, 1e-3);
    }
    const fgmm_search_report *report = &skimmed.report, *plain = &all.report;
    return fine && same_finds(&all, &skimmed) && same_finds(&all, &other) && plain->full == plain->distinct &&
           plain->sketches == 0 && report->scanned == plain->scanned && report->distinct == plain->distinct &&
           report->full == other.report.full && report->sketches == other.report.sketches &&
           report->sketches <= report->scanned && report->sketches > report->scanned - 2 * NEAREST &&
           report->full < 0.9 * report->distinct && report->full * QUERIES > (double)least - 0.5 &&
           report->full * QUERIES < (double)most + 0.5;
}

/* Collective. The index that a rule makes; the caller closes it. */
static bool open_built(fgmm_assign_rule rule, fgmm_index **index)
{
    const char *path = name_of("lists.h5", -1);
    fgmm_build_options options = options_of(rule);
    return on_all_ranks(build(comm, path, &options)) && fgmm_index_open(path, index) == FGMM_OK;
}

static void a_search_that_skips_finds_the_same_and_skips_what_it_may(void **state)
{
    (void)state;
    static const int32_t nprobes[] = {2, 7, K};
    for (int r = 0; r < 3; r++) {
        fgmm_index *index = NULL;
        bool fine = open_built(rules[r], &index);
        for (int i = 0; i < 3; i++)
            fine = on_all_ranks(fine) && skipping_changes_nothing(index, nprobes[i]);
        fgmm_index_close(index);
        assert_true(on_all_ranks(fine));
    }
}

/* With and without sketches of rows: the same finds from the same rows, and on any ranks and threads as many
 * numbers read. */
static bool finding_lists_changes_nothing(const fgmm_index *index, bool skip, int32_t nprobe)
{
    static found all, coarse, other;
    bool fine = search_with(comm, index, 1, skip, 0, nprobe, &all) &&
                search_with(comm, index, 1, skip, CENTROID_SKETCH, nprobe, &coarse);
    fine = on_all_ranks(fine) && search_with(alone, index, 3, skip, CENTROID_SKETCH, nprobe, &other);
    const fgmm_search_report *a = &all.report, *b = &coarse.report;
    double least = CENTROID_SKETCH + nprobe + K * 5.0 / DIM, most = CENTROID_SKETCH + K * (1 + 7.0 / DIM);
    return fine && same_finds(&all, &coarse) && same_finds(&all, &other) && a->lists == b->lists &&
           a->scanned == b->scanned && a->distinct == b->distinct && a->full == b->full &&
           a->sketches == b->sketches && a->centroids == K && b->centroids == other.report.centroids &&
           b->centroids >= least - 1e-9 && b->centroids <= most + 1e-9 && (nprobe > 2 || b->centroids < K);
}

static void lists_found_by_sketches_of_their_centroids_are_the_same(void **state)
{
    (void)state;
    static const int32_t nprobes[] = {1, 7, K};
    for (int r = 0; r < 3; r++) {
        fgmm_index *index = NULL;
        bool fine = open_built(rules[r], &index);
        for (int i = 0; i < 6; i++)
            fine = on_all_ranks(fine) && finding_lists_changes_nothing(index, i % 2, nprobes[i / 2]);
        fgmm_index_close(index);
        assert_true(on_all_ranks(fine));
    }
}

static void a_learnt_stop_stops_at_the_same_lists_with_skipping(void **state)
{
    (void)state;
    static found all, skimmed, coarse;
    char *path = strdup(name_of("lists.h5", -1));
    fgmm_build_options options = options_of(FGMM_ASSIGN_NEED);
    fgmm_index *index = NULL;
    fgmm_searcher *searcher = NULL;
    fgmm_stop_rule rule;
    double threshold;
    bool fine = build(comm, path, &options);
    fine = on_all_ranks(fine) && fgmm_index_open(path, &index) == FGMM_OK &&
           fgmm__searcher_create(comm, index, FGMM_BACKEND_CPU, 1, NULL, &searcher) == FGMM_OK;
    fine = on_all_ranks(fine) && fgmm__stop_learn(searcher, queries, QUERIES, NEAREST, K, &rule) == FGMM_OK &&
           fgmm__stop_threshold(&rule, 0.95, &threshold) == FGMM_OK;
    for (int way = 0; way < 3 && fine; way++) {
        found *out = way == 0 ? &all : way == 1 ? &skimmed : &coarse;
        fgmm__searcher_skip(searcher, way > 0);
        fine = fgmm__searcher_centroid_sketch(searcher, way == 2 ? CENTROID_SKETCH : 0) == FGMM_OK &&
               fgmm__searcher_run_rule(searcher, &rule, threshold, queries, QUERIES, out->ids, out->distances,
                                       &out->report) == FGMM_OK;
    }
    fine = fine && same_finds(&all, &skimmed) && all.report.lists == skimmed.report.lists &&
           all.report.lists < K && skimmed.report.full < 0.9 * all.report.full;
    fine = fine && same_finds(&all, &coarse) && all.report.lists == coarse.report.lists &&
           coarse.report.full == skimmed.report.full &&
           coarse.report.centroids < CENTROID_SKETCH + K * (1 + 7.0 / DIM) &&
           coarse.report.centroids > CENTROID_SKETCH + all.report.lists + K * 5.0 / DIM;
    fgmm__searcher_destroy(searcher);
    fgmm_index_close(index);
    free(path);
    assert_true(on_all_ranks(fine));
}

/* ---- refusals ---- */

static bool refused(const char *path, const char *words)
{
    fgmm_index *index = NULL;
    fgmm_error_clear();
    bool fine = fgmm_index_open(path, &index) == FGMM_ERR_INPUT &&
                strstr(fgmm_error_message(), path) != NULL && strstr(fgmm_error_message(), words) != NULL;
    fgmm_index_close(index);
    return fine;
}

/* Where `n` bytes stand in the file. */
static size_t place_of(const char *file, size_t size_bytes, const void *bytes, size_t n)
{
    for (size_t at = 0; at + n <= size_bytes; at++)
        if (memcmp(file + at, bytes, n) == 0)
            return at;
    return 0;
}

static void an_index_with_a_broken_sketch_is_refused(void **state)
{
    (void)state;
    char *path = strdup(name_of("broken.h5", rank));
    fgmm_build_options options = options_of(FGMM_ASSIGN_HARD);
    fgmm_index *index = NULL;
    bool fine = build(alone, path, &options) && fgmm_index_open(path, &index) == FGMM_OK;
    assert_true(on_all_ranks(fine));
    size_t n = 0, value = index->sketches_at + 100;
    char *bytes = fgmm_test_read_file(path, &n);
    uint64_t skip[2] = {index->vectors_at, index->vectors_at + ROWS * DIM};
    size_t basis = place_of(bytes, n, index->sketch->basis, M * DIM * sizeof(double));
    fgmm_index_close(index);
    bytes[value] ^= 1;
    fgmm_test_write_file(path, bytes, n);
    fine = basis > 0 && refused(path, "damaged");
    bytes[value] ^= 1;
    /* With the right hash, but other directions than sketches can be made of. */
    memset(bytes + basis, 0, 3 * sizeof(double));
    fgmm_test_write_file(path, bytes, n);
    fine = fine && fgmm__h5_seal(path, NULL, skip[0], skip[1]) == FGMM_OK && refused(path, "orthonormal");
    unlink(path);
    free(bytes);
    free(path);
    assert_true(on_all_ranks(fine));
}

static void sketches_that_cannot_be_made_are_refused(void **state)
{
    (void)state;
    static const struct {
        int32_t sketch;
        int vectors;
    } cases[] = {{-1, 1}, {DIM + 1, 1}, {M, 0}};
    for (int i = 0; i < 3; i++) {
        const char *path = name_of("refused.h5", -1);
        fgmm_build_options options = options_of(FGMM_ASSIGN_HARD);
        options.sketch = cases[i].sketch;
        options.store_vectors = cases[i].vectors;
        fgmm_error_clear();
        bool fine = fgmm_build(comm, dataset, clusters.model, path, &options, NULL) == FGMM_ERR_INPUT &&
                    strstr(fgmm_error_message(), "--sketch") != NULL && access(path, F_OK) != 0 &&
                    fgmm_test_leftovers(path) == 0;
        assert_true(on_all_ranks(fine));
    }
}

int main(int argc, char **argv)
{
    fgmm_test_ranks_start(&argc, &argv);
    char name[64];
    snprintf(name, sizeof name, "skim-%d-%d.u8bin", size, rank);
    fgmm_test_clusters_create(ROWS, K, DIM, FGMM_GMM, &clusters);
    dataset = fgmm_test_clusters_open(&clusters, name);
    fgmm_test_clusters_queries(&clusters, QUERIES, queries);
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(sketches_are_stored_the_same_for_any_ranks_and_windows),
        cmocka_unit_test(a_search_that_skips_finds_the_same_and_skips_what_it_may),
        cmocka_unit_test(lists_found_by_sketches_of_their_centroids_are_the_same),
        cmocka_unit_test(a_learnt_stop_stops_at_the_same_lists_with_skipping),
        cmocka_unit_test(an_index_with_a_broken_sketch_is_refused),
        cmocka_unit_test(sketches_that_cannot_be_made_are_refused),
    };
    int failed = cmocka_run_group_tests(cases, NULL, NULL);
    fgmm_dataset_close(dataset);
    fgmm_test_clusters_destroy(&clusters);
    return fgmm_test_ranks_end(failed);
}
