#!/usr/bin/env bash
# Builds in less memory than the rows, the lists or the labels take: the bytes of a build that had all it wanted, under the cap of
# --host-memory, for lists of all sizes and for one that is larger than the memory of any rank. Measured as in streaming.sh.
# shellcheck source=../support/e2e.sh
. "$FGMM_SOURCE/tests/support/e2e.sh"

copies=64 # of 4,000,000 bytes: 244 MiB
file=$FGMM_TEST_DATA/passages-10k.fbin
for ((i = 0; i < copies; i++)); do echo "$file"; done >files
"$FGMM" fit "$file" -k 100 --algorithm kmeans --max-iter 2 -o many.h5 -q
"$FGMM" fit "$file" -k 1 --algorithm kmeans --max-iter 1 -o one.h5 -q

# measure RANKS ARGUMENTS...: sets $peak to the largest resident set of a rank, in KiB. Log in log.json, summary in out.
measure() {
    local ranks=$1
    shift
    rm -f peaks log.json
    # shellcheck disable=SC2086 # the launcher is several words
    $MPIRUN -n "$ranks" "$PEAK" peaks "$FGMM" build "$@" --backend cpu --threads 2 --log-json log.json >out
    [ "$(wc -l <peaks)" = "$ranks" ] || fail "$ranks ranks, but peaks: $(cat peaks)"
    peak=$(sort -n peaks | tail -n 1)
}

# under CAP_KIB WHAT: so was the last measurement, and the summary tells the same.
under() {
    local told
    [ "$peak" -le "$1" ] || fail "$2: $peak KiB, the cap is $1"
    told=$(sed -n 's/^memory *at most \([0-9]*\).*/\1/p' out)
    [ "$told" -le $((peak / 1024 + 1)) ] && [ "$told" -ge $((peak / 1024 - 8)) ] || fail "$2: $peak KiB, but the summary says $told MiB"
    echo "$2: $peak KiB, cap $1"
}

for ranks in 1 3; do
    measure $ranks "$file" one.h5 --tile-rows 1024 --residency stream --window 1MiB -o small.h5
    base=$peak
    cap=$((base + 48 * 1024))
    for lists in many one; do
        [ $ranks = 3 ] || "$FGMM" build @files $lists.h5 --residency host -o $lists-whole.h5 >/dev/null
        for residency in stream auto; do
            measure $ranks @files $lists.h5 --residency $residency --host-memory ${cap}KiB -o index.h5
            cmp $lists-whole.h5 index.h5 || fail "$lists lists differ on $ranks ranks, $residency, $cap KiB"
            [ $residency = auto ] || residency_was log.json stream
            all_held_rows log.json $ranks
            under $cap "$ranks ranks, $lists lists, $residency"
        done
    done
    measure $ranks @files many.h5 --assign soar --replication 1.5 --residency stream --host-memory ${cap}KiB -o index.h5
    [ $ranks = 3 ] && { cmp soar.h5 index.h5 || fail "soar lists differ on 3 ranks"; }
    mv index.h5 soar.h5
    under $cap "$ranks ranks, soar"
done
