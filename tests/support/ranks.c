#include "support/ranks.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/log.h"
#include "base/status.h"

int rank, size;
fgmm_comm *comm, *alone;

void fgmm_test_ranks_start(int *argc, char ***argv)
{
    int provided;
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    fgmm__log_init(rank, -1, FGMM_PROGRESS_NEVER);
    if (fgmm_comm_create(MPI_COMM_WORLD, 60, &comm) != FGMM_OK ||
        fgmm_comm_create(MPI_COMM_SELF, 60, &alone) != FGMM_OK)
        MPI_Abort(MPI_COMM_WORLD, 1);
}

int fgmm_test_ranks_end(int failed)
{
    fgmm_comm_destroy(alone);
    fgmm_comm_destroy(comm);
    MPI_Finalize();
    return failed;
}

bool on_all_ranks(bool mine)
{
    int ok = mine, all = 0;
    MPI_Allreduce(&ok, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (!mine)
        print_error("rank %d: failed here; last message: %s\n", rank, fgmm_error_message());
    return all;
}
