#include "base/event.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/status.h"

static FILE *file;
static bool failed; /* a full disk is reported once and does not end the run */

fgmm_status fgmm__event_open(const char *path)
{
    fgmm__event_close();
    if (path == NULL)
        return FGMM_OK;
    /* Appending keeps the iterations of a run that was stopped when the same line resumes it. */
    file = fopen(path, "a");
    if (file == NULL)
        return fgmm__fail(FGMM_ERR_INPUT, "%s: the log cannot be written: %s", path, strerror(errno));
    failed = false;
    return FGMM_OK;
}

void fgmm__event_close(void)
{
    if (file != NULL)
        fclose(file);
    file = NULL;
}

cJSON *fgmm__event_new(const char *name)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    cJSON *event = cJSON_CreateObject();
    cJSON_AddStringToObject(event, "event", name);
    cJSON_AddNumberToObject(event, "time", (double)now.tv_sec + 1e-6 * (double)(now.tv_nsec / 1000));
    return event;
}

void fgmm__event_emit(cJSON *event)
{
    char *line = file != NULL ? cJSON_PrintUnformatted(event) : NULL;
    if (line != NULL && (fprintf(file, "%s\n", line) < 0 || fflush(file) != 0) && !failed) {
        failed = true;
        fgmm__warn("the JSON log cannot be written: %s", strerror(errno));
    }
    free(line);
    cJSON_Delete(event);
}
