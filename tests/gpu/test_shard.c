/* Shards on one GPU: device, host and stream residency, and their mixtures. */
#include <mpi.h>
#include <stdio.h>
#include "base/log.h"
#include "base/status.h"
#include "support/shard_device.h"

int main(int argc, char **argv)
{
    int provided, failed = 1;
    fgmm_comm *comm = NULL;
    fgmm_device *device = NULL;
    if (fgmm__device_count() == 0) {
        printf("skipped: no GPU\n");
        return 77;
    }
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    fgmm__log_init(0, -1, FGMM_PROGRESS_NEVER);
    if (fgmm_comm_create(MPI_COMM_WORLD, 60, &comm) == FGMM_OK &&
        fgmm__device_open(comm, FGMM_BACKEND_CUDA, &device) == FGMM_OK)
        failed = fgmm_test_shard_on_device(comm, device);
    else
        printf("%s\n", fgmm_error_message());
    fgmm__device_close(device);
    fgmm_comm_destroy(comm);
    MPI_Finalize();
    return failed;
}
