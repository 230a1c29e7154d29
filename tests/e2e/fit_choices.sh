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

# ---- --weights: a row that weighs 3 counts as three of it, one that weighs 0 as none ----
if have_python numpy; then
    "$python" - "$data" <<'PYTHON'
import sys, numpy as np
n, d = np.fromfile(sys.argv[1], '<u4', 2)
x = np.fromfile(sys.argv[1], '<f4', offset=8).reshape(n, d)[:2000]
w = np.random.RandomState(3).choice([0, 1, 1, 2, 3], 2000)
def fbin(name, a, dtype='<f4'):
    with open(name, 'wb') as f:
        np.array(a.shape, '<u4').tofile(f)
        a.astype(dtype).tofile(f)
fbin('rows.fbin', x)
fbin('repeated.fbin', np.repeat(x, w, axis=0))
fbin('weights.fbin', w[:, None])
np.save('weights.npy', w.astype('<f8') * 0.125)
np.save('eight.npy', w.astype('<f4') * 8)
np.save('equal.npy', np.full(2000, 4, '<f4'))
fbin('start-rows.fbin', x[w > 0][:400:50])
PYTHON
    for model in gmm:spherical gmm:diag gmm:tied gmm:full kmeans:spherical; do
        options=(--algorithm ${model%:*} --covariance ${model#*:} --max-iter 4 --tol 0)
        "$FGMM" fit start-rows.fbin -k 3 --seed 1 --max-iter 1 "${options[@]:0:4}" -o start.h5 -q
        "$FGMM" fit repeated.fbin -k 3 --init start.h5 "${options[@]}" -o repeated.h5 -q
        "$FGMM" fit rows.fbin -k 3 --init start.h5 "${options[@]}" --weights weights.npy -o weighted.h5 -q
        [ $model != gmm:spherical ] || for file in eight.npy weights.fbin; do
            "$FGMM" fit rows.fbin -k 3 --init start.h5 "${options[@]}" --weights $file -o other.h5 -q
            same weighted.h5 other.h5 "weights of another scale or format: $file"
        done
        [ $model = gmm:diag ] || [ $model = gmm:tied ] || on 3 fit rows.fbin -k 3 --init start.h5 "${options[@]}" --weights weights.npy --residency stream -o other.h5 -q
        [ $model = gmm:diag ] || [ $model = gmm:tied ] || same weighted.h5 other.h5 "$model: weights on 3 ranks"
        history=history/log_likelihood
        [ ${model%:*} = gmm ] || history=history/mean_squared_distance
        for values in weights means covariances $history; do
            paste <("$H5GET" repeated.h5 $values) <("$H5GET" weighted.h5 $values) >values
            awk '{ d = $1 - $2; s = ($1 < 0 ? -$1 : $1) + 1e-3; if (d > 1e-8 * s || d < -1e-8 * s) exit 1 }' values ||
                fail "$model: $values differ from those of repeated rows: $(head -n 3 values)"
        done
    done
    "$FGMM" fit rows.fbin -k 8 --max-iter 3 -o plain.h5 -q
    "$FGMM" fit rows.fbin -k 8 --max-iter 3 --weights equal.npy -o equal.h5 -q
    same plain.h5 equal.h5 "equal weights"
    "$FGMM" fit rows.fbin -k 8 --max-iter 3 --weights weights.npy -o weighted.h5 -q
    ! "$H5SAME" plain.h5 weighted.h5 history/seconds 2>/dev/null || fail "weights have no effect"
    # A sample takes its rows' own weights.
    "$FGMM" fit rows.fbin -k 8 --max-iter 3 --train-rows 500 --weights equal.npy -o sampled.h5 -q
    "$FGMM" fit rows.fbin -k 8 --max-iter 3 --train-rows 500 -o other.h5 -q
    same sampled.h5 other.h5 "equal weights of a sample"
    "$FGMM" convert rows.fbin sample.fbin --sample 500 -q
    "$FGMM" convert weights.fbin sample-weights.fbin --sample 500 -q
    "$FGMM" fit sample.fbin -k 8 --max-iter 3 --weights sample-weights.fbin -o other.h5 -q
    "$FGMM" fit rows.fbin -k 8 --max-iter 3 --train-rows 500 --weights weights.fbin -o sampled.h5 -q
    "$H5SAME" sampled.h5 other.h5 history/seconds @data || fail "a sample does not take its rows' own weights"

    # refused RANKS WORDS FILE
    refused() {
        status on $1 fit rows.fbin -k 3 --weights "$3" -o refused.h5 --max-iter 1
        [ $got = 2 ] && [ "$(grep -c '^fgmm: ' err)" = 1 ] && grep -q -e "$2" err || fail "status $got, not one line with \`$2\`: $(cat err)"
    }
    "$python" -c "
import numpy as np
w = np.ones(2000, '<f4'); w[1700] = -1; np.save('negative.npy', w)
w[1700] = np.nan; np.save('nan.npy', w)
np.save('zero.npy', 0 * np.ones(2000)); np.save('short.npy', np.ones(1999)); np.save('whole.npy', np.ones(2000, '<i8'))"
    head -c 4000 equal.npy >cut.npy
    refused 3 'row 1700 is -1' negative.npy
    refused 1 'row 1700 is nan\|row 1700 is -nan' nan.npy
    refused 3 'all weights are 0' zero.npy
    refused 1 'holds 1999 weights, the data have 2000 rows' short.npy
    refused 1 'weights are floats' whole.npy
    refused 1 'truncated or damaged' cut.npy
    refused 1 'are read from' weights.txt
    refused 1 'no such file' missing.npy
    refused 1 'weights a row' rows.fbin
fi
# ---- --init kmeans-parallel: starts as near to the rows as k-means++ does, which random rows are not ----
clusters=synth:n=20k,d=16,k=100,seed=6,spread=0.02
for init in random kmeans++ kmeans-parallel; do
    "$FGMM" fit $clusters -k 100 --algorithm kmeans --init $init --max-iter 2 --tol 0 -o $init.h5 -q
done
start() { "$H5GET" "$1.h5" history/mean_squared_distance | sed -n '1s/^-//p'; }
awk "BEGIN { exit !($(start kmeans-parallel) < 1.1 * $(start kmeans++) && 2 * $(start kmeans-parallel) < $(start random)) }" ||
    fail "mean squared distances: kmeans-parallel $(start kmeans-parallel), kmeans++ $(start kmeans++), random $(start random)"
on 3 fit $clusters -k 100 --algorithm kmeans --init kmeans-parallel --max-iter 2 --tol 0 --residency stream --tile-rows 1k --threads 2 -o other.h5 -q
same kmeans-parallel.h5 other.h5 "--init kmeans-parallel on 3 ranks"
"$FGMM" fit $clusters -k 100 --init kmeans-parallel --max-iter 2 --seed 1 -o other.h5 -q
! "$H5SAME" kmeans-parallel.h5 other.h5 history/seconds 2>/dev/null || fail "the seed has no effect on --init kmeans-parallel"
printf '\5\0\0\0\1\0\0\0\1\1\2\2\2' >few.u8bin # fewer different rows than components
"$FGMM" fit few.u8bin -k 3 --algorithm kmeans --init kmeans-parallel --max-iter 3 -o few.h5 -q
[ "$("$H5GET" few.h5 @inertia)" = 0 ] || fail "two different rows in three clusters: inertia $("$H5GET" few.h5 @inertia)"
if [ -e weights.fbin ]; then # rows without weight are no start
    "$FGMM" fit rows.fbin -k 20 --algorithm kmeans --init kmeans-parallel --weights weights.npy --max-iter 2 --tol 0 -o weighted.h5 -q
    on 3 fit rows.fbin -k 20 --algorithm kmeans --init kmeans-parallel --weights eight.npy --max-iter 2 --tol 0 -o other.h5 -q
    same weighted.h5 other.h5 "--init kmeans-parallel with weights on 3 ranks"
fi

status "$FGMM" fit "$data" -k 3 --weights weights.fbin --backend cuda -o refused.h5
[ $got != 0 ] && [ "$(grep -c '^fgmm: ' err)" = 1 ] || fail "weights on a GPU: $got, $(cat err)"
