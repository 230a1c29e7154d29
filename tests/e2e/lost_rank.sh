#!/usr/bin/env bash
# A rank that hangs or dies in the middle of a fit takes the others with it: soon, with one message where there is somebody to give it,
# and without an output.

# rank_pid LAUNCHER_PID RANK: the process of a rank, once it is there.
rank_pid() {
    local pid
    for _ in $(seq 100); do
        # shellcheck disable=SC2013 # words are meant
        for pid in $(cat "/proc/$1/task/$1/children"); do
            if tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | grep -qx "PMIX_RANK=$2"; then
                echo "$pid"
                return 0
            fi
        done
        sleep 0.1
    done
    echo "rank $2 did not start" >&2
    return 1
}

# lose SIGNAL RANK: sends it to a rank of a fit that would run for minutes; the launch must end within 20 s. Leaves `err`.
lose() {
    local launcher pid ended=0
    rm -rf model.h5* log.json err
    # shellcheck disable=SC2086 # MPIRUN is several words
    $MPIRUN -n 3 "$FGMM" fit synth:n=30k,d=16,k=8,seed=1 -k 8 --tol 0 --max-iter 10000000 --threads 1 --comm-timeout 2 \
        --log-json log.json -o model.h5 >out 2>err &
    launcher=$!
    pid=$(rank_pid "$launcher" "$2")
    for _ in $(seq 200); do # the first iterations are over
        if [ -s log.json ] && grep -q '"iteration"' log.json; then break; fi
        sleep 0.1
    done
    kill "-$1" "$pid"
    for _ in $(seq 200); do
        kill -0 "$launcher" 2>/dev/null || break
        sleep 0.1
    done
    if kill -0 "$launcher" 2>/dev/null; then
        # shellcheck disable=SC2046 # several processes
        kill -KILL $(cat "/proc/$launcher/task/$launcher/children") "$launcher"
        echo "rank $2, $1: still running after 20 s"
        cat err
        return 1
    fi
    wait "$launcher" || ended=$?
    [ "$ended" != 0 ] || { echo "rank $2, $1: the launch ended as if all were well"; cat err; return 1; }
    [ ! -e model.h5 ] || { echo "rank $2, $1: left an output"; return 1; }
}

# Whichever rank hangs, one of the others says so, once: rank 0, or rank 1 in its stead.
for rank in 2 0; do
    lose STOP "$rank"
    [ "$(grep -c '^fgmm: ' err)" = 1 ] || { echo "rank $rank hangs: not one line of error"; cat err; exit 1; }
    grep -q "^fgmm: rank $rank on host .* has shown no sign of life for .* seconds (see --comm-timeout)" err || { cat err; exit 1; }
done

lose KILL 1
