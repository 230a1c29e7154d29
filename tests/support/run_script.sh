#!/usr/bin/env bash
# Runs a test script in an empty folder of its own; the script's exit status is the test's (77: skipped).
set -euo pipefail
rm -rf "$FGMM_TMP"
mkdir -p "$FGMM_TMP"
cd "$FGMM_TMP"
exec bash -euo pipefail "$1"
