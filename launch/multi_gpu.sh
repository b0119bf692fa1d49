#!/usr/bin/env bash
# Trains on all GPUs of one machine: one process drives them all, without further settings.
#
#     launch/multi_gpu.sh WORKDIR DATASET [run.py arguments]
#
# CUDA_VISIBLE_DEVICES=0,1 in front of it selects two. Status 75 means that SIGTERM came and everything is saved:
# the same command resumes.
set -euo pipefail

if [ $# -lt 2 ]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
workdir=$(realpath -m -- "$1") data=$(realpath -m -- "$2")
shift 2
cd "$(dirname "$0")/.."
exec .venv/bin/python run.py --config=configs/head.py --workdir="$workdir" --config.data="$data" "$@"
