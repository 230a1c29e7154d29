#!/usr/bin/env bash
# A build that is asked to stop keeps the lists it has found and ends with 75; the same line with --resume finishes with the bytes of a
# run that nobody disturbed, on another number of ranks too. So does one that was killed, or that met a full disk, once all lists are
# known. What is left of other data or options is refused.
# shellcheck source=../support/e2e.sh
. "$FGMM_SOURCE/tests/support/e2e.sh"

cp "$FGMM_TEST_DATA/passages-10k.fbin" rows.fbin
for _ in $(seq 12); do echo rows.fbin; done >files
"$FGMM" fit rows.fbin -k 2400 --algorithm kmeans --max-iter 1 -o model.h5 -q # so many that finding lists takes seconds
"$FGMM" fit rows.fbin -k 60 --max-iter 2 -o mixture.h5 -q
line=(@files model.h5 --assign soar --replication 1.5 --backend cpu --residency stream --threads 1 --tile-rows 1k)

# start RANKS NAME ARGUMENTS...: the build in the background; its launcher becomes $pid.
start() {
    local ranks=$1 name=$2
    shift 2
    # shellcheck disable=SC2086 # the launcher is several words
    $MPIRUN -n "$ranks" "$FGMM" build "$@" -o "$name.h5" --progress always >out 2>err &
    pid=$!
}

# stopped NAME STAGE: the run ended with 75 within 5 s, left no index, and a checkpoint that says how far it came.
stopped() {
    local began=$SECONDS
    got=0
    wait "$pid" || got=$?
    [ "$got" = 75 ] || fail "$1: exit status $got, not 75: $(cat err)"
    [ $((SECONDS - began)) -le $((5 * ${FGMM_PATIENCE:-1})) ] || fail "$1: ended late"
    [ "$(grep -c 'fgmm: build: stopped' err)" = 1 ] || fail "$1: not one line that says it was stopped: $(cat err)"
    [ ! -e "$1.h5" ] && ! ls "$1.h5.tmp"* 2>/dev/null || fail "$1: something of an index in spite of the stop"
    "$FGMM" info "$1.h5.ckpt" >info
    grep -q '^stopped: yes' info && grep -q "^stage: $2" info || fail "$1: the checkpoint says: $(cat info)"
}

# finishes RANKS NAME WHOLE ARGUMENTS...: --resume ends with the bytes of WHOLE and leaves nothing but the index.
finishes() {
    local ranks=$1 name=$2 whole=$3
    shift 3
    status on "$ranks" build "$@" -o "$name.h5" --resume --log-json log.json
    [ "$got" = 0 ] || fail "$name: --resume ended with $got: $(cat err)"
    all_held_rows log.json "$ranks"
    cmp "$whole" "$name.h5" || fail "$name: other bytes, resumed on $ranks ranks"
    [ "$(echo "$name".h5*)" = "$name.h5" ] || fail "$name: left behind: $(echo "$name".h5*)"
}

"$FGMM" build "${line[@]}" -o whole.h5 >/dev/null
mixture=(@files mixture.h5 --assign closure --backend cpu --residency stream --threads 1)
"$FGMM" build "${mixture[@]}" -o mixture-whole.h5 >/dev/null

# ---- stopped while lists are being found: twice, so that what was found first passes through two runs ----
start 2 assign "${line[@]}"
wait_for 60 grep -q 'assign: *[1-9]' err
sleep 0.3
kill -USR1 $pid
stopped assign assign
found=$("$H5GET" assign.h5.ckpt bytes 2>/dev/null | tr -s ' \n' '++')
[ $((${found%+})) -gt 0 ] || fail "nothing was found before the stop: $found"
cp assign.h5.ckpt kept.ckpt
for file in assign.h5.ckpt.*; do cp "$file" "kept.ckpt${file#assign.h5.ckpt}"; done
start 3 assign "${line[@]}" --resume
wait_for 60 grep -q 'going on with the lists found so far' err
wait_for 60 grep -q 'assign: *[1-9]' err
sleep 0.3
kill -USR1 $pid
stopped assign assign
more=$("$H5GET" assign.h5.ckpt bytes | tr -s ' \n' '++')
[ $((${more%+})) -gt $((${found%+})) ] || fail "no more was found by the second run: $found, then $more"
finishes 4 assign whole.h5 "${line[@]}"

# ---- stopped, killed and without space while the index is written ----
start 2 write "${line[@]}" --exchange 2KiB
wait_for 60 test -e write.h5.ckpt
kill -USR1 $pid
stopped write write
finishes 3 write whole.h5 "${line[@]}"
grep -q 'with the lists of all rows' err || fail "the lists were looked for again: $(cat err)"

start 3 killed "${line[@]}" --exchange 2KiB
wait_for 60 test -e killed.h5.ckpt
kill -KILL $pid
wait $pid 2>/dev/null || true
[ ! -e killed.h5 ] || fail "killed: an index in spite of it"
sleep 1 # for its ranks to go as well
rm -f killed.h5.tmp.*
finishes 2 killed whole.h5 "${line[@]}"

(ulimit -f 32768 && trap '' XFSZ && status on 1 build "${mixture[@]}" -o full.h5 && [ "$got" = 1 ] && grep -q 'no space left' err) ||
    fail "a full disk: $(cat err)"
[ ! -e full.h5 ] && ! ls full.h5.tmp* 2>/dev/null || fail "a full disk: something of an index is left"
finishes 3 full mixture-whole.h5 "${mixture[@]}"

# ---- what --resume meets ----
finishes 1 afresh whole.h5 "${line[@]}"
grep -q 'no checkpoint; starting afresh' err || fail "--resume without a checkpoint does not say so"
before=$(stat -c '%i %Y' whole.h5)
status on 2 build "${line[@]}" -o whole.h5 --resume
[ "$got" = 0 ] && grep -q 'already whole' err || fail "--resume of a whole index: $got, $(cat err)"
[ "$(stat -c '%i %Y' whole.h5)" = "$before" ] || fail "--resume wrote a whole index again"
status on 2 build rows.fbin "${line[@]:1}" -o whole.h5 --resume
[ "$got" = 2 ] && grep -q 'a whole index, but of other data' err || fail "--resume of an index of other rows: $got, $(cat err)"

# refuses TEXT ARGUMENTS...: the checkpoint kept from above is not for these; it stays as it is.
refuses() {
    local text=$1
    shift
    sum=$(cat kept.ckpt* | cksum)
    status on 2 build "$@" -o other.h5 --resume --checkpoint kept.ckpt
    [ "$got" = 2 ] || fail "$text: exit status $got: $(cat err)"
    [ "$(grep -c "^fgmm: build: .*$text" err)" = 1 ] || fail "no line that says $text: $(cat err)"
    [ ! -e other.h5 ] && [ "$(cat kept.ckpt* | cksum)" = "$sum" ] || fail "$text: something was changed"
}
refuses 'of another model or of other options' "${line[@]}" --lambda 1
refuses 'of another model or of other options' @files mixture.h5 "${line[@]:2}"
refuses 'of other data' rows.fbin "${line[@]:1}"
file=$(ls -S kept.ckpt.* | head -n 1)
printf '\x55\x55' | dd of="$file" bs=1 seek=$(($(stat -c %s "$file") / 2)) conv=notrunc status=none
refuses 'damaged' "${line[@]}"
