/* Searching by a stop rule at 1 to 4 ranks: what it finds is what as many lists find, and what it promises of
 * the queries it was learnt from holds. */
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
#include "io/h5.h"
#include "ivf/index.h"
#include "ivf/stop.h"
#include "support/files.h"
#include "support/lists.h"
#include "support/ranks.h"

enum { ROWS = 4500, K = 13, DIM = 12, QUERIES = 150, NEAREST = 9 };

static fgmm_test_clusters clusters;
static float queries[QUERIES * DIM];
static char *index_paths[2]; /* by rule of assignment */

typedef struct {
    int64_t ids[QUERIES * NEAREST];
    float distances[QUERIES * NEAREST];
    fgmm_search_report report;
} results;

static bool same(const results *a, const results *b)
{
    return memcmp(a->ids, b->ids, sizeof a->ids) == 0 &&
           memcmp(a->distances, b->distances, sizeof a->distances) == 0 &&
           a->report.scanned == b->report.scanned && a->report.distinct == b->report.distinct &&
           a->report.lists == b->report.lists;
}

static bool run_fixed(fgmm_searcher *searcher, int32_t nprobe, results *out)
{
    return fgmm__searcher_run(searcher, queries, QUERIES, NEAREST, nprobe, out->ids, out->distances,
                              &out->report) == FGMM_OK;
}

static bool run_rule(fgmm_searcher *searcher, const fgmm_stop_rule *rule, double threshold, results *out)
{
    return fgmm__searcher_run_rule(searcher, rule, threshold, queries, QUERIES, out->ids, out->distances,
                                   &out->report) == FGMM_OK;
}

/* ---- the cases: each for both indexes and both probing orders ---- */

static void for_all(bool (*holds)(fgmm_searcher *searcher))
{
    for (int i = 0; i < 4; i++) {
        fgmm_index *index = NULL;
        fgmm_searcher *searcher = NULL;
        fgmm_error_clear();
        bool fine = on_all_ranks(fgmm_index_open(index_paths[i / 2], &index) == FGMM_OK);
        fine = fine && fgmm__searcher_create(comm, index, FGMM_BACKEND_CPU, 1, NULL, &searcher) == FGMM_OK &&
               fgmm__searcher_probe_by(searcher, (fgmm_probe_order)(i % 2)) == FGMM_OK && holds(searcher);
        fgmm__searcher_destroy(searcher);
        fgmm_index_close(index);
        assert_true(on_all_ranks(fine));
    }
}

/* A rule that expects 1/(p+1) rows to come after p lists, whatever the query. */
static fgmm_stop_rule rule_by_number(int32_t most)
{
    fgmm_stop_rule rule = {.k = NEAREST, .max_probes = most};
    rule.to_come.n_features = FGMM_STOP_FEATURES;
    for (int i = 0; i < FGMM_STOP_FEATURES; i++)
        rule.to_come.scale[i] = 1;
    rule.to_come.weights[0] = -1;
    return rule;
}

static bool stops_as_told(fgmm_searcher *searcher)
{
    static results fixed, adaptive;
    fgmm_stop_rule rule = rule_by_number(K), short_rule = rule_by_number(5);
    bool fine = true;
    for (int32_t p = 4; p <= K; p += 3) /* fewer may hold less than NEAREST rows: then no query stops */
        fine = fine && run_fixed(searcher, p, &fixed) &&
               run_rule(searcher, &rule, 1 / (p + 0.5), &adaptive) && same(&fixed, &adaptive) &&
               adaptive.report.lists == p;
    return fine && run_fixed(searcher, 5, &fixed) && run_rule(searcher, &short_rule, 1e-9, &adaptive) &&
           same(&fixed, &adaptive);
}

static void a_rule_that_counts_lists_finds_what_as_many_lists_find(void **state)
{
    (void)state;
    for_all(stops_as_told);
}

static bool promise_holds(fgmm_searcher *searcher)
{
    static results all, adaptive;
    fgmm_stop_rule rule;
    bool fine = run_fixed(searcher, K, &all) &&
                fgmm__stop_learn(searcher, queries, QUERIES, NEAREST, 1000, &rule) == FGMM_OK &&
                rule.max_probes == K && run_rule(searcher, &rule, 1e-12, &adaptive) && same(&all, &adaptive);
    for (int i = 0; fine && i < FGMM_STOP_TARGETS; i++) {
        fine = run_rule(searcher, &rule, rule.thresholds[i], &adaptive);
        double recall = fgmm__recall(adaptive.ids, NEAREST, all.ids, NEAREST, QUERIES);

        fine = fine && recall >= fgmm__stop_targets[i] &&
               fabs(adaptive.report.lists - rule.lists[i]) < 1e-9 && adaptive.report.lists < K;
    }
    return fine;
}

static void learnt_thresholds_reach_their_recall_and_a_tiny_one_probes_everything(void **state)
{
    (void)state;
    for_all(promise_holds);
}

static bool refuses(fgmm_searcher *searcher)
{
    fgmm_stop_rule rule;
    bool fine = fgmm__stop_learn(searcher, queries, QUERIES, ROWS + 1, K, &rule) == FGMM_ERR_INPUT;
    fgmm_error_clear();
    fine = fine && fgmm__stop_learn(searcher, queries, QUERIES, NEAREST, 1, &rule) == FGMM_ERR_INPUT;
    fgmm_error_clear();
    return fine;
}

static void what_cannot_be_learnt_is_refused(void **state)
{
    (void)state;
    for_all(refuses);
}

static bool same_rule(const fgmm_stop_rule *a, const fgmm_stop_rule *b)
{
    bool same = a->k == b->k && a->max_probes == b->max_probes && a->probe_by == b->probe_by &&
                a->queries == b->queries && a->to_come.intercept == b->to_come.intercept;
    for (int i = 0; i < FGMM_STOP_TARGETS; i++)
        same = same && a->thresholds[i] == b->thresholds[i] && a->lists[i] == b->lists[i];
    for (int i = 0; i < FGMM_STOP_FEATURES; i++)
        same = same && a->to_come.mean[i] == b->to_come.mean[i] &&
               a->to_come.scale[i] == b->to_come.scale[i] && a->to_come.weights[i] == b->to_come.weights[i];
    return same;
}

/* Rank 0 of each world: the file is its own. */
static void a_rule_in_an_index_is_read_as_written_and_an_interrupted_write_is_noticed(void **state)
{
    (void)state;
    bool fine = true;
    if (rank == 0) {
        fgmm_index *index = NULL;
        fgmm_stop_rule read, rule = rule_by_number(5);
        for (int i = 0; i < FGMM_STOP_TARGETS; i++)
            rule.thresholds[i] = 1.0 / (i + 2), rule.lists[i] = i + 0.25;
        rule.probe_by = FGMM_PROBE_POSTERIOR;
        rule.queries = 77;
        fine = fgmm_index_open(index_paths[1], &index) == FGMM_OK &&
               fgmm__stop_read(index, &read) == FGMM_ERR_INPUT;
        fgmm_error_clear();
        for (int times = 1; fine && times <= 3; times++) {
            rule.to_come.intercept = times;
            fine = fgmm__stop_write(index, &rule) == FGMM_OK;
            fgmm_index_close(index);
            index = NULL;
            fine = fine && fgmm_index_open(index_paths[1], &index) == FGMM_OK &&
                   fgmm__stop_read(index, &read) == FGMM_OK && same_rule(&read, &rule);
        }
        fgmm_index_close(index);
        index = NULL;
        fine = fine && fgmm__h5_break_seal(index_paths[1]) == FGMM_OK &&
               fgmm_index_open(index_paths[1], &index) == FGMM_ERR_INPUT &&
               strstr(fgmm_error_message(), "ended too early") != NULL;
        fgmm_error_clear();
    }
    assert_true(on_all_ranks(fine));
}

static bool build(const fgmm_dataset *dataset, int rule)
{
    char name[64];
    fgmm_build_options options = fgmm_test_build_options((fgmm_assign_rule)rule, 4);
    options.tau = 0.07;
    snprintf(name, sizeof name, "stop-%d-%d.h5", size, rule);
    index_paths[rule] = strdup(fgmm_test_path(name));
    return fgmm_build(comm, dataset, clusters.model, index_paths[rule], &options, NULL) == FGMM_OK;
}

int main(int argc, char **argv)
{
    fgmm_dataset *dataset = NULL;
    fgmm_test_ranks_start(&argc, &argv);
    char name[64];
    snprintf(name, sizeof name, "stop-%d-%d.u8bin", size, rank);
    fgmm_test_clusters_create(ROWS, K, DIM, FGMM_GMM, &clusters);
    dataset = fgmm_test_clusters_open(&clusters, name);
    fgmm_test_clusters_queries(&clusters, QUERIES, queries);
    if (!build(dataset, FGMM_ASSIGN_HARD) || !build(dataset, FGMM_ASSIGN_TAU))
        return 1;
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(a_rule_that_counts_lists_finds_what_as_many_lists_find),
        cmocka_unit_test(learnt_thresholds_reach_their_recall_and_a_tiny_one_probes_everything),
        cmocka_unit_test(what_cannot_be_learnt_is_refused),
        cmocka_unit_test(a_rule_in_an_index_is_read_as_written_and_an_interrupted_write_is_noticed),
    };
    int failed = cmocka_run_group_tests(cases, NULL, NULL);
    free(index_paths[0]);
    free(index_paths[1]);
    fgmm_dataset_close(dataset);
    fgmm_test_clusters_destroy(&clusters);
    return fgmm_test_ranks_end(failed);
}
