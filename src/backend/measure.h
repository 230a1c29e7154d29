/* Ceilings of the machine, measured with the vendor's libraries: what a bench compares our own work with.
 * Local. */
#ifndef FGMM_BACKEND_MEASURE_H
#define FGMM_BACKEND_MEASURE_H

#include "device/device.h"

/* Operations a second of a large product, in units of 10^12. GPU: cuBLAS, fp16 factors, fp32 sums. CPU
 * (device NULL): OpenBLAS's sgemm, one product a thread at the same time. The median of some repeats. */
fgmm_status fgmm__measure_gemm(fgmm_device *device, int threads, double *tflops);

/* Seconds [reps] of copying `bytes` within the memory of the backend (read and written once each). */
fgmm_status fgmm__measure_copy(fgmm_device *device, int threads, int64_t bytes, int reps, double *seconds);

/* Median of n values, which are sorted in place. */
double fgmm__median(double *values, int n);

/* cuda_measure.c, in builds with CUDA. */
fgmm_status fgmm__measure_cuda_gemm(fgmm_device *device, double *tflops);
fgmm_status fgmm__measure_cuda_copy(fgmm_device *device, int64_t bytes, int reps, double *seconds);

#endif
