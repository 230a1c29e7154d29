/* What the program says without a command: help, version, the answer to a wrong name. */
#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "base/version.h"
#include "cmd/cmd.h"

void fgmm__print_commands(void)
{
    printf("usage: mpirun -n R fgmm COMMAND ARGUMENTS [OPTIONS]\n\n"
           "Gaussian mixtures and inverted lists for billions of vectors, on MPI ranks with CPUs or "
           "GPUs.\n\nCommands\n");
    for (const fgmm_command *command = fgmm__commands; command->name != NULL; command++)
        printf("  %-13s %s\n", command->name, command->summary);
    printf(
        "\nfgmm COMMAND --help lists a command's options, fgmm --version what the program was built with.\n");
    fflush(stdout);
}

void fgmm__print_version(void)
{
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(mpi, &length);
    mpi[strcspn(mpi, ",\n")] = '\0';
    bool cuda = FGMM_CUDA_ARCHITECTURES[0] != '\0';
    printf("fgmm %s (commit %s)\n", FGMM_VERSION, FGMM_COMMIT[0] != '\0' ? FGMM_COMMIT : "unknown");
    printf("CUDA architectures: %s\n", cuda ? FGMM_CUDA_ARCHITECTURES : "none (CPU backend alone)");
    printf("NCCL: %s\nMPI: %s\nHDF5: %s\n", cuda ? FGMM_NCCL_VERSION : "none", mpi, FGMM_HDF5_VERSION);
    fflush(stdout);
}

fgmm_status fgmm__unknown_command(const char *name)
{
    const char *nearest = NULL;
    int distance = 3;
    for (const fgmm_command *command = fgmm__commands; command->name != NULL; command++) {
        int d = fgmm__edit_distance(name, command->name);
        if (d < distance) {
            distance = d;
            nearest = command->name;
        }
    }
    if (nearest != NULL)
        return fgmm__fail(FGMM_ERR_INPUT, "unknown command `%s`; did you mean `%s`?", name, nearest);
    return fgmm__fail(FGMM_ERR_INPUT, "unknown command `%s`; fgmm --help lists the commands", name);
}
