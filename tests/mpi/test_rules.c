/* Rows in several lists at 1 to 4 ranks: under every rule, and at every replication, the lists are those that
 * a plain implementation makes from all centroids, and the file is the same byte for byte. */
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
#include "ivf/index.h"
#include "model/model.h"
#include "support/files.h"
#include "support/lists.h"
#include "support/ranks.h"

/* More lists than a backend names as the nearest. */
enum { ROWS = 5000, K = 150, DIM = 12, MOST = 5 };

static fgmm_test_clusters clusters;
static fgmm_dataset *dataset;

/* A name that no other number of ranks uses; `owner` < 0: shared by the ranks. */
static const char *name_of(const char *what, int owner)
{
    char name[96];
    snprintf(name, sizeof name, "rules-%d-%d-%s", size, owner, what);
    return fgmm_test_path(name);
}

static fgmm_build_options options_of(fgmm_assign_rule rule)
{
    fgmm_build_options options = fgmm_test_build_options(rule, MOST);
    return options;
}

static bool build(fgmm_comm *ranks, const char *path, const fgmm_build_options *options,
                  fgmm_build_report *report)
{
    fgmm_error_clear();
    return fgmm_build(ranks, dataset, clusters.model, path, options, report) == FGMM_OK;
}

/* ---- the plain implementation. Rows are whole numbers and means quarters: sums of squares are exact. ----
 */

typedef struct {
    int32_t lists[ROWS][MOST], count[ROWS];
    double keys[ROWS][MOST];
} plain_rows;

static double between(const double *a, const double *b)
{
    double sum = 0;
    for (int32_t d = 0; d < DIM; d++)
        sum += (a[d] - b[d]) * (a[d] - b[d]);
    return sum;
}

static const double *mean_of(int32_t j)
{
    return fgmm_model_means(clusters.model) + (size_t)j * DIM;
}

static void add_list(plain_rows *plain, int64_t i, int32_t list, double key)
{
    plain->lists[i][plain->count[i]] = list;
    plain->keys[i][plain->count[i]++] = key;
}

static void plain_soar(plain_rows *plain, int64_t i, const double *x, const double *distance, double lambda)
{
    int32_t first = plain->lists[i][0], best = -1;
    double least = INFINITY;
    for (int32_t j = 0; j < K; j++) {
        double product = 0;
        for (int32_t d = 0; d < DIM; d++)
            product += (x[d] - mean_of(first)[d]) * (x[d] - mean_of(j)[d]);
        double score = distance[j] + lambda * (product * product) / distance[first];
        if (j != first && score < least) {
            best = j;
            least = score;
        }
    }
    add_list(plain, i, best, least / distance[first]);
}

static void plain_closure(plain_rows *plain, int64_t i, const double *distance, double ratio)
{
    bool passed[K] = {false};
    double nearest = 0;
    for (int32_t step = 0; step < K && plain->count[i] < MOST; step++) {
        int32_t j = -1;
        for (int32_t c = 0; c < K; c++)
            if (!passed[c] && (j < 0 || distance[c] < distance[j]))
                j = c;
        passed[j] = true;
        if (step == 0)
            nearest = distance[j];
        if (distance[j] / nearest > ratio)
            break;
        bool skip = j == plain->lists[i][0];
        for (int32_t t = 0; t < plain->count[i]; t++)
            skip = skip || between(mean_of(j), mean_of(plain->lists[i][t])) < distance[j];
        if (!skip)
            add_list(plain, i, j, distance[j] / nearest);
    }
}

/* Every row in its first list. */
static plain_rows *make_plain_first(void)
{
    plain_rows *plain = calloc(1, sizeof *plain);
    double unused = 1;
    for (int64_t i = 0; i < ROWS; i++)
        plain->count[i] = fgmm_test_lists_of(&clusters, i, 1, 1, plain->lists[i], &unused);
    return plain;
}

/* parameter: lambda, or the square of 1 + epsilon. */
static plain_rows *make_plain(fgmm_assign_rule rule, double parameter)
{
    plain_rows *plain = make_plain_first();
    for (int64_t i = 0; i < ROWS; i++) {
        double x[DIM], distance[K];
        for (int32_t d = 0; d < DIM; d++)
            x[d] = clusters.rows[i * DIM + d];
        for (int32_t j = 0; j < K; j++)
            distance[j] = between(x, mean_of(j));
        if (rule == FGMM_ASSIGN_SOAR)
            plain_soar(plain, i, x, distance, parameter);
        else if (rule == FGMM_ASSIGN_CLOSURE)
            plain_closure(plain, i, distance, parameter);
    }
    return plain;
}

static plain_rows *make_plain_tau(double tau)
{
    plain_rows *plain = calloc(1, sizeof *plain);
    double margin = 1;
    for (int64_t i = 0; i < ROWS; i++)
        plain->count[i] = fgmm_test_lists_of(&clusters, i, tau, MOST, plain->lists[i], &margin);
    return plain;
}

/* ---- need, plainly: all rows of the 24 nearest lists are gone through, and gains are sums of shares ---- */

enum { SEARCHED = 24, REMEMBERED = 32 };

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

/* lists: [K], by the distance of their centroids to row i. */
static void order_lists(int64_t i, numbered *lists)
{
    double x[DIM];
    for (int32_t d = 0; d < DIM; d++)
        x[d] = clusters.rows[i * DIM + d];
    for (int32_t j = 0; j < K; j++)
        lists[j] = (numbered){between(x, mean_of(j)), j};
    qsort(lists, K, sizeof *lists, by_distance);
}

/* The other rows in the first lists of row i, from near to far; returns how many. */
static int64_t order_rows(const plain_rows *plain, int64_t i, const numbered *lists, numbered *rows)
{
    bool looked[K] = {false};
    int64_t n = 0;
    for (int32_t s = 0; s < SEARCHED; s++)
        looked[lists[s].number] = true;
    for (int64_t other = 0; other < ROWS; other++)
        if (other != i && looked[plain->lists[other][0]]) {
            double sum = 0;
            for (int32_t d = 0; d < DIM; d++) {
                double difference =
                    (double)clusters.rows[i * DIM + d] - (double)clusters.rows[other * DIM + d];
                sum += difference * difference;
            }
            rows[n++] = (numbered){sum, other};
        }
    qsort(rows, (size_t)n, sizeof *rows, by_distance);
    return n;
}

/* serves[i][j]: how list j serves row i. */
static void plain_copies(plain_rows *plain, int64_t i, double (*serves)[K], const int32_t *needers, int64_t n)
{
    double *served = calloc((size_t)n + 1, sizeof *served), golden = (double)0x1p-53;
    uint64_t spread = (uint64_t)i * UINT64_C(0x9E3779B97F4A7C15) >> 11;
    for (int64_t y = 0; y < n; y++)
        served[y] = serves[needers[y]][plain->lists[i][0]];
    while (plain->count[i] < MOST) {
        int32_t best = 0;
        double gains[K] = {0};
        for (int32_t j = 0; j < K; j++) {
            for (int64_t y = 0; y < n; y++)
                gains[j] += fmax(0, serves[needers[y]][j] - served[y]);
            if (gains[j] > gains[best])
                best = j;
        }
        if (gains[best] == 0)
            break;
        add_list(plain, i, best, -(gains[best] * REMEMBERED + (double)spread * golden));
        for (int64_t y = 0; y < n; y++)
            served[y] = fmax(served[y], serves[needers[y]][best]);
    }
    free(served);
}

static void plain_need(plain_rows *plain, int32_t neighbors)
{
    double(*serves)[K] = calloc(ROWS, sizeof *serves);
    int32_t(*needers)[ROWS] = calloc(ROWS, sizeof *needers);
    int64_t *count = calloc(ROWS, sizeof *count);
    numbered *rows = calloc(ROWS, sizeof *rows), lists[K];
    for (int64_t i = 0; i < ROWS; i++) {
        order_lists(i, lists);
        for (int32_t r = 0; r < K; r++)
            serves[i][lists[r].number] = fmax(0, 1 - r / (double)REMEMBERED);
        int64_t n = order_rows(plain, i, lists, rows);
        for (int64_t c = 0; c < n && c < neighbors; c++)
            needers[rows[c].number][count[rows[c].number]++] = (int32_t)i;
    }
    for (int64_t i = 0; i < ROWS; i++)
        plain_copies(plain, i, serves, needers[i], count[i]);
    free(serves);
    free(needers);
    free(count);
    free(rows);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Leaves the lists with the least keys: as many as R allows, equal ones together. */
static void plain_replicate(plain_rows *plain, double replication)
{
    double *keys = malloc(sizeof *keys * ROWS * MOST), first_out = INFINITY;
    int64_t n = 0, most = (int64_t)((replication - 1) * ROWS);
    for (int64_t i = 0; i < ROWS; i++)
        for (int32_t j = 1; j < plain->count[i]; j++)
            keys[n++] = plain->keys[i][j];
    qsort(keys, (size_t)n, sizeof *keys, by_value);
    if (n > most)
        first_out = keys[most];
    for (int64_t i = 0; i < ROWS; i++)
        while (plain->count[i] > 1 && plain->keys[i][plain->count[i] - 1] >= first_out)
            plain->count[i]--;
    free(keys);
}

static int64_t postings_of(const plain_rows *plain)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < ROWS; i++)
        sum += plain->count[i];
    return sum;
}

/* ---- comparing ---- */

/* Every list holds its rows in their order, marked where it is their first. */
static bool index_is(const char *path, const plain_rows *plain, const int64_t *ids)
{
    fgmm_index *index = NULL;
    bool same = fgmm_index_open(path, &index) == FGMM_OK && index->multi && index->k == K &&
                index->postings == postings_of(plain);
    for (int32_t j = 0; same && j < K; j++) {
        uint64_t at = index->offsets[j];
        for (int64_t i = 0; same && i < ROWS; i++)
            for (int32_t c = 0; same && c < plain->count[i]; c++)
                if (plain->lists[i][c] == j) {
                    same = at < index->offsets[j + 1] &&
                           fgmm__index_id(index, at) == (ids != NULL ? ids[i] : i) &&
                           fgmm__index_primary(index, at) == (c == 0);
                    at++;
                }
        same = same && at == index->offsets[j + 1];
    }
    fgmm_index_close(index);
    return same;
}

/* Builds by all ranks and compares; then every rank by itself, for the same bytes. */
static bool lists_are(fgmm_build_options options, const plain_rows *plain, fgmm_build_report *report)
{
    char *path = strdup(name_of("lists.h5", -1)), *mine = strdup(name_of("alone.h5", rank));
    fgmm_build_options tight = options;
    tight.resources.residency = FGMM_RESIDENCY_STREAM;
    tight.resources.tile_rows = 1024;
    tight.resources.threads = 2;
    tight.exchange_bytes = 3000;
    if (options.rule == FGMM_ASSIGN_NEED)
        tight.window_bytes = 100000;
    bool fine = build(comm, path, &options, report) && (plain == NULL || index_is(path, plain, NULL));
    fine = on_all_ranks(fine) && build(alone, mine, &tight, NULL) && fgmm_test_same_file(path, mine);
    fine = on_all_ranks(fine);
    unlink(mine);
    free(path);
    free(mine);
    return fine;
}

static void soar_takes_the_list_of_least_score(void **state)
{
    (void)state;
    static const double lambdas[] = {0, 0.5, 30};
    for (int i = 0; i < 6; i++) {
        clusters.model->algorithm = i < 3 ? FGMM_GMM : FGMM_KMEANS;
        fgmm_build_options options = options_of(FGMM_ASSIGN_SOAR);
        options.lambda = lambdas[i % 3];
        fgmm_build_report report;
        plain_rows *plain = make_plain(FGMM_ASSIGN_SOAR, options.lambda);
        bool fine = lists_are(options, plain, &report) && report.postings == 2 * ROWS;
        /* A heavy lambda leads far out, beyond the nearest that a backend names. */
        fine = fine && (i % 3 == 2 ? report.looked_all > 0 : report.looked_all < ROWS);
        free(plain);
        clusters.model->algorithm = FGMM_GMM;
        assert_true(on_all_ranks(fine));
    }
}

static void closure_takes_near_lists_apart_from_each_other(void **state)
{
    (void)state;
    static const double epsilons[] = {0, 0.125, 1};
    for (int i = 0; i < 6; i++) {
        clusters.model->algorithm = i < 3 ? FGMM_GMM : FGMM_KMEANS;
        fgmm_build_options options = options_of(FGMM_ASSIGN_CLOSURE);
        options.epsilon = epsilons[i % 3];
        fgmm_build_report report;
        plain_rows *plain = make_plain(FGMM_ASSIGN_CLOSURE, (1 + options.epsilon) * (1 + options.epsilon));
        bool fine = lists_are(options, plain, &report);
        fine = fine && (i == 3 || report.postings > ROWS) && (i % 3 != 2 || report.looked_all > 0);
        free(plain);
        clusters.model->algorithm = FGMM_GMM;
        assert_true(on_all_ranks(fine));
    }
}

static void a_replication_keeps_the_least_keys_of_soar_and_closure(void **state)
{
    (void)state;
    static const double replications[] = {1, 1.25, 1.9};
    for (int rule = FGMM_ASSIGN_SOAR; rule <= FGMM_ASSIGN_CLOSURE; rule++)
        for (int i = 0; i < 6; i++) {
            clusters.model->algorithm = i < 3 ? FGMM_GMM : FGMM_KMEANS;
            fgmm_build_options options = options_of((fgmm_assign_rule)rule);
            options.replication = replications[i % 3];
            fgmm_build_report report;
            plain_rows *plain =
                make_plain((fgmm_assign_rule)rule, rule == FGMM_ASSIGN_SOAR ? options.lambda : INFINITY);
            plain_replicate(plain, options.replication);
            int64_t allowed = (int64_t)(options.replication * ROWS);
            bool fine = lists_are(options, plain, &report);
            /* Closure has no more to give to the largest of them. */
            fine = fine && report.postings <= allowed &&
                   (report.postings > allowed - 20 || (rule == FGMM_ASSIGN_CLOSURE && i % 3 == 2));
            /* What it found makes the same lists again. */
            if (rule == FGMM_ASSIGN_CLOSURE && i % 3 > 0) {
                options.replication = 0;
                options.epsilon = report.epsilon;
                fine = fine && lists_are(options, plain, NULL);
            }
            free(plain);
            clusters.model->algorithm = FGMM_GMM;
            assert_true(on_all_ranks(fine));
        }
}

static void need_copies_rows_to_where_those_near_them_look(void **state)
{
    (void)state;
    static const struct {
        int32_t neighbors;
        double replication;
    } cases[] = {{10, 1.5}, {10, 1}, {25, 2.5}, {1, 3}};
    for (int i = 0; i < 4; i++) {
        clusters.model->algorithm = i % 2 == 0 ? FGMM_GMM : FGMM_KMEANS;
        fgmm_build_options options = options_of(FGMM_ASSIGN_NEED);
        options.neighbors = cases[i].neighbors;
        options.replication = cases[i].replication;
        fgmm_build_report report;
        plain_rows *plain = make_plain_first();
        plain_need(plain, options.neighbors);
        plain_replicate(plain, options.replication);
        int64_t allowed = (int64_t)(options.replication * ROWS);
        bool fine = lists_are(options, plain, &report) && report.postings <= allowed;
        /* One neighbour gives little to choose from. */
        fine = fine && (report.postings > allowed - 5 || options.neighbors == 1);
        fine = fine && (options.replication == 1 ? isinf(report.least_gain) : report.least_gain >= 1);
        free(plain);
        clusters.model->algorithm = FGMM_GMM;
        assert_true(on_all_ranks(fine));
    }
}

static void a_replication_finds_tau(void **state)
{
    (void)state;
    static const double replications[] = {1, 1.3, 2.2};
    for (int i = 0; i < 3; i++) {
        fgmm_build_options options = options_of(FGMM_ASSIGN_TAU);
        fgmm_build_report report = {0};
        options.replication = replications[i];
        bool fine = lists_are(options, NULL, &report);
        /* Responsibilities are floats: a plain one in float64 may fall below its own float. */
        plain_rows *plain = make_plain_tau(report.tau * (1 - 1e-6));
        int64_t allowed = (int64_t)(options.replication * ROWS);
        fine = fine && report.postings <= allowed && report.postings >= allowed - 3;
        options.replication = 0;
        options.tau = report.tau;
        fine = fine && lists_are(options, plain, NULL);
        free(plain);
        assert_true(on_all_ranks(fine));
    }
}

static void more_than_there_is_to_choose_from_takes_it_all(void **state)
{
    (void)state;
    fgmm_build_options options = options_of(FGMM_ASSIGN_CLOSURE);
    fgmm_build_report report;
    options.replication = MOST;
    plain_rows *plain = make_plain(FGMM_ASSIGN_CLOSURE, INFINITY);
    bool fine = postings_of(plain) < MOST * ROWS && lists_are(options, plain, &report);
    free(plain);
    assert_true(on_all_ranks(fine));
}

/* ---- ids ---- */

static int64_t own_id(int64_t row)
{
    return (row * 7919 % ROWS) * ((int64_t)1 << 48) + INT64_C(0x7000000000000) + row;
}

/* An .npy file where `npy`, else .i64bin; says it holds n ids. */
static const char *write_ids(const char *name, bool npy, int64_t n, int64_t last)
{
    char *file = calloc(1, 128 + (size_t)n * 8);
    size_t at = 8;
    if (npy) {
        memcpy(file, "\x93NUMPY\x01\x00\x76\x00", 10);
        memset(file + 10, ' ', 118);
        int length =
            snprintf(file + 10, 118, "{'descr': '<i8', 'fortran_order': False, 'shape': (%d,), }", (int)n);
        file[10 + length] = ' ';
        file[127] = '\n';
        at = 128;
    } else {
        uint32_t header[2] = {(uint32_t)n, 1};
        memcpy(file, header, sizeof header);
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t id = i == n - 1 ? last : own_id(i);
        memcpy(file + at + (size_t)i * 8, &id, 8);
    }
    const char *path = name_of(name, rank);
    fgmm_test_write_file(path, file, at + (size_t)n * 8);
    free(file);
    return path;
}

static void the_users_ids_are_stored_in_the_order_of_rows(void **state)
{
    (void)state;
    for (int npy = 0; npy < 2; npy++) {
        char *ids = strdup(write_ids(npy ? "ids.npy" : "ids.i64bin", npy, ROWS, own_id(ROWS - 1)));
        char *path = strdup(name_of("ids.h5", -1));
        int64_t *own = malloc(ROWS * sizeof *own);
        for (int64_t i = 0; i < ROWS; i++)
            own[i] = own_id(i);
        fgmm_build_options options = options_of(FGMM_ASSIGN_SOAR);
        options.ids = ids;
        options.window_bytes = 50000;
        plain_rows *plain = make_plain(FGMM_ASSIGN_SOAR, options.lambda);
        bool fine = build(comm, path, &options, NULL) && index_is(path, plain, own);
        free(plain);
        free(own);
        unlink(ids);
        free(ids);
        free(path);
        assert_true(on_all_ranks(fine));
    }
}

/* ---- refusals ---- */

static bool refused(const fgmm_build_options *options, const char *words)
{
    const char *path = name_of("refused.h5", -1);
    fgmm_error_clear();
    bool fine = fgmm_build(comm, dataset, clusters.model, path, options, NULL) == FGMM_ERR_INPUT &&
                strstr(fgmm_error_message(), words) != NULL && access(path, F_OK) != 0 &&
                fgmm_test_leftovers(path) == 0;
    return on_all_ranks(fine);
}

static void parameters_out_of_range_are_refused(void **state)
{
    (void)state;
    fgmm_build_options options = options_of(FGMM_ASSIGN_SOAR);
    options.lambda = -1;
    assert_true(refused(&options, "--lambda"));
    options = options_of(FGMM_ASSIGN_SOAR);
    options.replication = 2.5;
    assert_true(refused(&options, "--replication"));
    options = options_of(FGMM_ASSIGN_CLOSURE);
    options.replication = 0.5;
    assert_true(refused(&options, "--replication"));
    options.replication = NAN;
    assert_true(refused(&options, "--replication"));
    options = options_of(FGMM_ASSIGN_CLOSURE);
    options.epsilon = INFINITY;
    assert_true(refused(&options, "--epsilon"));
    options.epsilon = 0.1;
    options.replication = 1.5;
    assert_true(refused(&options, "--epsilon"));
    options = options_of(FGMM_ASSIGN_HARD);
    options.replication = 1.5;
    assert_true(refused(&options, "--replication"));
    options = options_of(FGMM_ASSIGN_TAU);
    options.replication = 1.5;
    options.tau = 0.1;
    assert_true(refused(&options, "--tau"));
    options = options_of(FGMM_ASSIGN_NEED);
    assert_true(refused(&options, "--replication"));
    options.replication = 1.5;
    options.neighbors = 0;
    assert_true(refused(&options, "--neighbors"));
    options.neighbors = 1000;
    options.resources.tile_rows = 1024;
    options.resources.host_memory_bytes = 9500000;
    options.window_bytes = 100000;
    assert_true(refused(&options, "--neighbors"));
}

static void ids_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    static const struct {
        int64_t n, last;
        const char *words;
    } cases[] = {{ROWS - 1, 5, "rows"}, {ROWS + 1, 5, "rows"}, {ROWS, -1, "negative"}};
    for (int i = 0; i < 3; i++) {
        char *named = strdup(write_ids("bad.i64bin", false, cases[i].n, cases[i].last));
        fgmm_build_options options = options_of(FGMM_ASSIGN_HARD);
        options.ids = named;
        assert_true(refused(&options, cases[i].words));
        if (truncate(named, 8 + 8 * 100) != 0)
            fail();
        assert_true(refused(&options, i == 2 ? "truncated" : "rows"));
        unlink(named);
        free(named);
    }
}

int main(int argc, char **argv)
{
    fgmm_test_ranks_start(&argc, &argv);
    char name[64];
    snprintf(name, sizeof name, "rules-%d-%d.u8bin", size, rank);
    fgmm_test_clusters_create(ROWS, K, DIM, FGMM_GMM, &clusters);
    dataset = fgmm_test_clusters_open(&clusters, name);
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(soar_takes_the_list_of_least_score),
        cmocka_unit_test(closure_takes_near_lists_apart_from_each_other),
        cmocka_unit_test(a_replication_keeps_the_least_keys_of_soar_and_closure),
        cmocka_unit_test(need_copies_rows_to_where_those_near_them_look),
        cmocka_unit_test(a_replication_finds_tau),
        cmocka_unit_test(more_than_there_is_to_choose_from_takes_it_all),
        cmocka_unit_test(the_users_ids_are_stored_in_the_order_of_rows),
        cmocka_unit_test(parameters_out_of_range_are_refused),
        cmocka_unit_test(ids_that_do_not_fit_are_refused),
    };
    int failed = cmocka_run_group_tests(cases, NULL, NULL);
    fgmm_dataset_close(dataset);
    fgmm_test_clusters_destroy(&clusters);
    return fgmm_test_ranks_end(failed);
}
