#!/usr/bin/env bash
# A fit that is asked to stop saves what it has and ends with 75; the same line with --resume finishes with the bits of a run
# that nobody disturbed, on another number of ranks too. So does a fit of which a process was killed.
. "$FGMM_SOURCE/tests/support/e2e.sh"

iterations=16
cp "$FGMM_TEST_DATA/passages-10k.fbin" rows.fbin
line=(rows.fbin -k 400 --covariance diag --max-iter $iterations --tol 0 --seed 3 --backend cpu --residency stream --threads 1)

# children PID: the processes that it started.
children() {
    local file text fields
    for file in /proc/[0-9]*/stat; do
        { read -r text <"$file"; } 2>/dev/null || continue
        read -ra fields <<<"${text##*) }" # behind the name: state, parent
        if [ "${fields[1]}" = "$1" ]; then basename "${file%/stat}"; fi
    done
}

# start RANKS NAME OPTIONS...: the fit in the background; its launcher becomes $pid, its output NAME.h5, its log NAME.json.
start() {
    local ranks=$1 name=$2
    shift 2
    rm -f "$name.json"
    if [ "$ranks" = 1 ]; then
        "$FGMM" fit "$@" -o "$name.h5" --log-json "$name.json" >out 2>err &
    else
        # shellcheck disable=SC2086 # the launcher is several words
        $MPIRUN -n "$ranks" "$FGMM" fit "$@" -o "$name.h5" --log-json "$name.json" >out 2>err &
    fi
    pid=$!
}

iterations_in() { grep -c '"event":"iteration"' "$1.json" || true; }
has_iterations() { [ "$(iterations_in "$1")" -ge "$2" ]; }

# ended: waits for $pid; sets $got to its exit status and $milliseconds to the time since `began`.
began() { began=$(date +%s%N); }
ended() {
    got=0
    wait "$pid" || got=$?
    milliseconds=$((($(date +%s%N) - began) / 1000000))
}

# stopped NAME: the run ended with 75 within 5 s, left no output, and a checkpoint that says `stopped` and holds the last
# iteration that was complete.
stopped() {
    ended
    [ "$got" = 75 ] || fail "$1: exit status $got, not 75: $(cat err)"
    [ $milliseconds -lt $((5000 * ${FGMM_PATIENCE:-1})) ] || fail "$1: ended only $milliseconds ms after it was asked to stop"
    [ "$(grep -c 'fgmm: fit: stopped' err)" = 1 ] || fail "$1: not one line that says it was stopped: $(cat err)"
    [ ! -e "$1.h5" ] || fail "$1: an output in spite of the stop"
    [ "$("$H5GET" "$1.h5.ckpt" @stopped)" = 1 ] || fail "$1: the checkpoint does not say stopped"
    grep -q '"event":"checkpoint".*"stopped":true' "$1.json" || fail "$1: the log knows of no checkpoint"
}

# finishes RANKS NAME: --resume ends with the bits of the undisturbed run and leaves nothing but the model.
finishes() {
    local ranks=$1 name=$2
    status on "$ranks" fit "${line[@]}" -o "$name.h5" --resume --log-json "$name.json"
    [ "$got" = 0 ] || fail "$name: --resume ended with $got: $(cat err)"
    same whole.h5 "$name.h5" "$name, resumed on $ranks ranks"
    [ "$(echo "$name".h5*)" = "$name.h5" ] || fail "$name: left behind: $(echo "$name".h5*)"
}

"$FGMM" fit "${line[@]}" -o whole.h5 -q
[ "$("$H5GET" whole.h5 @n_iter)" = $iterations ] || fail "the undisturbed run has not $iterations iterations"

# ---- stops ----

# The signal comes to mpirun, which passes it on.
start 2 usr1 "${line[@]}"
wait_for 60 has_iterations usr1 2
began
kill -USR1 $pid
stopped usr1
done_so_far=$("$H5GET" usr1.h5.ckpt model@n_iter)
[ "$done_so_far" -lt $iterations ] || fail "the run was over before it was asked to stop"
[ "$done_so_far" = "$(iterations_in usr1)" ] || fail "the checkpoint holds iteration $done_so_far of $(iterations_in usr1)"
cp usr1.h5.ckpt kept.ckpt
finishes 3 usr1
all_held_rows usr1.json 3
[ "$(iterations_in usr1)" = $iterations ] || fail "iterations were done twice: $(iterations_in usr1)"

# One rank of three alone hears of it.
start 3 one_rank "${line[@]}"
wait_for 60 has_iterations one_rank 1
began
kill -USR1 "$(children $pid | tail -n 1)"
stopped one_rank
finishes 1 one_rank

for signal in TERM INT; do
    start 1 $signal "${line[@]}"
    wait_for 60 has_iterations $signal 1
    began
    kill -$signal $pid
    stopped $signal
done
finishes 2 TERM

# Before there are any parameters: an iteration here takes minutes, a start as well.
long=(synth:n=1M,d=256,k=64,seed=2 -k 4096 --init random --backend cpu --residency stream --threads 1 --host-memory 256MiB)
start 2 early "${long[@]}"
wait_for 60 grep -q '"event":"start"' early.json
began
kill -USR1 $pid
stopped early

# In the middle of an iteration that takes minutes: its progress is seen, its end is not.
cp whole.h5 start.h5
start 2 long synth:n=1M,d=100,k=64,seed=2,dtype=u8 -k 400 --init start.h5 --covariance diag --backend cpu --residency stream \
    --threads 1 --progress always
wait_for 120 grep -q 'iteration 1/' err
sleep 0.5
began
kill -USR1 $pid
stopped long
[ "$("$H5GET" long.h5.ckpt model@n_iter)" = 0 ] || fail "an abandoned iteration counts as complete"

# ---- what --resume meets ----

status "$FGMM" fit "${line[@]}" -o afresh.h5 --resume
[ "$got" = 0 ] || fail "--resume without a checkpoint ended with $got: $(cat err)"
grep -q 'no checkpoint; starting afresh' err || fail "--resume without a checkpoint does not say so"
same whole.h5 afresh.h5

before=$(stat -c '%i %Y' whole.h5)
status on 2 fit "${line[@]}" -o whole.h5 --resume
[ "$got" = 0 ] || fail "--resume of a whole output ended with $got: $(cat err)"
grep -q 'already whole' err || fail "--resume of a whole output does not say so"
[ "$(stat -c '%i %Y' whole.h5)" = "$before" ] || fail "--resume wrote a whole output again"
status "$FGMM" fit "${line[@]}" --seed 4 -o whole.h5 --resume
{ [ "$got" = 2 ] && grep -q 'a whole model, but of other options' err; } || fail "--resume of a model of another seed: $got, $(cat err)"

# refuses TEXT ARGUMENTS...: the checkpoint kept from above is not for these; it stays as it is.
refuses() {
    local text=$1
    shift
    cp kept.ckpt other.h5.ckpt
    status on 2 fit "$@" -o other.h5 --resume
    [ "$got" = 2 ] || fail "a checkpoint $text: exit status $got: $(cat err)"
    [ "$(grep -c "^fgmm: fit: .*$text" err)" = 1 ] || fail "no line that says $text: $(cat err)"
    [ ! -e other.h5 ] || fail "an output in spite of a checkpoint $text"
    cmp -s kept.ckpt other.h5.ckpt || fail "a checkpoint $text was changed"
}
refuses 'of other options' "${line[@]}" --seed 4
refuses 'of other options' "${line[@]}" --covariance spherical
refuses 'of other options' "${line[@]}" --reg-covar 1e-3
refuses 'of other data' "${line[@]}" --rows :9000
cp rows.fbin copy.fbin
touch -d '2001-02-03' copy.fbin
refuses 'of other data' copy.fbin "${line[@]:1}"

# ---- damage and death ----

# flip FILE: one byte in the middle becomes another one.
flip() {
    local at=$(($(stat -c %s "$1") / 2)) byte
    byte=$(od -An -tu1 -j $at -N1 "$1")
    # shellcheck disable=SC2059 # the format is the byte
    printf "\\x$(printf %x $((byte ^ 255)))" | dd of="$1" bs=1 seek=$at conv=notrunc status=none
}

# Killed by SIGKILL: a rank among others, then the rank that writes the checkpoints.
for victim in 1 0; do
    name=rank_$victim
    start 3 $name "${line[@]}" --checkpoint-every 0
    wait_for 60 has_iterations $name 3
    ranks=$(children $pid)
    for child in $ranks; do
        if tr '\0' '\n' <"/proc/$child/environ" | grep -q "^OMPI_COMM_WORLD_RANK=$victim\$"; then killed=$child; fi
    done
    began
    kill -KILL "$killed"
    ended
    [ "$got" != 0 ] || fail "$name was killed, but the run ended with 0"
    for child in $ranks; do
        wait_for 10 test ! -d "/proc/$child"
    done
    [ $((($(date +%s%N) - began) / 1000000)) -lt 10000 ] || fail "$name was killed, and the others lived on"
    [ ! -e $name.h5 ] || fail "$name: an output in spite of its death"
    rm -f $name.h5.ckpt.tmp.* # where it was killed while it wrote
done
finishes 3 rank_1
finishes 2 rank_0

# A damaged checkpoint: the one before is as good. Two damaged ones: there is nothing to go on from.
start 1 damaged "${line[@]}" --checkpoint-every 0
wait_for 60 has_iterations damaged 2
began
kill -USR1 $pid
stopped damaged
flip damaged.h5.ckpt
cp damaged.h5.ckpt lost.h5.ckpt
cp damaged.h5.ckpt lost.h5.ckpt.1
finishes 2 damaged
grep -q 'fgmm: warning: damaged.h5.ckpt: damaged.*going back to the one before' err || fail "no warning of the damage: $(cat err)"
status on 2 fit "${line[@]}" -o lost.h5 --resume
[ "$got" = 2 ] || fail "two damaged checkpoints: exit status $got: $(cat err)"
[ "$(grep -c '^fgmm: fit: .*damaged' err)" = 1 ] || fail "two damaged checkpoints: not one line of error: $(cat err)"
