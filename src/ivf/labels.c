#include "ivf/labels.h"

#include <stdlib.h>
#include <string.h>

fgmm_status fgmm__labels_create(int64_t rows, bool multi, fgmm_labels **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_labels *labels = NULL;
    FGMM_ALLOC(labels, 1, "labels");
    labels->multi = multi;
    labels->capacity = rows;
    if (multi)
        FGMM_ALLOC(labels->counts, rows, "labels");
    FGMM_ALLOC(labels->lists, rows, "labels");
    *out = labels;
    labels = NULL;
cleanup:
    fgmm__labels_destroy(labels);
    return status;
}

void fgmm__labels_destroy(fgmm_labels *labels)
{
    if (labels == NULL)
        return;
    free(labels->counts);
    free(labels->lists);
    free(labels);
}

fgmm_status fgmm__labels_append(fgmm_labels *labels, const int32_t *lists, int32_t count)
{
    if (labels->n + count > labels->capacity) {
        int64_t capacity = labels->capacity + labels->capacity / 4 + 64;
        int32_t *grown = realloc(labels->lists, (size_t)capacity * sizeof *grown);
        if (grown == NULL)
            return fgmm__fail(FGMM_ERR_RUNTIME,
                              "out of memory: labels of %lld postings; lower --max-lists or raise --tau",
                              (long long)capacity);
        labels->lists = grown;
        labels->capacity = capacity;
    }
    memcpy(labels->lists + labels->n, lists, (size_t)count * sizeof *lists);
    labels->n += count;
    if (labels->multi)
        labels->counts[labels->rows] = (uint8_t)count;
    labels->rows++;
    return FGMM_OK;
}
