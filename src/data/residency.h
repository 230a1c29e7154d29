/* Where the rows of a shard live, and how large its tiles and buffers are: a decision made from numbers
 * alone, so that ranks that bring the same numbers come to the same layout. */
#ifndef FGMM_DATA_RESIDENCY_H
#define FGMM_DATA_RESIDENCY_H

#include <stdbool.h>
#include "base/status.h"
#include "fgmm/types.h"

enum {
    FGMM_RING_BUFFERS = 4,  /* host tiles: one in use, the others being filled */
    FGMM_DEVICE_BUFFERS = 2 /* device tiles: one computed on, one arriving */
};

typedef struct {
    fgmm_residency residency;
    bool has_device;
    int64_t rows; /* of the largest shard */
    int64_t row_bytes;
    int64_t tile_rows;                /* 0: by size */
    int64_t host_bytes, device_bytes; /* caps a rank */
    int64_t host_taken, device_taken; /* of these, what is needed beside the shard */
    int64_t
        host_held; /* what the process held before: leaves less to choose from, but is no reason to refuse */
} fgmm_layout_request;

typedef struct {
    int64_t device_rows, host_rows, stream_rows; /* in this order; they add up to the request's rows */
    int64_t tile_rows;                           /* of tiles that pass through buffers; whole quanta */
    int64_t view_rows;                           /* of tiles that point into resident memory; whole quanta */
    bool ring, device_ring;                      /* host buffers and device buffers of tile_rows are needed */
} fgmm_layout;

/* AUTO: the first rows on the device as far as they fit, the next in host memory as far as they fit, the rest
 * read again in every pass. The others are pure (DEVICE without a device means host). FGMM_ERR_INPUT when the
 * layout does not fit the caps. Local. */
fgmm_status fgmm__layout_decide(const fgmm_layout_request *request, fgmm_layout *out);

/* "device", "host", "stream", or a mix: "device 60 %, stream 40 %". */
void fgmm__layout_describe(const fgmm_layout *layout, char *text, size_t size);

#endif
