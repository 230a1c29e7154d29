/* Items on their way to the ranks that own them, in rounds of bounded memory. The buffer has an equal share
 * for every destination, so a rank sends at most the buffer in a round, and receives at most as much. */
#ifndef FGMM_IVF_EXCHANGE_H
#define FGMM_IVF_EXCHANGE_H

#include <stdbool.h>
#include "base/status.h"
#include "comm/comm.h"

typedef struct {
    fgmm_comm *comm;
    size_t item_bytes;
    int64_t share;         /* items a destination and round */
    int64_t *counts;       /* [size] items waiting for each destination */
    char *send, *receive;  /* [size][share] items */
    int64_t *told, *heard; /* [size] */
    int64_t *receive_counts;
    int64_t rounds;
} fgmm_exchange;

/* Local. round_bytes bounds each of the two buffers; at least one item a destination. */
fgmm_status fgmm__exchange_create(fgmm_comm *comm, size_t item_bytes, int64_t round_bytes,
                                  fgmm_exchange **out);
void fgmm__exchange_destroy(fgmm_exchange *exchange); /* accepts NULL */

/* Room for the next item to `destination`, or NULL when its share of this round is full. */
void *fgmm__exchange_slot(fgmm_exchange *exchange, int destination);

/* Collective: sends what waits. The items received are exchange->receive[0 .. *n_received), valid until the
 * next round. more: this rank will have further items; *any_more: some rank will. */
fgmm_status fgmm__exchange_round(fgmm_exchange *exchange, bool more, int64_t *n_received, bool *any_more);

#endif
