#define _GNU_SOURCE /* asprintf */
#include "ivf/graph.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "io/reader.h"
#include "ivf/device_search.h"

enum { BATCH_BYTES = 64 << 20 /* of rows searched with at once */ };

void fgmm__graph_destroy(fgmm_graph *graph)
{
    if (graph == NULL)
        return;
    free(graph->nearest);
    free(graph->lists);
    free(graph);
}

/* ---- hard lists to search ---- */

/* The same name on all ranks, one of its own for each run. */
static fgmm_status name_lists(fgmm_comm *comm, const char *path, char **out)
{
    int64_t process = getpid();
    fgmm_status status = fgmm__comm_bcast(comm, &process, sizeof process, 0);
    if (status != FGMM_OK)
        return status;
    if (asprintf(out, "%s.lists.%lld", path, (long long)process) < 0) {
        *out = NULL;
        status = fgmm__fail(FGMM_ERR_RUNTIME, "out of memory while naming %s", path);
    }
    return fgmm__comm_agree(comm, status);
}

static fgmm_status make_lists(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_model *model,
                              const char *path, const fgmm_build_options *given, fgmm_index **index)
{
    fgmm_status status = FGMM_OK;
    char *name = NULL;
    fgmm_build_options options;
    fgmm_build_defaults(&options);
    options.resources = given->resources;
    options.window_bytes = given->window_bytes;
    options.exchange_bytes = given->exchange_bytes;
    FGMM_TRY(name_lists(comm, path, &name));
    FGMM_TRY(fgmm__build(comm, dataset, model, name, &options, NULL, NULL));
    status = fgmm__comm_agree(comm, fgmm_index_open(name, index));
    if (fgmm_comm_rank(comm) == 0)
        unlink(name);
cleanup:
    free(name);
    return status;
}

/* ---- the nearest rows ---- */

static fgmm_status make_room(const fgmm_index *index, int64_t rows, const fgmm_build_options *options,
                             fgmm_graph **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_graph *graph = NULL;
    int64_t cap = options->resources.host_memory_bytes;
    FGMM_ALLOC(graph, 1, "the rows near each row");
    graph->rows = rows;
    graph->n = options->neighbors;
    graph->kept = index->k < FGMM_GRAPH_KEPT ? index->k : FGMM_GRAPH_KEPT;
    double bytes = (double)rows * (double)(graph->n * sizeof *graph->nearest + graph->kept * sizeof(int32_t));
    if (cap > 0 && bytes > (double)cap)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "--assign need: which rows are near each other takes %.0f MiB a rank, more than "
                  "--host-memory: run on more ranks or lower --neighbors",
                  bytes / (1 << 20));
    FGMM_ALLOC(graph->nearest, rows * graph->n, "the rows near each row");
    FGMM_ALLOC(graph->lists, rows * graph->kept, "the rows near each row");
    *out = graph;
    graph = NULL;
cleanup:
    fgmm__graph_destroy(graph);
    return status;
}

/* Leaves the row itself out of its neighbours (where many rows are equal it need not be among them). */
static void keep_nearest(const fgmm_graph *graph, const fgmm_index *index, uint64_t posting, int64_t n,
                         const int64_t *found, int64_t *nearest)
{
    for (int64_t i = 0; i < n; i++) {
        const int64_t *ids = found + i * (graph->n + 1);
        int64_t self = fgmm__index_id(index, posting + (uint64_t)i);
        int32_t kept = 0;
        for (int32_t c = 0; c <= graph->n && kept < graph->n; c++)
            if (ids[c] != self)
                nearest[i * graph->n + kept++] = ids[c];
    }
}

/* Searches with the rows of postings [posting, posting + n), which are number `at` of the graph on. A row's
 * own list comes first: what is nearer than its rows is soon told from the rest. */
static fgmm_status find_some(fgmm_searcher *searcher, uint64_t posting, int64_t n, const float *rows,
                             fgmm_graph *graph, int64_t at, int64_t *found)
{
    fgmm_status status = FGMM_OK;
    fgmm_top *top = NULL;
    fgmm_probes probes = {.n = 0};
    int32_t searched = graph->kept < FGMM_GRAPH_SEARCHED ? graph->kept : FGMM_GRAPH_SEARCHED;
    if (fgmm__device_search_serves(searcher->place.backend, graph->n + 1)) {
        FGMM_TRY(fgmm__device_search_near(searcher, rows, n, graph->n + 1, searched, graph->kept, found,
                                          graph->lists + at * graph->kept));
        keep_nearest(graph, searcher->index, posting, n, found, graph->nearest + at * graph->n);
        goto cleanup;
    }
    FGMM_TRY(fgmm__top_create(n, graph->n + 1, false, &top));
    FGMM_TRY(fgmm__probes_choose(searcher, rows, n, graph->kept, false, &probes));
    fgmm__probes_group(&probes, searcher->index->k, NULL, 0, 0, 1);
    FGMM_TRY(fgmm__probes_scan(searcher, &probes, top));
    fgmm__probes_group(&probes, searcher->index->k, NULL, 0, 1, searched);
    FGMM_TRY(fgmm__probes_scan(searcher, &probes, top));
    fgmm__top_sort(top);
    fgmm__top_read(top, found, NULL);
    keep_nearest(graph, searcher->index, posting, n, found, graph->nearest + at * graph->n);
    for (int64_t i = 0; i < n * graph->kept; i++)
        graph->lists[at * graph->kept + i] = (int32_t)probes.probes[i];
cleanup:
    fgmm__top_destroy(top);
    fgmm__probes_free(&probes);
    return status;
}

static fgmm_status find_mine(fgmm_searcher *searcher, int64_t begin, fgmm_graph *graph)
{
    fgmm_status status = FGMM_OK;
    const fgmm_index *index = searcher->index;
    size_t row_bytes = (size_t)index->dim * fgmm_dtype_bytes(index->dtype);
    int64_t step = fgmm__batch_size(graph->n + 1, graph->kept);
    int64_t most = BATCH_BYTES / (int64_t)((size_t)index->dim * sizeof(double));
    void *bytes = NULL;
    float *rows = NULL;
    int64_t *found = NULL;
    step = step > most ? most + 1 : step;
    step = step > graph->rows ? graph->rows : step;
    FGMM_TRY(fgmm__alloc((size_t)step, row_bytes, "rows to search with", &bytes));
    FGMM_ALLOC(rows, step * index->dim, "rows to search with");
    FGMM_ALLOC(found, step * (graph->n + 1), "the rows near each row");
    if (fgmm__device_search_serves(searcher->place.backend, graph->n + 1))
        FGMM_TRY(fgmm__device_search_open(searcher));
    for (int64_t at = 0; at < graph->rows; at += step) {
        int64_t n = graph->rows - at < step ? graph->rows - at : step;
        /* HDF5 does not align datasets. */
        memcpy(bytes, index->bytes + index->vectors_at + (size_t)(begin + at) * row_bytes,
               (size_t)n * row_bytes);
        fgmm__to_f32(index->dtype, bytes, (size_t)n * (size_t)index->dim, rows);
        FGMM_TRY(find_some(searcher, (uint64_t)(begin + at), n, rows, graph, at, found));
        fgmm__progress_add(n);
    }
cleanup:
    if (status != FGMM_OK)
        fgmm__comm_announce_failure(searcher->comm);
    free(bytes);
    free(rows);
    free(found);
    return status;
}

fgmm_status fgmm__graph_create(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_model *model,
                               const char *path, const fgmm_build_options *options, fgmm_graph **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_index *index = NULL;
    fgmm_searcher *searcher = NULL;
    fgmm_graph *graph = NULL;
    int size = fgmm_comm_size(comm), rank = fgmm_comm_rank(comm);
    FGMM_TRY(make_lists(comm, dataset, model, path, options, &index));
    int64_t begin = index->postings / size * rank + index->postings % size * rank / size;
    int64_t end = index->postings / size * (rank + 1) + index->postings % size * (rank + 1) / size;
    FGMM_TRY(fgmm__comm_agree(comm, make_room(index, end - begin, options, &graph)));
    FGMM_TRY(fgmm__searcher_create(comm, index, options->resources.backend, options->resources.threads, NULL,
                                   &searcher));
    fgmm__searcher_device_memory(searcher, options->resources.device_memory_bytes);
    fgmm__progress_begin("neighbours", "rows", graph->rows);
    FGMM_TRY(fgmm__comm_agree(comm, find_mine(searcher, begin, graph)));
    *out = graph;
    graph = NULL;
cleanup:
    fgmm__progress_end();
    fgmm__searcher_destroy(searcher);
    fgmm_index_close(index);
    fgmm__graph_destroy(graph);
    return status;
}
