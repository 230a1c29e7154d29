#include "ivf/exchange.h"

#include <stdlib.h>
#include <string.h>

fgmm_status fgmm__exchange_create(fgmm_comm *comm, size_t item_bytes, int64_t round_bytes,
                                  fgmm_exchange **out)
{
    fgmm_status status = FGMM_OK;
    fgmm_exchange *exchange = NULL;
    int size = fgmm_comm_size(comm);
    FGMM_ALLOC(exchange, 1, "the exchange of rows");
    exchange->comm = comm;
    exchange->item_bytes = item_bytes;
    exchange->share = round_bytes / ((int64_t)item_bytes * size);
    if (exchange->share < 1)
        exchange->share = 1;
    FGMM_ALLOC(exchange->counts, size, "the exchange of rows");
    FGMM_ALLOC(exchange->told, size, "the exchange of rows");
    FGMM_ALLOC(exchange->heard, size, "the exchange of rows");
    FGMM_ALLOC(exchange->receive_counts, size, "the exchange of rows");
    FGMM_TRY(fgmm__alloc((size_t)(exchange->share * size), item_bytes, "the exchange of rows",
                         (void **)&exchange->send));
    FGMM_TRY(fgmm__alloc((size_t)(exchange->share * size), item_bytes, "the exchange of rows",
                         (void **)&exchange->receive));
    *out = exchange;
    exchange = NULL;
cleanup:
    fgmm__exchange_destroy(exchange);
    return status;
}

void fgmm__exchange_destroy(fgmm_exchange *exchange)
{
    if (exchange == NULL)
        return;
    free(exchange->counts);
    free(exchange->told);
    free(exchange->heard);
    free(exchange->receive_counts);
    free(exchange->send);
    free(exchange->receive);
    free(exchange);
}

void *fgmm__exchange_slot(fgmm_exchange *exchange, int destination)
{
    if (exchange->counts[destination] == exchange->share)
        return NULL;
    int64_t slot = destination * exchange->share + exchange->counts[destination]++;
    return exchange->send + (size_t)slot * exchange->item_bytes;
}

/* Closes the gaps between the destinations' shares: the collective wants them end to end. */
static void close_up(fgmm_exchange *exchange)
{
    int64_t at = 0;
    for (int peer = 0; peer < fgmm_comm_size(exchange->comm); peer++) {
        memmove(exchange->send + (size_t)at * exchange->item_bytes,
                exchange->send + (size_t)(peer * exchange->share) * exchange->item_bytes,
                (size_t)exchange->counts[peer] * exchange->item_bytes);
        at += exchange->counts[peer];
    }
}

fgmm_status fgmm__exchange_round(fgmm_exchange *exchange, bool more, int64_t *n_received, bool *any_more)
{
    fgmm_status status = FGMM_OK;
    int size = fgmm_comm_size(exchange->comm);
    /* The lowest bit of what peers tell each other says whether the teller will have more. */
    for (int peer = 0; peer < size; peer++)
        exchange->told[peer] = exchange->counts[peer] << 1 | (more ? 1 : 0);
    FGMM_TRY(fgmm__comm_alltoall_i64(exchange->comm, exchange->told, exchange->heard));
    *n_received = 0;
    *any_more = false;
    for (int peer = 0; peer < size; peer++) {
        exchange->receive_counts[peer] = exchange->heard[peer] >> 1;
        *n_received += exchange->receive_counts[peer];
        *any_more = *any_more || (exchange->heard[peer] & 1);
    }
    close_up(exchange);
    FGMM_TRY(fgmm__comm_alltoallv(exchange->comm, exchange->send, exchange->counts, exchange->receive,
                                  exchange->receive_counts, exchange->item_bytes));
    memset(exchange->counts, 0, (size_t)size * sizeof *exchange->counts);
    exchange->rounds++;
cleanup:
    return status;
}
