/* What several tests share. */
#ifndef FGMM_TESTS_SUPPORT_H
#define FGMM_TESTS_SUPPORT_H

#include <stddef.h>

/* Frobenius norm of a - b over that of b. */
double fgmm_test_relative(const double *a, const double *b, size_t n);

#endif
