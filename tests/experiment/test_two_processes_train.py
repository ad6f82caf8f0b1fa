"""One training job of two real processes against the same job of one."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests import devices, tiny_run

PROCESS = """
import sys
import jax
workdir, port, index, count, num_steps = sys.argv[1], *map(int, sys.argv[2:])
if count > 1:
  jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
from ddit_jax.experiment.trainer import train
from tests import tiny_run
overrides = {"train__num_steps": str(num_steps), "train__sample_grid_size": "2",
             "train__validate_every": "2", "optimizer__decay": "constant"}
train(tiny_run.settings(**overrides), workdir)
"""


def run_together(workdir, *, count: int, num_steps: int) -> str:
  """Eight devices in all; the joined output."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  started = [
    subprocess.Popen(
      [sys.executable, "-c", PROCESS]
      + [str(x) for x in (workdir, port, index, count, num_steps)],
      cwd=tiny_run.ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env=os.environ
      | {"XLA_FLAGS": devices.xla_flags(8 // count), "JAX_PLATFORMS": "cpu"},
    )
    for index in range(count)
  ]
  outputs = [process.communicate(timeout=300)[0] for process in started]
  for process, output in zip(started, outputs, strict=True):
    assert process.returncode == 0, output
  return "".join(outputs)


@pytest.mark.slow
def test_two_processes_train_and_resume_as_one_does(tmp_path):
  alone, together = tmp_path / "alone", tmp_path / "together"
  run_together(alone, count=1, num_steps=4)
  run_together(together, count=2, num_steps=2)
  run_together(together, count=2, num_steps=4)
  want = tiny_run.stored_arrays(alone, 4)
  got = tiny_run.stored_arrays(together, 4)
  assert got.keys() == want.keys()
  for name, array in want.items():
    # Sums over processes are added in another order: 7.0e-7 at most.
    np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-5)
  assert tiny_run.data_position(together, 4) == tiny_run.data_position(alone, 4)
  # Once each, though two processes logged them.
  steps = [
    step
    for step, name, _ in tiny_run.logged_losses(together)
    if name == "loss/total"
  ]
  assert steps == [1, 2, 3, 4]
  assert len(list((together / "images" / "generated_images").iterdir())) == 2
