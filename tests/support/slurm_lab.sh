# shellcheck shell=bash
# A Slurm cluster for tests, real but small: one slurmctld and two slurmds on this machine, gone when the script that sourced this
# file ends. It needs root, and Slurm's programs; where these are missing the test is skipped (exit 77).
#
#   . "$FGMM_SOURCE/tests/support/slurm_lab.sh"
#   lab_up                        a partition `lab` of two nodes with four CPUs each
#   lab_wait JOB STATE SECONDS    until the job is in a state that matches, or fail showing its log

lab=$FGMM_TMP/lab

lab_skip() {
    echo "skipped: $*"
    exit 77
}

lab_configure() {
    local port=$((20000 + $$ % 20000))
    mkdir -p "$lab/state" "$lab/node1" "$lab/node2"
    # Nobody else can reach this cluster, so it authenticates nobody: no munge, no key, no account on the host is touched.
    # A requeued job waits until its old credential has expired: 5 s instead of two minutes.
    cat >"$lab/slurm.conf" <<C
ClusterName=fgmm
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation=$lab/state
SlurmctldPidFile=$lab/slurmctld.pid
SlurmctldLogFile=$lab/slurmctld.log
SlurmdSpoolDir=$lab/%n/spool
SlurmdPidFile=$lab/%n/slurmd.pid
SlurmdLogFile=$lab/%n/slurmd.log
TmpFS=$lab/%n
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
SlurmdParameters=config_overrides
KillWait=5
MinJobAge=3600
ReturnToService=2
NodeName=node1 NodeHostname=node1 NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=4 RealMemory=1000
NodeName=node2 NodeHostname=node2 NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=4 RealMemory=1000
PartitionName=lab Nodes=ALL Default=YES MaxTime=INFINITE
C
    { cat /etc/hosts; echo "127.0.0.1 node1 node2"; } >"$lab/hosts"
    export SLURM_CONF=$lab/slurm.conf
}

# A node of its own: another host name, and another /dev/shm, or ranks of both nodes would take each other's shared memory for theirs.
lab_node() {
    unshare --mount --uts sh -c "hostname $1; mount -t tmpfs tmpfs /dev/shm; mount --bind '$lab/hosts' /etc/hosts; exec slurmd -N $1"
}

lab_idle_nodes() { sinfo -h -N -t idle -o %N 2>/dev/null | wc -l; }

lab_up() {
    local program
    [ "$(id -u)" = 0 ] || lab_skip "a Slurm cluster of our own needs root"
    for program in slurmctld slurmd sbatch srun scontrol; do
        command -v $program >/dev/null || lab_skip "no $program here (scripts/install_deps.sh installs Slurm)"
    done
    unshare --mount --uts true 2>/dev/null || lab_skip "namespaces are not allowed here"
    lab_configure
    srun --mpi=list 2>&1 | grep -q pmix || lab_skip "this Slurm has no PMIx, which Open MPI needs"
    trap lab_down EXIT
    slurmctld
    lab_node node1
    lab_node node2
    for _ in $(seq 150); do
        [ "$(lab_idle_nodes)" = 2 ] && return
        sleep 0.1
    done
    echo "the cluster did not come up:"
    tail -n 20 "$lab"/*.log "$lab"/node?/*.log
    return 1
}

lab_down() {
    local file
    scancel --user=root 2>/dev/null || true
    for _ in $(seq 50); do
        [ -z "$(squeue -h 2>/dev/null)" ] && break
        sleep 0.1
    done
    for file in "$lab"/node?/slurmd.pid "$lab"/slurmctld.pid; do
        [ ! -s "$file" ] || lab_end "$(cat "$file")"
    done
}

lab_end() {
    kill "$1" 2>/dev/null || return 0
    for _ in $(seq 100); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
}

lab_state() { scontrol show job "$1" | sed -n 's/^ *JobState=\([A-Z_]*\).*/\1/p'; }

lab_wait() {
    local job=$1 state=$2 seconds=$3 log
    for _ in $(seq $((seconds * 5))); do
        [[ $(lab_state "$job") =~ ^($state)$ ]] && return
        sleep 0.2
    done
    echo "job $job is $(lab_state "$job"), not $state, after $seconds s:"
    scontrol show job "$job"
    log=$(scontrol show job "$job" | sed -n 's/^ *StdOut=//p')
    [ ! -f "$log" ] || tail -n 40 "$log"
    return 1
}
