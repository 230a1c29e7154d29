#!/usr/bin/env bash
# Installs what fgmm needs on Debian 12 or Ubuntu 24.04, and only what is missing.
#
#   scripts/install_deps.sh [--build-only] [--dry-run]
#
#   --build-only   what building and running need; without it, also what the tests compare with (scikit-learn, FAISS, h5py, Slurm)
#   --dry-run      say what would be installed, and install nothing
#
# The CUDA toolkit (nvcc >= 12.3) and NCCL are optional and come from NVIDIA, not from here: the script says what it found.
set -euo pipefail

build=(build-essential cmake ninja-build pkg-config git ca-certificates openmpi-bin openssh-client libopenmpi-dev libhdf5-openmpi-dev
       libopenblas-pthread-dev libcjson-dev libxxhash-dev libcmocka-dev)
tests=(python3 python3-numpy python3-sklearn python3-h5py python3-faiss
       slurm-wlm slurmctld slurmd slurm-client munge)

tests_wanted=yes dry_run=no
for argument; do
    case $argument in
    --build-only) tests_wanted=no ;;
    --dry-run) dry_run=yes ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "install_deps.sh: unknown argument $argument (--help explains)" >&2; exit 2 ;;
    esac
done

if ! command -v apt-get >/dev/null; then
    echo "install_deps.sh: this system has no apt-get; install by its own means: ${build[*]}" >&2
    exit 1
fi

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
missing() {
    for package; do
        installed "$package" || echo "$package"
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "install_deps.sh: run as root, or install sudo; needed: $*" >&2
        return 1
    fi
}

mapfile -t needed < <(missing "${build[@]}")
wanted=()
[ $tests_wanted = no ] || mapfile -t wanted < <(missing "${tests[@]}")

if [ $((${#needed[@]} + ${#wanted[@]})) -gt 0 ]; then
    [ $dry_run = yes ] || as_root apt-get -q update
    # What a distribution does not have for the tests is no obstacle: the tests that need it are skipped.
    offered=()
    for package in "${wanted[@]}"; do
        if apt-cache show "$package" >/dev/null 2>&1; then
            offered+=("$package")
        else
            echo "not offered here, tests that need it will be skipped: $package"
        fi
    done
    packages=("${needed[@]}" "${offered[@]}")
    echo "missing: ${packages[*]}"
    if [ $dry_run = yes ]; then
        apt-get -qq -s install --no-install-recommends "${packages[@]}" | grep '^Inst' || true
    elif [ ${#packages[@]} -gt 0 ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "${packages[@]}"
    fi
else
    echo "all packages are there"
fi

# ---- what is optional ----
PATH=$PATH:/usr/local/cuda/bin
if command -v nvcc >/dev/null; then
    echo "CUDA: nvcc $(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p') at $(command -v nvcc)"
    cuda=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
    nccl=$(find "$cuda/include" "$cuda/targets" /usr/include /usr/local/include -name nccl.h 2>/dev/null | head -n 1 || true)
    echo "NCCL: ${nccl:-not found; install libnccl-dev from the source of your CUDA toolkit}"
else
    echo "CUDA: no nvcc found; the CPU backend alone will be built"
fi
if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null; then :; else echo "GPU: none"; fi
