/* h5get FILE.h5 NAME: prints an attribute ("@n_iter", "model@n_iter") or a dataset ("weights"), a value a
 * line. Exit status 2 when there is none. */
#include <hdf5.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print(H5T_class_t class, size_t bytes, size_t n, const char *data)
{
    for (size_t i = 0; i < n; i++) {
        if (class == H5T_STRING)
            printf("%.*s\n", (int)bytes, data + i * bytes);
        else if (class == H5T_FLOAT)
            printf("%.17g\n", ((const double *)data)[i]);
        else
            printf("%lld\n", ((const long long *)data)[i]);
    }
}

static bool print_text(hid_t attribute, hid_t type)
{
    char *text = NULL;
    if (H5Aread(attribute, type, &text) < 0 || text == NULL)
        return false;
    puts(text);
    H5free_memory(text);
    return true;
}

/* Numbers are read as double or long long, strings as they are; of variable length as attributes alone. */
static bool get(hid_t id, bool attribute)
{
    hid_t type = attribute ? H5Aget_type(id) : H5Dget_type(id);
    if (attribute && H5Tis_variable_str(type) > 0) {
        bool printed = print_text(id, type);
        H5Tclose(type);
        return printed;
    }
    hid_t space = attribute ? H5Aget_space(id) : H5Dget_space(id);
    H5T_class_t class = H5Tget_class(type);
    hid_t memory = class == H5T_STRING ? type : class == H5T_FLOAT ? H5T_NATIVE_DOUBLE : H5T_NATIVE_LLONG;
    size_t n = (size_t)H5Sget_simple_extent_npoints(space), bytes = H5Tget_size(memory);
    char *data = malloc(n * bytes + 1);
    bool good = data != NULL && H5Tis_variable_str(type) <= 0 &&
                (attribute ? H5Aread(id, memory, data)
                           : H5Dread(id, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data)) >= 0;
    if (good)
        print(class, bytes, n, data);
    free(data);
    H5Sclose(space);
    H5Tclose(type);
    return good;
}

int main(int argc, char **argv)
{
    bool good = false;
    char *at = argc == 3 ? strchr(argv[2], '@') : NULL;
    if (argc != 3) {
        fprintf(stderr, "usage: %s FILE.h5 [OBJECT]@ATTRIBUTE|DATASET\n", argv[0]);
        return 2;
    }
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t file = H5Fopen(argv[1], H5F_ACC_RDONLY, H5P_DEFAULT), id = -1;
    if (at != NULL) {
        *at = '\0';
        id = H5Aopen_by_name(file, at == argv[2] ? "/" : argv[2], at + 1, H5P_DEFAULT, H5P_DEFAULT);
    } else {
        id = H5Dopen2(file, argv[2], H5P_DEFAULT);
    }
    if (id >= 0) {
        good = get(id, at != NULL);
        at != NULL ? H5Aclose(id) : H5Dclose(id);
    }
    if (file >= 0)
        H5Fclose(file);
    if (!good)
        fprintf(stderr, "%s: no %s%s to print\n", argv[1], at != NULL ? "attribute " : "",
                at != NULL ? at + 1 : argv[2]);
    return good ? 0 : 2;
}
