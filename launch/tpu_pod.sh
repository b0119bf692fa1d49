#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU pod slice:
#
#     launch/tpu_pod.sh NAME ZONE CONFIG WORKDIR DATASET [run.py arguments]
#
# CONFIG is configs/head.py:fast, configs/torso.py:fast, … (configs/head.py is the method as published). The
# repository must lie in ~/adnerf_jax on every host, with requirements-tpu.txt installed in .venv; workdir and dataset
# on storage that all hosts mount. JAX detects the other hosts. After SIGTERM (status 75) or the loss of a
# process (76, 134 from JAX's runtime, or the status of the process) the command is started again, until the training is
# done. A preempted (spot) slice is gone, and ssh fails: create it under the same name, and start this script again.
set -euo pipefail

if [ $# -lt 5 ]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1 zone=$2 config=$3 workdir=$4 data=$5
shift 5

printf -v arguments ' %q' --config="$config" --workdir="$workdir" --config.data="$data" "$@"
command="cd ~/adnerf_jax && .venv/bin/python run.py$arguments"

for _ in {0..100}; do
  status=0
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$command" || status=$?
  case $status in
    75 | 76 | 134 | 135 | 137 | 139) sleep 30 ;;
    *) break ;;
  esac
done
exit "$status"
