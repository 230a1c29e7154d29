#!/usr/bin/env bash
# What a fit is given beside rows: which of them it trains on. The same bytes on any number of ranks, and after a stop.
# shellcheck source=../support/e2e.sh
. "$FGMM_SOURCE/tests/support/e2e.sh"
data=$FGMM_TEST_DATA/passages-10k.fbin

# ---- --train-rows: as if the sample had been written to a file ----
"$FGMM" fit "$data" -k 8 --train-rows 2500 --seed 3 --max-iter 4 --tol 0 -o train.h5 -q
"$FGMM" convert "$data" sample.fbin --sample 2500 --seed 3 -q
"$FGMM" fit sample.fbin -k 8 --seed 3 --max-iter 4 --tol 0 -o sampled.h5 -q
"$H5SAME" train.h5 sampled.h5 history/seconds @data || fail "a sample of rows fits another model than a file of them"
[ "$("$H5GET" train.h5 @n_rows)" = 2500 ] || fail "the model was not fitted to 2500 rows"
on 3 fit "$data" -k 8 --train-rows 2500 --seed 3 --max-iter 4 --tol 0 -o other.h5 -q --log-json log --residency stream --tile-rows 1k
all_held_rows log 3
same train.h5 other.h5 "--train-rows on 3 ranks"
