"""Training by two processes that launch/local.sh starts."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests import devices, tiny_run
from tests.launch import scripts


@pytest.mark.slow
def test_a_stopped_job_saves_and_the_same_command_resumes_it(tmp_path):
  flags = tiny_run.flags(train__num_steps="500", train__checkpoint_every="500")
  command = [
    *("bash", scripts.LAUNCH / "local.sh", "2", sys.executable, "-m"),
    *("ddit_jax", "train", "--stop_code=75", f"--workdir={tmp_path}", *flags),
  ]
  env = os.environ | {"XLA_FLAGS": devices.xla_flags(1)}

  def start(*more):
    return subprocess.Popen(
      [*command, *more],
      cwd=scripts.ROOT,
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  stopped = start()
  log = tmp_path / "scalars.jsonl"
  while not (log.exists() and log.stat().st_size) and stopped.poll() is None:
    time.sleep(0.2)
  stopped.send_signal(signal.SIGTERM)
  output, _ = stopped.communicate(timeout=120)
  assert stopped.returncode == 75, output
  [saved] = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
  assert 0 < saved < 500
  resumed = start(f"--config.train.num_steps={saved + 1}")
  output, _ = resumed.communicate(timeout=200)
  assert resumed.returncode == 0, output
  steps = [step for step, name, _ in tiny_run.logged_losses(tmp_path)]
  assert max(steps) == saved + 1
