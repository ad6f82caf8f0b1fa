"""Jobs run in order, in full batches of one group, and end in any case."""

import threading

import pytest

from ddit_jax.serving.batcher import Batcher, BusyError, Unwanted


class Calls:
  """Records its calls, and waits at the first for a signal."""

  def __init__(self):
    self.seen, self.go = [], threading.Event()

  def __call__(self, group, rows):
    self.seen.append((group, rows))
    assert self.go.wait(10)
    if "unwanted" in rows:
      raise Unwanted
    if "bad" in rows:
      raise ValueError("bad row")
    return [f"{group}{row}" for row in rows]


@pytest.fixture
def calls():
  return Calls()


@pytest.fixture
def batcher(calls):
  made = Batcher(calls, batch_size=4, max_waiting=8)
  yield made
  calls.go.set()
  made.close()
  assert not made._thread.is_alive()


def started(batcher, calls):
  """A first job that holds the thread."""
  first = batcher.submit("a", [0])
  while not calls.seen:
    pass
  return first


def test_jobs_of_a_group_run_together_up_to_a_batch(batcher, calls):
  first = started(batcher, calls)
  jobs = [
    batcher.submit(*job)
    for job in [("a", [1, 2]), ("b", [3]), ("a", [4, 5, 6]), ("a", [7, 8])]
  ]
  assert batcher.num_waiting == 8
  calls.go.set()
  assert first.result(10) == ["a0"]
  assert jobs[0].result(10) == ["a1", "a2"]
  assert [job.result(10) for job in jobs[1:]] == [
    ["b3"],
    ["a4", "a5", "a6"],
    ["a7", "a8"],
  ]
  groups = [(group, len(rows)) for group, rows in calls.seen]
  assert groups == [("a", 1), ("a", 4), ("b", 1), ("a", 3)]


def test_a_full_queue_refuses_and_forgets_nobody(batcher, calls):
  started(batcher, calls)
  batcher.submit("a", [1] * 4)
  gone = batcher.submit("a", [2] * 4)
  with pytest.raises(BusyError, match="8 images and texts wait already, at m"):
    batcher.submit("a", [3])
  assert gone.cancel()
  late = batcher.submit("a", [3])
  calls.go.set()
  assert late.result(10) == ["a3"]
  # The cancelled job was never run.
  assert all(2 not in rows for _, rows in calls.seen)


def test_a_bad_job_does_not_spoil_the_others(batcher, calls):
  started(batcher, calls)
  jobs = [batcher.submit("a", [row]) for row in (1, "bad", 2)]
  calls.go.set()
  assert [jobs[i].result(10) for i in (0, 2)] == [["a1"], ["a2"]]
  with pytest.raises(ValueError, match="bad row"):
    jobs[1].result(10)


def test_what_nobody_wants_is_not_run_again(batcher, calls):
  started(batcher, calls)
  jobs = [batcher.submit("a", [row]) for row in ("unwanted", 1)]
  calls.go.set()
  for job in jobs:
    with pytest.raises(Unwanted):
      job.result(10)
  assert batcher.submit("a", [2]).result(10) == ["a2"]
  assert [rows for _, rows in calls.seen] == [[0], ["unwanted", 1], [2]]


def test_waiting_jobs_are_cancelled_at_the_end(calls):
  batcher = Batcher(calls, batch_size=4, max_waiting=8)
  started(batcher, calls)
  waiting = batcher.submit("b", [1])
  threading.Timer(0.05, calls.go.set).start()
  batcher.close()
  assert waiting.cancelled()
  with pytest.raises(BusyError, match="shutting down"):
    batcher.submit("a", [1])
