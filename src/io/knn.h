/* Nearest neighbours in files: ground truth and search results. */
#ifndef FGMM_IO_KNN_H
#define FGMM_IO_KNN_H

#include "base/status.h"
#include "fgmm/types.h"

typedef struct {
    int64_t queries;
    int32_t k;
    int64_t *ids;     /* [queries][k], -1 where fewer; owned */
    float *distances; /* [queries][k] squared L2 (cosine: of rows of unit length; ip: inner products), NULL
                         where the file has none; owned */
} fgmm_knn;

/* What an HDF5 file of true neighbours holds beside them, so that others can read it who know the layout of
 * ann-benchmarks. */
typedef struct {
    fgmm_metric metric;
    int32_t dim;
    const float *queries; /* [queries][dim] */
} fgmm_knn_about;

/* .ibin (big-ann kNN layout: u32 nq, u32 k, i32 ids, f32 distances; ids alone accepted), .ivecs,
 * .h5[:/dataset] (default /neighbors, then /ids; distances from /distances where there, squared again where
 * the attribute `distance` says that they are roots). FGMM_ERR_INPUT names file and fault. */
fgmm_status fgmm__knn_read(const char *path, fgmm_knn *out);
/* .ibin, .ivecs: 32-bit ids, FGMM_ERR_INPUT for larger ones; .h5: /neighbors int64, /distances f32, and with
 * `about` (else NULL) the layout of ann-benchmarks but for the rows: /test, attributes distance, type,
 * dimension and point_type, and distances that are L2 ("euclidean"), 1 - cosine ("angular") or inner products
 * ("dot"). */
fgmm_status fgmm__knn_write(const char *path, const fgmm_knn *knn, const fgmm_knn_about *about);
void fgmm__knn_free(fgmm_knn *knn);

#endif
