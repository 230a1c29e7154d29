/* Building indexes at 1 to 4 ranks: the lists are those a plain implementation makes, and the file is the
 * same byte for byte, whatever the ranks, tiles, windows and rounds. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/status.h"
#include "base/stop.h"
#include "data/partition.h"
#include "ivf/index.h"
#include "model/model.h"
#include "support/files.h"
#include "support/lists.h"
#include "support/ranks.h"

enum { ROWS = 4500, K = 13, DIM = 12, MOST = 4 };

static const double tau = 0.07;
static fgmm_test_clusters clusters;
static fgmm_dataset *dataset;

/* A name that no other number of ranks uses; `owner` < 0: shared by the ranks. */
static const char *name_of(const char *what, int owner)
{
    char name[96];
    snprintf(name, sizeof name, owner < 0 ? "build-%d-%s.h5" : "build-%d-%s-%d.h5", size, what, owner);
    return fgmm_test_path(name);
}

static fgmm_build_options options_of(fgmm_assign_rule rule)
{
    fgmm_build_options options = fgmm_test_build_options(rule, MOST);
    options.tau = tau;
    return options;
}

static bool build(fgmm_comm *ranks, const char *path, const fgmm_build_options *options,
                  fgmm_build_report *report)
{
    fgmm_error_clear();
    return fgmm_build(ranks, dataset, clusters.model, path, options, report) == FGMM_OK;
}

/* ---- the plain implementation ---- */

typedef struct {
    int64_t sizes[K];
    int64_t ids[K][ROWS];
    bool primary[K][ROWS];
    int64_t postings;
} plain_lists;

static plain_lists *make_plain(fgmm_assign_rule rule)
{
    plain_lists *plain = calloc(1, sizeof *plain);
    double margin = 1;
    for (int64_t i = 0; i < ROWS; i++) {
        int32_t lists[MOST];
        int32_t n =
            fgmm_test_lists_of(&clusters, i, tau, rule == FGMM_ASSIGN_HARD ? 1 : MOST, lists, &margin);
        for (int32_t j = 0; j < n; j++) {
            int64_t *at = &plain->sizes[lists[j]];
            plain->ids[lists[j]][*at] = i;
            plain->primary[lists[j]][(*at)++] = j == 0;
        }
        plain->postings += n;
    }
    /* A responsibility this close to tau could fall on either side. */
    assert_true(margin > 1e-6);
    return plain;
}

static bool list_is(const fgmm_index *index, fgmm_lists *reader, const plain_lists *plain, int32_t j,
                    bool vectors)
{
    uint64_t first = index->offsets[j];
    bool same = (int64_t)fgmm__index_list_size(index, j) == plain->sizes[j];
    for (int64_t i = 0; same && i < plain->sizes[j]; i++)
        same = fgmm__index_id(index, first + (uint64_t)i) == plain->ids[j][i] &&
               (!index->multi || fgmm__index_primary(index, first + (uint64_t)i) == plain->primary[j][i]);
    if (!vectors || !same)
        return same;
    int64_t seen = 0;
    for (fgmm__lists_start(reader, j); same;) {
        same = fgmm__lists_next(reader) == FGMM_OK;
        if (reader->n == 0)
            break;
        for (int64_t i = 0; same && i < reader->n; i++, seen++)
            same = memcmp((uint8_t *)reader->vectors + i * DIM, clusters.rows + plain->ids[j][seen] * DIM,
                          DIM) == 0 &&
                   reader->ids[i] == plain->ids[j][seen];
    }
    return same && seen == plain->sizes[j];
}

static bool index_is(const char *path, const plain_lists *plain, bool vectors)
{
    fgmm_index *index = NULL;
    fgmm_lists *reader = NULL;
    bool same = fgmm_index_open(path, &index) == FGMM_OK && index->k == K && index->dim == DIM &&
                index->rows == ROWS && index->postings == plain->postings && index->dtype == FGMM_U8 &&
                index->metric == FGMM_L2;
    if (same && vectors)
        same = fgmm__lists_create(index, &reader) == FGMM_OK;
    for (int32_t i = 0; same && i < K * DIM; i++)
        same = index->centroids[i] == (float)fgmm_model_means(clusters.model)[i];
    for (int32_t j = 0; same && j < K; j++)
        same = list_is(index, reader, plain, j, vectors);
    fgmm__lists_destroy(reader);
    fgmm_index_close(index);
    return same;
}

static void every_rank_has_rows(void **state)
{
    (void)state;
    bool rows = fgmm__partition_begin(ROWS, rank + 1, size) > fgmm__partition_begin(ROWS, rank, size);
    assert_true(on_all_ranks(rows));
}

static void lists_are_those_of_a_plain_implementation(void **state)
{
    (void)state;
    for (int rule = FGMM_ASSIGN_HARD; rule <= FGMM_ASSIGN_TAU; rule++) {
        plain_lists *plain = make_plain((fgmm_assign_rule)rule);
        const char *path = name_of("lists", -1);
        fgmm_build_options options = options_of((fgmm_assign_rule)rule);
        fgmm_build_report report;
        bool fine = build(comm, path, &options, &report) && report.postings == plain->postings &&
                    index_is(path, plain, true);
        fine = fine && (rule == FGMM_ASSIGN_HARD ? plain->postings == ROWS : plain->postings > ROWS * 5 / 4);
        fine =
            fine && report.windows >= 1 && report.windows <= report.rounds && fgmm_test_leftovers(path) == 0;
        free(plain);
        assert_true(on_all_ranks(fine));
    }
}

static void a_k_means_model_puts_rows_into_the_list_of_the_nearest_mean(void **state)
{
    (void)state;
    clusters.model->algorithm = FGMM_KMEANS;
    plain_lists *plain = make_plain(FGMM_ASSIGN_HARD);
    const char *path = name_of("kmeans", -1);
    fgmm_build_options options = options_of(FGMM_ASSIGN_HARD);
    bool fine = build(comm, path, &options, NULL) && index_is(path, plain, true);
    clusters.model->algorithm = FGMM_GMM;
    free(plain);
    assert_true(on_all_ranks(fine));
}

static void the_file_is_the_same_for_any_ranks_windows_rounds_and_tiles(void **state)
{
    (void)state;
    for (int rule = FGMM_ASSIGN_HARD; rule <= FGMM_ASSIGN_TAU; rule++) {
        char *reference = strdup(name_of("alone", rank)), *path = strdup(name_of("together", -1));
        fgmm_build_options plain = options_of((fgmm_assign_rule)rule), tight = plain;
        fgmm_build_report report;
        tight.window_bytes = 7000;
        tight.exchange_bytes = 1500;
        tight.resources.tile_rows = 1024;
        tight.resources.residency = FGMM_RESIDENCY_STREAM;
        bool fine = build(alone, reference, &plain, NULL) && on_all_ranks(true);
        fine = fine && build(comm, path, &tight, &report) && fgmm_test_same_file(reference, path);
        fine = fine && report.windows > 3 && report.rounds > 3;
        unlink(reference);
        free(reference);
        free(path);
        assert_true(on_all_ranks(fine));
    }
}

static void without_vectors_the_index_holds_ids_alone(void **state)
{
    (void)state;
    plain_lists *plain = make_plain(FGMM_ASSIGN_TAU);
    const char *path = name_of("ids", -1);
    fgmm_build_options options = options_of(FGMM_ASSIGN_TAU);
    fgmm_index *index = NULL;
    options.store_vectors = 0;
    options.window_bytes = 500;
    bool fine = build(comm, path, &options, NULL) && index_is(path, plain, false) &&
                fgmm_index_open(path, &index) == FGMM_OK;
    fine = fine && fgmm__index_need_vectors(index) == FGMM_ERR_INPUT &&
           strstr(fgmm_error_message(), "--vectors no") != NULL;
    fgmm_index_close(index);
    free(plain);
    assert_true(on_all_ranks(fine));
}

static void a_model_that_does_not_fit_the_data_is_refused_by_all(void **state)
{
    (void)state;
    fgmm_test_clusters other;
    fgmm_build_options options = options_of(FGMM_ASSIGN_HARD);
    const char *path = name_of("refused", -1);
    fgmm_test_clusters_create(10, 3, DIM + 1, FGMM_GMM, &other);
    fgmm_error_clear();
    fgmm_status status = fgmm_build(comm, dataset, other.model, path, &options, NULL);
    bool fine = status == FGMM_ERR_INPUT && strstr(fgmm_error_message(), "dimension") != NULL &&
                access(path, F_OK) != 0;
    fgmm_test_clusters_destroy(&other);
    assert_true(on_all_ranks(fine));
}

static void a_damaged_index_is_refused_and_named(void **state)
{
    (void)state;
    char *path = strdup(name_of("damaged", rank));
    fgmm_build_options options = options_of(FGMM_ASSIGN_HARD);
    fgmm_index *index = NULL;
    fgmm_lists *reader = NULL;
    bool fine = build(alone, path, &options, NULL) && fgmm_index_open(path, &index) == FGMM_OK;
    uint64_t vectors_at = fine ? index->vectors_at : 0, ids_at = fine ? index->ids_at : 0,
             middle = fine ? index->offsets[5] : 0;
    fgmm_index_close(index);
    index = NULL;
    size_t n = 0;
    char *bytes = fgmm_test_read_file(path, &n);
    /* A vector: found when its list is read, not before. */
    bytes[vectors_at + middle * DIM + 3] ^= 4;
    fgmm_test_write_file(path, bytes, n);
    fine = fine && fgmm_index_open(path, &index) == FGMM_OK && fgmm__lists_create(index, &reader) == FGMM_OK;
    if (fine) {
        fgmm__lists_start(reader, 4);
        fine = fgmm__lists_next(reader) == FGMM_OK;
        fgmm__lists_start(reader, 5);
        fgmm_error_clear();
        fine = fine && fgmm__lists_next(reader) == FGMM_ERR_INPUT &&
               strstr(fgmm_error_message(), "list 5") != NULL;
    }
    fgmm__lists_destroy(reader);
    fgmm_index_close(index);
    index = NULL;
    /* Anything else: found on opening. */
    bytes[ids_at + 9] ^= 1;
    fgmm_test_write_file(path, bytes, n);
    fgmm_error_clear();
    fine = fine && fgmm_index_open(path, &index) == FGMM_ERR_INPUT &&
           strstr(fgmm_error_message(), "damaged") != NULL;
    fgmm_test_write_file(path, bytes, n / 2);
    fgmm_error_clear();
    fine = fine && fgmm_index_open(path, &index) == FGMM_ERR_INPUT &&
           strstr(fgmm_error_message(), "damaged") != NULL;
    unlink(path);
    free(bytes);
    free(path);
    assert_true(on_all_ranks(fine));
}

/* Last: a stop cannot be taken back. */
static void a_stop_leaves_a_checkpoint_or_nothing_where_none_is_asked_for(void **state)
{
    (void)state;
    const char *path = name_of("stopped", -1);
    fgmm_build_options options = options_of(FGMM_ASSIGN_HARD);
    fgmm_error_clear();
    if (rank == size - 1)
        fgmm__stop_request();
    fgmm_status status = fgmm_build(comm, dataset, clusters.model, path, &options, NULL);
    bool fine = status == FGMM_ERR_RUNTIME && strstr(fgmm_error_message(), "stopped on request") != NULL;
    fine = fine && access(path, F_OK) != 0 && fgmm_test_leftovers(path) == 0;
    assert_true(on_all_ranks(fine));
    char *checkpoint = strdup(name_of("checkpoint", -1));
    options.checkpoint = checkpoint;
    fgmm_error_clear();
    fine = fgmm_build(comm, dataset, clusters.model, path, &options, NULL) == FGMM_STOPPED;
    fine = fine && access(path, F_OK) != 0 && access(checkpoint, F_OK) == 0;
    assert_true(on_all_ranks(fine));
    if (rank == 0)
        unlink(checkpoint);
    free(checkpoint);
}

int main(int argc, char **argv)
{
    fgmm_test_ranks_start(&argc, &argv);
    char name[64];
    snprintf(name, sizeof name, "build-%d-%d.u8bin", size, rank);
    fgmm_test_clusters_create(ROWS, K, DIM, FGMM_GMM, &clusters);
    dataset = fgmm_test_clusters_open(&clusters, name);
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(every_rank_has_rows),
        cmocka_unit_test(lists_are_those_of_a_plain_implementation),
        cmocka_unit_test(a_k_means_model_puts_rows_into_the_list_of_the_nearest_mean),
        cmocka_unit_test(the_file_is_the_same_for_any_ranks_windows_rounds_and_tiles),
        cmocka_unit_test(without_vectors_the_index_holds_ids_alone),
        cmocka_unit_test(a_model_that_does_not_fit_the_data_is_refused_by_all),
        cmocka_unit_test(a_damaged_index_is_refused_and_named),
        cmocka_unit_test(a_stop_leaves_a_checkpoint_or_nothing_where_none_is_asked_for),
    };
    int failed = cmocka_run_group_tests(cases, NULL, NULL);
    fgmm_dataset_close(dataset);
    fgmm_test_clusters_destroy(&clusters);
    return fgmm_test_ranks_end(failed);
}
