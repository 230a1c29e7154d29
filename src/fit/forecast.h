/* What a fit will take, from numbers alone: the same decisions as those of the fit itself (data/residency.h).
 * Local. */
#ifndef FGMM_FIT_FORECAST_H
#define FGMM_FIT_FORECAST_H

#include <stdbool.h>
#include "data/residency.h"
#include "fgmm/types.h"

typedef struct {
    int64_t rows;
    int32_t dim, k;
    fgmm_algorithm algorithm;
    fgmm_covariance covariance;
    fgmm_dtype dtype;
    int32_t nodes, ranks_per_node;
    bool gpus; /* each rank has one */
    fgmm_residency residency;
    int64_t host_memory_bytes, device_memory_bytes; /* a rank may take */
    int64_t tile_rows;                              /* 0: by size */
    double rows_per_second;       /* of a rank's E-step; 0: the figures of a H200, or unknown */
    double read_bytes_per_second; /* a rank, from files */
} fgmm_forecast_request;

/* Of the largest rank, if not said otherwise. */
typedef struct {
    int64_t ranks, rows;
    fgmm_layout layout;
    char where[64];                   /* "device 60 %, stream 40 %" */
    int64_t workspace_bytes;          /* of the backend: device memory under CUDA */
    int64_t host_bytes, device_bytes; /* rows, buffers and workspace */
    int64_t data_bytes;               /* of all rows: what is read once in any case */
    int64_t streamed_bytes;           /* read again in each iteration */
    int64_t copied_bytes;             /* to the device, in each iteration */
    int64_t exchanged_bytes;          /* statistics, in each iteration */
    double rows_per_second;           /* that was reckoned with; 0: unknown */
    double seconds;                   /* an iteration; 0: unknown */
} fgmm_forecast;

/* FGMM_ERR_INPUT: numbers that make no sense, a residency that does not fit, GPUs of which this program knows
 * nothing (built without CUDA). */
fgmm_status fgmm__forecast(const fgmm_forecast_request *request, fgmm_forecast *out);

#endif
