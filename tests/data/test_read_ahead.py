"""Threads change neither order nor batches, and keep within their bound."""

import gc
import itertools
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from ddit_jax.data.loader import (
  ReadAhead,
  ReadAheadBatches,
  plan_read_ahead,
  usable_cores,
)


class Numbers:
  """Endless records of their own position; counts what is read."""

  def __init__(self, slow=0.0, broken=()):
    self.slow, self.broken = slow, broken
    self.num_read = 0
    self._lock = threading.Lock()

  def __getitem__(self, position):
    with self._lock:
      self.num_read += 1
    if self.slow:
      # Later records finish first.
      time.sleep(self.slow * (1 + -position % 3))
    if position in self.broken:
      raise OSError(f"the disk is gone at {position}")
    return {
      "number": np.int64(position),
      "pixels": np.full((2, 2, 3), position % 256, np.uint8),
    }


def batches(dataset=None, *, size=6, shard=(0, 1), threads=3, records=10):
  return ReadAheadBatches(
    dataset or Numbers(),
    batch_size=size,
    rows=range(shard[0], size, shard[1]),
    read_ahead=ReadAhead(num_threads=threads, num_records=records),
  )


def take(iterator, count):
  return [next(iterator)["number"].tolist() for _ in range(count)]


def own_threads():
  return [t for t in threading.enumerate() if t.name.startswith("read-ahead")]


@pytest.fixture(autouse=True)
def no_threads_are_left():
  assert not own_threads()
  yield
  gc.collect()
  deadline = time.monotonic() + 5
  while own_threads() and time.monotonic() < deadline:
    time.sleep(0.01)
  assert not own_threads()


def test_batches_come_in_order_whatever_finishes_first():
  iterator = batches(Numbers(slow=0.001))
  batch = next(iterator)
  assert batch["number"].tolist() == list(range(6))
  assert batch["pixels"].shape == (6, 2, 2, 3)
  assert batch["pixels"].dtype == np.uint8
  assert (batch["pixels"][:, 1, 1, 2] == batch["number"]).all()
  assert take(iterator, 3) == [list(range(s, s + 6)) for s in (6, 12, 18)]
  iterator.close()


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("records", [4, 50])
def test_threads_and_room_do_not_matter(threads, records):
  iterator = batches(threads=threads, records=records)
  expected = np.arange(30).reshape(5, 6).tolist()
  assert take(iterator, 5) == expected
  iterator.close()


def test_processes_share_each_batch():
  whole = batches()
  expected = take(whole, 4)
  whole.close()
  for count in (2, 3):
    parts = [batches(shard=(index, count)) for index in range(count)]
    for batch in expected:
      rows = [next(part)["number"].tolist() for part in parts]
      assert all(len(own) == 6 // count for own in rows)
      assert sorted(itertools.chain(*rows)) == batch
      assert len({part.get_state()["global_next_index"] for part in parts}) == 1
    for part in parts:
      part.close()


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_it_goes_on_from_a_state(steps):
  first = batches()
  take(first, steps)
  state = first.get_state()
  assert state == {"global_next_index": 6 * steps}
  second = batches(size=3)
  take(second, 2)
  second.set_state(state)
  assert second.get_state() == state
  assert take(second, 2) == (np.arange(6).reshape(2, 3) + 6 * steps).tolist()
  for iterator in (first, second):
    iterator.close()


def test_no_more_is_read_than_the_bound_allows():
  dataset = Numbers()
  iterator = batches(dataset, records=10)
  for step in range(1, 5):
    next(iterator)
    time.sleep(0.05)
    assert 6 * step <= dataset.num_read <= 6 * step + 10
  iterator.close()


def test_reading_goes_on_between_batches():
  dataset = Numbers()
  iterator = batches(dataset, records=10)
  next(iterator)
  deadline = time.monotonic() + 5
  while dataset.num_read < 15 and time.monotonic() < deadline:
    time.sleep(0.01)
  assert dataset.num_read >= 15
  iterator.close()


def test_nothing_is_read_before_the_first_batch():
  dataset = Numbers()
  iterator = batches(dataset)
  assert iterator.get_state() == {"global_next_index": 0}
  assert dataset.num_read == 0 and not own_threads()
  iterator.close()


def test_threads_work_at_the_same_time():
  barrier = threading.Barrier(3, timeout=10)

  class Together:
    def __getitem__(self, position):
      barrier.wait()
      return {"number": np.int64(position)}

  iterator = batches(Together(), size=3, threads=3, records=3)
  assert take(iterator, 1) == [[0, 1, 2]]
  barrier.abort()
  iterator.close()


def test_an_error_is_raised_again_and_nothing_is_skipped():
  iterator = batches(Numbers(broken={8}))
  take(iterator, 1)
  for _ in range(3):
    with pytest.raises(OSError, match="gone at 8"):
      next(iterator)
  assert iterator.get_state() == {"global_next_index": 6}
  iterator.set_state({"global_next_index": 12})
  assert take(iterator, 1) == [list(range(12, 18))]
  iterator.close()


def test_close_waits_for_its_threads_and_drops_what_waits():
  dataset = Numbers(slow=0.01)
  iterator = batches(dataset, records=400)
  next(iterator)
  assert own_threads()
  iterator.close()
  assert not own_threads()
  assert dataset.num_read < 200
  iterator.close()


def test_a_closed_iterator_goes_on_where_it_was():
  iterator = batches()
  take(iterator, 2)
  iterator.close()
  assert take(iterator, 1) == [list(range(12, 18))]
  iterator.close()


@pytest.mark.parametrize(
  "state", [{}, {"global_next_index": -1}, {"global_next_index": "7"}]
)
def test_a_senseless_state_is_refused(state):
  iterator = batches()
  with pytest.raises(ValueError, match="take the one that was saved"):
    iterator.set_state(state)
  iterator.close()


def test_a_forgotten_iterator_stops():
  dataset = Numbers(slow=0.01)
  iterator = batches(dataset, records=400)
  next(iterator)
  del iterator
  gc.collect()
  time.sleep(0.1)
  read = dataset.num_read
  time.sleep(0.2)
  assert dataset.num_read <= read + 3 < 100


def test_an_iterator_left_open_makes_no_noise_at_exit():
  script = (
    "import numpy as np\n"
    "from ddit_jax.data.loader import ReadAhead, ReadAheadBatches\n"
    "class Source:\n"
    "  def __getitem__(self, i):\n"
    "    return {'n': np.int64(i)}\n"
    "plan = ReadAhead(num_threads=2, num_records=50)\n"
    "it = ReadAheadBatches(Source(), batch_size=4, rows=range(4),\n"
    "                      read_ahead=plan)\n"
    "print(next(it)['n'].tolist())\n"
  )
  result = subprocess.run(
    [sys.executable, "-c", script],
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
  )
  assert (result.returncode, result.stdout, result.stderr) == (
    0,
    "[0, 1, 2, 3]\n",
    "",
  )


RECORD = 256 * 256 * 3 + 64 * 4


def test_a_byte_budget_bounds_the_records():
  plan = plan_read_ahead(RECORD, 4096, num_bytes=2**28, num_threads=8)
  assert plan == ReadAhead(num_threads=8, num_records=1363)
  assert plan.num_records * RECORD <= 2**28 < (plan.num_records + 1) * RECORD
  few = plan_read_ahead(RECORD, 4096, num_bytes=3 * RECORD, num_threads=8)
  assert few == ReadAhead(num_threads=3, num_records=3)


def test_small_batches_are_not_read_ahead_by_the_thousand():
  plan = plan_read_ahead(100, 8, num_bytes=2**30, num_threads=4)
  assert plan == ReadAhead(num_threads=4, num_records=2 * 8 + 4 * 4)
  assert plan_read_ahead(100, 8).num_threads == usable_cores() >= 1


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_bytes": 99}, "may take 99 bytes but one record has 100: allow more"),
    ({"num_threads": 0}, "at least one thread, got 0"),
  ],
)
def test_a_senseless_budget_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    plan_read_ahead(100, 8, **options)


@pytest.mark.parametrize("rows", [[], [4], [-1, 0]])
def test_rows_must_lie_in_the_batch(rows):
  plan = ReadAhead(num_threads=1, num_records=1)
  with pytest.raises(ValueError, match=r"some rows of a batch of 4, not \["):
    ReadAheadBatches(Numbers(), batch_size=4, rows=rows, read_ahead=plan)


@pytest.mark.parametrize("threads", [0, 3])
def test_a_process_reads_the_rows_it_holds(threads):
  plan = ReadAhead(num_threads=threads, num_records=5)
  iterator = ReadAheadBatches(
    Numbers(), batch_size=6, rows=[1, 4, 5], read_ahead=plan
  )
  assert take(iterator, 2) == [[1, 4, 5], [7, 10, 11]]
  iterator.set_state({"global_next_index": 6})
  assert take(iterator, 2) == [[7, 10, 11], [13, 16, 17]]
  iterator.close()
