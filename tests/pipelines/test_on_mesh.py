"""Rows go through in equal batches and come back in order."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.pipelines import on_mesh
from ddit_jax.pipelines.on_mesh import in_batches
from ddit_jax.sharding.mesh import MeshConfig


@pytest.mark.parametrize("num_rows", [1, 7, 8, 9, 21])
@pytest.mark.parametrize("batch_size", [1, 8, 10, 64])
def test_every_row_comes_back_once_in_order(num_rows, batch_size):
  seen = []

  def double(rows):
    seen.append(rows["x"].shape[0])
    return {"twice": 2 * rows["x"], "sum": rows["x"] + rows["y"]}

  x = np.arange(num_rows, dtype=np.float32)
  rows = {"x": x, "y": 100 * x}
  got = in_batches(
    double, rows, mesh=MeshConfig().make(), batch_size=batch_size
  )
  np.testing.assert_array_equal(got["twice"], 2 * x)
  np.testing.assert_array_equal(got["sum"], 101 * x)
  # One size compiles once; eight devices share it.
  assert len(set(seen)) == 1 and seen[0] % 8 == 0
  assert seen[0] <= -(-min(batch_size, num_rows) // 8) * 8


def test_a_batch_is_split_over_the_devices():
  shapes = []

  def look(rows):
    shapes.append(rows.sharding.shard_shape(rows.shape))
    return rows

  rows = np.zeros((16, 3), np.float32)
  in_batches(look, rows, mesh=MeshConfig().make(), batch_size=16)
  assert shapes == [(2, 3)]


def test_the_bar_counts_batches_whose_results_are_off_the_devices(monkeypatch):
  done, fetched = [], []

  class Bar:
    def __enter__(self):
      return self

    def __exit__(self, *_):
      pass

    def update(self):
      done.append(len(fetched))

  def fetch(tree):
    fetched.append(tree)
    return np.asarray(tree)

  monkeypatch.setattr(on_mesh, "progress_bar", lambda *_, **__: Bar())
  monkeypatch.setattr(on_mesh.jax, "device_get", fetch)
  rows = np.arange(24, dtype=np.float32)
  got = in_batches(jnp.sqrt, rows, mesh=MeshConfig().make(), batch_size=8)
  assert done == [1, 2, 3]
  np.testing.assert_allclose(got, np.sqrt(rows), rtol=1e-6)
