#include "ivf/exchange.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

static fgmm_status create(fgmm_comm *comm, size_t item_bytes, int64_t round_bytes, bool split,
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
    FGMM_ALLOC(exchange->places, size, "the exchange of rows");
    FGMM_ALLOC(exchange->counts, size, "the exchange of rows");
    FGMM_ALLOC(exchange->told, size, "the exchange of rows");
    FGMM_ALLOC(exchange->heard, size, "the exchange of rows");
    FGMM_ALLOC(exchange->receive_counts, size, "the exchange of rows");
    for (int peer = 0; peer < size; peer++)
        exchange->places[peer] = peer * exchange->share;
    char **buffers[] = {&exchange->send[0], split ? &exchange->send[1] : &exchange->receive};
    for (int i = 0; i < 2; i++)
        FGMM_TRY(fgmm__alloc((size_t)(exchange->share * size), item_bytes, "the exchange of rows",
                             (void **)buffers[i]));
    *out = exchange;
    exchange = NULL;
cleanup:
    fgmm__exchange_destroy(exchange);
    return status;
}

fgmm_status fgmm__exchange_create(fgmm_comm *comm, size_t item_bytes, int64_t round_bytes,
                                  fgmm_exchange **out)
{
    return create(comm, item_bytes, round_bytes, false, out);
}

fgmm_status fgmm__exchange_create_split(fgmm_comm *comm, size_t item_bytes, int64_t round_bytes,
                                        fgmm_exchange **out)
{
    return create(comm, item_bytes, round_bytes, true, out);
}

void fgmm__exchange_destroy(fgmm_exchange *exchange)
{
    if (exchange == NULL)
        return;
    free(exchange->places);
    free(exchange->counts);
    free(exchange->told);
    free(exchange->heard);
    free(exchange->receive_counts);
    free(exchange->send[0]);
    free(exchange->send[1]);
    free(exchange->receive);
    free(exchange);
}

void *fgmm__exchange_slot(fgmm_exchange *exchange, int destination)
{
    if (exchange->counts[destination] == exchange->share)
        return NULL;
    int64_t slot = exchange->places[destination] + exchange->counts[destination]++;
    return exchange->send[exchange->filling] + (size_t)slot * exchange->item_bytes;
}

fgmm_status fgmm__exchange_announce(fgmm_exchange *exchange, bool more, int64_t *n_received, bool *any_more)
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
cleanup:
    return status;
}

fgmm_status fgmm__exchange_begin(fgmm_exchange *exchange, void *receive)
{
    fgmm_status status = FGMM_OK;
    int size = fgmm_comm_size(exchange->comm);
    exchange->began = fgmm__seconds();
    exchange->arrived = false;
    FGMM_TRY(fgmm__comm_alltoallv_begin(exchange->comm, exchange->send[exchange->filling], exchange->places,
                                        exchange->counts, receive, exchange->receive_counts,
                                        exchange->item_bytes, &exchange->under_way));
    memset(exchange->counts, 0, (size_t)size * sizeof *exchange->counts);
    if (exchange->send[1] != NULL)
        exchange->filling ^= 1;
    exchange->rounds++;
cleanup:
    return status;
}

fgmm_status fgmm__exchange_push(fgmm_exchange *exchange)
{
    if (exchange->under_way == NULL || exchange->arrived)
        return FGMM_OK;
    fgmm_status status = fgmm__comm_alltoallv_push(exchange->under_way, &exchange->arrived);
    if (exchange->arrived)
        exchange->seconds += fgmm__seconds() - exchange->began;
    return status;
}

fgmm_status fgmm__exchange_end(fgmm_exchange *exchange)
{
    fgmm_transfer *transfer = exchange->under_way;
    if (transfer == NULL)
        return FGMM_OK;
    exchange->under_way = NULL;
    fgmm_status status = fgmm__comm_alltoallv_end(transfer);
    if (!exchange->arrived)
        exchange->seconds += fgmm__seconds() - exchange->began;
    return status;
}

fgmm_status fgmm__exchange_round(fgmm_exchange *exchange, bool more, int64_t *n_received, bool *any_more)
{
    fgmm_status status = fgmm__exchange_announce(exchange, more, n_received, any_more);
    if (status == FGMM_OK)
        status = fgmm__exchange_begin(exchange, exchange->receive);
    return status != FGMM_OK ? status : fgmm__exchange_end(exchange);
}
