/* The cases of a shard on a device, for a real one and for one made of host memory. */
#ifndef FGMM_TESTS_SHARD_DEVICE_H
#define FGMM_TESTS_SHARD_DEVICE_H

#include "device/device.h"

/* Collective: runs the cases on all ranks of comm; the number of those that failed. */
int fgmm_test_shard_on_device(fgmm_comm *comm, fgmm_device *device);

#endif
