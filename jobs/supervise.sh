# shellcheck shell=bash
# What the batch scripts share: run a step, pass the early warning on to it, and put the job back into the queue when it
# was stopped on request. Sourced.

# supervise CHECKPOINT COMMAND...: runs the command; returns its status, 75 when it was stopped and can go on.
# CHECKPOINT may be empty for commands that have none.
supervise() {
    local checkpoint=$1 begun pid="" status signalled
    shift
    begun=$(mktemp)
    echo "+ $*"
    # Slurm warns the batch shell alone (--signal=B:USR1@...): pass it on. A signal also ends `wait`, hence the loop.
    trap 'signalled=yes; kill -USR1 "${pid:-}" 2>/dev/null || true' USR1 TERM
    "$@" &
    pid=$!
    while :; do
        signalled=no status=0
        wait "$pid" || status=$?
        if [ "$signalled" = no ] || [ "$status" -le 128 ]; then break; fi
    done
    trap - USR1 TERM
    # The launcher may turn the program's 75 into a status of its own; a checkpoint written in this run is proof enough.
    if [ "$status" != 0 ] && [ -n "$checkpoint" ] && [ "$checkpoint" -nt "$begun" ] && stopped_early "$checkpoint"; then
        status=75
    fi
    rm -f "$begun"
    return "$status"
}

stopped_early() { $FGMM info "$1" 2>/dev/null | grep -qE '^ *stopped[ :=]+(1|yes)\b'; }

# finish STATUS OUTPUT: ends the job. 75: back into the queue, up to MAX_RESTARTS times. 0 counts only when the output is there: a
# lost node can leave the launcher with 0.
finish() {
    local status=$1 output=$2 restarts=${SLURM_RESTART_COUNT:-0}
    if [ "$status" = 0 ] && [ ! -s "$output" ]; then
        echo "the step ended with status 0, but $output is not there"
        status=1
    fi
    if [ "$status" = 75 ]; then
        if [ "$restarts" -ge "$MAX_RESTARTS" ]; then
            echo "stopped early after $restarts restarts, the most allowed (MAX_RESTARTS): submit again to go on"
        elif scontrol requeue "$SLURM_JOB_ID"; then
            echo "stopped early: back into the queue (restart $((restarts + 1)))"
            sleep 60 # Slurm ends this run of the job
        else
            echo "stopped early, and this job may not be requeued: submit again to go on"
        fi
    fi
    exit "$status"
}
