#include "eval/holdout.h"

#include <stdlib.h>
#include <string.h>

#include "base/philox.h"

typedef struct {
    double drawn;
    int64_t query;
} lot;

static int by_lot(const void *a, const void *b)
{
    const lot *x = a, *y = b;
    if (x->drawn != y->drawn)
        return x->drawn < y->drawn ? -1 : 1;
    return (x->query > y->query) - (x->query < y->query);
}

static int by_number(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

fgmm_status fgmm__hold_out(uint64_t seed, int64_t n, int64_t train, int64_t *order)
{
    fgmm_status status = FGMM_OK;
    lot *lots = NULL;
    FGMM_ALLOC(lots, n, "queries");
    for (int64_t q = 0; q < n; q++)
        lots[q] = (lot){fgmm__philox_uniform(seed, FGMM_RNG_HOLDOUT, (uint64_t)q), q};
    qsort(lots, (size_t)n, sizeof *lots, by_lot);
    for (int64_t i = 0; i < n; i++)
        order[i] = lots[i].query;
    qsort(order, (size_t)(n - train), sizeof *order, by_number);
    qsort(order + (n - train), (size_t)train, sizeof *order, by_number);
cleanup:
    free(lots);
    return status;
}

fgmm_status fgmm__reorder(void **rows, const int64_t *order, int64_t n, size_t bytes)
{
    fgmm_status status = FGMM_OK;
    char *sorted = NULL;
    FGMM_TRY(fgmm__alloc((size_t)n, bytes, "queries", (void **)&sorted));
    for (int64_t i = 0; i < n; i++)
        memcpy(sorted + (size_t)i * bytes, (char *)*rows + (size_t)order[i] * bytes, bytes);
    free(*rows);
    *rows = sorted;
cleanup:
    return status;
}
