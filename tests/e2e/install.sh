#!/usr/bin/env bash
# An installed tree serves a program that is built with CMake, and one that is built with pkg-config, wherever the tree lies.
cmake --install "$(dirname "$FGMM")" --prefix "$FGMM_TMP/prefix" >install.log
mv prefix moved
lib=$(dirname "$(find moved -name libfgmm.a)")
export PKG_CONFIG_PATH=$FGMM_TMP/$lib/pkgconfig
moved/bin/fgmm --version

mkdir consumer
cat >consumer/main.c <<'C'
#include <fgmm.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    int provided;
    fgmm_comm *comm = NULL;
    fgmm_dataset *dataset = NULL;
    const char *source = argv[1];
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    if (fgmm_comm_create(MPI_COMM_WORLD, 60, &comm) != FGMM_OK ||
        fgmm_dataset_open(&source, 1, NULL, &dataset) != FGMM_OK)
        fprintf(stderr, "%s\n", fgmm_error_message());
    else
        printf("fgmm %s: %d rank, %lld rows of %d %s\n", fgmm_version(), fgmm_comm_size(comm),
               (long long)fgmm_dataset_rows(dataset), fgmm_dataset_dim(dataset),
               fgmm_dtype_name(fgmm_dataset_dtype(dataset)));
    fgmm_dataset_close(dataset);
    fgmm_comm_destroy(comm);
    MPI_Finalize();
    return 0;
}
C
cat >consumer/CMakeLists.txt <<'C'
cmake_minimum_required(VERSION 3.25)
project(consumer C)
find_package(fgmm 0.1 REQUIRED)
add_executable(consumer main.c)
target_link_libraries(consumer PRIVATE fgmm::libfgmm)
C
expected="fgmm $(moved/bin/fgmm --version | sed -n 's/^fgmm \([0-9.]*\).*/\1/p'): 1 rank, 10000 rows of 100 f32"

cmake -S consumer -B by-cmake -DCMAKE_PREFIX_PATH="$FGMM_TMP/moved" >cmake.log
cmake --build by-cmake >>cmake.log
[ "$(by-cmake/consumer "$FGMM_TEST_DATA/passages-10k.fbin")" = "$expected" ]

# shellcheck disable=SC2046 # several flags are meant
cc -Wall -Werror consumer/main.c -o by-pkg-config $(pkg-config --cflags --libs --static fgmm)
[ "$(./by-pkg-config "$FGMM_TEST_DATA/passages-10k.fbin")" = "$expected" ]
