#!/usr/bin/env bash
# launch/tpu_pod.sh NAME ZONE CONFIG WORKDIR [--config.key=value ...]
# Runs the job on every worker of the TPU slice NAME, which has this project in
# ~/ddit_jax, and restarts it after a preemption. Exit code 2 (an input error)
# ends it.
set -euo pipefail
name=$1 zone=$2 config=$3 workdir=$4
shift 4
printf -v train ' %q' ddit train --distributed \
  "--config=$config" "--workdir=$workdir" "$@"
command="cd ~/ddit_jax && pip install --quiet -e '.[tpu]' &&$train"
while true; do
  code=0
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="$command" || code=$?
  [[ $code -ne 0 && $code -ne 2 ]] || exit "$code"
  echo "the job exited with code $code; restarting in 60 s" >&2
  sleep 60
done
