/* Judging lists: every index of a plan is built, searched by queries with exact neighbours, and removed
 * again; what it costs to reach a recall is held against hard lists of k-means. */
#ifndef FGMM_EVAL_EVAL_H
#define FGMM_EVAL_EVAL_H

#include "eval/plan.h"
#include "eval/trace.h"

typedef struct {
    const char *const *names; /* of the models' files */
    const fgmm_model *const *models;
    int32_t n_models;
    fgmm_eval_plan plan;
    bool orders[2]; /* fgmm_probe_order: which are judged; hard lists of the reference always by centroid */
    int32_t max_lists, neighbors; /* as in building; 0 neighbours: its default */
    double lambda;                /* as in building; < 0: its default */
    int32_t sketch;               /* coordinates of a sketch: each curve once more with them; 0: none */
    int32_t centroid_sketch;      /* the same of the centroids' */
    int32_t max_probes;           /* lists a query probes at most */
    bool cross;                   /* every query is judged, by the rule that the other part teaches */
    int32_t repeats;              /* timed searches a setting, of which the fastest counts; 0: none */
    int32_t resamples;
    uint64_t seed;
    fgmm_resources resources;
    const char *index; /* name of the index being judged */
} fgmm_eval_options;

/* What reaching a recall@10 costs a query; NaN where it is not reached (seconds: or not timed). */
typedef struct {
    double lists, scanned, distinct, computed, seconds;
    double centroids; /* distances to them */
    /* computed and centroids, for the queries that the stop rule was learnt from; NaN where all are judged */
    double training;
    /* Cost of the reference over this one, distances to rows and to centroids together, with 95 % of
     * resamples. */
    double ratio, low, high;
    double ratio_rows; /* ... without the centroids */
    /* Cost of the reference's model, under the same rule and searched alike, over this one; NaN for that
     * model itself and where it has no such lists. */
    double model, model_low, model_high;
} fgmm_eval_cost;

/* One index, one order of probing, one way of stopping. */
typedef struct {
    fgmm_eval_variant variant;
    fgmm_probe_order probe_by;
    bool learnt;             /* stops by a rule learnt from training queries; else after a number of lists */
    int32_t sketch;          /* 0: all distances are full */
    int32_t centroid_sketch; /* 0: all centroids' distances are computed */
    double storage;          /* postings a row */
    double bytes;            /* of vectors and sketches, a row */
    double build_seconds;    /* of the index */
    int32_t settings;
    double *setting;                      /* [settings] lists or thresholds */
    fgmm_eval_point *points;              /* [settings] */
    double *seconds;                      /* [settings] a query; NaN where it was not timed */
    int32_t target_at[FGMM_EVAL_TARGETS]; /* learnt: setting of the threshold learnt for each target */
    fgmm_eval_cost costs[FGMM_EVAL_TARGETS];
    double *drawn; /* [resamples][FGMM_EVAL_TARGETS] see fgmm__table_resample */
} fgmm_eval_curve;

typedef struct {
    int32_t n, resamples;
    fgmm_eval_curve *curves; /* the first is the reference */
} fgmm_eval_report;

/* Told, on every rank, of each curve as soon as it is known. */
typedef void fgmm_eval_told(const fgmm_eval_options *options, const fgmm_eval_curve *curve);

/* Collective; the report is the same on all ranks and, but for times, for any number of them. Both parts are
 * judged where options->cross is set (then without times), else `test` alone. test and train have no query in
 * common; k (10) neighbours are what the stop rule is learnt for. Both need 10 true
 * neighbours a query. */
fgmm_status fgmm__eval(fgmm_comm *comm, const fgmm_dataset *dataset, const fgmm_eval_options *options,
                       const fgmm_eval_queries *test, const fgmm_eval_queries *train, fgmm_started *started,
                       fgmm_eval_told *told, fgmm_eval_report *report);
void fgmm__eval_free(fgmm_eval_report *report); /* of a zeroed one, too */

/* The cost of `base` over that of `other` at a target, centroids counted, with its interval from paired
 * resamples; NaN where one does not reach it. */
fgmm_status fgmm__eval_compare(const fgmm_eval_report *report, int32_t base, int32_t other, int target,
                               double *ratio, double *low, double *high);
/* The curve of another model's lists of the same rule and replication, searched alike; -1: there is none.
 * Where only this one has a posterior to probe by, the other's are probed by their centroids. */
int32_t fgmm__eval_twin(const fgmm_eval_report *report, int32_t of, int32_t model);
/* The curve that costs the training queries least at a target with at most `storage` postings a row, with or
 * without sketches of the rows; -1: none reaches it. */
int32_t fgmm__eval_choose(const fgmm_eval_report *report, int target, double storage, bool sketches);

#endif
