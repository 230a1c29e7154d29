#include "fgmm.h"

#include "base/version.h"

const char *fgmm_version(void)
{
    return FGMM_VERSION;
}

size_t fgmm_dtype_bytes(fgmm_dtype dtype)
{
    static const size_t bytes[] = {[FGMM_F32] = 4, [FGMM_F16] = 2, [FGMM_U8] = 1, [FGMM_I8] = 1};
    return bytes[dtype];
}

const char *fgmm_dtype_name(fgmm_dtype dtype)
{
    static const char *const names[] = {
        [FGMM_F32] = "f32", [FGMM_F16] = "f16", [FGMM_U8] = "u8", [FGMM_I8] = "i8"};
    return names[dtype];
}

const char *fgmm_metric_name(fgmm_metric metric)
{
    static const char *const names[] = {[FGMM_L2] = "l2", [FGMM_COSINE] = "cosine", [FGMM_IP] = "ip"};
    return names[metric];
}

const char *fgmm_algorithm_name(fgmm_algorithm algorithm)
{
    static const char *const names[] = {[FGMM_GMM] = "gmm", [FGMM_KMEANS] = "kmeans"};
    return names[algorithm];
}

const char *fgmm_covariance_name(fgmm_covariance covariance)
{
    static const char *const names[] = {
        [FGMM_SPHERICAL] = "spherical", [FGMM_DIAG] = "diag", [FGMM_TIED] = "tied", [FGMM_FULL] = "full"};
    return names[covariance];
}

const char *fgmm_residency_name(fgmm_residency residency)
{
    static const char *const names[] = {[FGMM_RESIDENCY_AUTO] = "auto",
                                        [FGMM_RESIDENCY_DEVICE] = "device",
                                        [FGMM_RESIDENCY_HOST] = "host",
                                        [FGMM_RESIDENCY_STREAM] = "stream"};
    return names[residency];
}
