# Sourced by tpu_pod.sh and tpu_queued.sh: how a run on TPU VMs starts again.
# Environment: LOGS, MAX_FAILURES, RETRY_SECONDS, see launch/tpu_pod.sh.
# shellcheck shell=bash

refuse() {
  echo "$0: $*" >&2
  exit 2
}

say() {
  echo "$0: $(date): $*" >&2
}

# remote_command SETUP CONFIG WORKDIR [--config.key=value ...]
# What each worker runs. Its output also goes to a log named after the worker.
remote_command() {
  local setup=$1 config=$2 workdir=$3 train log
  shift 3
  printf -v train ' %q' ddit train --distributed --stop_code=75 \
    "--config=$config" "--workdir=$workdir" "$@"
  printf -v log %q "${LOGS:-$workdir.logs}"
  # Only ddit's own exit code 2 means bad input; tee must not hide it.
  printf '%s' "{ $setup; } && mkdir -p $log || exit 1;" \
    " set -o pipefail;$train 2>&1 | tee -a $log/\$(hostname).log"
}

# restart_until_done ATTEMPT
# Calls the function ATTEMPT until the run is done. Exit code 2 (bad input) ends
# it at once, and so do MAX_FAILURES failures in a row, each within half an
# hour. Code 75 is a run that was stopped and saved. ATTEMPT may set
# `is_preempted`.
restart_until_done() {
  local code failures=0 limit=${MAX_FAILURES:-3} started
  [[ $limit =~ ^[0-9]{1,6}$ ]] ||
    refuse "MAX_FAILURES must be a number, got '$limit'"
  [[ ${RETRY_SECONDS:-60} =~ ^[0-9]{1,6}$ ]] ||
    refuse "RETRY_SECONDS must be a number, got '$RETRY_SECONDS'"
  # The next start is not wanted after Ctrl-C.
  trap 'exit 130' INT TERM
  while true; do
    code=0 is_preempted='' started=$SECONDS
    "$1" || code=$?
    case $code in
      0) say "done" && return ;;
      2) say "refused, not started again" && exit 2 ;;
    esac
    ((SECONDS - started < 1800)) || failures=0
    if [[ $code == 75 || -n $is_preempted ]]; then
      failures=0
      say "stopped with code $code; starting again"
    elif ((++failures >= limit)); then
      say "failure $failures, code $code; given up"
      exit "$code"
    else
      say "failure $failures of $limit, code $code; starting again"
    fi
    sleep "${RETRY_SECONDS:-60}"
  done
}
