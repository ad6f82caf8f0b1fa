"""Slabs are built, compared, and worked on in threads."""

import dataclasses
import threading
import time

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from ddit_jax.conversion.dtypes import CastCounter
from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.fresh_values import fresh_values
from ddit_jax.conversion.plan import FreshPiece, Piece, Slab
from ddit_jax.conversion.safetensors_files import read_header
from ddit_jax.conversion.slab_work import (
  build_slab,
  check_slab,
  check_twin,
  for_each_slab,
)

FLOAT16 = np.dtype(np.float16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
WEIGHTS = torch.arange(2 * 5 * 4).reshape(10, 4).half()
SLAB = Slab(
  array="params/a",
  block=1,
  shape=(4, 3, 5),
  pieces=(
    Piece(
      name="w",
      array="params/a",
      block=1,
      slab_shape=(4, 3, 5),
      pattern="(~r o) i -> i r o",
      part={"r": slice(0, 2)},
      sizes={},
    ),
  ),
  fresh=(
    FreshPiece(
      array="params/a",
      block=1,
      index=(slice(None), slice(2, 3), slice(None)),
      shape=(4, 1, 5),
      init="normal(0, 0.5)",
    ),
  ),
)


@pytest.fixture
def tensors(tmp_path):
  path = tmp_path / "x.safetensors"
  nan = torch.full((10, 4), torch.nan)
  other = WEIGHTS.clone()
  other[3, 3] += 1
  safetensors.torch.save_file(
    {"w": WEIGHTS, "same": WEIGHTS.clone(), "other": other, "nan": nan}, path
  )
  return read_header(path)


def build(tensors, dtype=FLOAT16, seed=0, counter=None):
  return build_slab(
    SLAB, tensors, dtype, seed=seed, counter=counter or CastCounter()
  )


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16])
def test_build(tensors, dtype):
  counter = CastCounter()
  built = build(tensors, dtype, counter=counter)
  stored = WEIGHTS.numpy().reshape(2, 5, 4).astype(dtype)
  assert built.dtype == dtype
  for i in range(4):
    for o in range(5):
      assert built[i, 0, o] == stored[1, o, i]
      assert built[i, 1, o] == stored[0, o, i]
  fresh = fresh_values(SLAB.fresh[0], 0).astype(dtype)
  np.testing.assert_array_equal(built[:, 2:], fresh)
  assert len(counter.counts) == (dtype != FLOAT16)


def test_nan_stops_the_build(tensors):
  with pytest.raises(ConversionError, match=r"tensor nan of .* holds NaN"):
    build({"w": tensors["nan"]})


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16])
def test_every_changed_number_is_noticed(tensors, dtype):
  built = build(tensors, dtype)
  check_slab(SLAB, built, tensors, seed=0)
  bits = built.view(np.uint16)
  for place in np.ndindex(SLAB.shape):
    bits[place] ^= 1
    with pytest.raises(ConversionError, match="verification failed: "):
      check_slab(SLAB, built, tensors, seed=0)
    bits[place] ^= 1


def test_other_seed_is_noticed_unless_not_compared(tensors):
  built = build(tensors, seed=1)
  with pytest.raises(ConversionError, match=r"params/a \(fresh\)"):
    check_slab(SLAB, built, tensors, seed=0)
  check_slab(SLAB, built, tensors, seed=None)


def test_twins(tensors):
  check_twin(tensors["same"], tensors["w"])
  for name in ("other", "nan"):
    with pytest.raises(ConversionError, match=f"{name} of .* should be a"):
      check_twin(tensors[name], tensors["w"])


def test_every_slab_is_worked_on_once_and_reported_here():
  many = [dataclasses.replace(SLAB, block=i) for i in range(50)]
  worked, done, threads = [], [], set()

  def finish(slab):
    done.append(slab.block)
    threads.add(threading.current_thread())

  for_each_slab(many, lambda slab: worked.append(slab.block), finish)
  assert sorted(worked) == sorted(done) == list(range(50))
  assert threads == {threading.main_thread()}


def test_the_first_error_drops_the_rest():
  many = [dataclasses.replace(SLAB, block=i) for i in range(1000)]
  worked = []

  def work(slab):
    worked.append(slab.block)
    time.sleep(0.001)
    if slab.block == 3:
      raise ConversionError("three")

  with pytest.raises(ConversionError, match="three"):
    for_each_slab(many, work, lambda slab: None)
  assert len(worked) < 1000
