#!/usr/bin/env bash
# Formats the C and CUDA sources in place; with --check changes nothing and fails where something would change.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=(-i)
[ "${1:-}" != --check ] || mode=(--dry-run --Werror)
folders=(src include tests)
[ ! -d kernels ] || folders+=(kernels)
find "${folders[@]}" \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) -print0 | xargs -0 clang-format "${mode[@]}"
