/* The communicator at 1 to 4 ranks. Every case computes its verdict locally, joins the verdicts with plain
 * MPI, then asserts everywhere. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/status.h"
#include "base/stop.h"
#include "comm/internal.h"

static fgmm_comm *comm;
static int rank, size;

static void assert_on_all_ranks(bool mine)
{
    int ok = mine, all = 0;
    MPI_Allreduce(&ok, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (!mine)
        print_error("rank %d: failed here; last message: %s\n", rank, fgmm_error_message());
    assert_true(all);
}

/* Large collectives are cut into slices; a small slice tests the cutting without gigabytes. */
static const size_t slices[] = {(size_t)1 << 30, 64};
enum { N_SLICES = 2, COUNT = 1000 };

static int create(void **state)
{
    (void)state;
    fgmm_error_clear();
    return fgmm_comm_create(MPI_COMM_WORLD, 60, &comm) == FGMM_OK ? 0 : -1;
}

static int destroy(void **state)
{
    (void)state;
    fgmm_comm_destroy(comm);
    comm = NULL;
    return 0;
}

static void ranks_know_their_place(void **state)
{
    (void)state;
    bool ok = fgmm_comm_rank(comm) == rank && fgmm_comm_size(comm) == size;
    ok &= fgmm__comm_node_rank(comm) == rank &&
          fgmm__comm_node_size(comm) == size; /* the test runs on one node */
    ok &= strlen(fgmm__comm_host(comm)) > 0;
    ok &= !fgmm__comm_broken(comm) && !fgmm__comm_has_nccl(comm);
    assert_on_all_ranks(ok);
}

static void a_timeout_must_be_positive(void **state)
{
    (void)state;
    fgmm_comm *none = NULL;
    bool ok = fgmm_comm_create(MPI_COMM_WORLD, 0, &none) == FGMM_ERR_INPUT && none == NULL;
    fgmm_error_clear();
    assert_on_all_ranks(ok);
}

static void broadcast_reaches_every_rank_from_every_root(void **state)
{
    (void)state;
    bool ok = true;
    for (int s = 0; s < N_SLICES; s++) {
        comm->slice_bytes = slices[s];
        for (int root = 0; root < size; root++) {
            unsigned char bytes[COUNT];
            for (int i = 0; i < COUNT; i++)
                bytes[i] = rank == root ? (unsigned char)(i * 7 + root) : 0;
            ok &= fgmm__comm_bcast(comm, bytes, COUNT, root) == FGMM_OK;
            for (int i = 0; i < COUNT; i++)
                ok &= bytes[i] == (unsigned char)(i * 7 + root);
        }
        ok &= fgmm__comm_bcast(comm, NULL, 0, 0) == FGMM_OK;
    }
    assert_on_all_ranks(ok);
}

static void integer_sums_are_exact_and_wrap(void **state)
{
    (void)state;
    bool ok = true;
    for (int s = 0; s < N_SLICES; s++) {
        comm->slice_bytes = slices[s];
        int64_t values[COUNT];
        for (int i = 0; i < COUNT; i++)
            values[i] = ((int64_t)1 << 60) / (i + 1) + rank;
        values[0] = INT64_MAX;
        ok &= fgmm__comm_sum_i64(comm, values, COUNT) == FGMM_OK;
        ok &= (uint64_t)values[0] == (uint64_t)size * (uint64_t)INT64_MAX;
        for (int64_t i = 1; i < COUNT; i++)
            ok &= values[i] == size * (((int64_t)1 << 60) / (i + 1)) + size * (size - 1) / 2;
    }
    assert_on_all_ranks(ok);
}

static void extremes_are_found(void **state)
{
    (void)state;
    bool ok = true;
    for (int s = 0; s < N_SLICES; s++) {
        comm->slice_bytes = slices[s];
        double low[COUNT], high[COUNT];
        int64_t most[COUNT];
        for (int i = 0; i < COUNT; i++) {
            low[i] = high[i] = i + 0.25 * ((rank + i) % size); /* each rank has the extreme of some entry */
            most[i] = ((int64_t)i << 40) + (rank + i) % size;
        }
        ok &= fgmm__comm_min_f64(comm, low, COUNT) == FGMM_OK;
        ok &= fgmm__comm_max_f64(comm, high, COUNT) == FGMM_OK;
        ok &= fgmm__comm_max_i64(comm, most, COUNT) == FGMM_OK;
        for (int i = 0; i < COUNT; i++)
            ok &= low[i] == i && high[i] == i + 0.25 * (size - 1) && most[i] == ((int64_t)i << 40) + size - 1;
    }
    assert_on_all_ranks(ok);
}

static void exclusive_scan_sums_the_ranks_before(void **state)
{
    (void)state;
    bool ok = true;
    for (int s = 0; s < N_SLICES; s++) {
        comm->slice_bytes = slices[s];
        int64_t values[COUNT], out[COUNT];
        for (int i = 0; i < COUNT; i++) {
            values[i] = ((int64_t)i << 33) + rank;
            out[i] = -1;
        }
        ok &= fgmm__comm_exscan_i64(comm, values, out, COUNT) == FGMM_OK;
        for (int i = 0; i < COUNT; i++)
            ok &= out[i] == ((int64_t)i << 33) * rank + rank * (rank - 1) / 2;
    }
    assert_on_all_ranks(ok);
}

static void equal_pieces_are_gathered_in_rank_order(void **state)
{
    (void)state;
    bool ok = true;
    for (int s = 0; s < N_SLICES; s++) {
        comm->slice_bytes = slices[s];
        int32_t mine[COUNT], *all = calloc((size_t)size, sizeof mine);
        for (int i = 0; i < COUNT; i++)
            mine[i] = rank * COUNT + i;
        ok &= fgmm__comm_allgather(comm, mine, sizeof mine, all) == FGMM_OK;
        for (int i = 0; i < size * COUNT; i++)
            ok &= all[i] == i;
        free(all);
    }
    assert_on_all_ranks(ok);
}

static void uneven_pieces_are_gathered_in_rank_order(void **state)
{
    (void)state;
    bool ok = true;
    for (int s = 0; s < N_SLICES; s++) {
        comm->slice_bytes = slices[s];
        int64_t counts[4] = {3, 0, 100, 1}, before = 0, total = 0;
        for (int r = 0; r < size; r++) {
            before += r < rank ? counts[r] : 0;
            total += counts[r];
        }
        int32_t mine[100][3], all[104][3];
        for (int i = 0; i < counts[rank]; i++)
            for (int j = 0; j < 3; j++)
                mine[i][j] = ((int)before + i) * 3 + j;
        ok &= fgmm__comm_allgatherv(comm, mine, counts, sizeof mine[0], all) == FGMM_OK;
        for (int i = 0; i < total; i++)
            for (int j = 0; j < 3; j++)
                ok &= all[i][j] == i * 3 + j;
    }
    assert_on_all_ranks(ok);
}

/* Items from rank a to rank b: uneven, often none; every rank sends itself some. */
static int64_t items_between(int a, int b)
{
    return a == b ? 5 : (a + 2 * b) % 3 == 0 ? 0 : 37 * (int64_t)(a + 1) + 11 * b;
}

static void exchange_brings_every_piece_to_its_owner(void **state)
{
    (void)state;
    bool ok = true;
    for (int s = 0; s < N_SLICES; s++) {
        comm->slice_bytes = slices[s];
        int64_t send_counts[4], recv_counts[4], told[4], n_send = 0, n_recv = 0;
        for (int r = 0; r < size; r++) {
            n_send += send_counts[r] = items_between(rank, r);
            n_recv += recv_counts[r] = items_between(r, rank);
        }
        ok &= fgmm__comm_alltoall_i64(comm, send_counts, told) == FGMM_OK;
        ok &= memcmp(told, recv_counts, sizeof *told * (size_t)size) == 0;

        int32_t(*send)[3] = calloc((size_t)n_send, sizeof *send),
        (*recv)[3] = calloc((size_t)n_recv, sizeof *recv);
        int64_t at = 0;
        for (int r = 0; r < size; r++)
            for (int i = 0; i < send_counts[r]; i++, at++)
                memcpy(send[at], (int32_t[3]){rank, r, i}, sizeof *send);
        ok &= fgmm__comm_alltoallv(comm, send, send_counts, recv, recv_counts, sizeof *send) == FGMM_OK;
        at = 0;
        for (int r = 0; r < size; r++)
            for (int i = 0; i < recv_counts[r]; i++, at++)
                ok &= recv[at][0] == r && recv[at][1] == rank && recv[at][2] == i;
        free(send);
        free(recv);

        int64_t nothing[4] = {0};
        ok &= fgmm__comm_alltoallv(comm, NULL, nothing, NULL, nothing, 8) == FGMM_OK;
    }
    assert_on_all_ranks(ok);
}

static void all_well_is_agreed_on(void **state)
{
    (void)state;
    assert_on_all_ranks(fgmm__comm_agree(comm, FGMM_OK) == FGMM_OK && fgmm_error_message()[0] == '\0');
}

static void every_single_failing_rank_is_heard(void **state)
{
    (void)state;
    bool ok = true;
    for (int failing = 0; failing < size; failing++) {
        char expected[64];
        snprintf(expected, sizeof expected, "row %d holds a NaN", failing);
        fgmm_error_clear();
        fgmm_status mine =
            rank == failing ? fgmm__fail(FGMM_ERR_INPUT, "row %d holds a NaN", failing) : FGMM_OK;
        ok &= fgmm__comm_agree(comm, mine) == FGMM_ERR_INPUT && strcmp(fgmm_error_message(), expected) == 0;
    }
    fgmm_error_clear();
    assert_on_all_ranks(ok);
}

static void the_gravest_failure_of_the_lowest_rank_wins(void **state)
{
    (void)state;
    /* By rank: a stop, bad input, a failed run, another failed run. */
    static const fgmm_status brought[] = {FGMM_STOPPED, FGMM_ERR_INPUT, FGMM_ERR_RUNTIME, FGMM_ERR_RUNTIME};
    static const char *const messages[] = {"", "bad input", "first disk", "second disk"};
    static const int winner_of[] = {0, 1, 2, 2}; /* at 1, 2, 3, 4 ranks */
    int winner = winner_of[size - 1];
    fgmm_error_clear();
    if (messages[rank][0] != '\0')
        fgmm__fail(brought[rank], "%s", messages[rank]);
    fgmm_status agreed = fgmm__comm_agree(comm, brought[rank]);
    bool ok = agreed == brought[winner] && strcmp(fgmm_error_message(), messages[winner]) == 0;
    fgmm_error_clear();
    assert_on_all_ranks(ok);
}

static void a_long_message_arrives_whole(void **state)
{
    (void)state;
    char text[2000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    fgmm_error_clear();
    fgmm_status mine = rank == size - 1 ? fgmm__fail(FGMM_ERR_RUNTIME, "%s", text) : FGMM_OK;
    bool ok = fgmm__comm_agree(comm, mine) == FGMM_ERR_RUNTIME && strcmp(fgmm_error_message(), text) == 0;
    fgmm_error_clear();
    assert_on_all_ranks(ok);
}

/* Ticks as a long loop does until something other than FGMM_OK comes back, at most `seconds`. */
static fgmm_status tick_for(double seconds)
{
    fgmm_status status = FGMM_OK;
    for (double end = fgmm__seconds() + seconds; status == FGMM_OK && fgmm__seconds() < end;)
        status = fgmm__comm_tick(comm);
    return status;
}

static void an_announced_failure_ends_the_peers_loops(void **state)
{
    (void)state;
    bool ok = true;
    for (int round = 0; round < 3; round++) { /* again and again: an agreement settles the failure */
        int failing = round % size;
        fgmm_status mine = FGMM_OK;
        fgmm_error_clear();
        ok &= tick_for(0.02) == FGMM_OK;
        ok &= fgmm__comm_agree(comm, FGMM_OK) == FGMM_OK;
        if (rank == failing) {
            mine = fgmm__fail(FGMM_ERR_INPUT, "round %d", round);
            fgmm__comm_announce_failure(comm);
            fgmm__comm_announce_failure(comm); /* twice does no harm */
        } else {
            mine = tick_for(20);
            ok &= mine == FGMM_ERR_RUNTIME && fgmm_error_message()[0] == '\0';
        }
        /* Whether the others bring the tick's status or FGMM_OK, the failing rank's own status and message
         * win. */
        fgmm_status agreed = fgmm__comm_agree(comm, rank % 2 == 0 || rank == failing ? mine : FGMM_OK);
        char expected[32];
        snprintf(expected, sizeof expected, "round %d", round);
        ok &= agreed == FGMM_ERR_INPUT && strcmp(fgmm_error_message(), expected) == 0;
    }
    fgmm_error_clear();
    assert_on_all_ranks(ok);
}

static void a_broken_communicator_fails_at_once(void **state)
{
    (void)state;
    int64_t value = 1;
    comm->broken = true;
    bool ok = fgmm__comm_broken(comm) && fgmm__comm_agree(comm, FGMM_OK) == FGMM_ERR_RUNTIME;
    ok &= fgmm__comm_tick(comm) == FGMM_ERR_RUNTIME;
    ok &= fgmm__comm_sum_i64(comm, &value, 1) == FGMM_ERR_RUNTIME;
    ok &= fgmm__comm_barrier(comm) == FGMM_ERR_RUNTIME;
    comm->broken = false;
    assert_on_all_ranks(ok);
}

/* The stop flag cannot be taken back: the last case. */
static void a_stop_asked_of_one_rank_reaches_all(void **state)
{
    (void)state;
    bool ok = tick_for(0.02) == FGMM_OK && fgmm__comm_barrier(comm) == FGMM_OK;
    if (rank == size - 1)
        fgmm__stop_request();
    ok &= tick_for(20) == FGMM_STOPPED && fgmm__stop_requested();
    ok &= fgmm__comm_tick(comm) == FGMM_STOPPED; /* and stays */
    ok &= fgmm__comm_agree(comm, FGMM_STOPPED) == FGMM_STOPPED;
    assert_on_all_ranks(ok);
}

int main(int argc, char **argv)
{
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    const struct CMUnitTest cases[] = {
        cmocka_unit_test_setup_teardown(ranks_know_their_place, create, destroy),
        cmocka_unit_test(a_timeout_must_be_positive),
        cmocka_unit_test_setup_teardown(broadcast_reaches_every_rank_from_every_root, create, destroy),
        cmocka_unit_test_setup_teardown(integer_sums_are_exact_and_wrap, create, destroy),
        cmocka_unit_test_setup_teardown(extremes_are_found, create, destroy),
        cmocka_unit_test_setup_teardown(exclusive_scan_sums_the_ranks_before, create, destroy),
        cmocka_unit_test_setup_teardown(equal_pieces_are_gathered_in_rank_order, create, destroy),
        cmocka_unit_test_setup_teardown(uneven_pieces_are_gathered_in_rank_order, create, destroy),
        cmocka_unit_test_setup_teardown(exchange_brings_every_piece_to_its_owner, create, destroy),
        cmocka_unit_test_setup_teardown(all_well_is_agreed_on, create, destroy),
        cmocka_unit_test_setup_teardown(every_single_failing_rank_is_heard, create, destroy),
        cmocka_unit_test_setup_teardown(the_gravest_failure_of_the_lowest_rank_wins, create, destroy),
        cmocka_unit_test_setup_teardown(a_long_message_arrives_whole, create, destroy),
        cmocka_unit_test_setup_teardown(an_announced_failure_ends_the_peers_loops, create, destroy),
        cmocka_unit_test_setup_teardown(a_broken_communicator_fails_at_once, create, destroy),
        cmocka_unit_test_setup_teardown(a_stop_asked_of_one_rank_reaches_all, create, destroy),
    };
    int failed = cmocka_run_group_tests(cases, NULL, NULL);
    MPI_Finalize();
    return failed;
}
