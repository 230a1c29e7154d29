# shellcheck shell=bash disable=SC2034
# What differs from one cluster to the next, for all jobs of this folder. The batch scripts source it; source it in the shell
# before sbatch too, if it sets SBATCH_* variables.

# The program, on a file system that all nodes see.
FGMM=${FGMM:-fgmm}

# How ranks are started. Open MPI as Debian and Ubuntu build it speaks PMIx alone; -K1 ends the step when a rank is lost.
LAUNCH=${LAUNCH:-srun --mpi=pmix -K1}

# srun does not take over the CPUs a task by itself.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# Account, partition, modules and network of this site, for example
#   export SBATCH_ACCOUNT=vectors SBATCH_PARTITION=gpu
#   module load cuda/13.0 openmpi/4.1 hdf5-parallel
#   export NCCL_SOCKET_IFNAME=ib0
