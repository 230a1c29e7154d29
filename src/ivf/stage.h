/* How far a build has come, kept in a checkpoint beside its output: the lists of the rows as far as they are
 * found, in a file of each rank (ivf/labels.h), and a record that says what they were made from. Another run
 * goes on from there on any number of ranks.
 *
 * CHECKPOINT is the record (HDF5, sealed); CHECKPOINT.G-R holds the lists of rank R, with a "k" behind where
 * they still have keys. Every run that adds to them writes files of a new G, and the others go when its
 * record is there. */
#ifndef FGMM_IVF_STAGE_H
#define FGMM_IVF_STAGE_H

#include "ivf/rules.h"

typedef struct {
    bool complete; /* all rows have their final lists: they are to be written; else lists are being found */
    bool keyed;    /* the lists have keys still */
    bool stopped;  /* recorded because the run was asked to stop */
    uint64_t data, options; /* fingerprints of the rows, and of model and options that decide the lists */
    char backend[8];
    int64_t rows;
    int32_t generation, ranks;                          /* G; how many files there are */
    double tau, epsilon, soar_limit, least_gain, known; /* of the rule */
    int64_t looked_all;
    int64_t *bytes; /* [ranks] of each file */
} fgmm_stage_record;

typedef struct {
    fgmm_comm *comm;
    char *path; /* of the record; NULL: nothing is kept for another run */
    char *labels_path, *keyed_path;
    fgmm_stage_record record; /* what is on disk, or would be: ranks 0 where no lists are */
    fgmm_rule_files files;    /* for the rule */
} fgmm_stage;

/* Collective. path: of the checkpoint, NULL for none: lists then are in nameless files beside `output`.
 * resume: reads what an earlier run left (FGMM_ERR_INPUT where that was made from something else or is
 * damaged); otherwise removes it. expected: data, options, rows. *out is to be closed, whatever the status.
 */
fgmm_status fgmm__stage_open(fgmm_comm *comm, const char *path, const char *output, bool resume,
                             const fgmm_stage_record *expected, fgmm_stage *out);
/* Local: refuses lists that another backend found, notes this one. */
fgmm_status fgmm__stage_check_backend(fgmm_stage *stage, const char *backend);
/* Local: the parameters that the earlier run found. */
void fgmm__stage_rule(const fgmm_stage *stage, fgmm_rule *rule);
/* Collective: records the lists found so far; labels NULL on all ranks: the record stays but for `stopped`.
 */
fgmm_status fgmm__stage_save(fgmm_stage *stage, fgmm_labels *labels, const fgmm_rule *rule, bool complete,
                             bool stopped);
/* Local. remove: on rank 0, the record and all files go; else the files that it does not speak of. */
void fgmm__stage_close(fgmm_stage *stage, bool remove);

#endif
