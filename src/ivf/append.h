/* Adding rows to an index: what it says of itself (model, rule, ids), and its postings on their way into a
 * new file that holds them and those of further rows. Within a list the old ones come first, so that the file
 * is that of a build over all rows at once. */
#ifndef FGMM_IVF_APPEND_H
#define FGMM_IVF_APPEND_H

#include "ivf/index.h"
#include "ivf/rules.h"

typedef struct {
    fgmm_index *index;
    fgmm_model *model;
    fgmm_rule rule; /* with the parameters that the index was built with; no replication to be sought */
    bool user_ids;
    bool learnt; /* it has a stop rule, which the new one will not have */
} fgmm_append;

/* Local. FGMM_ERR_INPUT where there is no index, or one whose rows' lists depend on each other (need). */
fgmm_status fgmm__append_open(const char *path, fgmm_append **out);
void fgmm__append_close(fgmm_append *old); /* accepts NULL */

/* Local: refuses rows of another dimension, type or metric, and row numbers beside the user's own ids. ids:
 * further rows have the user's. */
fgmm_status fgmm__append_check(const fgmm_append *old, const fgmm_dataset *dataset, bool ids);

static inline int64_t fgmm__append_list_size(const fgmm_append *old, int32_t list)
{
    return (int64_t)fgmm__index_list_size(old->index, list);
}

/* Collective: every rank copies an equal part of the postings to their places in the new file, whose lists
 * begin at offsets [k+1], and adds their hashes to hashes [k]. FGMM_ERR_INPUT where vectors are damaged. */
fgmm_status fgmm__append_copy(const fgmm_append *old, fgmm_comm *comm, const uint64_t *offsets,
                              fgmm_index_writer *writer, uint64_t *hashes);

#endif
