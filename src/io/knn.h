/* Nearest neighbours in files: ground truth and search results. */
#ifndef FGMM_IO_KNN_H
#define FGMM_IO_KNN_H

#include "base/status.h"
#include "fgmm/types.h"

typedef struct {
    int64_t queries;
    int32_t k;
    int64_t *ids;     /* [queries][k], -1 where fewer; owned */
    float *distances; /* [queries][k] squared L2, NULL where the file has none; owned */
} fgmm_knn;

/* .ibin (big-ann kNN layout: u32 nq, u32 k, i32 ids, f32 distances; ids alone accepted), .ivecs,
 * .h5[:/dataset] (default /neighbors, then /ids; distances from /distances where there). FGMM_ERR_INPUT names
 * file and fault. */
fgmm_status fgmm__knn_read(const char *path, fgmm_knn *out);
/* .ibin, .ivecs: 32-bit ids, FGMM_ERR_INPUT for larger ones; .h5: /neighbors int64 and /distances f32. */
fgmm_status fgmm__knn_write(const char *path, const fgmm_knn *knn);
void fgmm__knn_free(fgmm_knn *knn);

#endif
