/* h5same A.h5 B.h5 [NAME...]: do two files hold the same groups, datasets and attributes, bit for bit?
 * Names left out: a path ("history/seconds") leaves out an object and what lies below it, "@commit" an
 * attribute of the root, "model@commit" one of another object. Exit status: 0 the same, 1 a difference
 * (named), 2 cannot tell. */
#include <hdf5.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAME = 0, DIFFERENT = 1, CANNOT_TELL = 2, NAME_BYTES = 1024 };

typedef struct {
    const char *path[2]; /* of the files */
    char **left_out;
    int n_left_out;
    int verdict;
    int compared; /* objects and attributes that were the same */
} comparison;

/* A dataset's or an attribute's contents. */
typedef struct {
    hid_t type, space;
    size_t bytes;
    void *data;
} contents;

typedef struct {
    comparison *c;
    hid_t object[2];
    const char *name; /* of the object, "" for the root */
} visit;

static herr_t give_verdict(comparison *c, int verdict, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    if (verdict > c->verdict)
        c->verdict = verdict;
    return 0;
}

static bool is_left_out(const comparison *c, const char *name)
{
    for (int i = 0; i < c->n_left_out; i++)
        if (strcmp(c->left_out[i], name) == 0)
            return true;
    return false;
}

/* ---- values ---- */

static bool describe(contents *v)
{
    hssize_t points = H5Sget_simple_extent_npoints(v->space);
    if (points < 0 || H5Tdetect_class(v->type, H5T_VLEN) > 0 || H5Tis_variable_str(v->type) > 0)
        return false;
    v->bytes = (size_t)points * H5Tget_size(v->type);
    v->data = malloc(v->bytes + 1);
    return v->data != NULL;
}

static bool read_dataset(hid_t id, contents *v)
{
    v->type = H5Dget_type(id);
    v->space = H5Dget_space(id);
    return describe(v) &&
           (v->bytes == 0 || H5Dread(id, v->type, H5S_ALL, H5S_ALL, H5P_DEFAULT, v->data) >= 0);
}

/* One text of variable length, with its end. */
static bool read_text(hid_t attribute, contents *v)
{
    char *text = NULL;
    if (H5Sget_simple_extent_npoints(v->space) != 1 || H5Aread(attribute, v->type, &text) < 0 || text == NULL)
        return false;
    v->bytes = strlen(text) + 1;
    v->data = strdup(text);
    H5free_memory(text);
    return v->data != NULL;
}

static bool read_attribute(hid_t object, const char *name, contents *v)
{
    hid_t id = H5Aopen(object, name, H5P_DEFAULT);
    v->type = H5Aget_type(id);
    v->space = H5Aget_space(id);
    bool good = H5Tis_variable_str(v->type) > 0
                    ? read_text(id, v)
                    : describe(v) && (v->bytes == 0 || H5Aread(id, v->type, v->data) >= 0);
    H5Aclose(id);
    return good;
}

static void release(contents *v)
{
    H5Tclose(v->type);
    H5Sclose(v->space);
    free(v->data);
}

static void compare_contents(comparison *c, const char *name, const contents *a, const contents *b)
{
    if (H5Tequal(a->type, b->type) <= 0) {
        give_verdict(c, DIFFERENT, "%s: of another type", name);
    } else if (H5Sextent_equal(a->space, b->space) <= 0) {
        give_verdict(c, DIFFERENT, "%s: of another shape", name);
    } else if (H5Tis_variable_str(a->type) > 0 && strcmp(a->data, b->data) != 0) {
        give_verdict(c, DIFFERENT, "%s: \"%s\" and \"%s\"", name, (char *)a->data, (char *)b->data);
    } else if (H5Tis_variable_str(a->type) <= 0 && memcmp(a->data, b->data, a->bytes) != 0) {
        size_t at = 0, element = H5Tget_size(a->type);
        while (((char *)a->data)[at] == ((char *)b->data)[at])
            at++;
        give_verdict(c, DIFFERENT, "%s: differs at element %zu of %zu", name, at / element,
                     a->bytes / element);
        if (H5Tequal(a->type, H5T_NATIVE_DOUBLE) > 0)
            give_verdict(c, DIFFERENT, "    %.17g and %.17g", ((double *)a->data)[at / element],
                         ((double *)b->data)[at / element]);
    } else {
        c->compared++;
    }
}

/* ---- what a file holds ---- */

static herr_t compare_attribute(hid_t object, const char *name, const H5A_info_t *info, void *context)
{
    (void)info;
    visit *v = context;
    char full[NAME_BYTES];
    contents a = {.type = -1}, b = {.type = -1};
    snprintf(full, sizeof full, "%s@%s", v->name, name);
    if (is_left_out(v->c, full))
        return 0;
    if (H5Aexists(v->object[1], name) <= 0)
        return give_verdict(v->c, DIFFERENT, "%s: only in %s", full, v->c->path[0]);
    if (read_attribute(object, name, &a) && read_attribute(v->object[1], name, &b))
        compare_contents(v->c, full, &a, &b);
    else
        give_verdict(v->c, CANNOT_TELL, "%s: of a type that is not compared", full);
    release(&a);
    release(&b);
    return 0;
}

/* The first file asks whether the second has all that it has. */
static herr_t attribute_exists(hid_t object, const char *name, const H5A_info_t *info, void *context)
{
    (void)object, (void)info;
    visit *v = context;
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s@%s", v->name, name);
    if (!is_left_out(v->c, full) && H5Aexists(v->object[0], name) <= 0)
        give_verdict(v->c, DIFFERENT, "%s: only in %s", full, v->c->path[1]);
    return 0;
}

static void compare_object(comparison *c, const char *name, hid_t a, hid_t b);

static herr_t compare_link(hid_t group, const char *link, const H5L_info_t *info, void *context)
{
    (void)info;
    visit *v = context;
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s%s%s", v->name, v->name[0] != '\0' ? "/" : "", link);
    if (is_left_out(v->c, full))
        return 0;
    if (H5Lexists(v->object[1], link, H5P_DEFAULT) <= 0)
        return give_verdict(v->c, DIFFERENT, "%s: only in %s", full, v->c->path[0]);
    hid_t a = H5Oopen(group, link, H5P_DEFAULT), b = H5Oopen(v->object[1], link, H5P_DEFAULT);
    compare_object(v->c, full, a, b);
    H5Oclose(a);
    H5Oclose(b);
    return 0;
}

static herr_t link_exists(hid_t group, const char *link, const H5L_info_t *info, void *context)
{
    (void)group, (void)info;
    visit *v = context;
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s%s%s", v->name, v->name[0] != '\0' ? "/" : "", link);
    if (!is_left_out(v->c, full) && H5Lexists(v->object[0], link, H5P_DEFAULT) <= 0)
        give_verdict(v->c, DIFFERENT, "%s: only in %s", full, v->c->path[1]);
    return 0;
}

static void compare_object(comparison *c, const char *name, hid_t a, hid_t b)
{
    visit v = {.c = c, .object = {a, b}, .name = name};
    if (H5Iget_type(a) != H5Iget_type(b)) {
        give_verdict(c, DIFFERENT, "%s: a group in one, a dataset in the other", name);
        return;
    }
    H5Aiterate2(a, H5_INDEX_NAME, H5_ITER_INC, NULL, compare_attribute, &v);
    H5Aiterate2(b, H5_INDEX_NAME, H5_ITER_INC, NULL, attribute_exists, &v);
    if (H5Iget_type(a) == H5I_DATASET) {
        contents x = {.type = -1}, y = {.type = -1};
        if (read_dataset(a, &x) && read_dataset(b, &y))
            compare_contents(c, name, &x, &y);
        else
            give_verdict(c, CANNOT_TELL, "%s: of a type that is not compared", name);
        release(&x);
        release(&y);
    } else {
        H5Literate(a, H5_INDEX_NAME, H5_ITER_INC, NULL, compare_link, &v);
        H5Literate(b, H5_INDEX_NAME, H5_ITER_INC, NULL, link_exists, &v);
    }
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s A.h5 B.h5 [NAME...]\n", argv[0]);
        return CANNOT_TELL;
    }
    comparison c = {.path = {argv[1], argv[2]}, .left_out = argv + 3, .n_left_out = argc - 3};
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t a = H5Fopen(argv[1], H5F_ACC_RDONLY, H5P_DEFAULT),
          b = H5Fopen(argv[2], H5F_ACC_RDONLY, H5P_DEFAULT);
    if (a < 0 || b < 0) {
        give_verdict(&c, CANNOT_TELL, "%s: cannot be opened as HDF5", a < 0 ? argv[1] : argv[2]);
    } else {
        hid_t root_a = H5Gopen2(a, "/", H5P_DEFAULT), root_b = H5Gopen2(b, "/", H5P_DEFAULT);
        compare_object(&c, "", root_a, root_b);
        H5Gclose(root_a);
        H5Gclose(root_b);
    }
    if (a >= 0)
        H5Fclose(a);
    if (b >= 0)
        H5Fclose(b);
    if (c.verdict == SAME && c.compared == 0)
        give_verdict(&c, CANNOT_TELL, "%s and %s: nothing to compare", argv[1], argv[2]);
    return c.verdict;
}
