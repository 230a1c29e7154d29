#!/usr/bin/env bash
# shellcheck disable=SC2016 # backticks are words of the message
# jobs/fit.sbatch and jobs/build.sbatch one after the other on two nodes: the index is the one of a single rank. A step that
# fails fails its job, and a status of 0 without the output counts as a failure.
. "$FGMM_SOURCE/tests/support/slurm_lab.sh"
lab_up

export DATA=$FGMM_TEST_DATA/passages-10k.fbin K=64 MODEL=$FGMM_TMP/model.h5 INDEX=$FGMM_TMP/index.h5 MAX_ITER=5 OPTIONS=--threads=1
submit() { sbatch --parsable --time=5 --nodes=2 --ntasks-per-node=2 "$@"; }
fit=$(submit "$FGMM_SOURCE/jobs/fit.sbatch")
build=$(ASSIGN=tau submit --dependency=afterok:"$fit" "$FGMM_SOURCE/jobs/build.sbatch")
lab_wait "$build" COMPLETED 60
cat "fgmm-fit-$fit.log" "fgmm-build-$build.log"
"$FGMM" build "$DATA" model.h5 --assign tau -o alone.h5 -q
"$H5SAME" alone.h5 index.h5

# Bad input: the job fails with the program's own status, and is not tried again.
job=$(K=none submit "$FGMM_SOURCE/jobs/fit.sbatch")
lab_wait "$job" FAILED 60
scontrol show job "$job" | grep -q 'Restarts=0 .*ExitCode=2:0'
grep -q 'fgmm: fit: -k: `none` is not a whole number' "fgmm-fit-$job.log"

# A launcher that ends with 0 and leaves nothing, as srun may when a node is lost.
job=$(FGMM=true INDEX=$FGMM_TMP/never.h5 submit "$FGMM_SOURCE/jobs/build.sbatch")
lab_wait "$job" FAILED 60
grep -q 'never.h5 is not there' "fgmm-build-$job.log"
