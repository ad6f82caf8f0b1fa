"""The cache keeps the last values and makes each once for all threads."""

import concurrent.futures
import pickle
import threading

import pytest

from ddit_jax.data.sources.paths import LruCache


def test_the_value_used_longest_ago_goes():
  made = []
  values = LruCache(lambda key: made.append(key) or key * 10, capacity=2)
  assert [values[key] for key in (1, 2, 1, 3, 1, 2)] == [10, 20, 10, 30, 10, 20]
  assert made == [1, 2, 3, 2]


def test_threads_share_one_making():
  made, start = [], threading.Barrier(8)

  def get(values):
    start.wait()
    return values["key"]

  values = LruCache(lambda key: made.append(key) or object(), capacity=1)
  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    got = list(threads.map(get, [values] * 8))
  assert made == ["key"] and len(set(map(id, got))) == 1


def test_a_slow_key_does_not_hold_up_others():
  release = threading.Event()

  def make(key):
    if key == "slow":
      assert release.wait(10)
    return key

  values = LruCache(make, capacity=2)
  with concurrent.futures.ThreadPoolExecutor(1) as threads:
    slow = threads.submit(lambda: values["slow"])
    assert values["fast"] == "fast" and not slow.done()
    release.set()
    assert slow.result(10) == "slow"


def test_failures_are_not_kept():
  tries = iter([OSError("busy"), "value"])

  def make(key):
    outcome = next(tries)
    if isinstance(outcome, Exception):
      raise outcome
    return outcome

  values = LruCache(make, capacity=1)
  with pytest.raises(OSError, match="busy"):
    values[0]
  assert values[0] == values[0] == "value"


def test_it_pickles_as_an_empty_cache():
  values = LruCache(str, capacity=3)
  assert values[7] == "7"
  copy = pickle.loads(pickle.dumps(values))
  assert copy[8] == "8" and len(copy._slots) == 1
