/* The program: ranks come up, one command of the table runs, all agree on how it ended, rank 0 says so. */
#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/event.h"
#include "base/log.h"
#include "base/stop.h"
#include "cmd/cmd.h"

/* Help and version need no peers: the first process of a launch answers before MPI comes up. */
static bool answered_alone(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "--help", *rank = getenv("PMIX_RANK");
    bool help = strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
    if (!help && strcmp(word, "--version") != 0)
        return false;
    if (rank == NULL || strcmp(rank, "0") == 0)
        help ? fgmm__print_commands() : fgmm__print_version();
    return true;
}

static fgmm_status run(int argc, char **argv)
{
    const fgmm_command *command = fgmm__commands;
    while (command->name != NULL && strcmp(command->name, argv[1]) != 0)
        command++;
    return command->name != NULL ? command->run(argc - 1, argv + 1) : fgmm__unknown_command(argv[1]);
}

int main(int argc, char **argv)
{
    int provided, rank;
    if (answered_alone(argc, argv))
        return argc > 1 ? FGMM_OK : FGMM_ERR_INPUT;
    fgmm__stop_install(); /* before MPI: job scripts may signal early */
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);

    fgmm_status status = run(argc, argv);
    if (fgmm__cmd_comm() != NULL)
        status = fgmm__comm_agree(fgmm__cmd_comm(), status);
    fgmm__progress_end();
    if (fgmm__cmd_comm() != NULL && fgmm__comm_broken(fgmm__cmd_comm()))
        fgmm__comm_abort(fgmm__cmd_comm(), status);
    if (status != FGMM_OK && rank == 0)
        fprintf(stderr, "fgmm: %s: %s\n", argv[1], fgmm_error_message());
    fgmm__event_close();
    fgmm_comm_destroy(fgmm__cmd_comm());
    MPI_Finalize();
    /* One status is enough for srun and mpirun; several would make them kill what still ends. */
    return rank == 0 ? (int)status : 0;
}
