#!/usr/bin/env bash
# sbatch --nodes=4 launch/slurm.sh CONFIG WORKDIR [--config.key=value ...]
#   sbatch --nodes=4 launch/slurm.sh configs/digits.py:gpu /shared/runs/digits
# One process a node with all of its GPUs: host memory holds the data and frozen
# weights once, and one process feeds the node. --ntasks-per-node=8 on the
# command line of sbatch gives one process a GPU instead: kernels are launched
# by eight Python processes, which helps where the launches are the bottleneck.
# WORKDIR lies on a file system that all nodes share, and is not a bucket.
# Environment:
#   LOGS          folder of the processes' output; WORKDIR.logs if unset
#   MAX_FAILURES  failures in a row, each within half an hour, before the job is
#                 given up; 3 if unset
#   SAVE_SECONDS  after which a run that was told to stop and has not ended goes
#                 back into the queue; 240 if unset
#SBATCH --job-name=ddit
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Five minutes before the time is up, to this script alone.
#SBATCH --signal=B:USR1@300
set -euo pipefail

refuse() {
  echo "launch/slurm.sh: $*" >&2
  exit 2
}

[[ $# -ge 2 ]] || refuse \
  "usage: sbatch launch/slurm.sh CONFIG WORKDIR [--config.key=value ...]"
[[ -n ${SLURM_JOB_ID:-} ]] || refuse "start it with sbatch"
config=$1 workdir=$2 max_failures=${MAX_FAILURES:-3}
save_seconds=${SAVE_SECONDS:-240}
shift 2
[[ -n $config ]] || refuse "CONFIG is empty"
[[ -n $workdir ]] || refuse "WORKDIR is empty"
[[ $max_failures =~ ^[0-9]{1,6}$ ]] ||
  refuse "MAX_FAILURES must be a number, got '$max_failures'"
[[ $save_seconds =~ ^[0-9]{1,6}$ ]] ||
  refuse "SAVE_SECONDS must be a number, got '$save_seconds'"
command -v ddit > /dev/null ||
  refuse "no command ddit: activate its environment before sbatch"
logs=${LOGS:-$workdir.logs}
mkdir -p "$logs"
rm -f "$logs"/*.code

# With SLURM JAX shows a process only the GPU of its number on the node.
if [[ ${SLURM_NTASKS_PER_NODE:-1} == 1 && -n ${SLURM_GPUS_ON_NODE:-} ]]; then
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi

# Signals of SLURM reach this wrapper of a process too; it waits and notes how
# the process ended, since srun returns only one of the codes.
# shellcheck disable=SC2016
wrapper='trap : TERM USR1 CONT
code=0
"${@:2}" || code=$?
echo "$code" > "$1/$SLURM_PROCID.code"
exit "$code"'

requeue() {
  # `scancel` of the whole job ends the processes just as a preemption does.
  local state
  state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
  if [[ $state == RUNNING ]]; then
    echo "launch/slurm.sh: $(date): $*; requeued" >&2
    scontrol requeue "$SLURM_JOB_ID"
  else
    echo "launch/slurm.sh: $(date): $*; the job is $state" >&2
  fi
}

# SIGTERM to the processes saves a checkpoint and ends them with code 75. A run
# that compiles for longer goes back into the queue as its last checkpoint left
# it: at the end of its time SLURM would end it for good.
stop() {
  echo "launch/slurm.sh: $(date): stopping to save" >&2
  scancel --signal=TERM "$SLURM_JOB_ID" || true
  deadline=${deadline:-$((SECONDS + save_seconds))}
}
deadline=
trap stop USR1 TERM

echo "launch/slurm.sh: $(date): start ${SLURM_RESTART_COUNT:-0} on" \
  "$SLURM_JOB_NODELIST; output in $logs" >&2
started=$SECONDS
# The others have half a minute once one process has ended.
srun --kill-on-bad-exit=0 --wait=30 --open-mode=append \
  --output="$logs/%t.log" --error="$logs/%t.log" \
  bash -c "$wrapper" ddit "$logs" ddit train --distributed --stop_code=75 \
  --config="$config" --workdir="$workdir" "$@" &
srun=$!
while kill -0 "$srun" 2> /dev/null; do
  sleep 0.5 || true
  if [[ -n $deadline ]] && ((SECONDS >= deadline)); then
    requeue "not saved in $save_seconds s"
    deadline=$((SECONDS + save_seconds))
  fi
done
code=0
wait "$srun" || code=$?

ended_with() {
  grep -qx "$1" "$logs"/*.code 2> /dev/null
}

if ended_with 2; then
  echo "launch/slurm.sh: refused, see $logs; not started again" >&2
  exit 2
elif ended_with 75; then
  rm -f "$logs/failures"
  requeue "stopped and saved"
  exit 75
elif ((code == 0)); then
  rm -f "$logs/failures"
  echo "launch/slurm.sh: $(date): done" >&2
else
  failures=0
  if ((SECONDS - started < 1800)) && [[ -f $logs/failures ]]; then
    failures=$(< "$logs/failures")
  fi
  echo $((++failures)) > "$logs/failures"
  if ((failures < max_failures)); then
    requeue "failure $failures of $max_failures, code $code"
  else
    echo "launch/slurm.sh: failure $failures, code $code; given up" >&2
    # A later sbatch of the same run starts to count again.
    rm -f "$logs/failures"
  fi
  exit "$code"
fi
