#!/usr/bin/env bash
# From a fresh machine to a recall table: installs what is missing, builds, fits a mixture to 10,000 real vectors, builds inverted
# lists with it, and searches them.
#
#   scripts/quickstart.sh [RANKS]       default: 2
set -euo pipefail
cd "$(dirname "$0")/.."
ranks=${1:-2}
work=build/quickstart

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }

say "Installing what is missing"
scripts/install_deps.sh --build-only

say "Building"
export PATH=$PATH:/usr/local/cuda/bin
run cmake -B build -G Ninja
run cmake --build build --target fgmm

# mpirun asks before it runs as root, and spins on all cores unless told that ranks share them.
[ "$(id -u)" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_mpi_yield_when_idle=1 OMP_WAIT_POLICY=passive
threads=$((($(nproc) + ranks - 1) / ranks))
fgmm() { run mpirun --oversubscribe --bind-to none -n "$ranks" build/fgmm "$@" --threads "$threads"; }
data=tests/data/passages-10k.fbin queries=tests/data/passages-queries.fbin
mkdir -p "$work"

say "1. Fit: a mixture of 100 spherical Gaussians"
fgmm fit $data -k 100 -o $work/model.h5

say "2. Build: one inverted list a component, border rows in several"
fgmm build $data $work/model.h5 --assign tau --tau 0.05 -o $work/index.h5

say "3. Search: recall against work, exact neighbours as the yardstick"
fgmm groundtruth $data $queries -k 10 -o $work/truth.ibin
fgmm search $work/index.h5 $queries -k 10 --nprobe 1,2,4,8,16 --groundtruth $work/truth.ibin

say "Done: $work/model.h5 and $work/index.h5 open in h5py; build/fgmm --help lists what else there is"
