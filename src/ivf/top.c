#include "ivf/top.h"

#include <math.h>
#include <stdlib.h>

fgmm_status fgmm__top_create(int64_t n, int32_t k, bool repeats, fgmm_top **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_top *top = NULL;
    size_t slots;
    if (__builtin_mul_overflow((size_t)n, (size_t)k, &slots))
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%d neighbours of %lld queries are more than memory can hold", k,
                  (long long)n);
    FGMM_ALLOC(top, 1, "neighbours");
    top->n = n;
    top->k = k;
    top->repeats = repeats;
    FGMM_ALLOC(top->count, n, "neighbours");
    FGMM_ALLOC(top->heap, slots, "neighbours");
    *out = top;
    top = NULL;
cleanup:
    fgmm__top_destroy(top);
    return status;
}

void fgmm__top_destroy(fgmm_top *top)
{
    if (top == NULL)
        return;
    free(top->count);
    free(top->heap);
    free(top);
}

/* Lets `item` sink from slot 0 of a heap of `count`. */
static void sink(fgmm_neighbor *heap, int32_t count, fgmm_neighbor item)
{
    int64_t at = 0;
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && fgmm__nearer(heap[child], heap[child + 1]))
            child++;
        if (!fgmm__nearer(item, heap[child]))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = item;
}

static void rise(fgmm_neighbor *heap, int64_t at, fgmm_neighbor item)
{
    while (at > 0 && fgmm__nearer(heap[(at - 1) / 2], item)) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = item;
}

static bool holds(const fgmm_neighbor *heap, int32_t count, int64_t id)
{
    for (int32_t i = 0; i < count; i++)
        if (heap[i].id == id)
            return true;
    return false;
}

void fgmm__top_push(fgmm_top *top, int64_t query, double distance, int64_t id)
{
    fgmm_neighbor *heap = top->heap + query * top->k, item = {distance, id};
    int32_t *count = &top->count[query];
    bool full = *count == top->k;
    if (full && !fgmm__nearer(item, heap[0]))
        return;
    if (top->repeats && holds(heap, *count, id))
        return;
    if (full)
        sink(heap, *count, item);
    else
        rise(heap, (*count)++, item);
}

double fgmm__top_bound(const fgmm_top *top, int64_t query)
{
    return top->count[query] == top->k ? top->heap[query * top->k].distance : INFINITY;
}

static int by_distance(const void *a, const void *b)
{
    const fgmm_neighbor *x = a, *y = b;
    return fgmm__nearer(*x, *y) ? -1 : fgmm__nearer(*y, *x);
}

void fgmm__top_sort(fgmm_top *top)
{
    for (int64_t q = 0; q < top->n; q++)
        qsort(top->heap + q * top->k, (size_t)top->count[q], sizeof *top->heap, by_distance);
}

void fgmm__top_read(const fgmm_top *top, int64_t *ids, float *distances)
{
    for (int64_t q = 0; q < top->n; q++)
        for (int32_t i = 0; i < top->k; i++) {
            int64_t slot = q * top->k + i;
            bool there = i < top->count[q];
            ids[slot] = there ? top->heap[slot].id : -1;
            if (distances != NULL)
                distances[slot] = there ? (float)top->heap[slot].distance : INFINITY;
        }
}
