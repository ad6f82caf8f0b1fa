"""Jobs of real processes, one of which is killed."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import devices, tiny_run

SECONDS = 60


class Job:
  """Processes of one training job, one device each.

  Args:
    workdir: of the run; the processes' output goes beside it.
    count: number of processes.
  """

  def __init__(self, workdir, count, *flags):
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
              *(
                sys.executable,
                "-m",
                "ddit_jax",
                "train",
                f"--workdir={workdir}",
              ),
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

  def run(count, *flags):
    jobs.append(Job(tmp_path / "run", count, *flags))
    return jobs[-1]

  yield run
  for job in jobs:
    job.end()


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_process_ends_its_job_and_is_named(start, number):
  job = start(2)
  job.wait_for_steps()
  job.processes[number].kill()
  begin = time.monotonic()
  codes = job.codes(without=number)
  print(f"all ended after {time.monotonic() - begin:.1f} s with {codes}")
  line = f"process {number} was killed or stopped, or cannot be reached\n"
  outputs = job.outputs()[:number] + job.outputs()[number + 1 :]
  for code, output in zip(codes, outputs, strict=True):
    # JAX does not let a process outlive the connection to the first one.
    is_aborted = code == -signal.SIGABRT and number == 0
    assert is_aborted or (code == 1 and line in output)
    assert not is_aborted or "JAX distributed service detected" in output
