"""Batches arrive on the mesh in order, with the position behind each."""

import itertools
import threading
import time

import jax
import numpy as np
import pytest

from ddit_jax.data import prefetch
from ddit_jax.data.prefetch import DeviceFeed, to_mesh
from ddit_jax.sharding.mesh import MeshConfig


class Counting:
  """A stream of batches that hold their own number."""

  def __init__(self, fail_at=None):
    self.fail_at = fail_at
    self.number = 0
    self.is_closed = False

  def __next__(self):
    if self.number == self.fail_at:
      raise OSError("disk gone")
    self.number += 1
    rows = np.full((8, 2), self.number, np.int32)
    return {"rows": rows}, {"read": self.number}

  def close(self):
    self.is_closed = True


@pytest.fixture(scope="module")
def mesh():
  return MeshConfig().make()


def wait_until(condition):
  for _ in range(500):
    if condition():
      return True
    time.sleep(0.01)
  return False


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_order_and_positions_do_not_depend_on_the_depth(
  monkeypatch, mesh, depth
):
  monkeypatch.setattr(prefetch, "_DEPTH", depth)
  stream = Counting()
  feed = DeviceFeed(stream, mesh)
  seen = [next(feed) for _ in range(20)]
  # Prepared ahead of what was asked for, but not counted as read.
  assert wait_until(lambda: stream.number >= 20 + depth)
  feed.close()
  for number, (batch, position) in enumerate(seen, 1):
    assert (np.asarray(batch["rows"]) == number).all()
    assert position == {"read": number}


def test_rows_are_split_over_the_devices(mesh):
  rows = np.arange(16 * 3, dtype=np.int32).reshape(16, 3)
  batch = to_mesh({"a": rows, "b": rows[:, 0]}, mesh)
  assert batch["a"].sharding.mesh == mesh
  pieces = sorted(batch["a"].addressable_shards, key=lambda s: s.index[0].start)
  assert [piece.data.shape for piece in pieces] == [(2, 3)] * 8
  joined = np.concatenate([np.asarray(piece.data) for piece in pieces])
  np.testing.assert_array_equal(joined, rows)
  np.testing.assert_array_equal(np.asarray(batch["b"]), rows[:, 0])


def test_a_failing_stream_is_reported_after_the_batches_before_it(mesh):
  feed = DeviceFeed(Counting(fail_at=3), mesh)
  positions = [next(feed)[1]["read"] for _ in range(3)]
  with pytest.raises(OSError, match="disk gone"):
    next(feed)
  feed.close()
  assert positions == [1, 2, 3]


def test_closing_at_any_moment_leaves_no_threads_and_no_noise(capfd, mesh):
  before = set(threading.enumerate())
  for count, fail_at in itertools.product((0, 1, 3), (None, 0, 2)):
    stream = Counting(fail_at)
    feed = DeviceFeed(stream, mesh)
    for _ in range(min(count, 3 if fail_at is None else fail_at)):
      next(feed)
    feed.close()
    assert stream.is_closed
  assert set(threading.enumerate()) - before == set()
  assert capfd.readouterr() == ("", "")


def test_a_feed_is_a_jax_iterator_of_arrays(mesh):
  feed = DeviceFeed(Counting(), mesh)
  batch, _ = next(feed)
  feed.close()
  assert isinstance(batch["rows"], jax.Array)


def test_rows_come_back_from_the_mesh_as_they_went(mesh):
  rows = {"a": np.arange(48).reshape(16, 3), "b": np.arange(8) > 3}
  back = prefetch.from_mesh(to_mesh(rows, mesh))
  np.testing.assert_array_equal(back["a"], rows["a"])
  np.testing.assert_array_equal(back["b"], rows["b"])
