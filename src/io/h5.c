#include "io/h5.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { USER_BLOCK = 512, NAME_BYTES = 4096, MEMORY_STEP = 1 << 20 };

static pthread_mutex_t lock;
static pthread_once_t lock_once = PTHREAD_ONCE_INIT;

static void make_lock(void)
{
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&lock, &kind);
    pthread_mutexattr_destroy(&kind);
}

void fgmm__h5_lock(void)
{
    pthread_once(&lock_once, make_lock);
    pthread_mutex_lock(&lock);
}

void fgmm__h5_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

void fgmm__h5_quiet(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

/* ---- faults ---- */

static herr_t keep_innermost(unsigned depth, const H5E_error2_t *entry, void *out)
{
    (void)depth;
    if (entry->desc != NULL && entry->desc[0] != '\0')
        snprintf(out, NAME_BYTES, "%s", entry->desc);
    return 0;
}

/* What HDF5 itself says was wrong, innermost cause; "" when it says nothing. */
static const char *cause(char text[NAME_BYTES])
{
    text[0] = '\0';
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_innermost, text);
    size_t line = strcspn(text, "\n");
    text[line] = '\0';
    return text;
}

/* The name of the file an object lives in. */
static const char *file_of(hid_t object, char name[NAME_BYTES])
{
    if (H5Fget_name(object, name, NAME_BYTES) < 0)
        snprintf(name, NAME_BYTES, "HDF5 file");
    return name;
}

static fgmm_status fail_write(hid_t object, const char *what)
{
    char name[NAME_BYTES], why[NAME_BYTES];
    cause(why);
    return fgmm__fail(FGMM_ERR_RUNTIME, "%s: %s could not be written: %s", file_of(object, name), what, why);
}

static fgmm_status fail_read(hid_t object, const char *what, const char *fault)
{
    char name[NAME_BYTES];
    return fgmm__fail(FGMM_ERR_INPUT, "%s: %s %s", file_of(object, name), what, fault);
}

/* ---- files ---- */

/* Locks of the file system are left alone (many parallel ones have none). Collective metadata keeps ranks
 * from reading it one by one. */
static hid_t access_list(fgmm_comm *comm)
{
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(list, H5F_LIBVER_V18, H5F_LIBVER_LATEST);
    H5Pset_file_locking(list, false, true);
    if (comm) {
        H5Pset_fapl_mpio(list, fgmm__comm_mpi(comm), MPI_INFO_NULL);
        H5Pset_all_coll_metadata_ops(list, true);
        H5Pset_coll_metadata_write(list, true);
    }
    return list;
}

/* A user block of 512 bytes, no times. */
static fgmm_status create(const char *path, hid_t access, hid_t *file)
{
    fgmm_status status = FGMM_OK;
    char why[NAME_BYTES];
    hid_t creation = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_userblock(creation, USER_BLOCK);
    H5Pset_obj_track_times(creation, false);
    errno = 0;
    *file = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    if (*file < 0)
        status = fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot be created: %s", path,
                            errno ? strerror(errno) : cause(why));
    H5Pclose(creation);
    return status;
}

fgmm_status fgmm__h5_create(const char *path, fgmm_comm *comm, hid_t *file)
{
    fgmm__h5_lock();
    fgmm__h5_quiet();
    hid_t access = access_list(comm);
    fgmm_status status = create(path, access, file);
    H5Pclose(access);
    fgmm__h5_unlock();
    return status;
}

/* ---- files made in memory ---- */

/* HDF5 hands over the memory of the closed file instead of freeing it. (H5Fget_file_image would do, were its
 * superblock's checksum right.) */
typedef struct small_file {
    hid_t file;
    char *image;
    struct small_file *next;
} small_file;

static small_file *small_files; /* open ones; under the lock */

static void *resize_image(void *image, size_t bytes, H5FD_file_image_op_t operation, void *udata)
{
    (void)operation;
    (void)udata;
    return realloc(image, bytes);
}

static herr_t keep_image(void *image, H5FD_file_image_op_t operation, void *udata)
{
    if (operation == H5FD_FILE_IMAGE_OP_FILE_CLOSE)
        ((small_file *)udata)->image = image;
    else
        free(image);
    return 0;
}

static void *same_udata(void *udata)
{
    return udata;
}

static herr_t leave_udata(void *udata)
{
    (void)udata;
    return 0;
}

static small_file *take_small(hid_t file)
{
    small_file **at = &small_files;
    while (*at && (*at)->file != file)
        at = &(*at)->next;
    small_file *found = *at;
    if (found)
        *at = found->next;
    return found;
}

static int open_output(const char *path)
{
    return open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
}

fgmm_status fgmm__h5_create_small(const char *path, hid_t *file)
{
    fgmm_status status = FGMM_OK;
    small_file *small = NULL;
    int fd = open_output(path); /* a folder that takes no file is told now */
    *file = -1;
    if (fd < 0)
        return fgmm__fail(FGMM_ERR_RUNTIME, "%s: cannot be created: %s", path, strerror(errno));
    close(fd);
    FGMM_ALLOC(small, 1, "a file made in memory");
    fgmm__h5_lock();
    fgmm__h5_quiet();
    hid_t access = access_list(NULL);
    H5FD_file_image_callbacks_t keep = {.image_realloc = resize_image,
                                        .image_free = keep_image,
                                        .udata_copy = same_udata,
                                        .udata_free = leave_udata,
                                        .udata = small};
    H5Pset_fapl_core(access, MEMORY_STEP, false);
    H5Pset_file_image_callbacks(access, &keep);
    status = create(path, access, file);
    H5Pclose(access);
    if (status == FGMM_OK) {
        small->file = *file;
        small->next = small_files;
        small_files = small;
        small = NULL;
    }
    fgmm__h5_unlock();
cleanup:
    free(small);
    return status;
}

static fgmm_status open_file(const char *path, fgmm_comm *comm, unsigned how, hid_t *file)
{
    fgmm_status status = FGMM_OK;
    char why[NAME_BYTES];
    fgmm__h5_lock();
    fgmm__h5_quiet();
    hid_t access = access_list(comm);
    *file = H5Fopen(path, how, access);
    if (*file < 0)
        status = fgmm__fail(FGMM_ERR_INPUT,
                            "%s: cannot be opened as an HDF5 file (%s); missing, truncated or another format",
                            path, cause(why));
    H5Pclose(access);
    fgmm__h5_unlock();
    return status;
}

fgmm_status fgmm__h5_open(const char *path, fgmm_comm *comm, hid_t *file)
{
    return open_file(path, comm, H5F_ACC_RDONLY, file);
}

fgmm_status fgmm__h5_open_write(const char *path, fgmm_comm *comm, hid_t *file)
{
    return open_file(path, comm, H5F_ACC_RDWR, file);
}

static bool write_all(int fd, const char *bytes, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t put = write(fd, bytes + done, n - done);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return false;
        done += (size_t)put;
    }
    return true;
}

static fgmm_status save_image(const char *place, const char *image, size_t bytes, const char *path)
{
    int fd = open_output(place);
    bool fine = fd >= 0 && write_all(fd, image, bytes);
    int error = errno;
    if (fd >= 0)
        close(fd);
    return fine ? FGMM_OK
                : fgmm__fail(FGMM_ERR_RUNTIME, "%s: could not be written: %s", path, strerror(error));
}

/* Length of a file made in memory, user block included; 0 on failure. After a flush it does not change. */
static size_t length_of(hid_t file)
{
    ssize_t bytes = H5Fflush(file, H5F_SCOPE_GLOBAL) < 0 ? -1 : H5Fget_file_image(file, NULL, 0);
    return bytes < 0 ? 0 : (size_t)bytes + USER_BLOCK;
}

fgmm_status fgmm__h5_close(hid_t file, const char *path)
{
    fgmm_status status = FGMM_OK;
    char why[NAME_BYTES], place[NAME_BYTES];
    if (file < 0)
        return FGMM_OK;
    fgmm__h5_lock();
    small_file *small = take_small(file);
    size_t bytes = small ? length_of(file) : 0;
    file_of(file, place);
    if (H5Fclose(file) < 0 || (small && (bytes == 0 || small->image == NULL)))
        status = fgmm__fail(FGMM_ERR_RUNTIME, "%s: could not be written to its end: %s", path, cause(why));
    else if (small)
        status = save_image(place, small->image, bytes, path);
    if (small)
        free(small->image);
    free(small);
    fgmm__h5_unlock();
    return status;
}

/* ---- attributes ---- */

static fgmm_status put_attribute(hid_t object, const char *name, hid_t type, const void *value)
{
    fgmm__h5_lock();
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool fine = attribute >= 0 && H5Awrite(attribute, type, value) >= 0;
    fgmm_status status = fine ? FGMM_OK : fail_write(object, name);
    if (attribute >= 0)
        H5Aclose(attribute);
    H5Sclose(space);
    fgmm__h5_unlock();
    return status;
}

fgmm_status fgmm__h5_put_text(hid_t object, const char *name, const char *value)
{
    fgmm__h5_lock();
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE); /* h5py gives these back as str, those of fixed length as bytes */
    H5Tset_cset(type, H5T_CSET_UTF8);
    fgmm_status status = put_attribute(object, name, type, &value);
    H5Tclose(type);
    fgmm__h5_unlock();
    return status;
}

fgmm_status fgmm__h5_put_i64(hid_t object, const char *name, int64_t value)
{
    return put_attribute(object, name, H5T_STD_I64LE, &value);
}

fgmm_status fgmm__h5_put_f64(hid_t object, const char *name, double value)
{
    return put_attribute(object, name, H5T_IEEE_F64LE, &value);
}

/* Opens a scalar attribute (or one of a single element) and checks its class; an unknown one gives -1 and a
 * message. */
static hid_t open_attribute(hid_t object, const char *name, bool text)
{
    char what[128];
    snprintf(what, sizeof what, "attribute \"%s\"", name);
    if (!fgmm__h5_has(object, name)) {
        fail_read(object, what, "is missing; not a file of the expected kind");
        return -1;
    }
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    H5T_class_t kind = H5Tget_class(type);
    bool fits = text ? kind == H5T_STRING : kind == H5T_INTEGER || kind == H5T_FLOAT || kind == H5T_ENUM;
    fits = fits && H5Sget_simple_extent_npoints(space) == 1;
    H5Sclose(space);
    H5Tclose(type);
    if (!fits) {
        fail_read(object, what, text ? "is not one text" : "is not one number");
        H5Aclose(attribute);
        return -1;
    }
    return attribute;
}

static bool read_fixed_text(hid_t attribute, hid_t type, char *out, size_t size)
{
    size_t stored = H5Tget_size(type);
    char *text = calloc(stored + 1, 1);
    bool fine = text != NULL && H5Aread(attribute, type, text) >= 0 && strlen(text) < size;
    if (fine)
        memcpy(out, text, strlen(text) + 1);
    free(text);
    return fine;
}

static bool read_variable_text(hid_t attribute, hid_t type, char *out, size_t size)
{
    char *text = NULL;
    bool fine = H5Aread(attribute, type, &text) >= 0 && text != NULL && strlen(text) < size;
    if (fine)
        memcpy(out, text, strlen(text) + 1);
    H5free_memory(text);
    return fine;
}

fgmm_status fgmm__h5_get_text(hid_t object, const char *name, char *out, size_t size)
{
    fgmm_status status = FGMM_ERR_INPUT;
    fgmm__h5_lock();
    hid_t attribute = open_attribute(object, name, true);
    if (attribute >= 0) {
        hid_t type = H5Aget_type(attribute);
        bool fine = H5Tis_variable_str(type) > 0 ? read_variable_text(attribute, type, out, size)
                                                 : read_fixed_text(attribute, type, out, size);
        status = fine ? FGMM_OK : fail_read(object, name, "is a text that cannot be read or is too long");
        H5Tclose(type);
        H5Aclose(attribute);
    }
    fgmm__h5_unlock();
    return status;
}

static fgmm_status get_number(hid_t object, const char *name, hid_t type, void *out)
{
    fgmm_status status = FGMM_ERR_INPUT;
    fgmm__h5_lock();
    hid_t attribute = open_attribute(object, name, false);
    if (attribute >= 0) {
        status = H5Aread(attribute, type, out) >= 0 ? FGMM_OK
                                                    : fail_read(object, name, "cannot be read as a number");
        H5Aclose(attribute);
    }
    fgmm__h5_unlock();
    return status;
}

fgmm_status fgmm__h5_get_i64(hid_t object, const char *name, int64_t *out)
{
    return get_number(object, name, H5T_NATIVE_INT64, out);
}

fgmm_status fgmm__h5_get_f64(hid_t object, const char *name, double *out)
{
    return get_number(object, name, H5T_NATIVE_DOUBLE, out);
}

bool fgmm__h5_has(hid_t object, const char *attribute)
{
    fgmm__h5_lock();
    bool there = H5Aexists(object, attribute) > 0;
    fgmm__h5_unlock();
    return there;
}

/* ---- groups and datasets ---- */

/* H5Lexists wants every group on the way to be there. */
static bool path_exists(hid_t file, const char *name)
{
    char part[NAME_BYTES];
    if (name[0] == '\0' || strcmp(name, "/") == 0 || strlen(name) >= sizeof part)
        return false;
    for (const char *slash = name; slash != NULL;) {
        slash = strchr(slash + 1, '/');
        size_t length = slash ? (size_t)(slash - name) : strlen(name);
        memcpy(part, name, length);
        part[length] = '\0';
        if (H5Lexists(file, part, H5P_DEFAULT) <= 0)
            return false;
    }
    return true;
}

bool fgmm__h5_has_dataset(hid_t file, const char *name)
{
    fgmm__h5_lock();
    hid_t object = path_exists(file, name) ? H5Oopen(file, name, H5P_DEFAULT) : -1;
    bool there = object >= 0 && H5Iget_type(object) == H5I_DATASET;
    if (object >= 0)
        H5Oclose(object);
    fgmm__h5_unlock();
    return there;
}

fgmm_status fgmm__h5_group(hid_t file, const char *name, hid_t *group)
{
    fgmm_status status = FGMM_OK;
    fgmm__h5_lock();
    hid_t creation = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(creation, false);
    *group = H5Gcreate2(file, name, H5P_DEFAULT, creation, H5P_DEFAULT);
    if (*group < 0)
        status = fail_write(file, name);
    H5Pclose(creation);
    fgmm__h5_unlock();
    return status;
}

fgmm_status fgmm__h5_dataset(hid_t file, const char *name, hid_t type, int rank, const hsize_t *shape,
                             hid_t *dataset)
{
    fgmm_status status = FGMM_OK;
    fgmm__h5_lock();
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    hid_t space = H5Screate_simple(rank, shape, NULL);
    H5Pset_obj_track_times(creation, false);
    H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER);
    *dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    if (*dataset < 0)
        status = fail_write(file, name);
    H5Sclose(space);
    H5Pclose(creation);
    fgmm__h5_unlock();
    return status;
}

fgmm_status fgmm__h5_write(hid_t file, const char *name, hid_t type, int rank, const hsize_t *shape,
                           const void *data)
{
    hid_t dataset = -1;
    fgmm__h5_lock();
    fgmm_status status = fgmm__h5_dataset(file, name, type, rank, shape, &dataset);
    if (status == FGMM_OK && H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        status = fail_write(file, name);
    if (dataset >= 0 && H5Dclose(dataset) < 0 && status == FGMM_OK)
        status = fail_write(file, name);
    fgmm__h5_unlock();
    return status;
}

fgmm_status fgmm__h5_shape(hid_t file, const char *name, int max_rank, int *rank, hsize_t *shape)
{
    fgmm_status status = FGMM_OK;
    hid_t dataset = -1, space = -1;
    fgmm__h5_lock();
    if (!fgmm__h5_has_dataset(file, name)) {
        status = fail_read(file, name, "is missing; not a file of the expected kind");
        goto cleanup;
    }
    dataset = H5Dopen2(file, name, H5P_DEFAULT);
    space = dataset < 0 ? -1 : H5Dget_space(dataset);
    *rank = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    if (*rank < 0 || *rank > max_rank) {
        status = fail_read(file, name, *rank < 0 ? "cannot be read" : "has more axes than expected");
        goto cleanup;
    }
    H5Sget_simple_extent_dims(space, shape, NULL);
cleanup:
    if (space >= 0)
        H5Sclose(space);
    if (dataset >= 0)
        H5Dclose(dataset);
    fgmm__h5_unlock();
    return status;
}

/* Elements of a dataset, -1 where it has no such number. */
static int64_t elements_of(hid_t dataset)
{
    hid_t space = H5Dget_space(dataset);
    int64_t n = space < 0 ? -1 : (int64_t)H5Sget_simple_extent_npoints(space);
    if (space >= 0)
        H5Sclose(space);
    return n;
}

fgmm_status fgmm__h5_read(hid_t file, const char *name, hid_t type, size_t count, void *data)
{
    fgmm_status status = FGMM_OK;
    hid_t dataset = -1;
    fgmm__h5_lock();
    if (!fgmm__h5_has_dataset(file, name) || (dataset = H5Dopen2(file, name, H5P_DEFAULT)) < 0)
        status = fail_read(file, name, "is missing; not a file of the expected kind");
    else if (elements_of(dataset) != (int64_t)count)
        status = fail_read(file, name, "has another number of elements than the rest of the file asks for");
    else if (H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        status = fail_read(file, name, "cannot be read; damaged, or of another element type");
    if (dataset >= 0)
        H5Dclose(dataset);
    fgmm__h5_unlock();
    return status;
}

/* IEEE binary16, little-endian: HDF5 1.10 has no name for it, but its conversions understand the fields. */
static hid_t make_f16(void)
{
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    H5Tset_fields(type, 15, 10, 5, 0, 10);
    H5Tset_size(type, 2);
    H5Tset_ebias(type, 15);
    H5Tlock(type);
    return type;
}

hid_t fgmm__h5_type(fgmm_dtype dtype)
{
    static hid_t f16 = -1;
    switch (dtype) {
    case FGMM_F32:
        return H5T_IEEE_F32LE;
    case FGMM_F16:
        fgmm__h5_lock();
        if (f16 < 0)
            f16 = make_f16();
        fgmm__h5_unlock();
        return f16;
    case FGMM_U8:
        return H5T_STD_U8LE;
    case FGMM_I8:
        return H5T_STD_I8LE;
    }
    return -1;
}
