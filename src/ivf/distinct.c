#include "ivf/distinct.h"

#include <stdlib.h>

#include "base/status.h"

/* A hash set of row numbers with open addressing. A slot counts only when it bears the stamp of the present
 * question, so that a new question costs nothing to begin. */
struct fgmm_distinct {
    const fgmm_index *index;
    uint64_t slots; /* a power of two */
    int64_t *ids;
    uint32_t *stamps;
    uint32_t stamp;
};

fgmm_status fgmm__distinct_create(const fgmm_index *index, fgmm_distinct **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_distinct *distinct = NULL;
    FGMM_ALLOC(distinct, 1, "counting rows");
    distinct->index = index;
    *out = distinct;
cleanup:
    return status;
}

void fgmm__distinct_destroy(fgmm_distinct *distinct)
{
    if (distinct == NULL)
        return;
    free(distinct->ids);
    free(distinct->stamps);
    free(distinct);
}

/* `n` rows fill the set to half at most. */
fgmm_status fgmm__distinct_begin(fgmm_distinct *distinct, uint64_t n)
{
    fgmm_status status = FGMM_OK;
    uint64_t slots = distinct->slots > 0 ? distinct->slots : 1024;
    while (slots < 2 * n)
        slots *= 2;
    if (slots > distinct->slots || distinct->stamp == UINT32_MAX) {
        free(distinct->ids);
        free(distinct->stamps);
        distinct->ids = NULL;
        distinct->stamps = NULL;
        distinct->slots = 0;
        distinct->stamp = 0;
        FGMM_ALLOC(distinct->ids, slots, "counting rows");
        FGMM_ALLOC(distinct->stamps, slots, "counting rows");
        distinct->slots = slots;
    }
    distinct->stamp++;
cleanup:
    return status;
}

bool fgmm__distinct_add(fgmm_distinct *distinct, int64_t id)
{
    uint64_t slot = (uint64_t)id * UINT64_C(0x9E3779B97F4A7C15) >> 20;
    for (;; slot++) {
        slot &= distinct->slots - 1;
        if (distinct->stamps[slot] != distinct->stamp)
            break;
        if (distinct->ids[slot] == id)
            return false;
    }
    distinct->stamps[slot] = distinct->stamp;
    distinct->ids[slot] = id;
    return true;
}

fgmm_status fgmm__distinct_count(fgmm_distinct *distinct, const int64_t *lists, int32_t n_lists,
                                 int64_t *count)
{
    const fgmm_index *index = distinct->index;
    uint64_t postings = 0;
    for (int32_t i = 0; i < n_lists; i++)
        postings += fgmm__index_list_size(index, (int32_t)lists[i]);
    fgmm_status status = fgmm__distinct_begin(distinct, postings);
    *count = 0;
    for (int32_t i = 0; i < n_lists && status == FGMM_OK; i++)
        for (uint64_t p = index->offsets[lists[i]]; p < index->offsets[lists[i] + 1]; p++)
            *count += fgmm__distinct_add(distinct, fgmm__index_id(index, p));
    return status;
}
