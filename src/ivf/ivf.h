/* What the command line needs of lists beside fgmm/ivf.h: to be told when the work begins, and where. */
#ifndef FGMM_IVF_IVF_H
#define FGMM_IVF_IVF_H

#include "device/device.h"
#include "fgmm/ivf.h"

/* Told once device and shard are ready (residency NULL: no rows are kept); all ranks call it together. */
typedef fgmm_status fgmm_started(const fgmm_device *device, int64_t my_rows, const char *residency);

/* The public functions with a watcher, which may be NULL. A build that is stopped is FGMM_STOPPED here, even
 * where there is no checkpoint to go on from. */
fgmm_status fgmm__assign(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_model *model,
                         const char *path, const fgmm_assign_options *options, fgmm_started *started,
                         fgmm_assign_report *report);
fgmm_status fgmm__build(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_model *model,
                        const char *path, const fgmm_build_options *options, fgmm_started *started,
                        fgmm_build_report *report);
fgmm_status fgmm__groundtruth(fgmm_comm *comm, const fgmm_dataset *dataset, const float *queries, int64_t n,
                              int32_t k, const fgmm_resources *resources, fgmm_started *started, int64_t *ids,
                              float *distances);

#endif
