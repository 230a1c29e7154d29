/* What MPI tests share: the ranks and their communicators, and what all ranks say together. */
#ifndef FGMM_TESTS_RANKS_H
#define FGMM_TESTS_RANKS_H

#include <stdbool.h>
#include "fgmm.h"

extern int rank, size;
extern fgmm_comm *comm, *alone; /* all ranks; this one */

/* Collective. Starts MPI and makes the communicators; without success the program ends. */
void fgmm_test_ranks_start(int *argc, char ***argv);
/* Collective. Ends MPI; the program's exit status. */
int fgmm_test_ranks_end(int failed);

/* Collective. Whether it is so on all ranks; where not, says what went wrong. */
bool on_all_ranks(bool mine);

#endif
