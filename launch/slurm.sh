#!/usr/bin/env bash
# Trains on GPU nodes of a Slurm cluster, one process a GPU:
#
#     sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh WORKDIR DATASET [run.py arguments]
#
# from the repository, with requirements-cuda.txt installed in .venv; WORKDIR and DATASET on storage that all nodes
# mount. JAX finds the processes by Slurm's variables. Two minutes before the time limit, or when the job is preempted, every
# process gets SIGTERM, saves, and ends with status 75: the job is then put back into the queue.
#SBATCH --job-name=adnerf
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=adnerf-%j.log
set -euo pipefail

if [ $# -lt 2 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
workdir=$1 data=$2
shift 2

status=0
srun --kill-on-bad-exit=1 .venv/bin/python run.py \
  --config=configs/head.py --workdir="$workdir" --config.data="$data" "$@" || status=$?
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
