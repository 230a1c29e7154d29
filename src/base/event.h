/* --log-json: one JSON object an event and line, written by rank 0. */
#ifndef FGMM_BASE_EVENT_H
#define FGMM_BASE_EVENT_H

#include <cjson/cJSON.h>
#include "fgmm/status.h"

/* Opens the log for appending (NULL: none; events are then dropped). Call on rank 0 alone. */
fgmm_status fgmm__event_open(const char *path);
void fgmm__event_close(void);

/* A new object {"event": name, "time": seconds since the epoch}. The caller adds members and hands it to
 * fgmm__event_emit, which writes the line, flushes, and frees it. NULL where memory is out: cJSON's functions
 * and fgmm__event_emit accept that. */
cJSON *fgmm__event_new(const char *name);
void fgmm__event_emit(cJSON *event);

#endif
