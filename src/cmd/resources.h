/* The options of every command that passes over the data: where the rows live and what memory may be taken.
 */
#ifndef FGMM_CMD_RESOURCES_H
#define FGMM_CMD_RESOURCES_H

#include "cmd/cmd.h"

typedef struct {
    int residency; /* fgmm_residency */
    int64_t device_memory_bytes, host_memory_bytes;
} fgmm_resource_options;

/* Three entries of an option table. */
#define FGMM_RESOURCE_OPTIONS(options)                                                                       \
    {"--residency", FGMM_OPT_CHOICE, &(options).residency, "auto|device|host|stream",                        \
     "where the rows live between passes (auto: the fastest that fits)"},                                    \
        {"--device-memory", FGMM_OPT_BYTES, &(options).device_memory_bytes, "BYTES",                         \
         "device memory a rank may take (what is free)"},                                                    \
    {                                                                                                        \
        "--host-memory", FGMM_OPT_BYTES, &(options).host_memory_bytes, "BYTES",                              \
            "host memory a rank may take (its share of the node's)"                                          \
    }

/* These and the global options together. */
fgmm_resources fgmm__cmd_resources(const fgmm_resource_options *options);

/* The option --metric: -1 until the user gives one. */
#define FGMM_METRIC_OPTION(metric, when_absent)                                                              \
    {                                                                                                        \
        "--metric", FGMM_OPT_CHOICE, &(metric), "l2|cosine|ip",                                              \
            "near is: a small squared distance; the same of rows scaled to unit length; a large inner "      \
            "product (" when_absent ")"                                                                      \
    }

/* Local: refuses --metric ip where components of a model are meant. */
fgmm_status fgmm__cmd_refuse_ip(int metric);

/* Local: all rows of the sources (of FILE.h5 its /test, where it has one) as float, of the wanted dimension;
 * NaN and infinity are refused. *out is malloc'd. `against` names what the dimension must fit. */
fgmm_status fgmm__cmd_read_queries(const char *const *sources, int n_sources, fgmm_metric metric, int32_t dim,
                                   const char *against, float **out, int64_t *n);

/* A count option that must fit into 32 bits and be at least 1. */
fgmm_status fgmm__cmd_small_count(const char *option, int64_t value, int32_t *out);

#endif
