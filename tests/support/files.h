/* Files for tests: a folder of their own, raw bytes in and out. Folder and names fail the test when they
 * cannot be made. */
#ifndef FGMM_TESTS_FILES_H
#define FGMM_TESTS_FILES_H

#include <stdbool.h>
#include <stddef.h>

/* "<FGMM_TMP or /tmp>/<name>"; the folder is made. The string lives until the eighth following call. */
const char *fgmm_test_path(const char *name);
void fgmm_test_write_file(const char *path, const void *bytes, size_t n);
/* The whole file, malloc'd; *n gets its length. */
char *fgmm_test_read_file(const char *path, size_t *n);
bool fgmm_test_same_file(const char *a, const char *b); /* neither is empty */
/* Some entries of the folder of `path` have a name that begins with that of `path` and goes on: leftovers of
 * a file written aside. */
int fgmm_test_leftovers(const char *path);

#endif
