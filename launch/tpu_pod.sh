#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU pod slice:
#
#     launch/tpu_pod.sh NAME ZONE WORKDIR DATASET [run.py arguments]
#
# The repository must lie in ~/adnerf_jax on every host, with requirements-tpu.txt installed in .venv; workdir and
# dataset on storage that all hosts mount. JAX finds the other hosts by itself. Status 75 is a preemption: the script starts the
# command again until the training is done.
set -euo pipefail

if [ $# -lt 4 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1 zone=$2 workdir=$3 data=$4
shift 4

printf -v arguments ' %q' --config=configs/head.py --workdir="$workdir" --config.data="$data" "$@"
command="cd ~/adnerf_jax && .venv/bin/python run.py$arguments"

status=75
while [ "$status" -eq 75 ]; do
  status=0
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$command" || status=$?
done
exit "$status"
