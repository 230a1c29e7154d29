/* Overlapping clusters with a model that knows them, for tests of lists; and what lists a plain
 * implementation in float64 makes. */
#ifndef FGMM_TESTS_LISTS_H
#define FGMM_TESTS_LISTS_H

#include <stdint.h>
#include "fgmm.h"

typedef struct {
    int64_t n;
    int32_t k, dim;
    uint8_t *rows;     /* [n][dim] */
    fgmm_model *model; /* spherical */
} fgmm_test_clusters;

/* Rows of whole numbers; deterministic. algorithm: of the model. */
void fgmm_test_clusters_create(int64_t n, int32_t k, int32_t dim, fgmm_algorithm algorithm,
                               fgmm_test_clusters *out);
void fgmm_test_clusters_destroy(fgmm_test_clusters *clusters);
/* Writes rows [begin, end) as a .u8bin file. */
void fgmm_test_clusters_write(const fgmm_test_clusters *clusters, int64_t begin, int64_t end,
                              const char *path);

/* The same rows as a dataset, by a file in the tests' folder; the program ends where that fails. */
fgmm_dataset *fgmm_test_clusters_open(const fgmm_test_clusters *clusters, const char *file);
/* Rows of the clusters, some of them moved a little. queries: [n][dim]. */
void fgmm_test_clusters_queries(const fgmm_test_clusters *clusters, int32_t n, float *queries);

/* Builds on one thread of the CPU. */
fgmm_build_options fgmm_test_build_options(fgmm_assign_rule rule, int32_t max_lists);

/* Lists of a row, most likely first: those with a responsibility of tau or more, at least one, at most
 * `most`. lists: [most]. Returns how many; *margin becomes the least distance of a responsibility from tau
 * seen so far (start it at 1). */
int32_t fgmm_test_lists_of(const fgmm_test_clusters *clusters, int64_t row, double tau, int32_t most,
                           int32_t *lists, double *margin);

/* Squared distance of a row to a query. */
double fgmm_test_distance(const fgmm_test_clusters *clusters, int64_t row, const float *query);

#endif
