#!/usr/bin/env bash
# The program around the commands: help, version, exit statuses, and every error once, however many ranks there are.
# shellcheck disable=SC2016 # backticks are words of the messages

# fails STATUS TEXT ARGUMENTS...: on one rank and on three, the exit status, and one line of ours on stderr that says TEXT.
fails() {
    local expected=$1 text=$2 got launcher
    shift 2
    for launcher in "" "$MPIRUN -n 3"; do
        got=0
        # shellcheck disable=SC2086 # the launcher is several words or none
        $launcher "$FGMM" "$@" >out 2>err || got=$?
        [ "$got" = "$expected" ] || { echo "fgmm $*: exit status $got, not $expected"; cat err; return 1; }
        [ "$(grep -c '^fgmm: ' err)" = 1 ] || { echo "fgmm $*: not one line of error"; cat err; return 1; }
        grep -qF -- "$text" err || { echo "fgmm $*: no word of: $text"; cat err; return 1; }
    done
}

"$FGMM" --version >version
for word in 'fgmm 0' 'CUDA architectures:' 'NCCL:' 'MPI: Open MPI' 'HDF5: 1'; do
    grep -q "^$word" version || { echo "--version has no line $word"; exit 1; }
done
"$FGMM" --help | grep -q '^usage: mpirun -n R fgmm COMMAND'
[ "$($MPIRUN -n 3 "$FGMM" --help | grep -c '^usage')" = 1 ] || { echo "--help is printed by more than one rank"; exit 1; }

fails 2 'unknown command `fly`' fly
fails 2 '`plan` is not part of this version' plan -n 1M
fails 2 '`sample` is not part of this version' sample
fails 2 '`eval` is not part of this version' eval
