"""Batches of texts that shrink, and texts that grow, between jitted calls."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Bool, Int

from ddit_jax.pipelines.on_mesh import to_host
from ddit_jax.sampling.text_sampler import PartialTexts, Texts
from ddit_jax.sharding.rules import partition_spec


def finish_and_drop(
  advance: Callable[[Any, PartialTexts, int], PartialTexts],
  finish: Callable[[PartialTexts], Texts],
  started: tuple[Any, PartialTexts],
  *,
  mesh: Mesh,
  least: int,
  on_call_end: Callable[[Texts], None] | None = None,
) -> Texts:
  """Finishes a batch; whenever half of it is done, the rest goes on alone.

  A row's text stays what it is: rows do not see each other.

  Args:
    advance: (inputs of rows, texts on their way, n) -> the same texts, of which
      at most n are not finished.
    finish: the results of texts that are done.
    started: inputs and texts of rows on the mesh.
    mesh: splits a batch.
    least: smaller batches have `least` rows times a power of two.
    on_call_end: sees the texts after each call of `advance`.
  """
  inputs, progress = started
  places, results = np.arange(progress.is_done.shape[0]), None
  while True:
    size = len(places)
    progress = advance(inputs, progress, size // 2 if size > least else 0)
    texts = to_host(finish(progress))
    if results is None:
      results = jax.tree.map(np.array, texts)
    is_done = to_host(progress.is_done)
    for kept, new in zip(results, texts, strict=True):
      if kept is not None:
        kept[places] = new
    if on_call_end is not None:
      on_call_end(jax.tree.map(np.copy, results))
    left = np.flatnonzero(~is_done)
    if not left.size:
      return results
    # The last row repeats; the copies come to the same text.
    smaller = least * _power_of_two(-(-left.size // least))
    chosen = np.append(left, np.repeat(left[-1], smaller - left.size))
    inputs, progress = _rows_of((inputs, progress), chosen, mesh)
    places = places[chosen]


def _rows_of(tree, chosen: Int[np.ndarray, " rows"], mesh: Mesh):
  """Some rows of arrays on the mesh, on the mesh."""

  def place(array):
    axes = partition_spec("batch", *(None,) * (array.ndim - 1))
    return NamedSharding(mesh, axes)

  take = jax.jit(_taken, out_shardings=jax.tree.map(place, tree))
  return take(tree, chosen)


def _taken(tree, chosen: Int[jax.Array, " rows"]):
  return jax.tree.map(lambda array: array[chosen], tree)


def _power_of_two(least: int) -> int:
  return 1 << (least - 1).bit_length()


def fill_growing_canvas(
  fill: Callable[[np.ndarray, np.ndarray, np.ndarray], Texts],
  tokens: Int[np.ndarray, "rows length"],
  prompt_mask: Bool[np.ndarray, "rows length"],
  *,
  canvas_length: int,
  mask_id: int,
  end_id: int,
) -> Texts:
  """Fills texts from left to right, on a canvas that doubles until they end.

  A row's first canvas is the shortest that has its given tokens and room for
  one more, so no row depends on another. Behind its last one are end tokens.

  Args:
    fill: (which rows, their tokens, the mask of those that are known) -> texts.
    tokens: as in `infill`; the longest canvas has their length.
    prompt_mask: True where the token is given.
    canvas_length: of the first canvas.
    mask_id: the token id that stands for a masked token.
    end_id: the end token.
  """
  length = tokens.shape[1]
  positions = np.arange(length)
  last_given = np.where(prompt_mask, positions, -1).max(axis=1)
  is_known, is_done = prompt_mask.copy(), prompt_mask.all(axis=1)
  texts = Texts(
    tokens=np.where(prompt_mask, tokens, mask_id),
    probabilities=prompt_mask.astype(np.float32),
    calls=np.zeros(len(tokens), np.int32),
  )
  traces = []
  for size in _canvas_sizes(canvas_length, length):
    needs_room = last_given + 1 < size
    rows = np.flatnonzero(~is_done & (needs_room | (size == length)))
    if not rows.size:
      continue
    now = fill(rows, texts.tokens[rows, :size], is_known[rows, :size])
    new = ~is_known[rows, :size]
    if now.trace is not None:
      traces.append(_widened(texts, now, rows, new))
    for name in ("tokens", "probabilities"):
      kept, filled = getattr(texts, name), getattr(now, name)
      kept[rows, :size] = np.where(new, filled, kept[rows, :size])
    texts.calls[rows] += now.calls
    is_known[rows, :size] = True
    is_behind = positions > last_given[:, None]
    is_end = (texts.tokens == end_id) & is_known & is_behind
    is_done |= is_end.any(axis=1) | (size == length)
    is_padding = is_done[:, None] & ~is_known
    texts.tokens[is_padding] = end_id
    texts.probabilities[is_padding] = 1
  if not traces:
    return texts
  tokens_after, p_after = map(np.concatenate, zip(*traces, strict=True), (1, 1))
  tokens_after[:, -1], p_after[:, -1] = texts.tokens, texts.probabilities
  return texts._replace(trace=tokens_after, trace_probabilities=p_after)


def _widened(
  texts: Texts, now: Texts, rows: Int[np.ndarray, " some"], new: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The trace of some rows' canvases as one of all rows and whole texts."""
  size, widened = new.shape[1], []
  for kept, trace in (
    (texts.tokens, now.trace),
    (texts.probabilities, now.trace_probabilities),
  ):
    states = np.repeat(kept[:, None], trace.shape[1], axis=1)
    old = states[rows, :, :size]
    states[rows, :, :size] = np.where(new[:, None], trace, old)
    widened.append(states)
  return tuple(widened)


def _canvas_sizes(canvas_length: int, length: int) -> list[int]:
  sizes = []
  while canvas_length < length:
    sizes.append(canvas_length)
    canvas_length *= 2
  return [*sizes, length]
