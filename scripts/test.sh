#!/usr/bin/env bash
# Installs what is missing, builds and tests under the address and undefined-behaviour sanitizers, then builds as usual and runs every
# test that this machine can run. What cannot run here (no GPU, no Slurm) is skipped with a message.
#
#   scripts/test.sh [--no-install] [--no-main] [--no-sanitize] [--no-slurm] [--jobs N] [CTEST OPTIONS...]
#
#   scripts/test.sh --no-sanitize -L unit      the unit tests alone
set -euo pipefail
cd "$(dirname "$0")/.."

install=yes main=yes sanitize=yes exclude=() jobs=$(nproc) options=()
while [ $# -gt 0 ]; do
    case $1 in
    --no-install) install=no ;;
    --no-main) main=no ;;
    --no-sanitize) sanitize=no ;;
    --no-slurm) exclude=(-LE slurm) ;;
    --jobs) jobs=$2; shift ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d'; exit 0 ;;
    *) options+=("$1") ;;
    esac
    shift
done

[ $install = no ] || scripts/install_deps.sh
export PATH=$PATH:/usr/local/cuda/bin
status=0

# The GPU has no sanitizer of this kind, Slurm and the oracles run no other code, timings and memory mean nothing
# here: this round leaves them out.
if [ $sanitize = yes ]; then
    cmake -B build-sanitize -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DFGMM_CUDA=OFF -DFGMM_SANITIZE=address,undefined
    cmake --build build-sanitize -j "$jobs"
    ctest --test-dir build-sanitize -j "$jobs" --output-on-failure -L 'unit|mpi|e2e' -E 'bench|speed|install|layers|streaming|build_memory|mpi_rules_[234]' \
        "${options[@]}" || status=1
fi
if [ $main = yes ]; then
    cmake -B build -G Ninja -DFGMM_TESTS=ON
    cmake --build build -j "$jobs"
    ctest --test-dir build -j "$jobs" --output-on-failure "${exclude[@]}" "${options[@]}" || status=1
fi
[ $status = 0 ] || echo "scripts/test.sh: some tests failed (see above)" >&2
exit $status
