# What the scripts share; read by them: . "$FGMM_SOURCE/tests/support/e2e.sh"
# shellcheck shell=bash
# shellcheck disable=SC2034 # $got and $python are for the scripts

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# on RANKS ARGUMENTS...: the program on that many ranks; one rank is started without mpirun.
on() {
    local ranks=$1
    shift
    if [ "$ranks" = 1 ]; then
        "$FGMM" "$@"
    else
        # shellcheck disable=SC2086 # the launcher is several words
        $MPIRUN -n "$ranks" "$FGMM" "$@"
    fi
}

# status COMMAND...: runs it with stdout in ./out and stderr in ./err, and sets $got to its exit status.
status() {
    got=0
    "$@" >out 2>err || got=$?
}

# same A B: two models hold the same bits, but for the time that iterations took.
same() {
    "$H5SAME" "$1" "$2" history/seconds || fail "$1 and $2 differ${3:+: $3}"
}

# all_held_rows LOG RANKS: the JSON log says that there were so many ranks and that every one of them held rows.
all_held_rows() {
    local rows
    rows=$(sed -n 's/.*"event":"start".*"rows":\[\([0-9,]*\)\].*/\1/p' "$1" | tail -n 1)
    [ "$(tr ',' '\n' <<<"$rows" | grep -c '^[1-9]')" = "$2" ] || fail "$1: $2 ranks, but they held rows: [$rows]"
}

# residency_was LOG NAME: where the shard of every rank lived.
residency_was() {
    local where
    where=$(sed -n 's/.*"event":"start".*"residency":\[\([^]]*\)\].*/\1/p' "$1" | tail -n 1 | tr ',' '\n' | sort -u)
    [ "$where" = "\"$2\"" ] || fail "$1: shards lived on $where, not $2"
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" 2>/dev/null; do
        [ $SECONDS -lt $end ] || fail "waited in vain for: $*"
        sleep 0.05
    done
}

# have_gpu: is there a GPU, and a backend for it in this program?
have_gpu() {
    nvidia-smi -L 2>/dev/null | grep '^GPU' >/dev/null && ! "$FGMM" --version | grep '^CUDA architectures: none' >/dev/null
}

# have_python MODULES: sets $python to a Python that can import these (separated by commas); the system's one has what
# the distribution's packages bring, whatever stands before it on the path.
have_python() {
    for python in python3 /usr/bin/python3; do
        if "$python" -c "import $1" 2>/dev/null; then return 0; fi
    done
    return 1
}
