#!/usr/bin/env bash
# The same bits on any number of ranks, on the CUDA backend; ranks share a GPU where there are fewer.
. "$FGMM_SOURCE/tests/support/e2e.sh"

have_gpu || { echo "skipped: no GPU"; exit 77; }
FGMM_TEST_BACKEND=cuda
. "$FGMM_SOURCE/tests/e2e/same_bits.sh"
