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
    int64_t share;   /* items a destination and round */
    int64_t *places; /* [size] where a destination's share begins, in items */
    int64_t *counts; /* [size] items waiting for each destination */
    char *send[2];   /* [size][share] items: one being filled, the other, where there is one, under way */
    int filling;
    char *receive;         /* [size][share] items; NULL where rounds are begun and ended */
    int64_t *told, *heard; /* [size] */
    int64_t *receive_counts;
    fgmm_transfer *under_way;
    bool arrived; /* all of it, as far as was seen */
    double began; /* the round under way */
    int64_t rounds;
    double seconds; /* in which rounds were under way */
} fgmm_exchange;

/* Local. round_bytes bounds each of the two buffers; at least one item a destination. */
fgmm_status fgmm__exchange_create(fgmm_comm *comm, size_t item_bytes, int64_t round_bytes,
                                  fgmm_exchange **out);
/* The same for rounds in two calls: two buffers to send from, none to receive into. */
fgmm_status fgmm__exchange_create_split(fgmm_comm *comm, size_t item_bytes, int64_t round_bytes,
                                        fgmm_exchange **out);
void fgmm__exchange_destroy(fgmm_exchange *exchange); /* accepts NULL; a round that is under way was ended */

/* The most items a rank receives in a round. */
static inline int64_t fgmm__exchange_most(const fgmm_exchange *exchange)
{
    return exchange->share * fgmm_comm_size(exchange->comm);
}

/* Room for the next item to `destination`, or NULL when its share of this round is full. */
void *fgmm__exchange_slot(fgmm_exchange *exchange, int destination);

/* Collective: sends what waits. The items received are exchange->receive[0 .. *n_received), valid until the
 * next round. more: this rank will have further items; *any_more: some rank will. */
fgmm_status fgmm__exchange_round(fgmm_exchange *exchange, bool more, int64_t *n_received, bool *any_more);

/* The same in three collective calls, for a split exchange. `announce` says how many items will come; then
 * `begin` sends, with room for as many at `receive`, and they are there when `end` returns. After `begin`,
 * slots of the next round may be filled. `push`, local, keeps the data moving: call it every millisecond or
 * so. `end` without a round under way does nothing. */
fgmm_status fgmm__exchange_announce(fgmm_exchange *exchange, bool more, int64_t *n_received, bool *any_more);
fgmm_status fgmm__exchange_begin(fgmm_exchange *exchange, void *receive);
fgmm_status fgmm__exchange_push(fgmm_exchange *exchange);
fgmm_status fgmm__exchange_end(fgmm_exchange *exchange);

#endif
