#include "fit/forecast.h"

#include <math.h>

#include "backend/backend.h"
#include "data/partition.h"
#include "model/covariance.h"

static fgmm_status check(const fgmm_forecast_request *r)
{
    int64_t bytes;
    if (r->rows < 1 || r->dim < 1 || r->k < 1)
        return fgmm__fail(FGMM_ERR_INPUT,
                          "rows, dimension and components must be given, and at least 1 (-n, -d, -k)");
    if (r->k > r->rows)
        return fgmm__fail(FGMM_ERR_INPUT, "-k %d: more components than the %lld rows", r->k,
                          (long long)r->rows);
    if (__builtin_mul_overflow(r->rows, (int64_t)r->dim * (int64_t)fgmm_dtype_bytes(r->dtype), &bytes))
        return fgmm__fail(FGMM_ERR_INPUT, "-n %lld -d %d: more bytes than there are", (long long)r->rows,
                          r->dim);
    if (r->algorithm == FGMM_KMEANS && r->covariance != FGMM_SPHERICAL)
        return fgmm__fail(FGMM_ERR_INPUT, "k-means has spherical clusters; leave --covariance out");
    if (fgmm__backend_ops_of(r->gpus) == NULL)
        return fgmm__fail(FGMM_ERR_INPUT,
                          "this program was built without CUDA and cannot tell what GPUs need: plan with "
                          "one that was, or without --gpus");
    return FGMM_OK;
}

static fgmm_moment moment_of(const fgmm_forecast_request *r)
{
    return r->algorithm == FGMM_KMEANS ? FGMM_MOMENT_SPHERICAL : fgmm__covariance_type(r->covariance)->moment;
}

/* Rows of the largest shard: shards are whole quanta. */
static int64_t largest_shard(int64_t rows, int64_t ranks)
{
    int64_t quanta = (rows + FGMM_QUANTUM - 1) / FGMM_QUANTUM;
    int64_t largest = (quanta + ranks - 1) / ranks * FGMM_QUANTUM;
    return largest < rows ? largest : rows;
}

/* Measured on a H200 with rows most of which belong to one component: 4 K D operations a row at 230 TFLOP/s,
 * diagonal ones at 33 (tests/bench/results). */
static double known_rate(const fgmm_forecast_request *r)
{
    double operations = 4.0 * r->k * r->dim;
    if (r->rows_per_second > 0)
        return r->rows_per_second;
    if (!r->gpus || r->covariance == FGMM_TIED || r->covariance == FGMM_FULL)
        return 0;
    return (r->covariance == FGMM_DIAG ? 33e12 : 230e12) / operations;
}

static void count_memory(const fgmm_forecast_request *r, int64_t row_bytes, fgmm_forecast *out)
{
    const fgmm_layout *layout = &out->layout;
    int64_t tile_bytes = layout->tile_rows * row_bytes;
    out->host_bytes = layout->host_rows * row_bytes + (layout->ring ? FGMM_RING_BUFFERS * tile_bytes : 0);
    out->device_bytes =
        layout->device_rows * row_bytes + (layout->device_ring ? FGMM_DEVICE_BUFFERS * tile_bytes : 0);
    *(r->gpus ? &out->device_bytes : &out->host_bytes) += out->workspace_bytes;
    out->streamed_bytes = layout->stream_rows * row_bytes;
    out->copied_bytes = r->gpus ? (layout->host_rows + layout->stream_rows) * row_bytes : 0;
}

fgmm_status fgmm__forecast(const fgmm_forecast_request *r, fgmm_forecast *out)
{
    fgmm_status status = FGMM_OK;
    FGMM_TRY(check(r));
    fgmm_moment moment = moment_of(r);
    int64_t row_bytes = (int64_t)r->dim * (int64_t)fgmm_dtype_bytes(r->dtype);
    *out = (fgmm_forecast){.ranks = (int64_t)r->nodes * r->ranks_per_node, .data_bytes = r->rows * row_bytes};
    out->rows = largest_shard(r->rows, out->ranks);
    out->workspace_bytes =
        fgmm__backend_ops_of(r->gpus)->workspace_bytes(r->covariance, moment, r->k, r->dim);
    fgmm_layout_request request = {.residency = r->residency,
                                   .has_device = r->gpus,
                                   .rows = out->rows,
                                   .row_bytes = row_bytes,
                                   .tile_rows = r->tile_rows,
                                   .host_bytes = r->host_memory_bytes,
                                   .device_bytes = r->device_memory_bytes,
                                   .host_taken = r->gpus ? 0 : out->workspace_bytes,
                                   .device_taken = r->gpus ? out->workspace_bytes : 0};
    FGMM_TRY(fgmm__layout_decide(&request, &out->layout));
    fgmm__layout_describe(&out->layout, out->where, sizeof out->where);
    count_memory(r, row_bytes, out);
    if (out->ranks > 1)
        out->exchanged_bytes =
            8 * (int64_t)r->k * (1 + (int64_t)r->dim + 2 * (int64_t)fgmm__moment_count(moment, r->dim));
    out->rows_per_second = known_rate(r);
    if (out->rows_per_second > 0)
        out->seconds = fmax((double)out->rows / out->rows_per_second,
                            (double)out->streamed_bytes / r->read_bytes_per_second);
cleanup:
    return status;
}
