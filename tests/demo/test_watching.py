"""A reader hears of a job until it ends, and a job of its reader's leaving."""

import concurrent.futures
import threading

import pytest

from ddit_jax.demo.watching import Watch
from ddit_jax.serving.batcher import Batcher


@pytest.fixture
def batcher():
  def run(group, rows):
    return [row() for row in rows]

  made = Batcher(run, batch_size=1, max_waiting=4)
  yield made
  made.close()


def test_a_reader_is_woken_at_news_and_at_the_end(batcher):
  watch, states = Watch(), []
  seen = threading.Event()

  def work():
    for state in range(3):
      states.append(state)
      assert watch.tell()
    assert seen.wait(10)

  news = watch.follow(batcher.submit("a", [work]))
  next(news)  # At once.
  next(news)
  assert states
  seen.set()
  list(news)
  assert states == [0, 1, 2]


def test_nobody_wants_the_job_of_a_reader_that_has_gone(batcher):
  watch, is_wanted, gone = Watch(), [], threading.Event()

  def work():
    is_wanted.append(watch.tell())
    assert gone.wait(10)
    is_wanted.append(watch.tell())

  first = batcher.submit("a", [work])
  news = watch.follow(first)
  next(news)  # At once.
  next(news)
  waiting = batcher.submit("a", [work])
  never = Watch().follow(waiting)
  next(never)
  never.close()
  assert waiting.cancelled()
  news.close()
  gone.set()
  first.result(10)
  assert is_wanted == [True, False]


def test_a_jobs_error_is_raised_to_its_reader(batcher):
  def work():
    raise ValueError("bad row")

  with pytest.raises(ValueError, match="bad row"):
    list(Watch().follow(batcher.submit("a", [work])))
  ended = concurrent.futures.Future()
  ended.cancel()
  with pytest.raises(concurrent.futures.CancelledError):
    list(Watch().follow(ended))
