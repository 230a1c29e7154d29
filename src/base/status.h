/* Failing: the message is made once, where the fault is known, and travels by status. */
#ifndef FGMM_BASE_STATUS_H
#define FGMM_BASE_STATUS_H

#include <stddef.h>
#include "fgmm/status.h"

/* Records the message (the first one since the last clear wins; safe from any thread) and returns `status`.
 * The message names what, where and the remedy; no "fgmm:" prefix, no newline. */
__attribute__((format(printf, 2, 3))) fgmm_status fgmm__fail(fgmm_status status, const char *format, ...);

/* Replaces the recorded message (used by the agreement of ranks). */
void fgmm__set_message(const char *message);

/* How often fgmm_error_clear was called: tells an old failure from a new one. */
unsigned fgmm__error_epoch(void);

/* Jumps to `cleanup:` with `status` set when an expression fails. Functions that use it declare
 * `fgmm_status status = FGMM_OK;` and set all their resources to NULL first. */
#define FGMM_TRY(expression)                                                                                 \
    do {                                                                                                     \
        status = (expression);                                                                               \
        if (status != FGMM_OK)                                                                               \
            goto cleanup;                                                                                    \
    } while (0)

#define FGMM_FAIL(code, ...)                                                                                 \
    do {                                                                                                     \
        status = fgmm__fail(code, __VA_ARGS__);                                                              \
        goto cleanup;                                                                                        \
    } while (0)

/* Allocates count*bytes zeroed bytes, 64-byte aligned, overflow checked; frees with free(). `what` names the
 * thing in the message ("out of memory: 12.3 GiB for the shard"). */
fgmm_status fgmm__alloc(size_t count, size_t bytes, const char *what, void **out);
#define FGMM_ALLOC(pointer, count, what)                                                                     \
    FGMM_TRY(fgmm__alloc((size_t)(count), sizeof *(pointer), what, (void **)&(pointer)))

#endif
