/* The JSON event "start": what ran where, gathered from all ranks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/event.h"
#include "base/status.h"
#include "base/version.h"
#include "cmd/cmd.h"

typedef struct {
    char host[64], device[96];
    int64_t rows;
    int32_t threads;
    char residency[48]; /* "device 50 %, host 30 %, stream 20 %" */
} rank_facts;

static void add_versions(cJSON *event)
{
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(mpi, &length);
    mpi[strcspn(mpi, ",\n")] = '\0';
    cJSON_AddStringToObject(event, "version", FGMM_VERSION);
    cJSON_AddStringToObject(event, "commit", FGMM_COMMIT);
    cJSON_AddStringToObject(event, "mpi", mpi);
    cJSON_AddStringToObject(event, "hdf5", FGMM_HDF5_VERSION);
    cJSON_AddStringToObject(event, "nccl", FGMM_NCCL_VERSION);
    cJSON_AddStringToObject(event, "cuda_architectures", FGMM_CUDA_ARCHITECTURES);
}

static void emit(const char *command, const rank_facts *ranks, int size)
{
    cJSON *event = fgmm__event_new("start");
    cJSON_AddStringToObject(event, "command", command);
    add_versions(event);
    cJSON_AddNumberToObject(event, "ranks", size);
    cJSON *hosts = cJSON_AddArrayToObject(event, "hosts"),
          *devices = cJSON_AddArrayToObject(event, "devices");
    cJSON *rows = cJSON_AddArrayToObject(event, "rows"), *threads = cJSON_AddArrayToObject(event, "threads");
    cJSON *residency = cJSON_AddArrayToObject(event, "residency");
    for (int r = 0; r < size; r++) {
        cJSON_AddItemToArray(hosts, cJSON_CreateString(ranks[r].host));
        cJSON_AddItemToArray(devices, cJSON_CreateString(ranks[r].device));
        cJSON_AddItemToArray(rows, cJSON_CreateNumber((double)ranks[r].rows));
        cJSON_AddItemToArray(threads, cJSON_CreateNumber(ranks[r].threads));
        cJSON_AddItemToArray(residency, ranks[r].residency[0] != '\0' ? cJSON_CreateString(ranks[r].residency)
                                                                      : cJSON_CreateNull());
    }
    fgmm__event_emit(event);
}

fgmm_status fgmm__cmd_start_event(const char *command, const fgmm_device *device, int64_t my_rows,
                                  const char *residency)
{
    fgmm_comm *comm = fgmm__cmd_comm();
    rank_facts mine, *all = NULL;
    fgmm_status status = FGMM_OK;
    memset(&mine, 0, sizeof mine);
    snprintf(mine.host, sizeof mine.host, "%s", fgmm__comm_host(comm));
    snprintf(mine.device, sizeof mine.device, "%s", device != NULL ? fgmm__device_name(device) : "cpu");
    snprintf(mine.residency, sizeof mine.residency, "%s", residency != NULL ? residency : "");
    mine.rows = my_rows;
    mine.threads = fgmm__cmd_threads();
    FGMM_ALLOC(all, fgmm_comm_size(comm), "the facts of all ranks");
    FGMM_TRY(fgmm__comm_allgather(comm, &mine, sizeof mine, all));
    if (fgmm_comm_rank(comm) == 0)
        emit(command, all, fgmm_comm_size(comm));
cleanup:
    free(all);
    return status;
}
