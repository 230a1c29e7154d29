#!/usr/bin/env bash
# Lists built on a GPU are those of the CPU, to the byte: every rule, mixtures and k-means, one rank and several, with sketches too.
. "$FGMM_SOURCE/tests/support/e2e.sh"

have_gpu || { echo "skipped: no GPU"; exit 77; }

rows=$FGMM_TEST_DATA/passages-10k.fbin

"$FGMM" fit "$rows" -k 100 --max-iter 5 --backend cpu -o gmm.h5 >/dev/null
"$FGMM" fit "$rows" -k 100 --max-iter 5 --algorithm kmeans --backend cpu -o kmeans.h5 >/dev/null

# alike MODEL OPTIONS: the lists of both backends.
alike() {
    # shellcheck disable=SC2086 # options are several words
    "$FGMM" build "$rows" "$1.h5" $2 --backend cpu -o cpu.h5 >/dev/null
    # shellcheck disable=SC2086
    "$FGMM" build "$rows" "$1.h5" $2 --backend cuda -o cuda.h5 >/dev/null
    "$H5SAME" cpu.h5 cuda.h5 || fail "$1 $2: other lists than on the CPU"
    [ "$1" = gmm ] || return 0
    # shellcheck disable=SC2086
    on 2 build "$rows" "$1.h5" $2 --backend cuda -o two.h5 >/dev/null
    "$H5SAME" cuda.h5 two.h5 || fail "$1 $2: other lists on two ranks"
}

for model in kmeans gmm; do
    alike $model "--assign hard --sketch 4"
    alike $model "--assign soar"
    alike $model "--assign soar --replication 1.5"
    alike $model "--assign closure --epsilon 0.2"
    alike $model "--assign closure --replication 2"
    alike $model "--assign need --replication 1.3 --neighbors 10"
done
alike gmm "--assign tau --tau 0.05"
