#!/usr/bin/env bash
# Rows that are read again in every iteration: the result of rows that stay in memory, to the bit, in less memory than they take.
# Measured is the largest resident set of every rank, as the kernel counts it (wait4), libraries and all. A cap that is less than
# what the program takes for itself (its resident set with the smallest tiles) is kept above that.
. "$FGMM_SOURCE/tests/support/e2e.sh"

copies=80 # of 4,000,000 bytes: 305 MiB; a program with CUDA holds some 50 MiB more while it starts than later
file=$FGMM_TEST_DATA/passages-10k.fbin
for ((i = 0; i < copies; i++)); do echo "$file"; done >files
line=(-k 8 --covariance diag --max-iter 2 --tol 0 --backend cpu --threads 2 -q)

# measure RANKS ARGUMENTS...: sets $peak to the largest resident set of a rank, in KiB. Log in log.json.
measure() {
    local ranks=$1
    shift
    rm -f peaks log.json
    # shellcheck disable=SC2086 # the launcher is several words
    $MPIRUN -n "$ranks" "$PEAK" peaks "$FGMM" fit "$@" "${line[@]}" --log-json log.json
    [ "$(wc -l <peaks)" = "$ranks" ] || fail "$ranks ranks, but peaks: $(cat peaks)"
    peak=$(sort -n peaks | tail -n 1)
}

# under CAP_KIB WHAT: so was the last measurement.
under() {
    [ "$peak" -le "$1" ] || fail "$2: $peak KiB, the cap is $1"
    echo "$2: $peak KiB, cap $1"
}

measure 1 "$file" --tile-rows 1024 --residency stream -o small.h5
base=$peak
measure 1 @files --residency host -o host.h5
[ "$peak" -gt $((base + 200 * 1024)) ] || fail "rows in memory take $peak KiB, $base of them the program: not measured well"
echo "the program itself: $base KiB, with 305 MiB of rows in memory: $peak KiB"

cap=$((base + 45 * 1024))
measure 1 @files --residency stream --host-memory ${cap}KiB -o stream.h5
residency_was log.json stream
same host.h5 stream.h5
under $cap "1 rank, stream"

measure 3 "$file" --tile-rows 1024 --residency stream -o small.h5
base_of_three=$peak
measure 3 @files --residency stream --host-memory 12MiB -o stream.h5
all_held_rows log.json 3
residency_was log.json stream
same host.h5 stream.h5
under $((12 * 1024 + base_of_three)) "3 ranks, stream, a cap above the program itself"

# Left to itself the program keeps what fits and streams the rest.
cap=$((base + 65 * 1024))
measure 1 @files --host-memory ${cap}KiB -o mixed.h5
grep '"residency":\["host [0-9]* %, stream [0-9]* %"\]' log.json >/dev/null || fail "not a part in memory and a part streamed: $(cat log.json)"
same host.h5 mixed.h5
under $cap "1 rank, as much in memory as fits"
[ "$peak" -gt $((base + 30 * 1024)) ] || fail "$cap KiB are allowed, but a rank took $peak KiB only, $base of them the program"
