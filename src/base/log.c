#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    int rank, verbosity;
    bool shown, live;         /* progress at all; rewritten in place */
    bool line_is_up;          /* a live line stands on the terminal */
    double last_seconds;      /* when progress was last shown */
    char what[128], unit[32]; /* of the work going on; what[0] = 0: none */
    int64_t done, total;
    double begin_seconds;
} state = {.rank = -1}; /* a program that uses the library alone hears nothing on stderr */

void fgmm__log_init(int rank, int verbosity, fgmm_progress_mode progress)
{
    state.rank = rank;
    state.verbosity = verbosity;
    /* mpirun gives its ranks a pipe: `always` asks for the live line there too. */
    state.live = progress == FGMM_PROGRESS_ALWAYS || isatty(STDERR_FILENO);
    state.shown =
        rank == 0 && (progress == FGMM_PROGRESS_ALWAYS || (progress == FGMM_PROGRESS_AUTO && verbosity >= 0));
    state.last_seconds = fgmm__seconds();
    state.what[0] = '\0';
}

static void clear_line(void)
{
    if (state.line_is_up)
        fputs("\r\033[K", stderr);
    state.line_is_up = false;
}

/* ---- messages ---- */

static void say(const char *prefix, const char *format, va_list args)
{
    char text[2048];
    vsnprintf(text, sizeof text, format, args);
    pthread_mutex_lock(&lock);
    clear_line();
    fprintf(stderr, "%s%s\n", prefix, text);
    pthread_mutex_unlock(&lock);
}

void fgmm__info(const char *format, ...)
{
    va_list args;
    if (state.rank != 0 || state.verbosity < 0)
        return;
    va_start(args, format);
    say("", format, args);
    va_end(args);
}

void fgmm__detail(const char *format, ...)
{
    va_list args;
    if (state.rank != 0 || state.verbosity < 1)
        return;
    va_start(args, format);
    say("", format, args);
    va_end(args);
}

void fgmm__warn(const char *format, ...)
{
    va_list args;
    if (state.rank != 0)
        return;
    va_start(args, format);
    say("fgmm: warning: ", format, args);
    va_end(args);
}

/* ---- progress ---- */

static void format_line(char *out, size_t size, double elapsed)
{
    static const char *const prefixes[] = {"", "k", "M", "G", "T"};
    double rate = elapsed > 0 ? (double)state.done / elapsed : 0, shown = rate;
    size_t prefix = 0;
    while (shown >= 1000 && prefix + 1 < sizeof prefixes / sizeof prefixes[0]) {
        shown /= 1000;
        prefix++;
    }
    double share = state.total > 0 ? (double)state.done / (double)state.total : 0;
    int length = snprintf(out, size, "%s: %3.0f%%  %.3g %s%s/s", state.what, 100 * share, shown,
                          prefixes[prefix], state.unit);
    if (rate > 0 && length > 0 && (size_t)length < size) {
        long left = (long)((double)(state.total - state.done) / rate + 0.5);
        if (left >= 3600)
            snprintf(out + length, size - (size_t)length, "  %ld:%02ld:%02ld left", left / 3600,
                     left / 60 % 60, left % 60);
        else
            snprintf(out + length, size - (size_t)length, "  %ld:%02ld left", left / 60, left % 60);
    }
}

/* A line longer than the terminal is wide would wrap and could not be rewritten. */
static int line_width(void)
{
    struct winsize window;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1)
        return window.ws_col - 1;
    return 120;
}

static void show_line(double now)
{
    char line[256];
    format_line(line, sizeof line, now - state.begin_seconds);
    pthread_mutex_lock(&lock);
    if (state.live)
        fprintf(stderr, "\r%.*s\033[K", line_width(), line);
    else
        fprintf(stderr, "%s\n", line);
    fflush(stderr);
    state.line_is_up = state.live;
    state.last_seconds = now;
    pthread_mutex_unlock(&lock);
}

void fgmm__progress_begin(const char *what, const char *unit, int64_t total)
{
    snprintf(state.what, sizeof state.what, "%s", what);
    snprintf(state.unit, sizeof state.unit, "%s", unit);
    state.total = total;
    state.done = 0;
    state.begin_seconds = fgmm__seconds();
}

void fgmm__progress_add(int64_t units)
{
    state.done += units;
    if (!state.shown || state.what[0] == '\0')
        return;
    /* Counted from the last line, not from the beginning of this work: many short pieces show progress too.
     */
    double now = fgmm__seconds();
    if (now - state.last_seconds >= (state.live ? 0.2 : 10))
        show_line(now);
}

void fgmm__progress_end(void)
{
    state.what[0] = '\0';
    pthread_mutex_lock(&lock);
    clear_line();
    fflush(stderr);
    pthread_mutex_unlock(&lock);
}
