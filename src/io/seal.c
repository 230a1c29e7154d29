/* The user block of our HDF5 files: their length and a hash, checked before HDF5 opens them, since a damaged
 * file can crash that library. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include "io/format.h"
#include "io/h5.h"

enum { BLOCK = 512, READ_BYTES = 1 << 20 };
static const int64_t piece_bytes = 64 << 20;
static const char seal_magic[8] = "FGMMH5\1";
static const char hdf5_magic[8] = "\x89HDF\r\n\x1a\n";

typedef struct {
    char magic[8];
    uint64_t length;
    uint64_t skip_begin, skip_end;
    uint64_t hash;
    char zeros[BLOCK - 40];
} seal_block;
_Static_assert(sizeof(seal_block) == BLOCK, "the seal fills the user block");

/* Adds bytes [begin, end) of the file to the hash. */
static fgmm_status hash_range(const fgmm_file *file, const char *path, int64_t begin, int64_t end,
                              char *buffer, XXH3_state_t *state)
{
    for (int64_t at = begin; at < end; at += READ_BYTES) {
        size_t n = end - at < READ_BYTES ? (size_t)(end - at) : READ_BYTES;
        fgmm_status status = fgmm__file_read(file, path, at, buffer, n);
        if (status != FGMM_OK)
            return status;
        XXH3_64bits_update(state, buffer, n);
    }
    return FGMM_OK;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Hashes of the pieces `first`, first + step, ... into hashes[pieces]. */
static fgmm_status hash_pieces(const fgmm_file *file, const char *path, const seal_block *block, int first,
                               int step, int64_t *hashes, int64_t pieces)
{
    fgmm_status status = FGMM_OK;
    char *buffer = NULL;
    int64_t skip_begin = (int64_t)block->skip_begin, skip_end = (int64_t)block->skip_end;
    XXH3_state_t *state = XXH3_createState();
    if (state == NULL)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "out of memory while hashing %s", path);
    FGMM_ALLOC(buffer, READ_BYTES, "hashing a file");
    for (int64_t i = first; i < pieces; i += step) {
        int64_t begin = BLOCK + i * piece_bytes, end = least(begin + piece_bytes, file->bytes);
        XXH3_64bits_reset(state);
        FGMM_TRY(hash_range(file, path, begin, least(end, skip_begin), buffer, state));
        FGMM_TRY(hash_range(file, path, most(begin, skip_end), end, buffer, state));
        hashes[i] = (int64_t)XXH3_64bits_digest(state);
    }
cleanup:
    free(buffer);
    XXH3_freeState(state);
    return status;
}

static int64_t pieces_of(int64_t bytes)
{
    return bytes <= BLOCK ? 0 : (bytes - BLOCK + piece_bytes - 1) / piece_bytes;
}

static bool skip_is_sound(const seal_block *block)
{
    if (block->skip_begin == 0 && block->skip_end == 0)
        return true;
    return block->skip_begin >= BLOCK && block->skip_begin < block->skip_end &&
           block->skip_end <= block->length;
}

static fgmm_status write_block(const char *path, const seal_block *block)
{
    fgmm_status status = FGMM_OK;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || pwrite(fd, block, sizeof *block, 0) != (ssize_t)sizeof *block || fsync(fd) != 0)
        FGMM_FAIL(FGMM_ERR_RUNTIME, "%s: its hash could not be written: %s", path, strerror(errno));
cleanup:
    if (fd >= 0)
        close(fd);
    return status;
}

fgmm_status fgmm__h5_seal(const char *path, fgmm_comm *comm, uint64_t skip_begin, uint64_t skip_end)
{
    fgmm_status status = FGMM_OK;
    fgmm_file file = {.fd = -1};
    int64_t *hashes = NULL, pieces = 0;
    int rank = comm ? fgmm_comm_rank(comm) : 0, size = comm ? fgmm_comm_size(comm) : 1;
    seal_block block = {.skip_begin = skip_begin, .skip_end = skip_end};
    memcpy(block.magic, seal_magic, sizeof seal_magic);
    status = fgmm__file_open(path, &file);
    if (status == FGMM_OK) {
        block.length = (uint64_t)file.bytes;
        pieces = pieces_of(file.bytes);
        status = fgmm__alloc((size_t)pieces, sizeof *hashes, "hashes of pieces", (void **)&hashes);
    }
    if (status == FGMM_OK && !skip_is_sound(&block))
        status =
            fgmm__fail(FGMM_ERR_RUNTIME, "%s: bytes %llu to %llu, left out of its hash, do not lie in it",
                       path, (unsigned long long)skip_begin, (unsigned long long)skip_end);
    if (status == FGMM_OK)
        status = hash_pieces(&file, path, &block, rank, size, hashes, pieces);
    if (comm) {
        FGMM_TRY(fgmm__comm_agree(comm, status));
        FGMM_TRY(fgmm__comm_sum_i64(comm, hashes, (size_t)pieces));
    }
    FGMM_TRY(status);
    block.hash = XXH3_64bits(hashes, (size_t)pieces * sizeof *hashes);
    if (rank == 0)
        status = write_block(path, &block);
    if (comm)
        status = fgmm__comm_agree(comm, status);
cleanup:
    fgmm__file_close(&file);
    free(hashes);
    return status;
}

fgmm_status fgmm__h5_break_seal(const char *path)
{
    seal_block block = {.length = 0};
    memcpy(block.magic, seal_magic, sizeof seal_magic);
    return write_block(path, &block);
}

/* A seal with a damaged magic must not pass for a file that never had one. */
static bool resembles_seal(const seal_block *block)
{
    int same = 0;
    for (size_t i = 0; i < sizeof seal_magic; i++)
        same += block->magic[i] == seal_magic[i];
    return same >= 5;
}

static bool all_zero(const char *bytes, size_t n)
{
    char any = 0;
    for (size_t i = 0; i < n; i++)
        any |= bytes[i];
    return any == 0;
}

fgmm_status fgmm__h5_check_seal(const char *path, bool *sealed)
{
    fgmm_status status = FGMM_OK;
    fgmm_file file = {.fd = -1};
    int64_t *hashes = NULL;
    seal_block block = {.magic = ""};
    *sealed = false;
    FGMM_TRY(fgmm__file_open(path, &file));
    FGMM_TRY(fgmm__file_read(&file, path, 0, &block, (size_t)least(BLOCK, file.bytes)));
    if (memcmp(block.magic, hdf5_magic, sizeof hdf5_magic) == 0 || !resembles_seal(&block))
        goto cleanup;
    *sealed = true;
    if (memcmp(block.magic, seal_magic, sizeof seal_magic) != 0 || !all_zero(block.zeros, sizeof block.zeros))
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: damaged: its first 512 bytes were changed; write or copy it again",
                  path);
    if (block.length == 0)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: damaged: the program that was changing it ended too early; write or copy it again",
                  path);
    if (block.length != (uint64_t)file.bytes)
        FGMM_FAIL(FGMM_ERR_INPUT,
                  "%s: damaged: has %lld bytes, was written with %llu; write or copy it again", path,
                  (long long)file.bytes, (unsigned long long)block.length);
    if (!skip_is_sound(&block))
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: damaged: its first 512 bytes were changed; write or copy it again",
                  path);
    int64_t pieces = pieces_of(file.bytes);
    FGMM_ALLOC(hashes, pieces, "hashes of pieces");
    FGMM_TRY(hash_pieces(&file, path, &block, 0, 1, hashes, pieces));
    if (XXH3_64bits(hashes, (size_t)pieces * sizeof *hashes) != block.hash)
        FGMM_FAIL(FGMM_ERR_INPUT, "%s: damaged: its contents do not match its hash; write or copy it again",
                  path);
cleanup:
    fgmm__file_close(&file);
    free(hashes);
    return status;
}
