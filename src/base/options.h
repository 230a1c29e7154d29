/* The command line as a table: one entry an option; parsing, defaults and --help come from the same place. */
#ifndef FGMM_BASE_OPTIONS_H
#define FGMM_BASE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include "fgmm/status.h"

typedef enum {
    FGMM_OPT_FLAG,  /* bool *: present or not */
    FGMM_OPT_TEXT,  /* const char **: points into argv */
    FGMM_OPT_COUNT, /* int64_t *: 12, 1k, 1M, 1G (decimal), 1e9 */
    FGMM_OPT_BYTES, /* int64_t *: plain bytes or KiB, MiB, GiB, TiB */
    FGMM_OPT_REAL,  /* double * */
    FGMM_OPT_CHOICE /* int *: index into `choices`, names separated by '|' */
} fgmm_option_kind;

typedef struct {
    const char *name; /* "--max-iter"; several spellings separated by ',' ("-k,--components") */
    fgmm_option_kind kind;
    void *value; /* holds the default before parsing */
    const char
        *argument;    /* how the help names the value: "N", "FILE", NULL for flags; CHOICE: "gmm|kmeans" */
    const char *help; /* one sentence with unit and default */
} fgmm_option;

/* Parses argv[0..argc): options of the tables may stand anywhere, `--` ends them, `--name=value` is accepted.
 * Positional arguments are gathered (in order) into positionals[*n_positionals], pointing into argv.
 * Tables end with a NULL name; `global` may be NULL. FGMM_ERR_INPUT for an unknown option (naming the nearest
 * known one), a missing or malformed value. Local. */
fgmm_status fgmm__options_parse(int argc, char **argv, const fgmm_option *table, const fgmm_option *global,
                                const char **positionals, int *n_positionals);

/* Prints usage line, description and both tables, aligned, to stdout. */
void fgmm__options_help(const char *usage, const char *description, const fgmm_option *table,
                        const fgmm_option *global);

/* Number of single-character edits (swaps of neighbours count as one) between two names: for "did you mean".
 */
int fgmm__edit_distance(const char *a, const char *b);

/* "1k" -> 1000, "1e9", "4GiB" -> 4294967296; false for anything else (counts and bytes: also for what is
 * negative or not whole). The message is left to the caller. */
bool fgmm__parse_count(const char *text, int64_t *out);
bool fgmm__parse_bytes(const char *text, int64_t *out);
bool fgmm__parse_real(const char *text, double *out);

#endif
