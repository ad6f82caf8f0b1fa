"""Texts on shrinking batches and growing canvases, about no image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.pipelines.on_mesh import in_batches
from ddit_jax.pipelines.text_batches import (
  fill_growing_canvas,
  finish_and_drop,
)
from ddit_jax.prng import row_keys
from ddit_jax.sampling.text_options import TextSampling
from ddit_jax.sampling.text_sampler import TextSampler, infill
from ddit_jax.sharding.mesh import MeshConfig

VOCAB, LENGTH, MASK, END = 6, 12, 5, 0


def predict(states, keeps_image=False, image_keys=None):
  """Logits that depend on all tokens of the row, on a canvas of any length.

  They depend on the image, too, which has seen the tokens of its last call.
  """
  draw = np.random.default_rng(1).normal
  table = jnp.asarray(draw(size=(VOCAB, LENGTH, VOCAB)) * 1.5, jnp.float32)
  length = states.shape[1]
  seen = jax.nn.one_hot(states, VOCAB).sum(1)
  image = 0.3 * seen if image_keys is None else image_keys
  logits = jnp.einsum("sv,vlw->slw", seen + image, table[:, :length])
  return (logits, image) if keeps_image else logits


def rows_of(count):
  prompt_mask = np.zeros((count, LENGTH), bool)
  prompt_mask[::3, 1] = True
  prompt_mask[::4, 4] = True
  return np.full((count, LENGTH), 3, np.int32), prompt_mask


def on_mesh(mesh, sampling, rows, *, least, seen=None):
  """The texts by the loop that takes out finished rows."""
  sampler = TextSampler(sampling, MASK, END)

  @jax.jit
  def start(keys, tokens, prompt_mask):
    rows = sampler.start(tokens, prompt_mask, keys, keeps_trace=True)
    return keys, rows

  @jax.jit
  def advance(keys, progress, num_left):
    return sampler.advance(predict, progress, keys, num_left=num_left)

  def watched(keys, progress, num_left):
    if seen is not None:
      seen.append(len(keys))
    return advance(keys, progress, num_left)

  def run(batch):
    indices, tokens, prompt_mask = batch
    keys = row_keys(jax.random.key(7), indices)
    return finish_and_drop(
      watched,
      jax.jit(sampler.finish),
      start(keys, tokens, prompt_mask),
      mesh=mesh,
      least=least,
    )

  size = len(rows[0])
  batch = (np.arange(size, dtype=np.uint32), *rows)
  return in_batches(run, batch, mesh=mesh, batch_size=size)


@pytest.mark.parametrize(
  ("order", "interval"),
  [("first_hitting", 1), ("first_hitting", 3), ("remasking", 1)],
)
def test_texts_are_bit_equal_on_any_mesh_and_however_the_batch_shrinks(
  order, interval
):
  sampling = TextSampling(
    order=order, num_steps=6, threshold=0.6, image_refresh_interval=interval
  )
  tokens, prompt_mask = rows_of(40)
  want = infill(
    predict,
    jnp.asarray(tokens),
    jnp.asarray(prompt_mask),
    row_keys(jax.random.key(7), jnp.arange(40)),
    mask_id=MASK,
    sampling=sampling,
    end_id=END,
    keeps_trace=True,
  )
  sizes = []
  one, eight = MeshConfig().make(jax.devices()[:1]), MeshConfig().make()
  for mesh, least in ((one, 4), (eight, 8)):
    got = on_mesh(
      mesh, sampling, (tokens, prompt_mask), least=least, seen=sizes
    )
    for ours, theirs in zip(got, want, strict=True):
      np.testing.assert_array_equal(ours, theirs)
  if order == "first_hitting" and interval == 1:
    second = sizes.index(40, 1)
    assert sizes[0] == 40 and second > 1
    assert set(sizes[1:second]) <= {4, 8, 16, 32}
    assert set(sizes[second + 1 :]) <= {8, 16, 32}


@jax.jit
def drawn(indices, tokens, prompt_mask):
  return infill(
    predict,
    tokens,
    prompt_mask,
    row_keys(jax.random.key(3), indices),
    mask_id=MASK,
    sampling=TextSampling(order="first_hitting"),
    end_id=END,
    keeps_trace=True,
  )


def grown(tokens, prompt_mask, canvas_length, lengths=None):
  def fill(rows, tokens, prompt_mask):
    if lengths is not None:
      lengths.append((tokens.shape[1], rows.tolist()))
    # Always as many rows, so that each canvas compiles once.
    padded = np.resize(np.arange(len(rows)), 24)
    texts = drawn(rows[padded], tokens[padded], prompt_mask[padded])
    return jax.tree.map(lambda x: np.asarray(x)[: len(rows)], texts)

  return fill_growing_canvas(
    fill,
    tokens,
    prompt_mask,
    canvas_length=canvas_length,
    mask_id=MASK,
    end_id=END,
  )


def test_a_canvas_grows_until_the_text_ends():
  tokens, prompt_mask = rows_of(24)
  lengths = []
  texts = grown(tokens, prompt_mask, 4, lengths)
  assert [size for size, _ in lengths] == [4, 8, 12]
  by_size = {size: set(rows) for size, rows in lengths}
  # A canvas has room for one more token than the given ones.
  assert not by_size[4] & set(range(0, 24, 4))
  assert set(range(0, 24, 4)) <= by_size[8]
  assert (texts.tokens != MASK).all()
  np.testing.assert_array_equal(texts.tokens[prompt_mask], 3)
  for row in range(24):
    ends = np.flatnonzero((texts.tokens[row] == END) & ~prompt_mask[row])
    last_given = np.flatnonzero(np.append(True, prompt_mask[row]))[-1] - 1
    ends = ends[ends > last_given]
    for smaller, larger in ((4, 8), (8, 12)):
      if row in by_size[smaller]:
        assert (row in by_size[larger]) == (not (ends < smaller).any())
    largest = max(size for size in by_size if row in by_size[size])
    assert (texts.tokens[row, largest:] == END).all()
  # Each call reveals one token.
  assert (texts.calls <= (~prompt_mask).sum(1)).all()
  np.testing.assert_array_equal(texts.trace[:, -1], texts.tokens)
  np.testing.assert_array_equal(
    texts.trace_probabilities[:, -1], texts.probabilities
  )


def test_a_growing_text_does_not_depend_on_the_rows_beside_it():
  tokens, prompt_mask = rows_of(9)
  all_texts = grown(tokens, prompt_mask, 4)
  order = np.array([0, 1, 2, 3])
  some = grown(tokens[order], prompt_mask[order], 4)
  np.testing.assert_array_equal(some.tokens, all_texts.tokens[order])
  np.testing.assert_array_equal(some.calls, all_texts.calls[order])


def test_one_canvas_is_the_whole_text():
  tokens, prompt_mask = rows_of(6)
  run = functools.partial(grown, tokens, prompt_mask)
  whole = run(LENGTH)
  for ours, theirs in zip(run(2 * LENGTH), whole, strict=True):
    np.testing.assert_array_equal(ours, theirs)
