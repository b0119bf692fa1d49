#!/usr/bin/env bash
# Trains on all GPUs of one machine: one process drives them all, without further settings.
#
#     launch/multi_gpu.sh CONFIG WORKDIR DATASET [run.py arguments]
#
# CONFIG is configs/head.py:fast, configs/torso.py:fast, … (configs/head.py is the method as published).
# CUDA_VISIBLE_DEVICES=0,1 in front of it selects two. Status 75 means that SIGTERM came and everything is saved:
# the same command resumes.
set -euo pipefail

if [ $# -lt 3 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
config=$1 workdir=$(realpath -m -- "$2") data=$(realpath -m -- "$3")
shift 3
cd "$(dirname "$0")/.."
exec .venv/bin/python run.py --config="$config" --workdir="$workdir" --config.data="$data" "$@"
