/* Statuses: what every function that can fail returns. Their values are the exit statuses of the program. */
#ifndef FGMM_STATUS_H
#define FGMM_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    FGMM_OK = 0,
    FGMM_ERR_RUNTIME = 1, /* failed while running: I/O, device, memory, a peer */
    FGMM_ERR_INPUT = 2,   /* bad usage or bad input; nothing was written */
    FGMM_STOPPED = 75     /* stopped early on request */
} fgmm_status;

/* The message of the first failure since the last call of fgmm_error_clear, without a trailing newline;
 * "" when nothing failed. Local. The string is the library's and lives until the next failure or clear. */
const char *fgmm_error_message(void);
void fgmm_error_clear(void);

#ifdef __cplusplus
}
#endif
#endif
