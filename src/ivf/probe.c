/* Queries are grouped by list, and each list is read once a batch or round. */
#include "ivf/probe.h"

#include <stdlib.h>
#include <string.h>

int64_t fgmm__batch_size(int32_t k, int32_t nprobe)
{
    enum { MOST = 16384, BYTES = 1 << 30 };
    int64_t n = BYTES / ((int64_t)k * 2 * (int64_t)sizeof(fgmm_neighbor) + (int64_t)nprobe * 40);
    return n < 1 ? 1 : n > MOST ? MOST : n;
}

void fgmm__probes_free(fgmm_probes *probes)
{
    free(probes->probes);
    free(probes->begin);
    free(probes->visitors);
    free(probes->distances);
    free(probes->found);
    fgmm__near_lists_destroy(probes->near);
    fgmm__skim_destroy(probes->skim);
    *probes = (fgmm_probes){.n = 0};
}

/* The nprobe centroids nearest to each query are its neighbours among the centroids (under the inner product
 * those of the largest products, as FAISS has it). */
static fgmm_status choose_by_centroid(fgmm_searcher *searcher, fgmm_probes *probes)
{
    fgmm_status status = FGMM_OK;
    const fgmm_index *index = searcher->index;
    fgmm_top *nearest = NULL;
    int32_t *everyone = NULL;
    FGMM_TRY(fgmm__top_create(probes->n, probes->nprobe, false, &nearest));
    FGMM_ALLOC(everyone, probes->n, "queries");
    for (int32_t q = 0; q < probes->n; q++)
        everyone[q] = q;
    FGMM_TRY(fgmm__scan_rows(searcher->scan, nearest, everyone, (int32_t)probes->n, index->centroids,
                             FGMM_F32, index->dim, index->k, NULL, 0));
    fgmm__top_sort(nearest);
    fgmm__top_read(nearest, probes->probes, NULL);
cleanup:
    fgmm__top_destroy(nearest);
    free(everyone);
    return status;
}

static fgmm_status begin_coarse(const fgmm_searcher *searcher, fgmm_probes *probes)
{
    fgmm_status status = FGMM_OK;
    FGMM_ALLOC(probes->found, probes->n, "probes");
    FGMM_ALLOC(probes->distances, probes->n * probes->nprobe, "probes");
    FGMM_TRY(fgmm__near_lists_create(searcher->coarse, probes->queries, probes->n,
                                     searcher->place.backend->threads, &probes->near));
cleanup:
    return status;
}

fgmm_status fgmm__probes_choose(fgmm_searcher *searcher, const float *queries, int64_t n, int32_t nprobe,
                                bool skip, fgmm_probes *probes)
{
    fgmm_status status = FGMM_OK;
    const fgmm_index *index = searcher->index;
    *probes = (fgmm_probes){.queries = queries, .n = n, .nprobe = nprobe};
    FGMM_ALLOC(probes->probes, n * nprobe, "probes");
    FGMM_ALLOC(probes->visitors, n * nprobe, "probes");
    FGMM_ALLOC(probes->begin, index->k + 1, "probes");
    if (skip)
        FGMM_TRY(fgmm__skim_create(index, queries, n, searcher->place.backend->threads, &probes->skim));
    FGMM_TRY(fgmm__workplace_queries(&searcher->place, index->metric, queries, n, index->dim));
    if (searcher->posterior != NULL)
        FGMM_TRY(fgmm__posterior_order(searcher->posterior, queries, n, nprobe, probes->probes));
    else if (searcher->coarse != NULL)
        FGMM_TRY(begin_coarse(searcher, probes));
    else
        FGMM_TRY(choose_by_centroid(searcher, probes));
cleanup:
    return status;
}

void fgmm__probes_find(const fgmm_searcher *searcher, fgmm_probes *probes, const int32_t *some,
                       int64_t n_some, int32_t count)
{
    int64_t n = some != NULL ? n_some : probes->n;
    if (probes->near == NULL)
        return;
#pragma omp parallel for num_threads(searcher->place.backend->threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        int64_t query = some != NULL ? some[i] : i, at = query * probes->nprobe;
        for (; probes->found[query] < count; probes->found[query]++)
            probes->probes[at + probes->found[query]] =
                fgmm__near_lists_next(probes->near, query, &probes->distances[at + probes->found[query]]);
    }
}

fgmm_status fgmm__probes_measure(const fgmm_searcher *searcher, fgmm_probes *probes)
{
    fgmm_status status = FGMM_OK;
    const fgmm_index *index = searcher->index;
    int32_t dim = index->dim;
    if (probes->near != NULL)
        return FGMM_OK;
    FGMM_ALLOC(probes->distances, probes->n * probes->nprobe, "probes");
#pragma omp parallel for num_threads(searcher->place.backend->threads) schedule(static)
    for (int64_t i = 0; i < probes->n * probes->nprobe; i++) {
        const float *query = probes->queries + i / probes->nprobe * dim;
        const float *centroid = index->centroids + probes->probes[i] * dim;
        double sum = 0;
        for (int32_t d = 0; d < dim; d++)
            sum += ((double)query[d] - (double)centroid[d]) * ((double)query[d] - (double)centroid[d]);
        probes->distances[i] = sum;
    }
cleanup:
    return status;
}

int64_t fgmm__probes_numbers(const fgmm_searcher *searcher, const fgmm_probes *probes, int64_t q)
{
    const fgmm_index *index = searcher->index;
    return probes->near != NULL ? fgmm__near_lists_numbers(probes->near, q) : (int64_t)index->k * index->dim;
}

/* A counting sort of (query, list) pairs by list. */
void fgmm__probes_group(fgmm_probes *probes, int32_t lists, const int32_t *some, int64_t n_some, int32_t from,
                        int32_t to)
{
    int64_t *begin = probes->begin, n = some != NULL ? n_some : probes->n;
    memset(begin, 0, (size_t)(lists + 1) * sizeof *begin);
    for (int64_t i = 0; i < n; i++) {
        const int64_t *of = probes->probes + (some != NULL ? some[i] : i) * probes->nprobe;
        for (int32_t p = from; p < to; p++)
            begin[of[p] + 1]++;
    }
    for (int32_t j = 0; j < lists; j++)
        begin[j + 1] += begin[j];
    for (int64_t i = n - 1; i >= 0; i--) { /* begin[j+1] runs down from the end of list j to its start */
        int64_t query = some != NULL ? some[i] : i;
        const int64_t *of = probes->probes + query * probes->nprobe;
        for (int32_t p = from; p < to; p++)
            probes->visitors[--begin[of[p] + 1]] = (int32_t)query;
    }
    memmove(begin, begin + 1, (size_t)lists * sizeof *begin);
    begin[lists] = n * (to - from);
}

fgmm_status fgmm__probes_scan(fgmm_searcher *searcher, const fgmm_probes *probes, fgmm_top *top)
{
    const fgmm_index *index = searcher->index;
    fgmm_lists *lists = searcher->lists;
    fgmm_status status = FGMM_OK;
    for (int32_t j = 0; j < index->k; j++) {
        int32_t visitors = (int32_t)(probes->begin[j + 1] - probes->begin[j]);
        if (visitors == 0)
            continue;
        FGMM_TRY(fgmm__comm_tick(searcher->comm));
        for (fgmm__lists_start(lists, j);;) {
            FGMM_TRY(fgmm__lists_next(lists));
            if (lists->n == 0)
                break;
            const int32_t *queries = probes->visitors + probes->begin[j];
            if (probes->skim != NULL)
                FGMM_TRY(fgmm__skim_rows(probes->skim, top, queries, visitors, lists));
            else
                FGMM_TRY(fgmm__scan_rows(searcher->scan, top, queries, visitors, lists->vectors, index->dtype,
                                         index->dim, lists->n, lists->ids, 0));
        }
    }
cleanup:
    return status;
}

fgmm_status fgmm__probes_count(fgmm_searcher *searcher, const fgmm_probes *probes, int64_t q, int32_t count,
                               fgmm_tally *tally)
{
    const int64_t *of = probes->probes + q * probes->nprobe;
    int64_t met = 0, different;
    for (int32_t i = 0; i < count; i++)
        met += (int64_t)fgmm__index_list_size(searcher->index, (int32_t)of[i]);
    different = met;
    if (searcher->distinct != NULL) {
        fgmm_status status = fgmm__distinct_count(searcher->distinct, of, count, &different);
        if (status != FGMM_OK)
            return status;
    }
    tally->lists += count;
    tally->scanned += met;
    tally->distinct += different;
    tally->full += different;
    tally->numbers += fgmm__probes_numbers(searcher, probes, q);
    if (probes->skim != NULL) {
        fgmm_skim_cost cost = fgmm__skim_cost_of(probes->skim, q);
        tally->full += cost.full - different;
        tally->sketches += cost.sketches;
    }
    return FGMM_OK;
}
