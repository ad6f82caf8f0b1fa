"""One slab at a time: from their tensors to ours, or compared with them."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np

from ddit_jax.conversion.array_folder import ArrayFolder
from ddit_jax.conversion.dtypes import CastCounter, cast
from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.fresh_values import fresh_values
from ddit_jax.conversion.plan import Slab
from ddit_jax.conversion.safetensors_files import StoredTensor
from ddit_jax.conversion.transforms import copy_into

# Each holds a few copies of one slab: more threads would be more memory.
_THREADS = 2


def for_each_slab(
  slabs: Iterable[Slab],
  work: Callable[[Slab], None],
  done: Callable[[Slab], None],
) -> None:
  """Runs `work` on every slab in two threads, and `done` after it in this one.

  Raises:
    Exception: the first error of `work`; slabs not yet begun are dropped.
  """
  with ThreadPoolExecutor(_THREADS) as threads:
    futures = {threads.submit(work, slab): slab for slab in slabs}
    try:
      for future in as_completed(futures):
        future.result()
        done(futures[future])
    except BaseException:
      threads.shutdown(cancel_futures=True)
      raise


def build_slab(
  slab: Slab,
  tensors: Mapping[str, StoredTensor],
  dtype: np.dtype,
  *,
  seed: int,
  counter: CastCounter,
) -> np.ndarray:
  """The slab's numbers, from tensors and fresh values.

  Raises:
    ConversionError: a tensor holds NaN, or numbers too large for `dtype`.
  """
  built = np.empty(slab.shape, dtype)
  for piece in slab.pieces:
    tensor = tensors[piece.name]
    stored = cast(tensor.label, tensor.read(), dtype, counter)
    copy_into(built[piece.index], piece.to_ours(stored))
  for piece in slab.fresh:
    built[piece.index] = fresh_values(piece, seed).astype(dtype)
  return built


def slab_of(folder: ArrayFolder, slab: Slab):
  """The slab as a tensorstore view, to be read or written."""
  array = folder.array(slab.array.partition("/")[2])
  return array if slab.block is None else array[slab.block]


def check_slab(
  slab: Slab,
  ours: np.ndarray,
  tensors: Mapping[str, StoredTensor],
  *,
  seed: int | None,
) -> None:
  """Compares a slab with all its sources, bit for bit.

  The pieces go back the way they came, through the inverse rearrangement.

  Args:
    slab: what is compared.
    ours: its numbers as stored.
    tensors: their tensors, of the same dtype or cast to it.
    seed: of the fresh values; None does not compare them.

  Raises:
    ConversionError: a number differs.
  """
  for piece in slab.pieces:
    tensor = tensors[piece.name]
    theirs = cast(tensor.label, tensor.read(), ours.dtype, CastCounter())
    _check_equal(tensor.name, piece.to_theirs(ours[piece.index]), theirs)
  if seed is None:
    return
  for piece in slab.fresh:
    expected = fresh_values(piece, seed).astype(ours.dtype)
    _check_equal(f"{piece.array} (fresh)", ours[piece.index], expected)


def check_twin(tensor: StoredTensor, twin: StoredTensor) -> None:
  """Raises unless a left-over copy equals the tensor that is used.

  Raises:
    ConversionError: they differ.
  """
  is_alike = (tensor.dtype, tensor.shape) == (twin.dtype, twin.shape)
  if not is_alike or not _equal_bits(tensor.read(), twin.read()):
    raise ConversionError(
      f"tensor {tensor.label} should be a copy of {twin.name} but differs, so "
      "it is unclear which of them is meant: fetch the file again"
    )


def _check_equal(name: str, got: np.ndarray, expected: np.ndarray) -> None:
  if got.shape != expected.shape or not _equal_bits(got, expected):
    raise ConversionError(
      f"verification failed: {name} differs from what was written; check the "
      "disk and convert again"
    )


def _equal_bits(first: np.ndarray, second: np.ndarray) -> bool:
  if first.ndim and not first.flags.c_contiguous:
    straight = np.empty(first.shape, first.dtype)
    copy_into(straight, first)
    first = straight
  bits = np.dtype(f"u{first.dtype.itemsize}")
  a, b = first.reshape(-1).view(bits), second.reshape(-1).view(bits)
  step = 2**20
  return all(
    np.array_equal(a[i : i + step], b[i : i + step])
    for i in range(0, a.size, step)
  )
