#!/usr/bin/env bash
# The program around the commands: help, version, global options, exit statuses, and every error once, however many ranks there are.
# shellcheck disable=SC2016 # backticks are words of the messages
data=$FGMM_TEST_DATA/passages-10k.fbin
launcher=

# fails STATUS TEXT ARGUMENTS...: the exit status, and one line of ours on stderr that says TEXT.
fails() {
    local expected=$1 text=$2 got=0
    shift 2
    # shellcheck disable=SC2086 # the launcher is several words or none
    $launcher "$FGMM" "$@" >out 2>err || got=$?
    [ "$got" = "$expected" ] || { echo "fgmm $*: exit status $got, not $expected"; cat err; return 1; }
    [ "$(grep -c '^fgmm: ' err)" = 1 ] || { echo "fgmm $*: not one line of error"; cat err; return 1; }
    grep -qF -- "$text" err || { echo "fgmm $*: no word of: $text"; cat err; return 1; }
}

"$FGMM" --version >version
for word in 'fgmm 0' 'CUDA architectures:' 'NCCL:' 'MPI: Open MPI' 'HDF5: 1'; do
    grep -q "^$word" version || { echo "--version has no line $word"; exit 1; }
done
"$FGMM" --help | grep -q '^usage: mpirun -n R fgmm COMMAND'
[ "$($MPIRUN -n 3 "$FGMM" --help | grep -c '^usage')" = 1 ] || { echo "--help is printed by more than one rank"; exit 1; }
[ "$($MPIRUN -n 3 "$FGMM" fit --help | grep -c -e --covariance)" = 1 ] || { echo "fit --help is not printed once"; exit 1; }

fails 2 'unknown command `fly`' fly
fails 2 'did you mean `fit`?' fot
fails 2 '`--precision fast` is not part of this version' fit "$data" -k 3 -o m.h5 --precision fast
fails 2 '--weights needs a value' fit "$data" -k 3 -o m.h5 --weights
fails 2 'fgmm: fit: --covariance: `fulll` is not one of' fit "$data" -k 3 -o m.h5 --covariance fulll
fails 2 '--comm-timeout: 0 is not a time above 0' fit "$data" -k 3 -o m.h5 --comm-timeout 0
fails 2 '/nowhere/log: the log cannot be written' fit "$data" -k 3 -o m.h5 --log-json /nowhere/log
fails 2 'nowhere/m.h5: the folder nowhere cannot be used' fit "$data" -k 3 -o nowhere/m.h5
launcher="$MPIRUN -n 3"
fails 2 'unknown command `fly`' fly
fails 2 'fgmm: fit: unknown option --covarience; did you mean --covariance?' fit "$data" -k 3 -o m.h5 --covarience full

# Ranks that were started with different lines end together too.
got=0
$MPIRUN -n 1 "$FGMM" fit "$data" -k 3 -o m.h5 : -n 1 "$FGMM" fit --threads none >out 2>err || got=$?
{ [ $got = 2 ] && [ "$(grep -c '^fgmm: ' err)" = 1 ]; } || { echo "different lines: exit status $got"; cat err; exit 1; }
[ ! -e m.h5 ] || { echo "something was written"; exit 1; }

# Cores that lie idle are told, unless the user chose the number of threads.
if [ "$(nproc)" -gt 1 ]; then
    core=$(taskset -cp $$ | sed 's/.*: *\([0-9]*\).*/\1/')
    taskset -c "$core" "$FGMM" fit "$data" -k 3 --max-iter 1 -o m.h5 2>err
    grep -q 'warning: 1 rank of .* uses 1 of' err || { echo "no warning of idle cores"; cat err; exit 1; }
    taskset -c "$core" "$FGMM" fit "$data" -k 3 --max-iter 1 -o m.h5 --threads 1 2>err
    grep -q 'warning' err && { echo "a warning in spite of --threads"; cat err; exit 1; }
fi
exit 0
