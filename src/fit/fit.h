/* What the command line needs of a fit beside fgmm/fit.h. */
#ifndef FGMM_FIT_FIT_H
#define FGMM_FIT_FIT_H

#include <stdbool.h>
#include "base/status.h"
#include "device/device.h"
#include "fgmm/fit.h"

/* Told once the shard is loaded and before the first iteration; all ranks call it together. */
typedef struct {
    fgmm_status (*started)(const fgmm_device *device, int64_t my_rows, const char *residency);
    char residency[64];        /* out: where the shard lived */
    char pace[128];            /* out: what set the pace */
    int64_t peak_device_bytes; /* out: of this rank */
    int64_t peak_host_bytes;   /* out: buffers and resident rows of this rank's shard */
} fgmm_fit_watch;

/* fgmm_fit with a watch (may be NULL). Collective. */
fgmm_status fgmm__fit(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_fit_options *options,
                      fgmm_fit_watch *watch, fgmm_model **out);

#endif
