"""Killed processes lose nothing: SIGKILL, SIGTERM, a second process."""

import signal
import time

import numpy as np
import pytest

from tests import tiny_run

NUM_STEPS = 40
OPTIONS = {
  "train__num_steps": str(NUM_STEPS),
  "train__checkpoint_every": "4",
  "train__validate_every": "10",
  "optimizer__warmup_steps": "5",
}


def start(workdir, num_devices=1):
  argv = ["train", f"--workdir={workdir}", *tiny_run.flags(**OPTIONS)]
  return tiny_run.ddit(*argv, num_devices=num_devices)


def finish(workdir, num_devices=1) -> str:
  """Runs to the end; what was said on stderr."""
  process = start(workdir, num_devices)
  _, errors = process.communicate()
  assert process.returncode == 0, errors
  return errors


def wait_for(process, condition) -> None:
  """Until a file appears, say; the process must still be running then."""
  while not condition():
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.002)


def num_logged(workdir) -> int:
  path = workdir / "scalars.jsonl"
  return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("undisturbed") / "run"
  finish(workdir)
  return workdir


@pytest.mark.slow
def test_sigkill_at_three_moments_changes_no_bit(undisturbed, tmp_path):
  workdir = tmp_path / "run"
  checkpoints = workdir / "checkpoints"
  moments = [
    # Between two checkpoints, as the first save may still be under way.
    lambda: num_logged(workdir) >= 6,
    # While step 20 is being written: its folder exists under Orbax's
    # temporary name or its own, and has no manifest.
    lambda: any(checkpoints.glob("20*")),
    # During validation or just after it.
    lambda: num_logged(workdir) >= 32,
  ]
  for moment in moments:
    process = start(workdir)
    wait_for(process, moment)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
  assert "resuming" in finish(workdir)
  tiny_run.assert_bit_identical(workdir, undisturbed, NUM_STEPS)


@pytest.mark.slow
def test_sigterm_saves_and_exits_0_and_eight_devices_go_on(
  undisturbed, tmp_path
):
  workdir = tmp_path / "run"
  process = start(workdir)
  wait_for(process, lambda: num_logged(workdir) >= 14)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate()
  assert process.returncode == 0 and "Traceback" not in errors
  steps = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
  stopped_at = max(step for step, _, _ in tiny_run.logged_losses(workdir))
  assert max(steps) == stopped_at < NUM_STEPS
  report = (workdir / "report.html").read_text()
  assert f"{stopped_at} of {NUM_STEPS} training steps" in report
  errors = finish(workdir, num_devices=8)
  assert "on 8 devices" in errors
  assert f"resuming {workdir} at step {stopped_at} of {NUM_STEPS}" in errors
  ours = tiny_run.stored_arrays(workdir, NUM_STEPS)
  theirs = tiny_run.stored_arrays(undisturbed, NUM_STEPS)
  for name, array in theirs.items():
    np.testing.assert_allclose(ours[name], array, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_a_second_process_is_turned_away_and_the_first_goes_on(tmp_path):
  workdir = tmp_path / "run"
  first = start(workdir)
  wait_for(first, lambda: num_logged(workdir) >= 1)
  second = start(workdir)
  _, errors = second.communicate()
  assert second.returncode == 2
  assert errors == (
    f"ddit: another process is training in {workdir}: wait for it or choose "
    "another --workdir\n"
  )
  first.send_signal(signal.SIGTERM)
  _, errors = first.communicate()
  assert first.returncode == 0, errors
