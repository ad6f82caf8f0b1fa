#!/usr/bin/env bash
# launch/gke.sh tpu|gpu CONFIG WORKDIR [--config.key=value ...]
#   NAME=stage1 IMAGE=REGION-docker.pkg.dev/PROJECT/ddit/train:1 \
#   CLAIM=filestore ACCELERATOR=tpu-v5p-slice TOPOLOGY=4x4x4 HOSTS=16 CHIPS=4 \
#   SLICES=2 \
#   launch/gke.sh tpu configs/ddit_sd3.py:stage1 /shared/runs/stage1
# Fills in launch/gke_tpu.yaml or launch/gke_gpu.yaml and applies it. The same
# command after `kubectl delete jobset NAME` resumes the run.
# Environment:
#   NAME          of the JobSet
#   IMAGE         container image with the command ddit and the configs
#   CLAIM         PersistentVolumeClaim that all nodes can write (Filestore, NFS
#                 or Lustre, not a bucket), mounted at /shared; WORKDIR is in it
#   ACCELERATOR   as the nodes' label says: tpu-v5p-slice, nvidia-h100-80gb
#   HOSTS         Pods: hosts of one slice, or GPU nodes
#   CHIPS         chips or GPUs of a host
#   TOPOLOGY      tpu: of one slice, 4x4x4
#   SLICES        tpu: slices; 1 if unset
#   MAX_RESTARTS  restarts, preemptions included, before it is given up; 50 if
#                 unset
#   DRY_RUN       print the manifest and do nothing
set -euo pipefail

refuse() {
  echo "launch/gke.sh: $*" >&2
  exit 2
}

require() { # NAME PATTERN
  local value=${!1:-}
  [[ -n $value ]] || refuse "$1 is not set; launch/gke.sh explains it"
  [[ $value =~ ^$2$ ]] || refuse "$1 has no such form: '$value'"
}

# Text as a JSON string, in which Kubernetes replaces no variables.
quoted() {
  local text=$1
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//\$/\$\$}
  [[ $text != *[[:cntrl:]]* ]] || refuse "control characters in an argument"
  printf '"%s"' "$text"
}

[[ $# -ge 3 ]] || refuse \
  "usage: launch/gke.sh tpu|gpu CONFIG WORKDIR [--config.key=value ...]"
kind=$1 config=$2 workdir=$3
shift 3
[[ $kind == tpu || $kind == gpu ]] || refuse "'$kind' is neither tpu nor gpu"
[[ -n $config ]] || refuse "CONFIG is empty"
[[ $workdir == /shared/?* ]] ||
  refuse "WORKDIR must lie in /shared, which outlives the Pods, got '$workdir'"
SLICES=${SLICES:-1} MAX_RESTARTS=${MAX_RESTARTS:-50}
reference='[A-Za-z0-9][A-Za-z0-9._/:@-]*'
label='[a-z]([a-z0-9-]{0,38}[a-z0-9])?'
require NAME "$label"
require IMAGE "$reference"
require CLAIM "$label"
require ACCELERATOR "[a-z0-9-]+"
require HOSTS "[1-9][0-9]{0,4}"
require CHIPS "[1-9][0-9]{0,2}"
require SLICES "[1-9][0-9]{0,3}"
require MAX_RESTARTS "[0-9]{1,6}"
names=(NAME IMAGE CLAIM ACCELERATOR HOSTS CHIPS MAX_RESTARTS ARGS)
args=("--config=$config" "--workdir=$workdir" "$@")
ARGS=
for arg in "${args[@]}"; do ARGS+="$(quoted "$arg"), "; done
if [[ $kind == tpu ]]; then
  require TOPOLOGY "[1-9][0-9]*(x[1-9][0-9]*){1,2}"
  ((HOSTS * CHIPS == ${TOPOLOGY//x/*})) || refuse \
    "HOSTS $HOSTS x CHIPS $CHIPS are not the chips of TOPOLOGY $TOPOLOGY"
  names+=(TOPOLOGY SLICES)
  ARGS="[${ARGS%, }]"
else
  [[ $SLICES == 1 ]] || refuse "gpu takes no SLICES, got $SLICES"
  first=${NAME:?}-node-0-0.$NAME
  ARGS+="\"--coordinator=$first:55527\", "
  # Kubernetes fills in each Pod's own number.
  ARGS+="\"--num_processes=$HOSTS\", \"--process_id=\$(PROCESS_ID)\""
  ARGS="[$ARGS]"
fi

manifest=$(< "$(dirname "${BASH_SOURCE[0]}")/gke_$kind.yaml")
for name in "${names[@]}"; do
  manifest=${manifest//"\${$name}"/"${!name}"}
done
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%s\n' "$manifest"
else
  command -v kubectl > /dev/null || refuse "no command kubectl"
  kubectl apply -f - <<< "$manifest"
  echo "logs: kubectl logs --follow --prefix" \
    "--max-log-requests=$((HOSTS * SLICES))" \
    "--selector=jobset.sigs.k8s.io/jobset-name=$NAME"
fi
