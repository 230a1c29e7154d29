#include "data/residency.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "data/partition.h"

/* Tiles by size. A CPU's tile is small, for the sake of its caches and so that the ranks hear of each other
 * often; a GPU's is large enough for a copy at full speed; a view of device memory costs nothing, so it is as
 * large as a kernel likes. */
enum { CPU_TILE_QUANTA = 64 };
static const int64_t cpu_tile_bytes = (int64_t)16 << 20;
static const int64_t stream_tile_bytes = (int64_t)64 << 20;
static const int64_t device_view_bytes = (int64_t)256 << 20;

/* A mixed layout spends at most this share of its memory on buffers. */
enum { BUFFER_SHARE = 4 };

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t up_to_quanta(int64_t rows)
{
    return (rows + FGMM_QUANTUM - 1) / FGMM_QUANTUM * FGMM_QUANTUM;
}

/* The whole quanta that fit into `bytes`. */
static int64_t quanta_in(int64_t bytes, int64_t row_bytes)
{
    return bytes > 0 ? bytes / row_bytes / FGMM_QUANTUM * FGMM_QUANTUM : 0;
}

/* At least one quantum, at most the shard. */
static int64_t tile_of(const fgmm_layout_request *r, int64_t bytes)
{
    int64_t whole = most(up_to_quanta(r->rows), FGMM_QUANTUM);
    return least(most(quanta_in(bytes, r->row_bytes), FGMM_QUANTUM), whole);
}

static void choose_tiles(const fgmm_layout_request *r, int64_t host_free, int64_t device_free,
                         fgmm_layout *out)
{
    if (r->tile_rows > 0) {
        out->tile_rows = out->view_rows =
            least(up_to_quanta(r->tile_rows), most(up_to_quanta(r->rows), FGMM_QUANTUM));
        return;
    }
    int64_t bytes = r->has_device ? stream_tile_bytes : cpu_tile_bytes;
    int64_t share = r->residency == FGMM_RESIDENCY_AUTO ? BUFFER_SHARE : 1;
    bytes = least(bytes, host_free / FGMM_RING_BUFFERS / share);
    if (r->has_device)
        bytes = least(bytes, device_free / FGMM_DEVICE_BUFFERS / share);
    out->tile_rows = tile_of(r, bytes);
    out->view_rows = tile_of(r, r->has_device ? device_view_bytes : cpu_tile_bytes);
    if (!r->has_device) {
        out->tile_rows = least(out->tile_rows, CPU_TILE_QUANTA * FGMM_QUANTUM);
        out->view_rows = least(out->view_rows, CPU_TILE_QUANTA * FGMM_QUANTUM);
    }
}

static fgmm_status check_cap(const fgmm_layout_request *r, const char *memory, int64_t needed,
                             int64_t allowed)
{
    if (needed <= allowed)
        return FGMM_OK;
    const char *remedy = r->residency == FGMM_RESIDENCY_STREAM || r->residency == FGMM_RESIDENCY_AUTO
                             ? "take smaller --tile-rows"
                             : "take --residency auto";
    return fgmm__fail(FGMM_ERR_INPUT,
                      "--residency %s needs %" PRId64 " bytes of %s memory a rank, %" PRId64
                      " are allowed: %s, more ranks or a larger --%s-memory",
                      fgmm_residency_name(r->residency), needed, memory, allowed, remedy, memory);
}

fgmm_status fgmm__layout_decide(const fgmm_layout_request *r, fgmm_layout *out)
{
    int64_t host_free = most(r->host_bytes - r->host_taken - r->host_held, 0),
            device_free = r->device_bytes - r->device_taken;
    int64_t all = r->rows * r->row_bytes; /* of a file that exists: no overflow */
    fgmm_residency residency = r->residency;
    if (residency == FGMM_RESIDENCY_DEVICE && !r->has_device)
        residency = FGMM_RESIDENCY_HOST;
    *out = (fgmm_layout){0};
    choose_tiles(r, host_free, device_free, out);
    int64_t tile_bytes = out->tile_rows * r->row_bytes;
    int64_t ring_bytes = FGMM_RING_BUFFERS * tile_bytes, device_ring_bytes = FGMM_DEVICE_BUFFERS * tile_bytes;

    int64_t rest = r->rows;
    if (residency == FGMM_RESIDENCY_DEVICE ||
        (residency == FGMM_RESIDENCY_AUTO && r->has_device && all <= device_free))
        out->device_rows = rest;
    else if (residency == FGMM_RESIDENCY_AUTO && r->has_device)
        out->device_rows = least(rest, quanta_in(device_free - device_ring_bytes, r->row_bytes));
    rest -= out->device_rows;

    /* Rows that go through buffers on the way to the device need them from the first pass on. */
    int64_t staging_bytes = out->device_rows > 0 ? ring_bytes : 0;
    if (residency == FGMM_RESIDENCY_HOST ||
        (residency == FGMM_RESIDENCY_AUTO && rest * r->row_bytes <= host_free - staging_bytes))
        out->host_rows = rest;
    else if (residency == FGMM_RESIDENCY_AUTO)
        out->host_rows = least(rest, quanta_in(host_free - ring_bytes, r->row_bytes));
    rest -= out->host_rows;
    out->stream_rows = rest;

    out->ring = out->device_rows > 0 || out->stream_rows > 0;
    out->device_ring = r->has_device && out->device_rows < r->rows;
    int64_t host_needed = r->host_taken + out->host_rows * r->row_bytes + (out->ring ? ring_bytes : 0);
    int64_t device_needed =
        r->device_taken + out->device_rows * r->row_bytes + (out->device_ring ? device_ring_bytes : 0);
    fgmm_status status = r->has_device ? check_cap(r, "device", device_needed, r->device_bytes) : FGMM_OK;
    return status != FGMM_OK ? status : check_cap(r, "host", host_needed, r->host_bytes);
}

void fgmm__layout_describe(const fgmm_layout *layout, char *text, size_t size)
{
    const char *names[] = {"device", "host", "stream"};
    int64_t rows[] = {layout->device_rows, layout->host_rows, layout->stream_rows};
    double total = (double)(rows[0] + rows[1] + rows[2]);
    text[0] = '\0';
    for (int i = 0; i < 3; i++) {
        size_t length = strlen(text);
        if (rows[i] == 0)
            continue;
        if ((double)rows[i] == total)
            snprintf(text, size, "%s", names[i]);
        else
            snprintf(text + length, size - length, "%s%s %.0f %%", length ? ", " : "", names[i],
                     100 * (double)rows[i] / total);
    }
}
