#!/usr/bin/env bash
# One result, to the bit: on 1, 2, 3 and 4 ranks, with any number of threads and rows a tile, wherever the rows live, for
# every kind of model, element type and start.
. "$FGMM_SOURCE/tests/support/e2e.sh"

passages=$FGMM_TEST_DATA/passages-10k.fbin
iterations=4
backend=${FGMM_TEST_BACKEND:-cpu}

# How the runs that must agree with the first one differ from it: ranks, then options.
all=(
    "1 --threads 3 --tile-rows 1 --residency stream"
    "2 --threads 2 --tile-rows 3000 --residency host"
    "3 --threads 1 --residency stream"
    "4 --threads 2 --tile-rows 1024 --residency stream"
)
some=("2 --threads 2 --residency stream" "3 --threads 1 --tile-rows 2000 --residency host")

# agrees NAME ARGUMENTS...: a fit gives the same model on one rank and in each of `variants`.
agrees() {
    local name=$1 ranks options
    shift
    "$FGMM" fit "$@" --max-iter $iterations --tol 0 --threads 1 --residency host --backend "$backend" -q -o "$name.h5"
    [ "$("$H5GET" "$name.h5" @n_iter)" = $iterations ] || fail "$name: not $iterations iterations"
    for variant in "${variants[@]}"; do
        read -r ranks options <<<"$variant"
        rm -f log.json
        # shellcheck disable=SC2086 # options are several words
        on "$ranks" fit "$@" --max-iter $iterations --tol 0 $options --backend "$backend" -q -o other.h5 --log-json log.json
        all_held_rows log.json "$ranks"
        residency_was log.json "${options##*--residency }"
        same "$name.h5" other.h5 "$name, $ranks ranks, $options"
    done
}

variants=("${all[@]}")
agrees spherical "$passages" -k 20
agrees diag "$passages" -k 20 --covariance diag
agrees tied "$passages" -k 7 --covariance tied
agrees full "$passages" -k 3 --covariance full
agrees kmeans "$passages" -k 50 --algorithm kmeans
agrees u8_kmeans "synth:n=9001,d=33,k=8,seed=3,dtype=u8" -k 9 --algorithm kmeans

variants=("${some[@]}")
agrees cosine "$passages" -k 20 --metric cosine --covariance diag --rows 500:
agrees kmeans_start "$passages" -k 10 --init kmeans
agrees random_start "$passages" -k 10 --init random --covariance diag --seed 7
agrees model_start "$passages" -k 20 --init spherical.h5 --covariance diag

# Few rows a component and equal rows: components that starve are looked for among all ranks and repaired alike.
agrees repaired "synth:n=5000,d=2,k=3,seed=4,dtype=u8,spread=1" -k 60 --algorithm kmeans --init random

agrees u8 "synth:n=9001,d=33,k=8,seed=3,dtype=u8" -k 9 --covariance diag
agrees i8 "synth:n=9001,d=17,k=8,seed=3,dtype=i8" -k 9
agrees f16 "synth:n=9001,d=40,k=8,seed=3,dtype=f16" -k 9 --covariance full

# Many components: enough for every kernel there is.
agrees large_k "synth:n=20000,d=64,k=300,seed=5,dtype=f16,spread=0.4" -k 300 --init random
agrees large_k_kmeans "synth:n=20000,d=128,k=300,seed=5,dtype=u8,spread=0.4" -k 300 --init random --algorithm kmeans
# All of them near every row.
agrees broad "synth:n=20000,d=64,k=300,seed=5,dtype=f16,spread=2" -k 300 --init random

# The comparison sees a difference where there is one.
"$FGMM" fit "$passages" -k 20 --max-iter $iterations --tol 0 --seed 1 -q -o other.h5
if "$H5SAME" spherical.h5 other.h5 history/seconds @seed 2>/dev/null; then
    fail "models of two seeds pass for the same"
fi
