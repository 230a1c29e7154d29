/* Pass 2 of a build: every row goes to the ranks that own the places of its postings, and into the file. A
 * pipe of bounded memory: rows are read ahead, packed while the round before is on its way, and written by a
 * thread (ivf/sink.h) while the next ones arrive. The slowest sets the pace. */
#ifndef FGMM_IVF_DELIVERY_H
#define FGMM_IVF_DELIVERY_H

#include "io/ids.h"
#include "ivf/index.h"
#include "ivf/labels.h"
#include "ivf/workplace.h"

typedef struct {
    fgmm_comm *comm;
    fgmm_shard *shard;
    fgmm_labels *labels; /* of all its rows */
    int32_t k;
    size_t row_bytes;        /* 0: vectors are not stored, nor rows read */
    bool multi;              /* rows may be in several lists */
    const fgmm_ids *ids;     /* the user's; NULL: row numbers, from first_id on */
    int64_t first_id;        /* of row 0 of the data */
    const uint64_t *offsets; /* [k+1] of the lists in the file */
    int64_t *next; /* [k] number of this rank's next posting of each list; runs on to that behind its last */
    uint64_t *hashes; /* [k] to which this rank's share of the lists' hashes is added */
    fgmm_index_writer *writer;
    int64_t memory_bytes, exchange_bytes; /* bounds a rank, see fgmm__delivery_memory; exchange 0: chosen */
} fgmm_delivery;

/* Local. What a rank may take for postings on their way: the caller's word, or its share of what there is. */
int64_t fgmm__delivery_memory(const fgmm_build_options *options, const fgmm_comm *comm);

/* Collective. Sets rounds, windows, rates and waits of the report, of this rank. */
fgmm_status fgmm__deliver(fgmm_delivery *delivery, fgmm_build_report *report);

#endif
