"""Jobs of real processes, one of which is killed, stopped, or hangs."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from ddit_jax.experiment import processes
from tests import devices, tiny_run

SECONDS = 60
# `ddit` on a process whose data never come after the third batch.
WITHOUT_DATA = """
import sys, time
from ddit_jax.cli.main import main
from ddit_jax.data.prefetch import DeviceFeed
real, seen = DeviceFeed.__next__, []
def halted(feed):
  seen.append(1)
  while len(seen) > 3:
    time.sleep(1)
  return real(feed)
if "--process_id=1" in sys.argv:
  DeviceFeed.__next__ = halted
sys.exit(main())
"""


class Job:
  """Processes of one training job, one device each.

  Args:
    workdir: of the run; the processes' output goes beside it.
    count: number of processes.
    program: arguments of Python.
  """

  def __init__(self, workdir, count, *flags, program=("-m", "ddit_jax")):
    self._workdir, self._count = workdir, count
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      place = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
    self._logs = [workdir.parent / f"{n}.log" for n in range(count)]
    common = tiny_run.flags(
      train__num_steps="5000",
      train__checkpoint_every="5000",
      train__validate_every="5000",
      train__peer_timeout_seconds="20",
    )
    self.processes = []
    for number, path in enumerate(self._logs):
      with open(path, "w") as log:
        self.processes.append(
          subprocess.Popen(
            [
              *(sys.executable, *program, "train", f"--workdir={workdir}"),
              *("--stop_code=75", *common, *flags, place),
              *(f"--num_processes={count}", f"--process_id={number}"),
            ],
            cwd=tiny_run.ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ
            | {"XLA_FLAGS": devices.xla_flags(1), "JAX_PLATFORMS": "cpu"},
          )
        )

  def wait_for_steps(self, count=3):
    scalars = self._workdir / "scalars.jsonl"
    end = time.monotonic() + 400
    while not scalars.exists() or scalars.read_text().count("\n") < count:
      codes = [process.poll() for process in self.processes]
      assert not any(codes), self.outputs()
      assert time.monotonic() < end, self.outputs()
      time.sleep(0.2)

  def codes(self, *, without=None):
    """The exit codes of all processes but one, which end within a minute."""
    end = time.monotonic() + SECONDS
    codes = []
    for number, process in enumerate(self.processes):
      if number != without:
        codes.append(process.wait(max(0.0, end - time.monotonic())))
    return codes

  def outputs(self):
    return [path.read_text() for path in self._logs]

  def end(self):
    for process in self.processes:
      process.kill()
      process.wait()


@pytest.fixture
def start(tmp_path):
  """Starts a job whose processes are gone after the test."""
  jobs = []

  def run(count, *flags, **options):
    jobs.append(Job(tmp_path / "run", count, *flags, **options))
    return jobs[-1]

  yield run
  for job in jobs:
    job.end()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "number", "count"), [("SIGKILL", 1, 2), ("SIGSTOP", 0, 4)]
)
def test_a_lost_process_ends_its_job_and_is_named(start, count, number, name):
  job = start(count)
  job.wait_for_steps()
  job.processes[number].send_signal(getattr(signal, name))
  begin = time.monotonic()
  codes = job.codes(without=number)
  print(f"all ended after {time.monotonic() - begin:.1f} s with {codes}")
  line = f"process {number} was killed or stopped, or cannot be reached\n"
  outputs = job.outputs()[:number] + job.outputs()[number + 1 :]
  assert set(codes) == {1} and all(line in output for output in outputs)


@pytest.mark.slow
def test_a_process_that_hangs_ends_its_job_and_is_named(start, tmp_path):
  job = start(
    2,
    "--config.train.step_timeout_seconds=5",
    program=("-c", WITHOUT_DATA),
  )
  codes = [process.wait(400) for process in job.processes]
  assert codes == [processes._HUNG] * 2, job.outputs()
  last = [output.splitlines()[-1] for output in job.outputs()]
  assert any("process 1 for the batch of step 4" in line for line in last) or (
    any("process 1 waited for the batch of step 4" in line for line in last)
  ), last
  stacks = [path.read_text() for path in (tmp_path / "run").glob("hang_*.txt")]
  assert stacks and all("most recent call first" in text for text in stacks)


@pytest.mark.slow
def test_sigterm_to_one_process_saves_and_stops_all(start, tmp_path):
  job = start(2)
  job.wait_for_steps()
  job.processes[-1].send_signal(signal.SIGTERM)
  assert job.codes() == [75, 75]
  [saved] = (tmp_path / "run" / "checkpoints").iterdir()
  assert (saved / "manifest.json").is_file()
