#!/usr/bin/env bash
# Trains on GPU nodes of a Slurm cluster, one process a GPU:
#
#     sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh CONFIG WORKDIR DATASET [run.py arguments]
#
# CONFIG is configs/head.py:fast, configs/torso.py:fast, … (configs/head.py is the method as published). It is started
# from the repository, with requirements-cuda.txt installed in .venv; WORKDIR and DATASET on storage that all nodes
# mount. JAX finds the processes by Slurm's variables. Two minutes before the time limit, or when the job is preempted,
# every process gets SIGTERM, saves, and ends with status 75. Then, and when a process was lost (76, 134 from
# JAX's runtime, or the status of the process), the job is requeued and resumes from the newest checkpoint.
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

if [ $# -lt 3 ]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
config=$1 workdir=$2 data=$3
shift 3

status=0
# Processes are not killed with the first that ends: they notice within a minute, and end with their own statuses.
srun --kill-on-bad-exit=0 .venv/bin/python run.py \
  --config="$config" --workdir="$workdir" --config.data="$data" "$@" || status=$?
# srun returns the highest status: that of a process that was killed (137: memory) or crashed (135, 139) is above the
# others' 76, and one process's bad input (2) is below it: hence the limit on restarts.
case $status in
  75 | 76 | 134 | 135 | 137 | 139) [ "${SLURM_RESTART_COUNT:-0}" -ge 100 ] || scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$status"
