/* The rows that a mixture explains worst. */
#ifndef FGMM_BACKEND_POOR_H
#define FGMM_BACKEND_POOR_H

#include "backend/backend.h"

typedef struct {
    double log_density;
    int64_t row; /* global */
} fgmm_poor_row;

/* Of all rows that are offered, in any order, the `capacity` of smallest log-density, ties to the smaller
 * number. */
struct fgmm_poor {
    fgmm_poor_row *heap; /* the best of them on top */
    int32_t size, capacity;
    int32_t *labels; /* [room], as log_density: of a tile whose assignment comes to the host */
    double *log_density;
    int64_t room;
};

/* Local. */
fgmm_status fgmm__poor_create(int32_t capacity, fgmm_poor **out);
void fgmm__poor_destroy(fgmm_poor *poor); /* accepts NULL */
void fgmm__poor_offer(fgmm_poor *poor, fgmm_poor_row row);
/* A row with a larger log-density than this is of no use. */
double fgmm__poor_limit(const fgmm_poor *poor);
/* Local: offers the rows of a tile, but those of weight zero, under the components of assign_begin(…, 1). */
fgmm_status fgmm__poor_tile(fgmm_backend *backend, const fgmm_tile *tile, fgmm_poor *poor);
/* For qsort: by log-density, then by number. */
int fgmm__poor_compare(const void *a, const void *b);

#endif
