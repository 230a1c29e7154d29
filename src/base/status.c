#include "base/status.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char message[2048];
static unsigned epoch;

const char *fgmm_error_message(void)
{
    return message;
}

void fgmm_error_clear(void)
{
    pthread_mutex_lock(&lock);
    message[0] = '\0';
    epoch++;
    pthread_mutex_unlock(&lock);
}

unsigned fgmm__error_epoch(void)
{
    return epoch;
}

void fgmm__set_message(const char *text)
{
    pthread_mutex_lock(&lock);
    snprintf(message, sizeof message, "%s", text);
    pthread_mutex_unlock(&lock);
}

fgmm_status fgmm__fail(fgmm_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    pthread_mutex_lock(&lock);
    if (message[0] == '\0')
        vsnprintf(message, sizeof message, format, args);
    pthread_mutex_unlock(&lock);
    va_end(args);
    return status;
}

fgmm_status fgmm__alloc(size_t count, size_t bytes, const char *what, void **out)
{
    size_t total, padded;
    if (__builtin_mul_overflow(count, bytes, &total) || __builtin_add_overflow(total, (size_t)63, &padded))
        return fgmm__fail(FGMM_ERR_RUNTIME, "out of memory: %zu x %zu bytes for %s", count, bytes, what);
    padded &= ~(size_t)63;
    if (padded == 0)
        padded = 64;
    void *pointer = aligned_alloc(64, padded);
    if (pointer == NULL)
        return fgmm__fail(FGMM_ERR_RUNTIME, "out of memory: %.3f GiB for %s", (double)total / (1 << 30),
                          what);
    memset(pointer, 0, padded);
    *out = pointer;
    return FGMM_OK;
}
