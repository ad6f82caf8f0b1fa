#!/usr/bin/env bash
# Training, sampling and attention at full size on one NVIDIA GPU, unattended,
# in at most eight minutes. Prints a table; $OUT gets the table and gpu.json.
#
#   benchmarks/gpu.sh
#   PARTS="matmul stage1" benchmarks/gpu.sh
#   TOY=1 OUT=/tmp/gpu benchmarks/gpu.sh    # every part, small, on a CPU
#
# Needs Python 3.11 or newer, JAX for CUDA, and PyTorch for the parts named
# after diffusers. Packages that a machine without a network lacks travel as
# wheels. Where there is a network, for Python 3.12 on x86-64:
#
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 \
#     --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
#     -d .whl grain array-record ml-collections tensorflow-datasets diffusers \
#     jaxtyping importlib-metadata zipp wadler-lindig
#
# and on the machine:
#
#   python3 -m pip install --no-index --no-deps --target /tmp/site .whl/*.whl
#   PYTHONPATH=/tmp/site benchmarks/gpu.sh
set -uo pipefail
cd "$(dirname "$0")/.." || exit

PYTHON=${PYTHON:-python3}
OUT=${OUT:-runs/gpu}
all_parts="matmul stage1 stage1_xla stage2_highres stage2_highres_xla images"
all_parts+=" images_diffusers sampling"
PARTS=${PARTS:-$all_parts}
# The parts together; each may use what is left of it.
SECONDS_IN_ALL=${SECONDS_IN_ALL:-470}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.95}
# A part compiles anew what another one has not.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$OUT/compiled}

suffix="" runs=10 batches="96 24 32" side=8192 peer=sd3_medium grid=32
sampling="--size=sd3_medium --batch=8 --rounds=2"
if [[ -n "${TOY:-}" ]]; then
  suffix=_dry runs=2 batches="8 8 4" side=256 peer=toy_sd3 grid=8
  sampling="--size=tiny --batch=2 --rounds=1 --steps=2 --dtype=float32"
fi
read -r batch1 batch2 batch_images <<<"$batches"

for name in $PARTS; do
  if [[ " $all_parts " != *" $name "* ]]; then
    echo "PARTS: unknown part $name, there are $all_parts" >&2
    exit 2
  fi
done

mkdir -p "$OUT"
: >"$OUT/parts.jsonl"

one_line='import json, sys
print(json.dumps({"part": sys.argv[1]} | json.load(sys.stdin)))'

# Runs a part in the time that is left and keeps its line, or its last error.
part() {
  local name=$1 left=$((SECONDS_IN_ALL - SECONDS)) line
  shift
  if ((left < 5)); then
    line='{"part": "'$name'", "error": "no time was left"}'
  elif ! line=$(timeout "$left" "$PYTHON" "$@" 2>"$OUT/$name.log" |
    "$PYTHON" -c "$one_line" "$name" 2>/dev/null); then
    line='{"part": "'$name'", "error": "failed, see '$name'.log"}'
  fi
  echo "$line" >>"$OUT/parts.jsonl"
  echo "$(date +%T) $name: ${line:0:160}" >&2
}

step() {
  local name=$1 config=$2 batch=$3
  shift 3
  part "$name" benchmarks/gpu.py step --runs="$runs" \
    --config="configs/ddit_sd3.py:$config$suffix" --batch="$batch" "$@"
}

xla=--config.model.execution.attention_kernel=xla
for name in $PARTS; do
  case $name in
    matmul) part matmul benchmarks/gpu.py matmul --side=$side --runs=$runs ;;
    stage1) step stage1 stage1 "$batch1" ;;
    stage1_xla) step stage1_xla stage1 "$batch1" $xla ;;
    stage2_highres) step stage2_highres stage2_highres "$batch2" ;;
    stage2_highres_xla)
      step stage2_highres_xla stage2_highres "$batch2" $xla ;;
    images)
      # The image loss alone, from latents and features, as diffusers has it,
      # and of as many.
      step images stage1 "$batch_images" --exact \
        --config.data.image_to_text.batch_size=0 \
        --config.data.text_to_image.cache=random \
        --config.data.text_to_image.crop=centre \
        --config.loss.condition_dropout=0.0 \
        --config.model.execution.remat=none ;;
    images_diffusers)
      part images_diffusers benchmarks/gpu.py diffusers \
        --size=$peer --latent_side=$grid \
        --batch="$batch_images" --runs=$runs ;;
    sampling)
      # PyTorch and JAX share the device.
      # shellcheck disable=SC2086
      XLA_PYTHON_CLIENT_PREALLOCATE=false part sampling benchmarks/sampling_speed.py $sampling ;;
  esac
done

"$PYTHON" benchmarks/gpu.py table "$OUT/parts.jsonl" --json="$OUT/gpu.json" |
  tee "$OUT/table.md"
