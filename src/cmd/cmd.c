#define _GNU_SOURCE /* sched_getaffinity */

#include "cmd/cmd.h"

#include <cblas.h>
#include <errno.h>
#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/event.h"
#include "base/log.h"
#include "base/status.h"

/* One line a file src/cmd/NAME.c: {"info", "say what a file holds", fgmm__cmd_info}, in the order of a user's
 * day: fit, assign, build, search, groundtruth, eval, convert, info, synth, export,
 * bench. */
const fgmm_command fgmm__commands[] = {
    {"fit", "fit a mixture or k-means to rows", fgmm__cmd_fit},
    {"assign", "write the most likely components of every row", fgmm__cmd_assign},
    {"build", "put rows into inverted lists and write the index", fgmm__cmd_build},
    {"search", "find the nearest rows of queries, and tell recall against cost", fgmm__cmd_search},
    {"groundtruth", "find the exact nearest rows of queries", fgmm__cmd_groundtruth},
    {"eval", "hold models and rules of lists against one another", fgmm__cmd_eval},
    {"export", "write an index for FAISS, or a model's centroids", fgmm__cmd_export},
    {"plan", "say what a fit will take, before there is a job", fgmm__cmd_plan},
    {"bench", "time the parts against what the machine can do", fgmm__cmd_bench},
    {"convert", "write rows in another format or element type", fgmm__cmd_convert},
    {"info", "say what a file holds", fgmm__cmd_info},
    {"synth", "write the rows of a known mixture", fgmm__cmd_synth},
    {"sample", "write rows drawn from a model", fgmm__cmd_sample},
    {NULL, NULL, NULL},
};

static fgmm_globals globals = {.comm_timeout_seconds = 300};
static fgmm_comm *world;
static int threads = 1;

static const fgmm_option global_table[] = {
    {"--backend", FGMM_OPT_CHOICE, &globals.backend, "auto|cpu|cuda",
     "what computes; auto: cuda where every rank has a GPU (auto)"},
    {"--threads", FGMM_OPT_COUNT, &globals.threads, "N",
     "CPU threads a rank (the cores that the rank is bound to)"},
    {"--tile-rows", FGMM_OPT_COUNT, &globals.tile_rows, "N",
     "rows a tile: changes memory and speed, never the answer (by size)"},
    {"--comm-timeout", FGMM_OPT_REAL, &globals.comm_timeout_seconds, "S",
     "give up when a peer has shown no sign of life for S seconds (300)"},
    {"--precision", FGMM_OPT_CHOICE, &globals.precision, "auto|fast",
     "auto: answers as from fp32 arithmetic or better; fast is not part of this version (auto)"},
    {"--progress", FGMM_OPT_CHOICE, &globals.progress, "auto|always|never",
     "a live line with rate and time left on a terminal, a line now and then in a file; always: the live "
     "line wherever stderr goes (auto)"},
    {"--log-json", FGMM_OPT_TEXT, &globals.log_json, "FILE",
     "append one JSON object an event: start, iteration, checkpoint, end (none)"},
    {"-q,--quiet", FGMM_OPT_FLAG, &globals.quiet, NULL, "errors and warnings alone on stderr"},
    {"-v,--verbose", FGMM_OPT_FLAG, &globals.verbose, NULL, "more on stderr"},
    {"-h,--help", FGMM_OPT_FLAG, &globals.help, NULL, "print this"},
    {NULL, FGMM_OPT_FLAG, NULL, NULL, NULL},
};

const fgmm_globals *fgmm__globals(void)
{
    return &globals;
}

fgmm_comm *fgmm__cmd_comm(void)
{
    return world;
}

int fgmm__cmd_threads(void)
{
    return threads;
}

/* ---- threads ---- */

static int cores_of(pid_t process)
{
    cpu_set_t mask;
    if (sched_getaffinity(process, sizeof mask, &mask) != 0)
        return 0;
    return CPU_COUNT(&mask);
}

/* mpirun binds a rank to one core unless told otherwise, which leaves most of a node idle without a word. The
 * cores at hand are those of the launcher, our parent: a job may own a part of the node only. Rank 0 speaks
 * for its own node: the nodes of a job are bound alike. */
static void warn_unused_cores(void)
{
    int ranks = fgmm__comm_node_size(world), used = ranks * threads, cores = cores_of(getppid());
    if (used < cores)
        fgmm__warn("%d rank%s of %s use%s %d of %d cores: try mpirun --bind-to none, srun --cpus-per-task or "
                   "--threads",
                   ranks, ranks == 1 ? "" : "s", fgmm__comm_host(world), ranks == 1 ? "s" : "", used, cores);
}

static void set_threads(void)
{
    threads = globals.threads > 0 ? (int)globals.threads : cores_of(0);
    if (threads < 1)
        threads = 1;
    omp_set_num_threads(threads);
    /* Our threads are outside of the library's products: every product is one thread's, in one order. */
    openblas_set_num_threads(1);
    if (globals.threads == 0)
        warn_unused_cores();
}

/* ---- parsing ---- */

static fgmm_status check_globals(void)
{
    if (globals.threads > 4096)
        return fgmm__fail(FGMM_ERR_INPUT, "--threads: %lld is more than 4096", (long long)globals.threads);
    if (globals.comm_timeout_seconds <= 0)
        return fgmm__fail(FGMM_ERR_INPUT, "--comm-timeout: %g is not a time above 0",
                          globals.comm_timeout_seconds);
    if (globals.precision != 0)
        return fgmm__fail(FGMM_ERR_INPUT, "`--precision fast` is not part of this version; auto is");
    if (globals.quiet && globals.verbose)
        return fgmm__fail(FGMM_ERR_INPUT, "-q and -v exclude each other");
    return FGMM_OK;
}

fgmm_status fgmm__cmd_parse(int argc, char **argv, const char *usage, const char *description,
                            const fgmm_option *table, const char **positionals, int *n_positionals,
                            bool *done)
{
    *done = false;
    fgmm_status status = FGMM_OK;
    fgmm_status parsed =
        fgmm__options_parse(argc - 1, argv + 1, table, global_table, positionals, n_positionals);
    if (parsed == FGMM_OK && !globals.help)
        parsed = check_globals();

    /* The communicator comes first even when parsing failed: ranks started with different lines must hear of
     * it, and of a rank that was asked for help alone. */
    double timeout = globals.comm_timeout_seconds > 0 ? globals.comm_timeout_seconds : 300;
    FGMM_TRY(fgmm_comm_create(MPI_COMM_WORLD, timeout, &world));
    int rank = fgmm_comm_rank(world);
    int64_t help = globals.help;
    FGMM_TRY(fgmm__comm_agree(world, parsed));
    FGMM_TRY(fgmm__comm_max_i64(world, &help, 1));
    if (help) {
        if (rank == 0)
            fgmm__options_help(usage, description, table, global_table);
        *done = true;
        goto cleanup;
    }
    fgmm__log_init(rank, globals.quiet ? -1 : globals.verbose, (fgmm_progress_mode)globals.progress);
    set_threads();
    if (rank == 0)
        status = fgmm__event_open(globals.log_json);
    status = fgmm__comm_agree(world, status);
cleanup:
    return status;
}

/* ---- outputs ---- */

fgmm_status fgmm__cmd_check_output(const char *path)
{
    struct stat info;
    char folder[4096];
    const char *slash = strrchr(path, '/');
    int length = slash == NULL ? 1 : slash == path ? 1 : (int)(slash - path);
    snprintf(folder, sizeof folder, "%.*s", length, slash == NULL ? "." : path);
    if (path[0] == '\0' || (slash != NULL && slash[1] == '\0'))
        return fgmm__fail(FGMM_ERR_INPUT, "the output `%s` is not the name of a file", path);
    if (stat(folder, &info) != 0)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: the folder %s cannot be used: %s", path, folder,
                          strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return fgmm__fail(FGMM_ERR_INPUT, "%s: %s is not a folder", path, folder);
    if (access(folder, W_OK | X_OK) != 0)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: the folder %s is not writable: %s", path, folder,
                          strerror(errno));
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return fgmm__fail(FGMM_ERR_INPUT, "%s is a folder; name a file for the output", path);
    return FGMM_OK;
}

/* ---- what several commands take ---- */

fgmm_status fgmm__cmd_parse_rows(const char *text, fgmm_dataset_options *options)
{
    char begin[64];
    const char *colon = strchr(text, ':');
    options->row_begin = 0;
    options->row_end = -1;
    bool good = colon != NULL && (size_t)(colon - text) < sizeof begin;
    if (good) {
        snprintf(begin, sizeof begin, "%.*s", (int)(colon - text), text);
        good = (begin[0] == '\0' || fgmm__parse_count(begin, &options->row_begin)) &&
               (colon[1] == '\0' || fgmm__parse_count(colon + 1, &options->row_end));
    }
    if (!good || options->row_begin < 0 || (options->row_end >= 0 && options->row_end <= options->row_begin))
        return fgmm__fail(FGMM_ERR_INPUT, "--rows %s: not a range of rows; expected A:B with A < B, A: or :B",
                          text);
    return FGMM_OK;
}
