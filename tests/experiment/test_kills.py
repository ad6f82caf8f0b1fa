"""Runs killed many times at random moments end as undisturbed ones do.

A parent with everything imported forks each run, and all of them share compiled
programs, the small ones, too, so a kill costs seconds. DDIT_KILLS sets how many
there are of each job; DDIT_KILLS_SEED chooses other moments.
"""

import collections
import multiprocessing
import os
import pathlib
import signal
import sys
import time

import numpy as np
import pytest

from tests import devices, tiny_run

NUM_KILLS = int(os.environ.get("DDIT_KILLS", "6"))
SEED = int(os.environ.get("DDIT_KILLS_SEED", "0"))
DIGITS = tiny_run.flags(
  train__checkpoint_every="1",
  train__validate_every="3",
  train__keep_last="2",
)
RECIPE = [
  f"--config={tiny_run.ROOT / 'configs' / 'ddit_sd3.py'}:all_dry",
  *("--config.train.checkpoint_every=1", "--config.train.log_every=1"),
  # Nothing that is compared depends on them.
  "--config.train.sample_grid_size=0",
]
# Signals, and the exit codes of a run that they stop.
STOPS = {
  "SIGKILL": ([signal.SIGKILL], (-signal.SIGKILL,)),
  # Before training begins there is nothing to save.
  "SIGTERM": ([signal.SIGTERM], (0, -signal.SIGTERM)),
  "one Ctrl-C": ([signal.SIGINT], (0, 130)),
  "two Ctrl-C": ([signal.SIGINT] * 2, (0, 130)),
}


def train(argv: list[str], log: pathlib.Path) -> None:
  """`ddit train` in a forked process, with its output in a file."""
  from ddit_jax.cli import main

  # A shell may have started us with Ctrl-C ignored.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  for descriptor in (1, 2):
    os.dup2(file, descriptor)
  try:
    code = main.main(["train", *argv])
  except KeyboardInterrupt:  # Before `main` could see it.
    code = 130
  sys.exit(code)


@pytest.fixture(scope="module")
def start():
  """(arguments, log) -> a started run on one device."""
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(
    ["ddit_jax.cli.main", "ddit_jax.experiment.stages", "tensorboardX.summary"]
  )

  def start_one(argv, log):
    process = context.Process(target=train, args=(argv, log))
    process.start()
    return process

  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XLA_FLAGS", devices.xla_flags(1))
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    yield start_one


def wait_for_a_moment(process, workdir, draw, seconds) -> bool:
  """Until a random moment, of every second kill one during a save.

  Returns:
    True if it is during a save: a step's folder has no manifest.
  """
  end = time.monotonic() + draw.uniform(0, seconds)
  while time.monotonic() < end and process.is_alive():
    time.sleep(0.005)
  if draw.random() < 0.5:
    return False
  while process.is_alive():
    if any(is_unfinished(step) for step in steps_below(workdir)):
      return True
    time.sleep(0.01)
  return False


def steps_below(workdir) -> list[pathlib.Path]:
  """Folders of steps in a run, or in the stages of a job."""
  return [*workdir.glob("checkpoints/*"), *workdir.glob("*/checkpoints/*")]


def is_unfinished(step: pathlib.Path) -> bool:
  """True while a step is saved, under its own name or Orbax's."""
  is_step = step.name.isdecimal() or "orbax" in step.name
  return is_step and not (step / "manifest.json").exists()


def stop(process, name, draw) -> bool:
  """Sends the signals of a kind of stop; False if the run ended before."""
  signals, codes = STOPS[name]
  was_alive = process.is_alive()
  for index, number in enumerate(signals):
    if index:
      process.join(draw.uniform(0.05, 1.2))
    if process.is_alive():
      os.kill(process.pid, number)
  process.join(300)
  assert process.exitcode is not None, f"it hangs after {name}"
  assert process.exitcode in (0, *codes)
  return was_alive


def stages_of(workdir) -> dict[str, int]:
  """Folder below the workdir -> the last step in it."""
  last = collections.defaultdict(int)
  for step in steps_below(workdir):
    if step.name.isdecimal():
      folder = str(step.parent.parent.relative_to(workdir))
      last[folder] = max(last[folder], int(step.name))
  return last


@pytest.mark.slow
@pytest.mark.parametrize("job", [DIGITS, RECIPE], ids=["digits", "recipe"])
def test_killed_runs_end_bit_identical(start, tmp_path, job):
  log = tmp_path / "log"
  # The first run compiles; the others take as long as the second.
  for reference in (tmp_path / "compiles", tmp_path / "reference"):
    begin = time.monotonic()
    process = start([*job, f"--workdir={reference}"], log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    seconds = 0.6 * (time.monotonic() - begin)
    print(f"undisturbed: {seconds / 0.6:.0f} s", flush=True)
  draw = np.random.default_rng(SEED)
  counts, during_saves, num_runs = collections.Counter(), 0, 0
  while counts.total() < NUM_KILLS:
    workdir = tmp_path / f"killed {num_runs}"
    while True:
      process = start([*job, f"--workdir={workdir}"], log)
      if counts.total() < NUM_KILLS:
        name = list(STOPS)[counts.total() % len(STOPS)]
        is_save = wait_for_a_moment(process, workdir, draw, seconds)
        if stop(process, name, draw):
          counts[name] += 1
          during_saves += is_save
          print(f"{name}, {is_save=}, code {process.exitcode}", flush=True)
          continue
      process.join()
      assert process.exitcode == 0, log.read_text()
      break
    num_runs += 1
    assert stages_of(workdir) == stages_of(reference)
    print(f"run {num_runs} is complete", flush=True)
    for folder, step in stages_of(reference).items():
      tiny_run.assert_bit_identical(workdir / folder, reference / folder, step)
  assert "Traceback" not in log.read_text(), log.read_text()
  print(f"\n{dict(counts)}, {during_saves} during a save, {num_runs} runs")
