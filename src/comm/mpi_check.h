/* Checked calls of MPI. */
#ifndef FGMM_COMM_MPI_CHECK_H
#define FGMM_COMM_MPI_CHECK_H

#include <mpi.h>
#include "base/status.h"
#include "comm/comm.h"

/* Records "MPI_Xyz failed: reason" with place and rank; breaks `comm` (NULL: none yet). Returns
 * FGMM_ERR_RUNTIME. */
fgmm_status fgmm__mpi_failed(fgmm_comm *comm, int code, const char *call, const char *file, int line);

/* Evaluates the call once; on an error sets `status` and jumps to `cleanup:`. */
#define FGMM_MPI(comm, call)                                                                                 \
    do {                                                                                                     \
        int mpi_code_ = (call);                                                                              \
        if (mpi_code_ != MPI_SUCCESS) {                                                                      \
            status = fgmm__mpi_failed(comm, mpi_code_, #call, __FILE__, __LINE__);                           \
            goto cleanup;                                                                                    \
        }                                                                                                    \
    } while (0)

#endif
