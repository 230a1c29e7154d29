/* How a loop that polls spends its time between two looks. */
#ifndef FGMM_BASE_BACKOFF_H
#define FGMM_BASE_BACKOFF_H

#include <sched.h>
#include <time.h>

/* Call between two looks, after `waited_seconds` of waiting in all. Spins at first (50 us: most small
 * collectives end within), then offers the core to others until `patience_seconds`, then sleeps an eighth of
 * the time waited so far and at most 1 ms: sleeping never lengthens a wait by more than about an eighth. */
static inline void fgmm__backoff(double waited_seconds, double patience_seconds)
{
    if (waited_seconds < 50e-6)
        return;
    if (waited_seconds < patience_seconds) {
        sched_yield();
        return;
    }
    double seconds = waited_seconds / 8 < 1e-3 ? waited_seconds / 8 : 1e-3;
    struct timespec t = {0, (long)(seconds * 1e9)};
    nanosleep(&t, NULL);
}

#endif
