#!/usr/bin/env bash
# launch/tpu_queued.sh NAME CONFIG WORKDIR [--config.key=value ...]
#   PROJECT=my-project ZONE=us-east5-a ACCELERATOR_TYPE=v5p-128 SPOT=1 \
#   RUNTIME_VERSION=v2-alpha-tpuv5 \
#   SETUP='sudo mkdir -p /shared &&
#     { mountpoint -q /shared || sudo mount 10.0.0.2:/share /shared; } &&
#     cd /shared/ddit_jax && pip install --quiet ".[tpu]"' \
#   launch/tpu_queued.sh stage1 configs/ddit_sd3.py:stage1 /shared/runs/stage1
# Asks for TPU slices as the queued resource NAME, waits for them, runs the job
# on every worker, and asks again when they are taken away. WORKDIR lies on a
# file system that all workers share, and is not a bucket. When the run is done
# or given up, NAME is kept: it costs money until
#   gcloud compute tpus queued-resources delete NAME --force
# Environment:
#   PROJECT           of Google Cloud
#   ZONE              of the TPUs
#   ACCELERATOR_TYPE  of one slice, v5p-128
#   RUNTIME_VERSION   software of the TPU VMs, as the TPU's version needs it
#   SETUP             shell command for the workers: mounts WORKDIR's file
#                     system and installs ddit; it runs before every start
#   SLICES            1 if unset
#   SPOT              1: preemptible capacity
#   LOGS, MAX_FAILURES, RETRY_SECONDS  as for launch/tpu_pod.sh
set -euo pipefail
# shellcheck source=launch/tpu_restart.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu_restart.sh"

[[ $# -ge 3 ]] || refuse \
  "usage: launch/tpu_queued.sh NAME CONFIG WORKDIR [--config.key=value ...]"
[[ -n $1 && -n $2 && -n $3 ]] || refuse "an argument is empty"
for variable in PROJECT ZONE ACCELERATOR_TYPE RUNTIME_VERSION SETUP; do
  [[ -n ${!variable:-} ]] ||
    refuse "$variable is not set; launch/tpu_queued.sh explains it"
done
slices=${SLICES:-1}
[[ $slices =~ ^[1-9][0-9]{0,3}$ ]] ||
  refuse "SLICES must be 1 or more, got '$slices'"
command -v gcloud > /dev/null || refuse "no command gcloud"
name=$1
command=$(remote_command "${SETUP:?}" "${@:2}")

queued() { # VERB [flags]
  gcloud compute tpus queued-resources "$1" "$name" --project="$PROJECT" \
    --zone="$ZONE" "${@:2}"
}

state() {
  queued describe --format='value(state.state)' 2> /dev/null || echo MISSING
}

create() {
  local nodes=(--node-id="$name")
  ((slices == 1)) || nodes=(--node-count="$slices" --node-prefix="$name")
  queued create --accelerator-type="$ACCELERATOR_TYPE" \
    --runtime-version="$RUNTIME_VERSION" "${nodes[@]}" ${SPOT:+--spot}
}

attempt() {
  local code=0 now
  while now=$(state) && [[ $now != ACTIVE ]]; do
    say "the resource is $now"
    case $now in
      MISSING) create || return 1 ;;
      # What was taken away does not come back; the request has to be new.
      SUSPENDED | FAILED) queued delete --force --quiet || return 1 ;;
    esac
    # A request that fails at once must not be repeated for ever.
    [[ $now != FAILED ]] || return 1
    sleep "${RETRY_SECONDS:-60}"
  done
  # With a terminal (-tt) a worker's process ends with its connection.
  queued ssh --node=all --worker=all --ssh-flag=-tt --command="$command" \
    < /dev/null || code=$?
  # shellcheck disable=SC2034  # restart_until_done reads it.
  ((code == 0)) || [[ $(state) == ACTIVE ]] || is_preempted=1
  return "$code"
}

restart_until_done attempt
