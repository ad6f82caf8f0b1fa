#!/usr/bin/env bash
# launch/tpu_pod.sh NAME ZONE CONFIG WORKDIR [--config.key=value ...]
# Runs the job on every worker of the TPU slice NAME, which exists and has this
# project in ~/ddit_jax, and starts it again after a stop. WORKDIR lies on a
# file system that all workers share, and is not a bucket.
# Environment:
#   PROJECT        of Google Cloud; as gcloud is configured if unset
#   LOGS           folder, on the workers, of their output; WORKDIR.logs if
#                  unset
#   MAX_FAILURES   failures in a row, each within half an hour, before it is
#                  given up; 3 if unset
#   RETRY_SECONDS  before the next start; 60 if unset
set -euo pipefail
# shellcheck source=launch/tpu_restart.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu_restart.sh"

[[ $# -ge 4 ]] || refuse \
  "usage: launch/tpu_pod.sh NAME ZONE CONFIG WORKDIR [--config.key=value ...]"
name=$1 zone=$2
[[ -n $name && -n $zone && -n $3 && -n $4 ]] || refuse "an argument is empty"
command -v gcloud > /dev/null || refuse "no command gcloud"
setup="cd ~/ddit_jax && pip install --quiet -e '.[tpu]'"
command=$(remote_command "$setup" "${@:3}")

# With a terminal (-tt) a worker's process ends with its connection.
attempt() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" \
    ${PROJECT:+--project="$PROJECT"} --worker=all --ssh-flag=-tt \
    --command="$command" < /dev/null
}

restart_until_done attempt
