#!/usr/bin/env bash
# Data that give components nothing to live on: equal rows, hardly more distinct rows than components, as many components as rows.
# The fit finishes, names the components that it repaired, and its model is sound, the same on one rank and on three.
. "$FGMM_SOURCE/tests/support/e2e.sh"

# repeat COUNT DISTINCT FILE: rows of 3 bytes, of which so many are distinct.
repeat() {
    local i
    {
        # shellcheck disable=SC2059 # the format is the bytes
        printf "\\x$(printf %02x $(($1 & 255)))\\x$(printf %02x $(($1 >> 8)))\0\0\3\0\0\0"
        for ((i = 0; i < $1; i++)); do
            printf "\\x$(printf %02x $((i % $2 * 16)))\\x$(printf %02x $((i % $2 * 7 % 5)))\x20"
        done
    } >"$3"
}

# sound NAME K: weights, means, variances and the score are numbers, and the weights are shares.
sound() {
    local name
    for name in weights means covariances; do
        "$H5GET" "$1" $name | grep -i 'nan\|inf' && fail "$1: $name are not finite"
    done
    "$H5GET" "$1" weights | awk -v k="$2" '{ sum += $1; if ($1 < 0) bad = 1 }
        END { exit bad || NR != k || sum < 1 - 1e-9 || sum > 1 + 1e-9 }' || fail "$1: weights are not the shares of $2 components"
}

# survives NAME K OPTIONS...: on one rank and on three, with the same bits and the same warnings.
survives() {
    local name=$1 k=$2
    shift 2
    status "$FGMM" fit "$@" -k "$k" --max-iter 10 --backend cpu -o "$name.h5"
    [ "$got" = 0 ] || fail "$name: exit status $got: $(cat err)"
    sound "$name.h5" "$k"
    grep '^fgmm: warning' err >warnings || true
    status on 3 fit "$@" -k "$k" --max-iter 10 --backend cpu --residency stream -o other.h5
    [ "$got" = 0 ] || fail "$name: exit status $got on 3 ranks: $(cat err)"
    same "$name.h5" other.h5 "$name"
    { grep '^fgmm: warning' err || true; } | cmp -s - warnings || fail "$name: other warnings on 3 ranks: $(cat err)"
}

repaired() {
    grep 'starved or indefinite component.* ([0-9]' warnings >/dev/null || fail "$1: no warning that names components: $(cat warnings)"
}

repeat 4000 12 twelve.u8bin
for type in spherical diag full; do
    survives "more-$type" 15 twelve.u8bin --covariance $type
    repaired "more-$type"
done
survives more-tied 15 twelve.u8bin --covariance tied
survives more-kmeans 15 twelve.u8bin --algorithm kmeans
repaired more-kmeans
survives as-many 12 twelve.u8bin --covariance diag --init kmeans
survives as-many-kmeans 12 twelve.u8bin --algorithm kmeans
[ "$("$H5GET" as-many-kmeans.h5 @inertia)" = 0 ] || fail "12 clusters of 12 distinct rows: inertia $("$H5GET" as-many-kmeans.h5 @inertia)"

repeat 4000 1 one.u8bin
for type in spherical diag tied full; do
    survives "one-$type" 1 one.u8bin --covariance $type
done
survives one-three 3 one.u8bin

# As many components as rows; and the least of all.
survives all-rows 40 "synth:n=40,d=5,k=4,seed=1" --covariance full
survives single 1 "synth:n=1,d=1,k=1,seed=1"
survives zero-iterations 3 "synth:n=5000,d=2,k=3,seed=1" --max-iter 0
