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

# ---- --n-init: the best of the fits with one seed after another, also when it is stopped between two and goes on elsewhere ----
line=("$data" -k 200 --max-iter 8 --tol 0 --residency stream --threads 1)
best=
for seed in 5 6 7; do
    "$FGMM" fit "${line[@]}" --seed $seed -o seed$seed.h5 -q
    likelihood=$("$H5GET" seed$seed.h5 @log_likelihood)
    if [ -z "$best" ] || awk "BEGIN { exit !($likelihood > $best) }"; then best=$likelihood winner=$seed; fi
done
"$FGMM" fit "${line[@]}" --seed 5 --n-init 3 -o inits.h5 2>err
same seed$winner.h5 inits.h5 "the best of three fits is not that of seed $winner"
[ "$(grep -c 'fit [123] of 3 (seed [567])' err)" = 3 ] || fail "not a line a fit: $(cat err)"
rm -f log
"$FGMM" fit "${line[@]}" --seed 5 --n-init 3 -o stopped.h5 --log-json log 2>err &
pid=$!
runs() { [ "$(grep -c '"event":"run"' log)" -ge "$1" ] && tail -n 1 log | grep -q '"event":"iteration"'; }
wait_for 120 runs 1
kill -USR1 $pid
got=0
wait $pid || got=$?
[ $got = 75 ] || fail "a stopped fit ended with $got: $(cat err)"
[ "$("$H5GET" stopped.h5.ckpt @run)" -ge 1 ] || fail "it was stopped in the first fit"
on 3 fit "${line[@]}" --seed 5 --n-init 3 -o stopped.h5 --resume --log-json log -q
same inits.h5 stopped.h5 "stopped between two fits and resumed on 3 ranks"
"$FGMM" fit "${line[@]}" --seed 5 --n-init 3 -o inits.h5 --resume 2>err
grep -q 'already whole' err || fail "the best of several fits is not taken for whole: $(cat err)"
status "$FGMM" fit "${line[@]}" --init seed5.h5 --n-init 2 -o refused.h5
[ $got = 2 ] && grep -q 'the same every time' err || fail "a start from a file several times: $got, $(cat err)"
