/* What the user reads on stderr: information, warnings, the live progress line. Rank 0 speaks, the others are
 * silent. */
#ifndef FGMM_BASE_LOG_H
#define FGMM_BASE_LOG_H

#include <stdint.h>

typedef enum { FGMM_PROGRESS_AUTO, FGMM_PROGRESS_ALWAYS, FGMM_PROGRESS_NEVER } fgmm_progress_mode;

/* Call once; before it nothing is shown. verbosity: -1 (-q: errors and warnings only), 0, 1 (-v). */
void fgmm__log_init(int rank, int verbosity, fgmm_progress_mode progress);

__attribute__((format(printf, 1, 2))) void fgmm__info(const char *format, ...);   /* verbosity >= 0, rank 0 */
__attribute__((format(printf, 1, 2))) void fgmm__detail(const char *format, ...); /* verbosity >= 1, rank 0 */
__attribute__((format(printf, 1, 2))) void fgmm__warn(const char *format,
                                                      ...); /* "fgmm: warning: ...", rank 0 */

/* A live line ("iteration 3/100: 41%  12.3 Mrows/s  0:12 left"): rewritten in place on a terminal about five
 * times a second, a line every ten seconds in a file; nothing for work that ends sooner. `what` is copied.
 * total: units of work. Local, main thread. */
void fgmm__progress_begin(const char *what, const char *unit, int64_t total);
void fgmm__progress_add(int64_t units);
void fgmm__progress_end(void); /* clears the live line */

#endif
