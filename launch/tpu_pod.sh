#!/usr/bin/env bash
# launch/tpu_pod.sh NAME ZONE CONFIG WORKDIR [--config.key=value ...]
# Runs the job on every worker of the TPU slice NAME, where this project lies
# in ~/ddit_jax, and starts it again after a preemption.
set -euo pipefail
name=$1 zone=$2 config=$3 workdir=$4
shift 4
printf -v flags ' %q' "$@"
command="cd ~/ddit_jax && pip install --quiet -e '.[tpu]' && \
  ddit train --distributed --config=$config --workdir=$workdir$flags"
until gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="$command"; do
  echo "the job ended early; starting it again in 60 seconds" >&2
  sleep 60
done
