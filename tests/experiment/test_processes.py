"""Processes of one job: equal settings; none leaves without the others."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from ddit_jax.errors import InputError
from ddit_jax.experiment import processes
from ddit_jax.train.watchdog import NO_WATCHDOG, Watchdog
from tests import tiny_run

PROCESS = """
import os, pathlib, signal, sys, time
import jax
port, count, index = map(int, sys.argv[1:4])
case, folder = sys.argv[4:]
jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
from ddit_jax.errors import InputError
from ddit_jax.experiment import processes
from ddit_jax.train.loop import StopSignal
from ddit_jax.train.watchdog import Watchdog
processes._SECONDS_TO_LEAVE = 3.0
if case == "settings":
  try:
    rate = 0.5 if index else 0.25
    processes.check_same_settings({"seed": 1, "optimizer": {"rate": rate}})
  except ValueError as error:
    print(error)
  sys.exit()
path = pathlib.Path(folder, f"hang_{index}.txt")
watchdog = Watchdog(path, 5.0 if case.startswith("hang") else 0.0)
watchdog.waits_for("step 7")
together = processes.leaving_together(
  peer_timeout_seconds=10, watchdog=watchdog
)
with together, StopSignal() as stop:
  if case == "signal":
    for step in range(1, 1000):
      if index == 1 and step == 5:
        os.kill(os.getpid(), signal.SIGINT)
      if stop.is_requested(step):
        print("stopped at", step)
        break
      time.sleep(0.05)
  elif index == int(case[-1]):
    time.sleep(2)
    if case.startswith("kill"):
      os.kill(os.getpid(), signal.SIGKILL)
    if case.startswith("stop"):
      os.kill(os.getpid(), signal.SIGSTOP)
    if case.startswith("hang"):
      watchdog.waits_for("the batch of step 7")
      time.sleep(100)
    raise InputError("the disk is full")
  else:
    time.sleep(100)
"""


def run_together(
  case: str, count: int = 2, *, folder: str = "."
) -> list[tuple[int, str, str]]:
  """(exit code, stdout, stderr) of all processes, in their order."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
  started = [
    subprocess.Popen(
      [
        *(sys.executable, "-c", PROCESS),
        *(port, str(count), str(index), case, folder),
      ],
      cwd=tiny_run.ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
    )
    for index in range(count)
  ]
  results = {}
  # One that is stopped does not end by itself.
  for process in sorted(started, key=lambda p: str(started.index(p)) in case):
    if len(results) == count - 1 and case.startswith("stop"):
      process.kill()
    output = process.communicate(timeout=90)
    results[process] = (process.returncode, *output)
  return [results[process] for process in started]


@pytest.mark.slow
def test_other_settings_are_named_where_they_are():
  (_, first, _), (_, second, _) = run_together("settings")
  assert "failed on process [1]: the reason is in its own output" in first
  assert second.splitlines()[-1] == (
    "process 1 was started with optimizer.rate = 0.5, the first process with "
    "0.25: start all processes of a job with the same settings"
  )


def as_second_process(monkeypatch, first):
  """This process is the second of two, the other one has `first`."""
  data = np.frombuffer(json.dumps(first, sort_keys=True).encode(), np.uint8)
  answers = iter([len(data), data])
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  monkeypatch.setattr(
    multihost_utils, "broadcast_one_to_all", lambda _: next(answers)
  )
  monkeypatch.setattr(
    multihost_utils,
    "process_allgather",
    lambda has_failed, tiled: np.append(False, has_failed),
  )


def test_other_shapes_of_images_are_named_where_they_are(monkeypatch):
  first = {"text_to_image": {"art": "01", "web": "1a"}}
  as_second_process(monkeypatch, first)
  processes.check_same_shapes(first)
  as_second_process(monkeypatch, first)
  with pytest.raises(InputError) as caught:
    processes.check_same_shapes({"text_to_image": {"art": "01", "web": "2b"}})
  assert str(caught.value) == (
    "process 1 read image sizes with the digest text_to_image.web = '2b', the "
    "first process with '1a': let all processes of a job read the same files"
  )


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_fails_ends_the_other_one_with_its_reason(index):
  results = run_together(f"fail {index}")
  code, _, errors = results[index]
  assert (code, errors.splitlines()[-1]) == (2, "ddit: the disk is full")
  code, _, errors = results[1 - index]
  last = f"ddit: process {index} stopped: the disk is full"
  assert (code, errors.splitlines()[-1]) == (2, last)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("case", ["kill 1", "stop 1", "stop 0"])
def test_a_lost_process_ends_the_others_and_is_named(case, count):
  begin = time.monotonic()
  results = run_together(case, count)
  print(f"{case} of {count}: {time.monotonic() - begin:.1f} s with the start")
  index = int(case[-1])
  lost, *_ = results.pop(index)
  assert lost == -signal.SIGKILL
  for code, _, errors in results:
    assert code == 1
    line = f"process {index} was killed or stopped, or cannot be reached"
    assert errors.splitlines()[-1].endswith(line)


@pytest.mark.slow
def test_jax_ends_the_others_when_the_first_process_is_killed():
  _, (code, _, errors) = run_together("kill 0")
  assert code == -signal.SIGABRT
  assert "JAX distributed service detected fatal errors" in errors


@pytest.mark.slow
@pytest.mark.parametrize("case", ["hang 0", "hang 1"])
def test_a_process_that_hangs_ends_all_and_is_named(case, tmp_path):
  results = run_together(case, 3, folder=str(tmp_path))
  index = case[-1]
  for code, _, errors in results:
    assert code == processes._HUNG
    last = errors.splitlines()[-1]
    assert f"process {index} " in last and "for the batch of step 7" in last
  stacks = [path.read_text() for path in tmp_path.iterdir()]
  assert stacks and all("most recent call first" in text for text in stacks)


@pytest.mark.slow
def test_ctrl_c_to_one_process_stops_both_at_the_same_step():
  (code, first, errors), (_, second, _) = run_together("signal")
  assert code == 0, errors
  assert first == second and first.startswith("stopped at ")


class Client:
  """The key-value store of a job, in this process."""

  def __init__(self):
    self.values = {}

  def key_value_set(self, key, value, *, allow_overwrite):
    assert allow_overwrite
    self.values[key] = value

  def key_value_dir_get(self, prefix):
    return [x for x in self.values.items() if x[0].startswith(prefix)]


def watch_of(client, index, watchdog=NO_WATCHDOG):
  return processes._Watch(client, index, 60.0, watchdog)


@pytest.fixture
def ended(monkeypatch):
  """The codes with which the process would have ended."""
  codes = []
  monkeypatch.setattr(processes.os, "_exit", codes.append)
  return codes


def test_who_was_not_heard_of_is_dead_and_who_is_done_is_not(monkeypatch):
  client, peers, now = Client(), {}, [0.0]
  monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
  watch = watch_of(client, 0)
  client.values["ddit_jax/alive/1"] = "1"
  client.values["ddit_jax/alive/2"] = "done"
  assert watch._look(peers) is None
  now[0] = 59.0
  assert watch._look(peers) is None
  client.values["ddit_jax/alive/1"] = "2"
  now[0] = 100.0
  assert watch._look(peers) is None
  now[0] = 161.0
  end = watch._look(peers)
  assert (end.code, end.lost) == (1, "1")
  assert end.line.startswith("process 1 was killed or stopped")


def test_a_coordinator_that_does_not_answer_ends_the_process(ended, capsys):
  with processes._ending_after(0.05, processes._lost("0")):
    while not ended:
      time.sleep(0.01)
  assert ended == [1]
  assert "process 0 was killed or stopped" in capsys.readouterr().err


def test_who_hangs_says_what_it_and_the_others_wait_for(
  tmp_path, monkeypatch, ended, capsys
):
  client, watchdog = Client(), Watchdog(tmp_path / "hang_1.txt", 5)
  watchdog.waits_for("step 7")
  client.values = {
    "ddit_jax/alive/0": "11 step 7",
    "ddit_jax/alive/1": "12 step 7",
    "ddit_jax/alive/2": "13 the batch of step 7",
    "ddit_jax/alive/3": "done",
  }
  watch_of(client, 1, watchdog).end_hang("waited for step 7 for long")
  line = (
    "process 1 waited for step 7 for long; meanwhile waited process 2 for the "
    "batch of step 7"
  )
  assert ended == [76]
  assert capsys.readouterr().err == f"ddit: {line}\n"
  # The others end as well, with the same code.
  end = watch_of(client, 0)._look({})
  assert end.line == f"process 1 stopped: {line}"
  assert end.code == 76


def test_the_first_process_does_not_wait_for_one_that_is_gone(
  monkeypatch, ended
):
  client = Client()
  client.values["ddit_jax/alive/1"] = "8"
  client.values["ddit_jax/alive/2"] = "done"
  monkeypatch.setattr(processes.time, "sleep", pytest.fail)
  watch_of(client, 0)._leave(processes._lost("1"))
  assert ended == [1]
  assert client.values["ddit_jax/stopped/0"].startswith("1 process 1 was kill")


def test_the_first_process_leaves_last(monkeypatch, ended):
  client, slept = Client(), []
  client.values["ddit_jax/alive/0"] = "7"
  client.values["ddit_jax/alive/1"] = "8"

  def sleep(seconds):
    slept.append(seconds)
    client.values["ddit_jax/alive/1"] = "done"

  monkeypatch.setattr(processes.time, "sleep", sleep)
  watch_of(client, 0).leave(InputError("x"))
  assert len(slept) == 1 and ended == [2]


@pytest.mark.parametrize(
  ("error", "code", "line"),
  [
    (InputError("a\nb"), 2, "a b"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (RuntimeError("odd"), 1, "RuntimeError: odd"),
  ],
)
def test_who_leaves_says_why_to_the_others(
  monkeypatch, ended, capsys, error, code, line
):
  client = Client()
  monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)
  watch_of(client, 1).leave(error)
  assert client.values == {
    "ddit_jax/stopped/1": f"{code} {line}",
    "ddit_jax/alive/1": "done",
  }
  assert ended == [code]
  assert capsys.readouterr().err.splitlines()[-1] == f"ddit: {line}"
  other = watch_of(client, 0)
  end = other._look({})
  assert (end.line, end.code) == (f"process 1 stopped: {line}", code)


def test_an_error_of_a_killed_peer_names_the_peer(monkeypatch, ended, capsys):
  client = Client()
  client.values = {f"ddit_jax/alive/{n}": f"{n}" for n in range(3)}

  def sleep(seconds):
    client.values["ddit_jax/alive/2"] = "9"

  monkeypatch.setattr(processes.time, "sleep", sleep)
  watch_of(client, 2).leave(RuntimeError("connection closed by peer"))
  assert ended == [1]
  assert capsys.readouterr().err == (
    "ddit: process 0 was killed or stopped, or cannot be reached\n"
  )


def test_one_process_alone_watches_nobody():
  processes.check_same_settings({"seed": object()})
  with pytest.raises(InputError), processes.leaving_together():
    raise InputError("x")
