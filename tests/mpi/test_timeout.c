/* A rank that falls silent: the others name it and give up in time. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/status.h"
#include "comm/comm.h"

static const double timeout_seconds = 2;

static fgmm_comm *comm, *other; /* static: a broken communicator cannot be destroyed */
static int rank, size;

static void assert_on_all_ranks(bool mine)
{
    int ok = mine, all = 0;
    MPI_Allreduce(&ok, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (!mine)
        print_error("rank %d: failed here; last message: %s\n", rank, fgmm_error_message());
    assert_true(all);
}

static void sleep_silently(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

static void a_rank_that_computes_and_ticks_is_waited_for(void **state)
{
    (void)state;
    if (rank == size - 1)
        for (double end = fgmm__seconds() + 1.5 * timeout_seconds; fgmm__seconds() < end;) {
            sleep_silently(0.2);
            fgmm__comm_tick(comm);
        }
    bool ok = fgmm__comm_barrier(comm) == FGMM_OK && !fgmm__comm_broken(comm);
    fgmm_comm_destroy(comm);
    comm = NULL;
    assert_on_all_ranks(ok);
}

/* The last case: the communicator does not survive it. */
static void a_silent_rank_is_named_in_time(void **state)
{
    (void)state;
    int silent = size - 1;
    bool ok = true;
    fgmm_error_clear();
    ok &= fgmm__comm_barrier(other) == FGMM_OK;
    double since = fgmm__seconds();
    if (rank == silent) {
        sleep_silently(size > 1 ? 3 * timeout_seconds : 0);
        fgmm__comm_barrier(other); /* so that what the others began can end before MPI does */
    } else {
        char expected[64];
        snprintf(expected, sizeof expected, "rank %d on host ", silent);
        int64_t value = 1;
        ok &= fgmm__comm_barrier(other) == FGMM_ERR_RUNTIME;
        double waited = fgmm__seconds() - since;
        ok &= waited >= timeout_seconds && waited < 2.5 * timeout_seconds;
        ok &= strncmp(fgmm_error_message(), expected, strlen(expected)) == 0;
        ok &= strstr(fgmm_error_message(), " seconds (see --comm-timeout)") != NULL;
        ok &= fgmm__comm_broken(other);
        /* From here on everything fails at once. */
        since = fgmm__seconds();
        ok &= fgmm__comm_agree(other, FGMM_OK) == FGMM_ERR_RUNTIME;
        ok &= fgmm__comm_sum_i64(other, &value, 1) == FGMM_ERR_RUNTIME && fgmm__seconds() - since < 0.5;
    }
    assert_on_all_ranks(ok);
}

int main(int argc, char **argv)
{
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (fgmm_comm_create(MPI_COMM_WORLD, timeout_seconds, &comm) != FGMM_OK ||
        fgmm_comm_create(MPI_COMM_WORLD, timeout_seconds, &other) != FGMM_OK)
        MPI_Abort(MPI_COMM_WORLD, 1);
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(a_rank_that_computes_and_ticks_is_waited_for),
        cmocka_unit_test(a_silent_rank_is_named_in_time),
    };
    int failed = cmocka_run_group_tests(cases, NULL, NULL);
    MPI_Finalize();
    return failed;
}
