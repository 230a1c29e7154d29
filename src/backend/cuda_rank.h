/* The order of lists: the centroids nearest to each query of a batch. Local; stream-ordered on the kernel
 * stream unless said otherwise. */
#ifndef FGMM_BACKEND_CUDA_RANK_H
#define FGMM_BACKEND_CUDA_RANK_H

#include "backend/cuda_finder.h"

enum { FGMM__RANK_ROOMS = 9 };

typedef struct {
    fgmm__cuda_backend *cuda;
    fgmm_list_view view; /* the centroids as rows of one list about their mean */
    int32_t lists;
    void *operands; /* of the centroids; NULL: too many dimensions, or few lists */
    fgmm__cuda_room rooms[FGMM__RANK_ROOMS];
} fgmm__cuda_rank;

/* Brings centroids [lists][dim] (host) to the device. Waits. What a failure left is closed, too. */
fgmm_status fgmm__cuda_rank_open(fgmm__cuda_rank *rank, fgmm__cuda_backend *cuda, const float *centroids,
                                 int32_t lists, int32_t dim);
void fgmm__cuda_rank_close(fgmm__cuda_rank *rank);
/* The lists of the finder's queries, nearest first: probes [n][nprobe], device. */
fgmm_status fgmm__cuda_rank_probes(fgmm__cuda_rank *rank, fgmm__cuda_finder *finder, int32_t nprobe,
                                   int32_t *probes);

#endif
