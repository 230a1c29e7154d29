/* Stopping on request: SIGTERM, SIGINT and SIGUSR1 set a flag that long work looks at. */
#ifndef FGMM_BASE_STOP_H
#define FGMM_BASE_STOP_H

#include <stdbool.h>

void fgmm__stop_install(void); /* before MPI_Init: job scripts may signal early */
bool fgmm__stop_requested(void);
void fgmm__stop_request(void); /* as if a signal had come (a peer was told to stop) */

#endif
