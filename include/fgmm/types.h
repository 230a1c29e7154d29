/* The few words that all other headers share: element types, metrics, kinds of model. */
#ifndef FGMM_TYPES_H
#define FGMM_TYPES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Element type of a row as it is stored, kept from the file to the kernel. */
typedef enum { FGMM_F32, FGMM_F16, FGMM_U8, FGMM_I8 } fgmm_dtype;

/* What near means: a small squared distance; the same of rows scaled to unit length on reading; a large inner
 * product, of rows as they are (not for fitting: lists are made by the squared distance then, too). */
typedef enum { FGMM_L2, FGMM_COSINE, FGMM_IP } fgmm_metric;
typedef enum { FGMM_GMM, FGMM_KMEANS } fgmm_algorithm;
typedef enum { FGMM_SPHERICAL, FGMM_DIAG, FGMM_TIED, FGMM_FULL } fgmm_covariance;
typedef enum { FGMM_BACKEND_AUTO, FGMM_BACKEND_CPU, FGMM_BACKEND_CUDA } fgmm_backend_kind;
typedef enum {
    FGMM_RESIDENCY_AUTO,
    FGMM_RESIDENCY_DEVICE,
    FGMM_RESIDENCY_HOST,
    FGMM_RESIDENCY_STREAM
} fgmm_residency;

size_t fgmm_dtype_bytes(fgmm_dtype dtype);                    /* 4, 2, 1, 1 */
const char *fgmm_dtype_name(fgmm_dtype dtype);                /* "f32", "f16", "u8", "i8" */
const char *fgmm_metric_name(fgmm_metric metric);             /* "l2", "cosine", "ip" */
const char *fgmm_algorithm_name(fgmm_algorithm algorithm);    /* "gmm", "kmeans" */
const char *fgmm_covariance_name(fgmm_covariance covariance); /* "spherical", "diag", "tied", "full" */
const char *fgmm_residency_name(fgmm_residency residency);    /* "auto", "device", "host", "stream" */

#ifdef __cplusplus
}
#endif
#endif
