#!/usr/bin/env bash
# launch/local.sh NUM_PROCESSES COMMAND ...
#   launch/local.sh 2 ddit train --config=configs/digits.py --workdir=runs/two
# Runs COMMAND in NUM_PROCESSES processes of this machine, as one job: each gets
# --coordinator, --num_processes and --process_id. On CPUs they meet through
# gloo. SIGTERM and Ctrl-C reach all of them as SIGTERM. Once one has failed the
# others have GRACE_SECONDS before they are killed. Exits with 2 if one of them
# did, else with the first code that is not 0.
# Environment:
#   DEVICES        virtual CPU devices of each process; as XLA_FLAGS says if
#                  unset
#   GPUS           GPUs of each process; CPU if unset
#   LOGS           folder that gets the output of each process, 0.log and so on
#   GRACE_SECONDS  10 if unset
set -euo pipefail

refuse() {
  echo "launch/local.sh: $*" >&2
  exit 2
}

require_count() {
  [[ $2 =~ ^[1-9][0-9]{0,3}$ ]] || refuse "$1 must be 1 ... 9999, got '$2'"
}

[[ $# -ge 2 ]] || refuse "usage: launch/local.sh NUM_PROCESSES COMMAND ..."
count=$1
shift
require_count NUM_PROCESSES "$count"
command -v "$1" > /dev/null || refuse "no command '$1'"
if [[ -n ${DEVICES:-} ]]; then
  require_count DEVICES "$DEVICES"
  force=--xla_force_host_platform_device_count=$DEVICES
  export XLA_FLAGS="${XLA_FLAGS:-} $force"
fi
if [[ -n ${GPUS:-} ]]; then
  require_count GPUS "$GPUS"
else
  export JAX_PLATFORMS=cpu JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo
fi
grace=${GRACE_SECONDS:-10}
[[ $grace =~ ^[0-9]{1,6}$ ]] ||
  refuse "GRACE_SECONDS must be a number, got '$grace'"
[[ -z ${LOGS:-} ]] || mkdir -p "$LOGS"

# Below the ports that systems give to clients; taken ones accept a connection.
while
  port=$((10000 + RANDOM % 20000))
  (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null
do :; done

# Its input with the process's number before each line, to the terminal and log.
show() {
  trap '' INT TERM
  sed -u "s/^/[$1] /" | tee ${LOGS:+"$LOGS/$1.log"}
}

run() {
  local id=$1
  shift
  if [[ -n ${GPUS:-} ]]; then
    CUDA_VISIBLE_DEVICES=$(seq -s, $((id * GPUS)) $((id * GPUS + GPUS - 1)))
    export CUDA_VISIBLE_DEVICES
  fi
  exec "$@" "--coordinator=127.0.0.1:$port" "--num_processes=$count" \
    "--process_id=$id" > >(show "$id") 2>&1
}

pids=()
trap 'kill -TERM "${pids[@]}" 2> /dev/null || true' INT TERM
for ((id = 0; id < count; id++)); do
  run "$id" "$@" &
  pids+=($!)
  echo "launch/local.sh: process $id has PID $!" >&2
done

code=0 deadline=
while ((${#pids[@]})); do
  sleep 0.2 || true
  running=()
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2> /dev/null; then
      running+=("$pid")
      continue
    fi
    status=0
    wait "$pid" || status=$?
    ((status == 0)) || deadline=${deadline:-$((SECONDS + grace))}
    if ((status == 2 || code == 0)); then code=$status; fi
  done
  pids=(${running[@]+"${running[@]}"})
  if [[ -n $deadline ]] && ((SECONDS > deadline && ${#pids[@]})); then
    kill -KILL "${pids[@]}" 2> /dev/null || true
  fi
done
exit "$code"
