/* Subcommands: one file each; each parses, wires objects, prints. main.c dispatches through the table in
 * cmd.c. */
#ifndef FGMM_CMD_CMD_H
#define FGMM_CMD_CMD_H

#include "base/options.h"
#include "comm/comm.h"
#include "device/device.h"
#include "fgmm.h"

/* The global options of the command line, parsed with each command's own. */
typedef struct {
    int backend;     /* fgmm_backend_kind */
    int64_t threads; /* 0: affinity mask */
    int64_t tile_rows;
    double comm_timeout_seconds;
    int precision; /* 0 auto, 1 fast */
    int progress;  /* fgmm_progress_mode */
    const char *log_json;
    bool quiet, verbose, help;
} fgmm_globals;

typedef struct {
    const char *name;
    const char *summary; /* one line of `fgmm --help` */
    /* argv[0] is the command's name. Runs on all ranks. Parses by fgmm__cmd_parse; returns the same status on
     * all ranks or a status of its own (main agrees on it and prints the message once). */
    fgmm_status (*run)(int argc, char **argv);
} fgmm_command;

extern const fgmm_command fgmm__commands[]; /* ends with a NULL name */

/* Parses with the global table; on --help prints the help on rank 0 and sets *done. Otherwise applies the
 * globals (log, progress, JSON log, threads) and creates the communicator, owned by main. `positionals` has
 * room for argc entries. */
fgmm_status fgmm__cmd_parse(int argc, char **argv, const char *usage, const char *description,
                            const fgmm_option *table, const char **positionals, int *n_positionals,
                            bool *done);
const fgmm_globals *fgmm__globals(void);
fgmm_comm *fgmm__cmd_comm(void);
int fgmm__cmd_threads(void); /* threads of this rank after defaults */
/* Refuses an output whose folder is missing or not writable, before any work. Local. */
fgmm_status fgmm__cmd_check_output(const char *path);
/* "A:B", "A:", ":B" (counts with suffixes) into options->row_begin and row_end. Local. */
fgmm_status fgmm__cmd_parse_rows(const char *text, fgmm_dataset_options *options);
/* Emits the JSON event "start" (versions, commit, hosts, devices, rows of each rank, residency where known;
 * NULL where not) - collective. */
fgmm_status fgmm__cmd_start_event(const char *command, const fgmm_device *device, int64_t my_rows,
                                  const char *residency);

/* What the program says without a command, printed to stdout. Local, no MPI needed. */
void fgmm__print_commands(void);
void fgmm__print_version(void);
/* FGMM_ERR_INPUT with the message for a name that is not in the table. */
fgmm_status fgmm__unknown_command(const char *name);

fgmm_status fgmm__cmd_fit(int argc, char **argv);
fgmm_status fgmm__cmd_assign(int argc, char **argv);
fgmm_status fgmm__cmd_build(int argc, char **argv);
fgmm_status fgmm__cmd_search(int argc, char **argv);
fgmm_status fgmm__cmd_groundtruth(int argc, char **argv);
fgmm_status fgmm__cmd_eval(int argc, char **argv);
fgmm_status fgmm__cmd_convert(int argc, char **argv);
fgmm_status fgmm__cmd_info(int argc, char **argv);
fgmm_status fgmm__cmd_synth(int argc, char **argv);
fgmm_status fgmm__cmd_sample(int argc, char **argv);
fgmm_status fgmm__cmd_plan(int argc, char **argv);
fgmm_status fgmm__cmd_export(int argc, char **argv);
fgmm_status fgmm__cmd_bench(int argc, char **argv);

#endif
