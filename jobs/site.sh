# What differs from one cluster to the next, for all jobs of this folder. Sourced by the batch scripts.

# The program, on a file system that all nodes see.
FGMM=${FGMM:-fgmm}

# How ranks are started. Debian's and Ubuntu's Open MPI speak PMIx alone; -K ends the step when a rank is lost.
LAUNCH=${LAUNCH:-srun --mpi=pmix -K1}

# Modules, paths and the network of this site, for example
#   module load cuda/13.0 openmpi/4.1 hdf5-parallel
#   export NCCL_SOCKET_IFNAME=ib0 UCX_NET_DEVICES=mlx5_0:1
