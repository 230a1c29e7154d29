/* Model files and checkpoints: what is written comes back, what is damaged is refused, the one before is
 * kept. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"

static char folder[] = "/tmp/fgmm-test-XXXXXX", path[64], older[64];

static fgmm_model *make_model(double shift)
{
    fgmm_model *model = NULL;
    assert_int_equal(fgmm__model_create(FGMM_GMM, FGMM_DIAG, 2, 3, &model), FGMM_OK);
    for (int i = 0; i < 6; i++) {
        model->means[i] = i + shift;
        model->covariances[i] = 1 + i;
    }
    model->weights[0] = 0.25, model->weights[1] = 0.75;
    model->origin[2] = 0.5;
    model->n_rows = 1000;
    model->seed = 42;
    model->log_likelihood = -3.5;
    model->metric = FGMM_COSINE;
    model->data = strdup("some.fbin");
    strcpy(model->backend, "cpu");
    assert_int_equal(fgmm__model_push_history(model, -4, 0.1), FGMM_OK);
    assert_int_equal(fgmm__model_push_history(model, -3.6, 0.2), FGMM_OK);
    return model;
}

static void assert_same(const fgmm_model *a, const fgmm_model *b)
{
    assert_int_equal(a->algorithm, b->algorithm);
    assert_int_equal(a->covariance, b->covariance);
    assert_int_equal(a->metric, b->metric);
    assert_int_equal(a->n_rows, b->n_rows);
    assert_int_equal(a->seed, b->seed);
    assert_int_equal(a->n_iter, b->n_iter);
    assert_string_equal(a->data, b->data);
    assert_string_equal(a->backend, b->backend);
    assert_true(a->log_likelihood == b->log_likelihood);
    assert_memory_equal(a->weights, b->weights, 2 * sizeof(double));
    assert_memory_equal(a->means, b->means, 6 * sizeof(double));
    assert_memory_equal(a->covariances, b->covariances, 6 * sizeof(double));
    assert_memory_equal(a->origin, b->origin, 3 * sizeof(double));
    assert_memory_equal(a->history, b->history, 2 * sizeof(double));
}

static void a_model_comes_back_from_its_file(void **unused)
{
    (void)unused;
    fgmm_model *model = make_model(0), *read = NULL;
    assert_int_equal(fgmm_model_write(model, path), FGMM_OK);
    assert_int_equal(fgmm_model_read(path, &read), FGMM_OK);
    assert_same(model, read);
    fgmm_model_destroy(model);
    fgmm_model_destroy(read);
}

static void damage(const char *file, long at)
{
    FILE *f = fopen(file, "r+b");
    assert_non_null(f);
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    int byte = fgetc(f);
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    fputc(byte ^ 0x10, f);
    fclose(f);
}

static void a_damaged_model_is_refused_by_name(void **unused)
{
    (void)unused;
    fgmm_model *read = NULL;
    damage(path, -20);
    assert_int_equal(fgmm_model_read(path, &read), FGMM_ERR_INPUT);
    assert_non_null(strstr(fgmm_error_message(), path));
    fgmm_error_clear();
}

static void a_checkpoint_keeps_the_one_before_and_falls_back_to_it(void **unused)
{
    (void)unused;
    fgmm_model *first = make_model(0), *second = make_model(10);
    fgmm_checkpoint a = {.phase = FGMM_PHASE_FIT,
                         .data_fingerprint = 0xdeadbeefcafef00d,
                         .options_hash = 77,
                         .model = first},
                    b = a, read = {0};
    bool found = true;
    b.model = second;
    b.run = 3;
    b.best = first;
    b.stopped = true;
    fgmm__checkpoint_remove(path);
    assert_int_equal(fgmm__checkpoint_read(path, &read, &found), FGMM_OK);
    assert_false(found);
    assert_int_equal(fgmm__checkpoint_write(path, &a), FGMM_OK);
    assert_int_equal(fgmm__checkpoint_write(path, &b), FGMM_OK);
    assert_int_equal(fgmm__checkpoint_read(path, &read, &found), FGMM_OK);
    assert_true(found && read.stopped && read.data_fingerprint == a.data_fingerprint &&
                read.options_hash == 77);
    assert_same(read.model, second);
    assert_int_equal(read.run, 3);
    assert_same(read.best, first);
    fgmm_model_destroy(read.model);
    fgmm_model_destroy(read.best);
    damage(path, 3000);
    assert_int_equal(fgmm__checkpoint_read(path, &read, &found), FGMM_OK);
    assert_true(found && !read.stopped && read.phase == FGMM_PHASE_FIT && read.run == 0 && read.best == NULL);
    assert_same(read.model, first);
    fgmm_model_destroy(read.model);
    damage(older, 3000);
    assert_int_equal(fgmm__checkpoint_read(path, &read, &found), FGMM_ERR_INPUT);
    fgmm_error_clear();
    fgmm__checkpoint_remove(path);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_not_equal(access(older, F_OK), 0);
    fgmm_model_destroy(first);
    fgmm_model_destroy(second);
}

static void a_checkpoint_before_the_first_iteration_has_no_model(void **unused)
{
    (void)unused;
    fgmm_checkpoint start = {.phase = FGMM_PHASE_START, .stopped = true}, read = {0};
    bool found = false;
    assert_int_equal(fgmm__checkpoint_write(path, &start), FGMM_OK);
    assert_int_equal(fgmm__checkpoint_read(path, &read, &found), FGMM_OK);
    assert_true(found && read.stopped && read.phase == FGMM_PHASE_START && read.model == NULL);
    fgmm__checkpoint_remove(path);
}

static int make_folder(void **unused)
{
    (void)unused;
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/file.h5", folder);
    snprintf(older, sizeof older, "%s/file.h5.1", folder);
    return 0;
}

static int remove_folder(void **unused)
{
    (void)unused;
    unlink(path);
    unlink(older);
    return rmdir(folder); /* fails when something was left beside */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_comes_back_from_its_file),
        cmocka_unit_test(a_damaged_model_is_refused_by_name),
        cmocka_unit_test(a_checkpoint_keeps_the_one_before_and_falls_back_to_it),
        cmocka_unit_test(a_checkpoint_before_the_first_iteration_has_no_model),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
