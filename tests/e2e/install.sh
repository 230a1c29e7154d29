#!/usr/bin/env bash
# An installed tree serves a program that is built with CMake, and one that is built with pkg-config, wherever the tree lies.
cmake --install "$(dirname "$FGMM")" --prefix "$FGMM_TMP/prefix" >install.log
mv prefix moved
lib=$(dirname "$(find moved -name libfgmm.a)")
export PKG_CONFIG_PATH=$FGMM_TMP/$lib/pkgconfig
moved/bin/fgmm --version

# The example of the README, as it stands there.
block() { awk -v fence="\`\`\`$1" '$0 == fence { inside = 1; next } /^```$/ { inside = 0 } inside' "$FGMM_SOURCE/README.md"; }
mkdir consumer
block c >consumer/main.c
block cmake >consumer/CMakeLists.txt
expected=$(sed -n 's/^ *\(10 components, mean log-likelihood .*\)$/\1/p' "$FGMM_SOURCE/README.md")
[ -n "$expected" ]

cmake -S consumer -B by-cmake -DCMAKE_PREFIX_PATH="$FGMM_TMP/moved" >cmake.log
cmake --build by-cmake >>cmake.log
[ "$(by-cmake/example 2>&1)" = "$expected" ]

# shellcheck disable=SC2046 # several flags are meant
cc -Wall -Werror consumer/main.c -o by-pkg-config $(pkg-config --cflags --libs --static fgmm)
[ "$(./by-pkg-config 2>&1)" = "$expected" ]
