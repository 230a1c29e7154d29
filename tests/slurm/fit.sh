#!/usr/bin/env bash
# jobs/fit.sbatch on two nodes: Slurm warns it ahead of the time limit, it saves a checkpoint and goes back into the queue, as often as
# it takes; the model is the one of an undisturbed run on one rank.
. "$FGMM_SOURCE/tests/support/slurm_lab.sh"
lab_up

data=$FGMM_TEST_DATA/passages-10k.fbin
fit() { "$FGMM" fit "$data" -k 64 --tol 0 --seed 7 "$@"; }

# Long enough for one warning at least, whatever this machine's speed and whoever else uses it: by processor time, 18 s of each core
# that the job's four ranks can have, which turn out to be two to four times that where ranks wait for each other.
TIMEFORMAT=%U
spent=$({ time fit --max-iter 200 -o short.h5 -q 2>short.err; } 2>&1)
cat short.err
cores=$(($(nproc) < 4 ? $(nproc) : 4))
iterations=$(awk -v spent="$spent" -v cores="$cores" 'BEGIN { n = int(18 * cores / spent * 200); print n < 400 ? 400 : n }')
fit --max-iter "$iterations" -o undisturbed.h5 -q

# Slurm looks at its time limits every half minute and warns half a minute early rather than late: between 5 and 35 s after the start.
export DATA=$data K=64 MODEL=$FGMM_TMP/model.h5 TOL=0 SEED=7 MAX_ITER=$iterations OPTIONS=--threads=1
job=$(sbatch --parsable --time=1 --signal=B:USR1@25 --nodes=2 --ntasks-per-node=2 "$FGMM_SOURCE/jobs/fit.sbatch")
lab_wait "$job" 'COMPLETED|FAILED|TIMEOUT|CANCELLED|NODE_FAIL' 450
cat "fgmm-fit-$job.log"
[ "$(lab_state "$job")" = COMPLETED ]

restarts=$(scontrol show job "$job" | sed -n 's/.*Restarts=\([0-9]*\).*/\1/p')
echo "$iterations iterations, $restarts restarts"
[ "$restarts" -ge 1 ] || { echo "the job was never stopped: the test proved nothing"; exit 1; }
"$H5SAME" undisturbed.h5 model.h5 history/seconds

# Every rank of both nodes held rows, and the log of all runs of the job is one.
grep '"event":"start"' model.h5.log | tail -n 1 | grep -qE '"hosts":\["node1","node1","node2","node2"\]'
grep '"event":"start"' model.h5.log | grep -E '"rows":\[(0,|[0-9,]*,0[],])' && { echo "a rank held no rows"; exit 1; }
[ "$(grep -c '"event":"start"' model.h5.log)" = $((restarts + 1)) ]

# A model that is whole ends the job at once.
job=$(sbatch --parsable --time=1 "$FGMM_SOURCE/jobs/fit.sbatch")
lab_wait "$job" COMPLETED 30

# A launcher that gives back a status of its own: the checkpoint says that the run was stopped, and MAX_RESTARTS ends the tries.
cat >launcher <<'L'
#!/usr/bin/env bash
trap 'kill -USR1 "$pid"' USR1
srun --mpi=pmix "$@" &
pid=$!
while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done
exit 1
L
chmod +x launcher
export MODEL=$FGMM_TMP/endless.h5 MAX_ITER=1G MAX_RESTARTS=0 LAUNCH=$FGMM_TMP/launcher
job=$(sbatch --parsable --time=5 --nodes=2 --ntasks-per-node=1 "$FGMM_SOURCE/jobs/fit.sbatch")
for _ in $(seq 300); do
    grep -qs '"event":"iteration"' endless.h5.log && break
    sleep 0.1
done
scancel --batch --signal=USR1 "$job"
lab_wait "$job" FAILED 30
cat "fgmm-fit-$job.log"
scontrol show job "$job" | grep -q 'ExitCode=75:0'
grep -q 'the most allowed (MAX_RESTARTS)' "fgmm-fit-$job.log"
