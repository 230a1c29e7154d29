/* Searching lists on the device, and the nearest of all rows, against a plain search in float64: same lists,
 * same ids, same distances, bit by bit. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/status.h"
#include "io/reader.h"
#include "support/gpu.h"

/* What rows and queries are like. */
typedef enum {
    SPREAD,   /* real numbers, or whole ones of the type */
    FEW,      /* values 0 to 2: many ties */
    SAME,     /* all rows alike */
    FAR,      /* a long way from the origin */
    HALVES,   /* rows as SPREAD, queries between whole numbers */
    ENORMOUS, /* squares beyond fp32 */
} kind;

typedef struct {
    fgmm_dtype dtype;
    int32_t dim, lists;
    int64_t n, postings;
    bool repeats;
    kind kind;
    float *values; /* [n][dim], as stored */
    float *centroids;
    uint64_t *offsets;
    int64_t *rows;  /* [postings] row numbers, list by list */
    int64_t *ids;   /* [n] */
    float *queries; /* [queries][dim] */
    int32_t n_queries;
} world;

static uint64_t state;

static uint32_t draw(uint32_t bound)
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((state >> 33) % bound);
}

static float value_of(const world *w, bool query)
{
    bool real = w->dtype == FGMM_F32 || w->dtype == FGMM_F16;
    float whole = (float)draw(w->dtype == FGMM_I8 ? 256 : 200) - (w->dtype == FGMM_I8 ? 128 : 0);
    switch (w->kind) {
    case SPREAD:
        return real ? (whole + (float)draw(100) / 128) / 16 : whole;
    case FEW:
        return (float)draw(3);
    case SAME:
        return query ? (float)draw(3) : 7;
    case FAR:
        return 1e6f + (float)draw(64) / 4;
    case HALVES:
        return query ? whole + 0.5f : whole;
    case ENORMOUS:
        return (whole - 100) * 1e17f;
    }
    return 0;
}

/* Lists of very different lengths, some empty; a row is in one to three. */
static void deal(world *w)
{
    int64_t *count = calloc((size_t)w->lists + 1, sizeof *count);
    int32_t *of = malloc((size_t)w->n * 3 * sizeof *of);
    uint32_t lists = (uint32_t)w->lists, popular = lists < 3 ? lists : 3;
    for (int64_t i = 0; i < w->n; i++) {
        int copies = w->repeats ? 1 + (int)draw(3) : 1;
        for (int c = 0; c < 3; c++) {
            int32_t list = (int32_t)draw(draw(2) ? popular : lists);
            bool again = c >= copies || list % 7 == 6;
            for (int b = 0; b < c; b++)
                again = again || of[i * 3 + b] == list;
            of[i * 3 + c] = again && c > 0 ? -1 : list;
            count[of[i * 3 + c] < 0 ? w->lists : list]++;
        }
    }
    w->offsets = calloc((size_t)w->lists + 1, sizeof *w->offsets);
    for (int32_t j = 0; j < w->lists; j++)
        w->offsets[j + 1] = w->offsets[j] + (uint64_t)count[j];
    w->postings = (int64_t)w->offsets[w->lists];
    w->rows = malloc((size_t)w->postings * sizeof *w->rows);
    memset(count, 0, (size_t)w->lists * sizeof *count);
    for (int64_t i = 0; i < w->n; i++)
        for (int c = 0; c < 3; c++)
            if (of[i * 3 + c] >= 0)
                w->rows[(int64_t)w->offsets[of[i * 3 + c]] + count[of[i * 3 + c]]++] = i;
    free(count);
    free(of);
}

static world *world_create(kind what, fgmm_dtype dtype, int64_t n, int32_t lists, int32_t dim, bool repeats)
{
    world *w = calloc(1, sizeof *w);
    *w = (world){.dtype = dtype, .dim = dim, .lists = lists, .n = n, .repeats = repeats, .kind = what};
    w->n_queries = 300;
    w->values = malloc((size_t)(n * dim) * sizeof(float));
    w->centroids = malloc((size_t)lists * (size_t)dim * sizeof(float));
    w->queries = malloc((size_t)w->n_queries * (size_t)dim * sizeof(float));
    w->ids = malloc((size_t)n * sizeof *w->ids);
    char *stored = malloc((size_t)(n * dim) * 4);
    for (int64_t i = 0; i < n * dim; i++)
        w->values[i] = value_of(w, false);
    fgmm__from_f32(dtype, w->values, (size_t)(n * dim), stored);
    fgmm__to_f32(dtype, stored, (size_t)(n * dim), w->values);
    free(stored);
    for (int64_t i = 0; i < n; i++)
        w->ids[i] = (n - i) * 3; /* ties go to what is stored last */
    for (int64_t i = 0; i < (int64_t)lists * dim; i++)
        w->centroids[i] = what == FEW ? (float)draw(3) : value_of(w, false) + (float)draw(8) / 8;
    for (int64_t i = 0; i < (int64_t)w->n_queries * dim; i++)
        w->queries[i] = value_of(w, true);
    memcpy(w->queries, w->values, (size_t)dim * sizeof(float)); /* one lies on a row */
    deal(w);
    return w;
}

static void world_destroy(world *w)
{
    free(w->values);
    free(w->centroids);
    free(w->queries);
    free(w->offsets);
    free(w->rows);
    free(w->ids);
    free(w);
}

static fgmm_status read_rows(void *context, int32_t list, int64_t begin, int64_t n, void *rows, int64_t *ids)
{
    const world *w = context;
    for (int64_t i = 0; i < n; i++) {
        int64_t row = w->rows[(int64_t)w->offsets[list] + begin + i];
        fgmm__from_f32(w->dtype, w->values + row * w->dim, (size_t)w->dim,
                       (char *)rows + (size_t)i * (size_t)w->dim * fgmm_dtype_bytes(w->dtype));
        ids[i] = w->ids[row];
    }
    return FGMM_OK;
}

/* ---- the plain search ---- */

static double distance(const float *query, const float *row, int32_t dim)
{
    double sum = 0;
    for (int32_t d = 0; d < dim; d++)
        sum += ((double)row[d] - (double)query[d]) * ((double)row[d] - (double)query[d]);
    return sum;
}

static int by_nearness(const void *a, const void *b)
{
    const fgmm_neighbor *x = a, *y = b;
    return fgmm__nearer(*x, *y) ? -1 : fgmm__nearer(*y, *x);
}

static int32_t keep_nearest(fgmm_neighbor *all, int64_t n, int32_t k, fgmm_neighbor *nearest)
{
    int32_t kept = 0;
    qsort(all, (size_t)n, sizeof *all, by_nearness);
    for (int64_t i = 0; i < n && kept < k; i++)
        if (i == 0 || all[i].id != all[i - 1].id)
            nearest[kept++] = all[i];
    return kept;
}

static void plain_probes(const world *w, int32_t q, int32_t nprobe, int32_t *probes)
{
    fgmm_neighbor *all = malloc((size_t)w->lists * sizeof *all),
                  *best = malloc((size_t)nprobe * sizeof *best);
    for (int32_t j = 0; j < w->lists; j++)
        all[j] = (fgmm_neighbor){
            distance(w->queries + (int64_t)q * w->dim, w->centroids + (int64_t)j * w->dim, w->dim), j};
    keep_nearest(all, w->lists, nprobe, best);
    for (int32_t p = 0; p < nprobe; p++)
        probes[p] = (int32_t)best[p].id;
    free(all);
    free(best);
}

static int32_t plain_search(const world *w, int32_t q, int32_t k, int32_t nprobe, const int32_t *probes,
                            fgmm_neighbor *nearest)
{
    fgmm_neighbor *all = malloc((size_t)(w->postings + 1) * sizeof *all);
    int64_t n = 0;
    for (int32_t p = 0; p < nprobe; p++)
        for (uint64_t at = w->offsets[probes[p]]; at < w->offsets[probes[p] + 1]; at++)
            all[n++] = (fgmm_neighbor){
                distance(w->queries + (int64_t)q * w->dim, w->values + w->rows[at] * w->dim, w->dim),
                w->ids[w->rows[at]]};
    int32_t kept = keep_nearest(all, n, k, nearest);
    free(all);
    return kept;
}

/* ---- comparing ---- */

static void need(fgmm_status status)
{
    if (status != FGMM_OK)
        print_error("%s\n", fgmm_error_message());
    assert_int_equal(status, FGMM_OK);
}

static void same_nearest(const world *w, const char *what, int32_t q, const fgmm_neighbor *got, int32_t n_got,
                         const fgmm_neighbor *expected, int32_t n_expected)
{
    if (n_got != n_expected || memcmp(got, expected, (size_t)n_got * sizeof *got) != 0) {
        print_error("%s, kind %d, %s, d=%d, query %d: %d found, expected %d\n", what, (int)w->kind,
                    fgmm_dtype_name(w->dtype), w->dim, q, n_got, n_expected);
        for (int32_t i = 0; i < n_got && i < n_expected; i++)
            if (got[i].id != expected[i].id || got[i].distance != expected[i].distance) {
                print_error("place %d: id %ld at %.17g, expected %ld at %.17g\n", i, (long)got[i].id,
                            got[i].distance, (long)expected[i].id, expected[i].distance);
                break;
            }
        fail();
    }
}

static void compare(const world *w, int32_t k, int32_t nprobe, bool choose, int64_t memory_bytes)
{
    fgmm_backend *cuda = fgmm_test_cuda();
    fgmm_backend_lists *lists = NULL;
    fgmm_list_times times;
    size_t n = (size_t)w->n_queries;
    int32_t wide = nprobe + 2 < w->lists ? nprobe + 2 : w->lists; /* to choose: more than are searched */
    int32_t *probes = calloc(n * (size_t)wide, sizeof *probes), *counts = calloc(n, sizeof *counts);
    int32_t *expected_probes = calloc(n * (size_t)wide, sizeof *expected_probes);
    fgmm_neighbor *nearest = calloc(n * (size_t)k, sizeof *nearest),
                  *expected = calloc((size_t)k, sizeof *expected);
    fgmm_list_table table = {.lists = w->lists,
                             .dim = w->dim,
                             .dtype = w->dtype,
                             .repeats = w->repeats,
                             .offsets = w->offsets,
                             .centroids = w->centroids,
                             .read = read_rows,
                             .context = (void *)(uintptr_t)w};
    for (int32_t q = 0; q < w->n_queries; q++)
        plain_probes(w, q, wide, expected_probes + (int64_t)q * wide);
    need(cuda->ops->lists_open(cuda, &table, memory_bytes, &lists));
    for (int round = 0; round < 2; round++) { /* the second finds everything as the first left it */
        memset(nearest, 0xee, n * (size_t)k * sizeof *nearest);
        int32_t width = choose && round == 0 ? wide : nprobe;
        memset(probes, 0xee, n * (size_t)wide * sizeof *probes);
        for (int32_t q = 0; q < w->n_queries && !choose; q++)
            memcpy(probes + (int64_t)q * nprobe, expected_probes + (int64_t)q * wide,
                   (size_t)nprobe * sizeof *probes);
        need(cuda->ops->lists_search(lists, w->queries, w->n_queries, k, nprobe, choose ? width : 0, probes,
                                     nearest, counts, &times));
        for (int32_t q = 0; q < w->n_queries; q++)
            assert_memory_equal(probes + (int64_t)q * width, expected_probes + (int64_t)q * wide,
                                (size_t)width * sizeof *probes);
        for (int32_t q = 0; q < w->n_queries; q += 1 + q / 8)
            same_nearest(w, "lists", q, nearest + (int64_t)q * k, counts[q], expected,
                         plain_search(w, q, k, nprobe, expected_probes + (int64_t)q * wide, expected));
    }
    assert_int_equal(memory_bytes > 0, times.bytes_brought > 0);
    cuda->ops->lists_close(lists);
    free(probes);
    free(counts);
    free(expected_probes);
    free(nearest);
    free(expected);
}

static const fgmm_dtype types[] = {FGMM_F32, FGMM_F16, FGMM_U8, FGMM_I8};

static void lists_of_every_type_and_dimension_give_the_plain_answer(void **test_state)
{
    (void)test_state;
    const int32_t dims[] = {1, 7, 16, 100, 128, 200, 333};
    for (int t = 0; t < 4; t++)
        for (int d = 0; d < 7; d++) {
            world *w = world_create(SPREAD, types[t], 6000, 40, dims[d], false);
            compare(w, 10, 8, true, 0);
            world_destroy(w);
        }
}

static void every_number_of_neighbours_and_lists_is_served(void **test_state)
{
    (void)test_state;
    const int32_t ks[] = {1, 64, 65, 1000, 1024}, nprobes[] = {1, 3, 40};
    for (int t = 0; t < 4; t += 2)
        for (int repeats = 0; repeats < 2; repeats++) {
            world *w = world_create(SPREAD, types[t], 5000, 40, 24, repeats != 0);
            for (int i = 0; i < 5; i++)
                for (int p = 0; p < 3; p++)
                    compare(w, ks[i], nprobes[p], p != 1, 0);
            world_destroy(w);
        }
}

static void ties_go_to_the_smaller_id_however_many(void **test_state)
{
    (void)test_state;
    for (int t = 0; t < 4; t++)
        for (int repeats = 0; repeats < 2; repeats++) {
            world *few = world_create(FEW, types[t], 9000, 30, 6, repeats != 0);
            world *same = world_create(SAME, types[t], 12000, 5, 20, repeats != 0);
            compare(few, 20, 9, true, 0);
            compare(same, 15, 4, true, 0);
            world_destroy(few);
            world_destroy(same);
        }
}

static void hard_numbers_lose_no_neighbour(void **test_state)
{
    (void)test_state;
    const struct {
        kind kind;
        fgmm_dtype dtype;
    } hard[] = {{FAR, FGMM_F32},    {HALVES, FGMM_U8},    {HALVES, FGMM_I8},
                {HALVES, FGMM_F16}, {ENORMOUS, FGMM_F32}, {HALVES, FGMM_F32}};
    for (int i = 0; i < 6; i++) {
        world *w = world_create(hard[i].kind, hard[i].dtype, 4000, 20, 96, i % 2 != 0);
        compare(w, 12, 6, true, 0);
        world_destroy(w);
    }
}

static void rows_wider_than_the_tile_are_searched_too(void **test_state)
{
    (void)test_state;
    world *w = world_create(SPREAD, FGMM_F32, 600, 6, 4000, false);
    world *bytes = world_create(SPREAD, FGMM_U8, 600, 6, 5000, false);
    compare(w, 5, 2, true, 0);
    compare(bytes, 5, 2, true, 0);
    world_destroy(w);
    world_destroy(bytes);
}

/* So many lists that their order is found by bounds; ties, and centroids that fp16 cannot tell apart. */
static void the_nearest_of_many_lists_are_visited(void **test_state)
{
    (void)test_state;
    const struct {
        kind kind;
        fgmm_dtype dtype;
        int32_t lists, dim, nprobe;
    } many[] = {{SPREAD, FGMM_U8, 900, 128, 9},   {SPREAD, FGMM_F32, 3100, 100, 32},
                {SPREAD, FGMM_F16, 1000, 17, 40}, {FEW, FGMM_U8, 800, 6, 8},
                {FAR, FGMM_F32, 700, 96, 7},      {HALVES, FGMM_I8, 600, 200, 6},
                {ENORMOUS, FGMM_F32, 500, 64, 5}, {SAME, FGMM_F16, 500, 20, 20},
                {SPREAD, FGMM_F32, 400, 1000, 16}};
    for (int i = 0; i < 9; i++) {
        world *w = world_create(many[i].kind, many[i].dtype, 4000, many[i].lists, many[i].dim, i % 2 != 0);
        compare(w, 10, many[i].nprobe, true, 0);
        world_destroy(w);
    }
}

/* So little memory that lists come in several windows, and the long ones in pieces. */
static void lists_that_do_not_fit_are_brought_when_visited(void **test_state)
{
    (void)test_state;
    for (int t = 0; t < 4; t++)
        for (int repeats = 0; repeats < 2; repeats++) {
            world *w = world_create(SPREAD, types[t], 60000, 50, 20, repeats != 0);
            int64_t place = 32 * (int64_t)fgmm_dtype_bytes(w->dtype) + 20;
            compare(w, 10, 30, true, 6000 * place);
            world_destroy(w);
        }
}

/* ---- the nearest of all rows ---- */

static void compare_nearest(const world *w, int32_t k, int64_t tile_rows)
{
    fgmm_backend *cuda = fgmm_test_cuda();
    size_t n = (size_t)w->n_queries, bytes = (size_t)(w->n * w->dim) * fgmm_dtype_bytes(w->dtype);
    fgmm_neighbor *nearest = calloc(n * (size_t)k, sizeof *nearest),
                  *expected = calloc((size_t)k, sizeof *expected);
    fgmm_neighbor *all = calloc((size_t)w->n, sizeof *all);
    int32_t *counts = calloc(n, sizeof *counts);
    char *stored = malloc(bytes);
    fgmm__from_f32(w->dtype, w->values, (size_t)(w->n * w->dim), stored);
    fgmm_test_rows rows = {.n = w->n, .dim = w->dim, .dtype = w->dtype, .stored = stored};
    const void *placed = fgmm_test_place(cuda, &rows);
    need(cuda->ops->nearest_begin(cuda, w->queries, w->n_queries, w->dim, k));
    for (int64_t at = 0; at < w->n; at += tile_rows) {
        fgmm_tile tile = fgmm_test_tile(&rows, placed, at, tile_rows);
        need(cuda->ops->nearest_tile(cuda, &tile));
    }
    need(cuda->ops->nearest_end(cuda, nearest, counts));
    for (int32_t q = 0; q < w->n_queries; q += 1 + q / 20) {
        for (int64_t i = 0; i < w->n; i++)
            all[i] = (fgmm_neighbor){
                distance(w->queries + (int64_t)q * w->dim, w->values + i * w->dim, w->dim), i};
        same_nearest(w, "rows", q, nearest + (int64_t)q * k, counts[q], expected,
                     keep_nearest(all, w->n, k, expected));
    }
    fgmm_test_release(cuda, placed);
    free(nearest);
    free(expected);
    free(all);
    free(counts);
    free(stored);
}

static void the_nearest_of_all_rows_are_the_plain_ones(void **test_state)
{
    (void)test_state;
    const int32_t dims[] = {3, 64, 100, 300};
    for (int t = 0; t < 4; t++)
        for (int d = 0; d < 4; d++) {
            world *w = world_create(d == 0            ? FEW
                                    : t % 2 && d == 1 ? HALVES
                                                      : SPREAD,
                                    types[t], 40000, 2, dims[d], false);
            compare_nearest(w, d == 1 ? 1000 : 10, d == 2 ? 9216 : 65536);
            world_destroy(w);
        }
}

static int cases(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_of_every_type_and_dimension_give_the_plain_answer),
        cmocka_unit_test(every_number_of_neighbours_and_lists_is_served),
        cmocka_unit_test(ties_go_to_the_smaller_id_however_many),
        cmocka_unit_test(hard_numbers_lose_no_neighbour),
        cmocka_unit_test(rows_wider_than_the_tile_are_searched_too),
        cmocka_unit_test(the_nearest_of_many_lists_are_visited),
        cmocka_unit_test(lists_that_do_not_fit_are_brought_when_visited),
        cmocka_unit_test(the_nearest_of_all_rows_are_the_plain_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
    return fgmm_test_gpu_main(argc, argv, cases);
}
