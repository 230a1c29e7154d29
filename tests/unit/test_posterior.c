/* The order of lists by the mixture's log-density against sorting log-densities computed by the definition.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include "io/h5.h"
#include "ivf/posterior.h"
#include "support/cases.h"
#include "support/files.h"

enum { LISTS = 23, DIM = 7, QUERIES = 60 };

/* Scattered means, weights and covariances that differ from one component to the next. */
static fgmm_model *make_model(fgmm_algorithm algorithm, fgmm_covariance shape)
{
    fgmm_model *model = NULL;
    assert_int_equal(fgmm__model_create(algorithm, shape, LISTS, DIM, &model), FGMM_OK);
    for (int k = 0; k < LISTS; k++) {
        model->weights[k] = 2.0 * (k + 1) / (LISTS * (LISTS + 1.0));
        for (int d = 0; d < DIM; d++)
            model->means[k * DIM + d] = (k * 29 + d * 13) % 17 / 4.0;
    }
    for (int d = 0; d < DIM; d++)
        model->origin[d] = 2 - d;
    int64_t matrices = shape == FGMM_TIED ? 1 : shape == FGMM_FULL ? LISTS : 0;
    int64_t variances = shape == FGMM_SPHERICAL ? LISTS : shape == FGMM_DIAG ? LISTS * DIM : 0;
    for (int i = 0; i < variances; i++)
        model->covariances[i] = 0.5 + i % 5;
    for (int k = 0; k < matrices; k++)
        for (int i = 0; i < DIM; i++)
            for (int j = 0; j < DIM; j++) /* diagonally dominant */
                model->covariances[(k * DIM + i) * DIM + j] =
                    i == j ? 2 + k % 3 + i % 2 : 0.1 * (1 + (i + j + k) % 3);
    return model;
}

static fgmm_posterior *make_posterior(const fgmm_model *model)
{
    fgmm_posterior *posterior = NULL;
    char *path = (char *)fgmm_test_path("posterior.h5");
    fgmm_index index = {.path = path, .k = LISTS, .dim = DIM};
    hid_t file = -1, group = -1;
    assert_int_equal(fgmm__h5_create_small(path, &file), FGMM_OK);
    assert_int_equal(fgmm__h5_group(file, "model", &group), FGMM_OK);
    assert_int_equal(fgmm__model_put(model, (int64_t)group), FGMM_OK);
    H5Gclose(group);
    assert_int_equal(fgmm__h5_close(file, path), FGMM_OK);
    assert_int_equal(fgmm__posterior_create(&index, 2, &posterior), FGMM_OK);
    return posterior;
}

static void the_most_likely_components_come_first_for_every_covariance_type(void **state)
{
    (void)state;
    float queries[QUERIES * DIM];
    for (int i = 0; i < QUERIES * DIM; i++)
        queries[i] = (float)(i * 37 % 101) / 20;
    for (int shape = FGMM_SPHERICAL; shape <= FGMM_FULL; shape++) {
        fgmm_components *components = NULL;
        fgmm_model *model = make_model(FGMM_GMM, (fgmm_covariance)shape);
        assert_int_equal(fgmm__components_create(model, false, NULL, NULL, &components), FGMM_OK);
        fgmm_posterior *posterior = make_posterior(model);
        for (int32_t nprobe = 1; nprobe <= LISTS; nprobe += 11) {
            int64_t lists[QUERIES * LISTS];
            assert_int_equal(fgmm__posterior_order(posterior, queries, QUERIES, nprobe, lists), FGMM_OK);
            for (int q = 0; q < QUERIES; q++) {
                double x[DIM], l[LISTS];
                bool listed[LISTS] = {false};
                for (int d = 0; d < DIM; d++)
                    x[d] = (double)queries[q * DIM + d];
                fgmm_test_logits(components, x, l);
                for (int i = 0; i < nprobe; i++) {
                    int64_t list = lists[q * nprobe + i];
                    assert_in_range(list, 0, LISTS - 1);
                    assert_false(listed[list]);
                    listed[list] = true;
                    int before = 0;
                    for (int k = 0; k < LISTS; k++)
                        before += l[k] > l[list] + 1e-9;
                    assert_true(before <= i);
                }
            }
        }
        fgmm__posterior_destroy(posterior);
        fgmm__components_destroy(components);
        fgmm_model_destroy(model);
    }
}

static void a_kmeans_model_has_no_order_of_its_own(void **state)
{
    (void)state;
    fgmm_model *model = make_model(FGMM_KMEANS, FGMM_SPHERICAL);
    assert_null(make_posterior(model));
    fgmm_model_destroy(model);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(the_most_likely_components_come_first_for_every_covariance_type),
        cmocka_unit_test(a_kmeans_model_has_no_order_of_its_own),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
