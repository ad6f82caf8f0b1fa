#!/usr/bin/env bash
# sbatch --nodes=4 launch/slurm.sh configs/digits.py:gpu /shared/runs/digits \
#   [--config.key=value ...]
#SBATCH --job-name=ddit
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
config=$1 workdir=$2
shift 2
srun --kill-on-bad-exit=1 ddit train --distributed \
  --config="$config" --workdir="$workdir" "$@"
