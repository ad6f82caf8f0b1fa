"""How flags become a job of several processes."""

import time

import jax
import pytest

from ddit_jax.cli import cluster
from ddit_jax.cli.flags import Verb
from ddit_jax.errors import InputError

VERB = Verb(
  name="v",
  summary="",
  description="",
  flags=cluster.FLAGS,
  run=lambda values, overrides: 0,
)
PLACE = ("--coordinator=node-0:5555", "--num_processes=4", "--process_id=3")


def join(monkeypatch, *argv, error=None):
  """The calls of jax.distributed.initialize."""
  calls = []

  def initialize(**given):
    assert given.pop("initialization_timeout") > 0
    # 10 seconds after the job's own limit, 40 seconds by default.
    assert given.pop("heartbeat_timeout_seconds") == 50
    calls.append(given)
    if error:
      raise error

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  cluster.join(VERB.parse(list(argv)))
  return calls


def test_without_flags_nothing_is_joined(monkeypatch):
  assert join(monkeypatch) == []


def test_a_cluster_says_who_the_processes_are(monkeypatch):
  assert join(monkeypatch, "--distributed") == [{}]


def test_jax_ends_the_job_after_the_job_itself_would(monkeypatch):
  given = {}
  monkeypatch.setattr(
    jax.distributed, "initialize", lambda **kwargs: given.update(kwargs)
  )
  cluster.join(VERB.parse(["--distributed"]), peer_timeout_seconds=90.5)
  assert given["heartbeat_timeout_seconds"] == 101


def test_or_flags_say_so_and_nothing_is_detected(monkeypatch):
  [given] = join(monkeypatch, *PLACE)
  assert given == {
    "coordinator_address": "node-0:5555",
    "num_processes": 4,
    "process_id": 3,
    "cluster_detection_method": "deactivate",
  }


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (PLACE[:1], "--coordinator needs --num_processes and --process_id"),
    (PLACE[1:], "--num_processes needs --coordinator"),
    ((*PLACE, "--coordinator=node"), "must be HOST:PORT, got 'node'"),
    ((*PLACE, "--coordinator=:80"), "must be HOST:PORT, got ':80'"),
    ((*PLACE, "--coordinator="), "must be HOST:PORT, got ''"),
    ((*PLACE, "--coordinator=a:0"), "must be HOST:PORT, got 'a:0'"),
    ((*PLACE, "--coordinator=a:65536"), "must be HOST:PORT"),
    ((*PLACE, "--process_id=4"), "num_processes - 1, got 4 of 4"),
    ((*PLACE, "--process_id=-1"), "got -1 of 4"),
    ((*PLACE, "--num_processes=0"), "got 3 of 0"),
  ],
)
def test_flags_that_do_not_fit_together_are_named(monkeypatch, argv, message):
  with pytest.raises(InputError, match=message):
    join(monkeypatch, *argv)


def test_without_a_cluster_that_is_bad_input(monkeypatch):
  error = ValueError("coordinator_address should be defined.")
  with pytest.raises(InputError, match="found no cluster job to join"):
    join(monkeypatch, "--distributed", error=error)


def test_processes_that_do_not_meet_may_try_again(monkeypatch):
  error = RuntimeError("DEADLINE_EXCEEDED: Barrier\ntimed out")
  with pytest.raises(SystemExit) as caught:
    join(monkeypatch, *PLACE, error=error)
  # A message as the code is printed, and the process ends with 1.
  assert caught.value.code == (
    "ddit: the processes of the job did not meet: DEADLINE_EXCEEDED: Barrier "
    "timed out"
  )


def test_who_waits_for_the_others_too_long_gives_up(monkeypatch, capsys):
  codes = []
  monkeypatch.setattr(cluster, "_SECONDS_TO_JOIN", 0.05)
  monkeypatch.setattr(cluster.os, "_exit", codes.append)

  def initialize(**_):
    while not codes:
      time.sleep(0.01)

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  cluster.join(VERB.parse(list(PLACE)))
  assert codes == [1]
  assert (
    "waited for the others of the job for 0.05 seconds, and not all came"
    in (capsys.readouterr().err)
  )
