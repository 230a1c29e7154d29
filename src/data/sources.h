/* From what the user names to the files meant: folders, globs and @LISTs are expanded, everything else stays
 * as it is. */
#ifndef FGMM_DATA_SOURCES_H
#define FGMM_DATA_SOURCES_H

#include "base/status.h"

typedef struct {
    char **names; /* [count], owned */
    int count, capacity;
} fgmm_sources;

/* Appends the files that `source` stands for to *list: itself (a file, FILE.h5:/dataset, synth:...), the
 * files of a folder (those of a format that is read), the matches of a glob (both sorted by name, names that
 * begin with a dot left out), or what the lines of "@LIST" stand for (empty lines and lines that begin with
 * '#' are skipped; relative names count from the working directory). Local. FGMM_ERR_INPUT: a glob, folder or
 * list without files, a list that cannot be read. */
fgmm_status fgmm__sources_add(fgmm_sources *list, const char *source);
void fgmm__sources_clear(fgmm_sources *list);

#endif
