/* What the benches share. Each checks its answer first, then times, and fills one JSON object. */
#ifndef FGMM_CMD_BENCH_H
#define FGMM_CMD_BENCH_H

#include <cjson/cJSON.h>
#include "cmd/cmd.h"
#include "model/model.h"

enum { FGMM_BENCH_WARM_UPS = 2, FGMM_BENCH_MAX_REPS = 1000 };

typedef struct {
    fgmm_comm *comm;
    fgmm_device *device; /* NULL: CPU */
    int threads;
    /* the command line */
    int64_t rows, dim, k, seed, reps, bytes, queries, nprobe, neighbors;
    int covariance, dtype, residency;
    double spread, condition;
    const char *const *data; /* the rows' sources; none: a synth: mixture */
    int n_data;
    const char *model; /* a file of parameters for the rows of `data`; NULL: means are sampled from them */
    cJSON *line;       /* the result; members are added in the order in which they are printed */
} fgmm_bench;

/* Adds ms_median and ms_min of `reps` durations, which are sorted in place; returns the median in seconds. */
double fgmm__bench_times(fgmm_bench *bench, double *seconds);
/* Collective: every rank's durations become those of the slowest rank; `mine` is this rank's status, agreed
 * on first. */
fgmm_status fgmm__bench_agree_times(fgmm_bench *bench, fgmm_status mine, double *seconds);

/* Fills in the means of the mixture that synth: rows come from (bench_estep.c); returns its variance. */
double fgmm__bench_true_means(const fgmm_bench *bench, fgmm_model *model);

fgmm_status fgmm__bench_estep(fgmm_bench *bench);
fgmm_status fgmm__bench_kmeans(fgmm_bench *bench);
fgmm_status fgmm__bench_gemm(fgmm_bench *bench);
fgmm_status fgmm__bench_copy(fgmm_bench *bench);
fgmm_status fgmm__bench_h2d(fgmm_bench *bench);
fgmm_status fgmm__bench_allreduce(fgmm_bench *bench);
fgmm_status fgmm__bench_read(fgmm_bench *bench);
fgmm_status fgmm__bench_shuffle(fgmm_bench *bench);
fgmm_status fgmm__bench_search(fgmm_bench *bench);

#endif
