/* fgmm: Gaussian mixtures and inverted lists for billions of vectors, on MPI ranks with CPUs or GPUs. */
#ifndef FGMM_H
#define FGMM_H

#include "fgmm/status.h"
#include "fgmm/types.h"
#include "fgmm/comm.h"
#include "fgmm/dataset.h"
#include "fgmm/model.h"
#include "fgmm/fit.h"
#include "fgmm/ivf.h"

#ifdef __cplusplus
extern "C" {
#endif
const char *fgmm_version(void); /* "0.1.0" */
#ifdef __cplusplus
}
#endif
#endif
