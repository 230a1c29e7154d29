/* What tests of the CUDA backend share: one GPU, the backend on it and its CPU twin. */
#ifndef FGMM_TESTS_GPU_H
#define FGMM_TESTS_GPU_H

#include <stddef.h>
#include "backend/backend.h"
#include "support/cases.h"

/* Runs `cases` (which returns the number of failures) with both backends ready; returns what main returns: 77
 * without a GPU. A first argument is a pattern, with * and ?, of the cases to run (under slow tools, say). */
int fgmm_test_gpu_main(int argc, char **argv, int (*cases)(void));

fgmm_backend *fgmm_test_cuda(void);
fgmm_backend *fgmm_test_cpu(void); /* all threads */

/* The rows where a backend computes: themselves on the CPU, a copy on the device for CUDA. */
const void *fgmm_test_place(fgmm_backend *backend, const fgmm_test_rows *rows);
void fgmm_test_release(fgmm_backend *backend, const void *placed);

/* Rows [begin, begin + tile_rows) of placed rows. */
fgmm_tile fgmm_test_tile(const fgmm_test_rows *rows, const void *placed, int64_t begin, int64_t tile_rows);

/* Rows of an .fbin file in FGMM_TEST_DATA; NULL where the file is not. */
fgmm_test_rows *fgmm_test_rows_read(const char *name);

#endif
