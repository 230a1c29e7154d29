/* Lists in device memory: all of them where they fit; else those visited most stay, and others pass through
 * two windows. Local. */
#ifndef FGMM_BACKEND_CUDA_LISTS_H
#define FGMM_BACKEND_CUDA_LISTS_H

#include "backend/cuda_rank.h"

/* One buffer on the way to the device. */
typedef struct {
    char *rows;   /* [staged_rows][pitch], pinned */
    int64_t *ids; /* [staged_rows] */
    fgmm_gpu_event *copied;
} fgmm__cuda_staged;

/* Some lists that are on the device together. */
typedef struct {
    fgmm_list_view view;
    uint32_t *begin; /* [lists] host */
    int32_t *size;
    int64_t first_place, places;
    fgmm_gpu_event *free; /* the kernels that read it are done */
} fgmm__cuda_region;

enum { FGMM__CUDA_WINDOWS = 2 };

struct fgmm_backend_lists {
    fgmm__cuda_backend *cuda;
    fgmm_list_table table; /* offsets: a copy; centroids NULL */
    uint64_t *offsets;
    int32_t pitch;
    bool resident; /* all lists are in `kept` */
    bool kept_chosen;
    bool *is_kept; /* [lists] */
    char *rows;    /* device: [places] of each */
    int64_t *ids;
    int32_t *squares; /* NULL for rows that are not bytes */
    fgmm_list_norm *norms;
    float *centroids; /* device [lists][dim] */
    fgmm__cuda_region kept, windows[FGMM__CUDA_WINDOWS];
    fgmm_gpu_event *ready;
    fgmm__cuda_staged staged[2];
    int64_t staged_rows, filled; /* rows in staged[turn] for places from filled_place on */
    int64_t filled_place;
    int turn;
    char *unpadded; /* [staged_rows][dim], where rows are padded on the device */
    int64_t bytes_brought;
    fgmm__cuda_rank rank;
    fgmm__cuda_finder finder;
    fgmm__cuda_room probes;
    cudaEvent_t begun, ended;
};

/* cuda_bring.c */
/* Takes memory for rows: as many places as fit into `bytes`, or as there are rows. */
fgmm_status fgmm__cuda_lists_place(fgmm_backend_lists *lists, int64_t bytes);
void fgmm__cuda_lists_unplace(fgmm_backend_lists *lists);
/* Fills `kept`: with all lists, or with those that most of the visits [lists] go to. */
fgmm_status fgmm__cuda_lists_keep(fgmm_backend_lists *lists, const int32_t *visits);
/* Fills a window with rows of visited lists that are not kept, from *list and its row *row on, which move on;
 * *any: whether there were any. Kernels enqueued afterwards find them there. */
fgmm_status fgmm__cuda_lists_window(fgmm_backend_lists *lists, fgmm__cuda_region *window,
                                    const int32_t *visits, int32_t *list, int64_t *row, bool *any);

#endif
