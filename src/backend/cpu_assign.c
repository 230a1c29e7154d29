/* Assignment of rows to their most likely components. */
#include "backend/cpu_backend.h"

#include <omp.h>
#include <stdlib.h>

void fgmm__cpu_assign_free(fgmm__cpu_backend *cpu)
{
    for (int t = 0; t < cpu->base.threads; t++) {
        if (cpu->assign_work != NULL)
            fgmm__cpu_work_destroy(cpu->assign_work[t]);
        if (cpu->assign_rows != NULL)
            free(cpu->assign_rows[t]);
    }
    free(cpu->assign_work);
    free(cpu->assign_rows);
    fgmm__cpu_model_destroy(cpu->assign);
    cpu->assign_work = NULL;
    cpu->assign_rows = NULL;
    cpu->assign = NULL;
}

fgmm_status fgmm__cpu_assign_begin(fgmm_backend *backend, const fgmm_components *components, int32_t top)
{
    fgmm_status status = FGMM_OK;
    fgmm__cpu_backend *cpu = (fgmm__cpu_backend *)backend;
    fgmm__cpu_assign_free(cpu);
    if (top < 1 || top > FGMM_MAX_TOP)
        FGMM_FAIL(FGMM_ERR_INPUT, "%d components a row asked for; 1 to %d are possible", top, FGMM_MAX_TOP);
    cpu->assign_top = top;
    FGMM_TRY(fgmm__cpu_model_create(components, &cpu->assign));
    FGMM_ALLOC(cpu->assign_work, backend->threads, "assignment");
    FGMM_ALLOC(cpu->assign_rows, backend->threads, "assignment");
    for (int t = 0; t < backend->threads; t++) {
        FGMM_TRY(fgmm__cpu_work_create(cpu->assign, top, &cpu->assign_work[t]));
        FGMM_ALLOC(cpu->assign_rows[t], (size_t)cpu->assign->block_rows * cpu->assign->dim, "assignment");
    }
cleanup:
    if (status != FGMM_OK)
        fgmm__cpu_assign_free(cpu);
    return status;
}

static inline bool comes_before(const fgmm__cpu_pair *a, const fgmm__cpu_pair *b)
{
    return a->value > b->value || (a->value == b->value && a->k < b->k);
}

/* The `top` first of n in order, by insertion: returns how many there are. */
static int32_t pick(const fgmm__cpu_pair *pairs, size_t n, int32_t top, fgmm__cpu_pair *picked)
{
    int32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t at = count;
        if (count == top) {
            if (!comes_before(&pairs[i], &picked[top - 1]))
                continue;
            at = top - 1;
        } else {
            count++;
        }
        for (; at > 0 && comes_before(&pairs[i], &picked[at - 1]); at--)
            picked[at] = picked[at - 1];
        picked[at] = pairs[i];
    }
    return count;
}

/* labels, responsibilities: [top] of this row. Returns the row's log-density (hard: minus the squared
 * distance). */
static double assign_row(const fgmm__cpu_model *model, fgmm__cpu_pair *pairs, size_t n, int32_t top,
                         int32_t *labels, float *responsibilities)
{
    fgmm__cpu_pair picked[FGMM_MAX_TOP];
    int32_t count = pick(pairs, n, top, picked);
    double log_density = picked[0].value;
    if (!model->hard)
        log_density = fgmm__cpu_normalise(pairs, n);
    for (int32_t j = 0; j < top; j++) {
        labels[j] = j < count ? picked[j].k : -1;
        if (responsibilities != NULL)
            responsibilities[j] = j == 0 && model->hard ? 1 : 0;
    }
    for (size_t i = 0; responsibilities != NULL && !model->hard && i < n; i++)
        for (int32_t j = 0; j < count; j++)
            if (labels[j] == pairs[i].k)
                responsibilities[j] = (float)pairs[i].value;
    return log_density;
}

fgmm_status fgmm__cpu_assign_tile(fgmm_backend *backend, const fgmm_tile *tile, int32_t *labels,
                                  float *responsibilities, double *log_density)
{
    const fgmm__cpu_backend *cpu = (const fgmm__cpu_backend *)backend;
    const fgmm__cpu_model *model = cpu->assign;
    int32_t top = cpu->assign_top, block_rows = model->block_rows;
    int64_t n_blocks = (tile->rows + block_rows - 1) / block_rows;
    int failed = FGMM_OK;
#pragma omp parallel num_threads(backend->threads)
    {
        fgmm__cpu_work *w = cpu->assign_work[omp_get_thread_num()];
        double *x = cpu->assign_rows[omp_get_thread_num()];
#pragma omp for schedule(dynamic, 1)
        for (int64_t b = 0; b < n_blocks; b++) {
            int64_t first = b * block_rows;
            int32_t rows = fgmm__cpu_load(model, tile, first, x);
            fgmm_status status = fgmm__cpu_candidates(model, w, x, rows);
            if (status != FGMM_OK) {
#pragma omp atomic write
                failed = status;
                continue;
            }
            for (int32_t i = 0; i < rows; i++) {
                int64_t at = first + i;
                double l = assign_row(model, w->sorted.at + w->starts[i], w->starts[i + 1] - w->starts[i],
                                      top, labels + at * top,
                                      responsibilities == NULL ? NULL : responsibilities + at * top);
                if (log_density != NULL)
                    log_density[at] = l;
            }
        }
    }
    return (fgmm_status)failed;
}
