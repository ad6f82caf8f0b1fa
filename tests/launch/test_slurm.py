"""The SLURM script: what it does when the processes end, or are stopped."""

import os
import signal
import subprocess
import time

import pytest

from tests.launch import scripts

# Starts the task once for every process id, as SLURM would, and returns the
# largest of the codes.
SRUN = """
while [[ $1 == --* ]]; do shift; done
for ((i = 0; i < ${SLURM_NTASKS:-2}; i++)); do
  SLURM_PROCID=$i setsid "$@" &
  pids+=($!)
done
echo "${pids[@]}" > "$HOME/pids"
for pid in "${pids[@]}"; do
  code=0
  wait "$pid" || code=$?
  ((code > worst)) && worst=$code
done
exit "${worst:-0}"
"""
DDIT = 'echo "$JAX_LOCAL_DEVICE_IDS: $*" > "$HOME/seen"\n'


def commands(tmp_path, ddit, state="RUNNING"):
  scripts.fake(
    tmp_path / "bin",
    ddit=DDIT + ddit,
    srun=SRUN,
    squeue=f"echo {state}",
    scontrol='echo "$*" >> "$HOME/requeued"',
    # As SLURM, to all processes of a task.
    scancel='for pid in $(< "$HOME/pids"); do kill -TERM -- "-$pid"; done',
  )
  return scripts.environment(
    tmp_path / "bin",
    SLURM_JOB_ID="7",
    SLURM_JOB_NODELIST="node",
    SLURM_NTASKS_PER_NODE="1",
    SLURM_GPUS_ON_NODE="4",
  )


def job(tmp_path, ddit, *argv, **changes):
  """The result, and whether the job went back into the queue."""
  env = commands(tmp_path, ddit) | changes
  argv = ("configs/digits.py", tmp_path / "w", *argv)
  result = scripts.run("slurm.sh", *argv, env=env)
  requeued = tmp_path / "bin" / "requeued"
  if not requeued.exists():
    return result, False
  assert set(requeued.read_text().splitlines()) == {"requeue 7"}
  requeued.unlink()
  return result, True


@pytest.mark.parametrize(
  ("ddit", "code", "is_requeued"),
  [
    ("exit 0", 0, False),
    ("exit 75", 75, True),
    ("exit 2", 2, False),
    # Processes that a bad input of another ended.
    ("[[ $SLURM_PROCID == 1 ]] && exit 2; exit 137", 2, False),
    ("[[ $SLURM_PROCID == 1 ]] && exit 75; exit 137", 75, True),
    ("exit 134", 134, True),
  ],
)
def test_how_the_processes_end_decides(tmp_path, ddit, code, is_requeued):
  result, requeued = job(tmp_path, ddit)
  assert (result.returncode, requeued) == (code, is_requeued), result.stderr


def test_failures_in_a_row_end_the_job(tmp_path):
  ends = [job(tmp_path, "exit 1")[1] for _ in range(3)]
  assert ends == [True, True, False]
  # A later sbatch starts to count again, and so does a stop that was saved.
  assert job(tmp_path, "exit 1")[1]
  assert job(tmp_path, "exit 75")[1]
  assert [job(tmp_path, "exit 1")[1] for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(("tasks", "ids"), [("1", "0,1,2,3"), ("4", "")])
def test_one_process_a_node_sees_all_gpus(tmp_path, tasks, ids):
  job(tmp_path, "", "--config.a=b  c", SLURM_NTASKS_PER_NODE=tasks)
  seen = (tmp_path / "bin" / "seen").read_text()
  assert seen == (
    f"{ids}: train --distributed --stop_code=75 --config=configs/digits.py "
    f"--workdir={tmp_path / 'w'} --config.a=b  c\n"
  )


@pytest.mark.parametrize(
  ("state", "is_requeued"), [("RUNNING", True), ("COMPLETING", False)]
)
def test_a_signal_saves_and_only_scancel_is_final(tmp_path, state, is_requeued):
  body = 'trap "exit 75" TERM; sleep 60 & touch "$HOME/$SLURM_PROCID"'
  env = commands(tmp_path, f"{body}; wait", state)
  started = subprocess.Popen(
    ["bash", scripts.LAUNCH / "slurm.sh", "c", tmp_path / "w"],
    env=env,
    stderr=subprocess.PIPE,
    text=True,
  )
  signs = [tmp_path / "bin" / name for name in ("0", "1", "pids")]
  while not all(path.exists() for path in signs):
    time.sleep(0.05)
  os.kill(started.pid, signal.SIGUSR1)
  _, errors = started.communicate(timeout=30)
  assert started.returncode == 75, errors
  assert (tmp_path / "bin" / "requeued").exists() == is_requeued


def test_a_run_that_does_not_stop_in_time_is_requeued_as_it_is(tmp_path):
  body = 'trap : TERM; touch "$HOME/$SLURM_PROCID"; while :; do sleep 1; done'
  env = commands(tmp_path, body) | {"SAVE_SECONDS": "1"}
  started = subprocess.Popen(
    ["bash", scripts.LAUNCH / "slurm.sh", "c", tmp_path / "w"],
    env=env,
    stderr=subprocess.PIPE,
    text=True,
  )
  signs = [tmp_path / "bin" / name for name in ("0", "1", "pids")]
  while not all(path.exists() for path in signs):
    time.sleep(0.05)
  os.kill(started.pid, signal.SIGUSR1)
  requeued = tmp_path / "bin" / "requeued"
  while started.poll() is None and not requeued.exists():
    time.sleep(0.05)
  # SLURM would end everything here.
  for pid in (tmp_path / "bin" / "pids").read_text().split():
    os.killpg(int(pid), signal.SIGKILL)
  _, errors = started.communicate(timeout=30)
  assert "not saved in 1 s" in errors
