"""The chunked text loss against the plain one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.diffusion.masked_diffusion import MaskedDiffusion
from ddit_jax.losses import masked_diffusion
from ddit_jax.losses.masked_diffusion import chunked_log_likelihoods

VOCAB, LENGTH, BATCH, WIDTH = 11, 10, 6, 4
MASK = VOCAB - 1


def example():
  """(head, hidden, texts); one text has no masked position."""
  draw = np.random.default_rng(0)
  tokens = draw.integers(0, VOCAB - 1, (BATCH, LENGTH)).astype(np.int32)
  loss_mask = np.broadcast_to(np.arange(LENGTH) >= 3, tokens.shape).copy()
  loss_mask[2] = False
  texts = masked_diffusion.mask_texts(
    None,
    jnp.asarray(tokens),
    jnp.asarray(loss_mask),
    jax.random.key(0),
    jnp.int32(0),
    masked_diffusion=MaskedDiffusion(),
    loss_normalization="all_positions",
    mask_id=MASK,
  )
  head = draw.normal(size=(WIDTH, VOCAB)).astype(np.float32)
  hidden = draw.normal(size=(BATCH, LENGTH, WIDTH)).astype(np.float32)
  return jnp.asarray(head), jnp.asarray(hidden), texts


def plain(head, hidden, texts):
  return masked_diffusion.token_log_likelihoods(hidden @ head, texts, MASK).sum(
    axis=-1
  )


def chunked(head, hidden, texts, chunk):
  return chunked_log_likelihoods(
    hidden,
    texts,
    mask_id=MASK,
    read_logits=lambda part: part @ head,
    chunk=chunk,
  )


@functools.partial(jax.jit, static_argnums=0)
def with_gradients(values, head, hidden, texts):
  """(gradients of the sum, values)."""

  def total(head, hidden):
    found = values(head, hidden, texts)
    return found.sum(), found

  return jax.grad(total, (0, 1), has_aux=True)(head, hidden)


@pytest.mark.parametrize("chunk", [1, 3, 5, 10, 64])
def test_values_and_gradients_are_those_of_all_logits_at_once(chunk):
  want, plain_values = with_gradients(plain, *example())
  in_chunks = functools.partial(chunked, chunk=chunk)
  got, values = with_gradients(in_chunks, *example())
  # Largest error measured: 1.9e-6 of values up to 20.
  np.testing.assert_allclose(values, plain_values, atol=5e-6)
  for mine, theirs in zip(got, want, strict=True):
    # Largest error measured: 4.8e-7.
    np.testing.assert_allclose(mine, theirs, atol=5e-6)


def test_no_array_holds_all_logits():
  head, hidden, texts = example()
  step = jax.grad(lambda h: chunked(h, hidden, texts, 2).sum())
  text = str(jax.make_jaxpr(step)(head))
  assert f"f32[{BATCH},2,{VOCAB}]" in text
  assert f"[{BATCH},{LENGTH},{VOCAB}]" not in text
  whole = str(jax.make_jaxpr(lambda h: plain(h, hidden, texts))(head))
  assert f"f32[{BATCH},{LENGTH},{VOCAB}]" in whole


def test_chunks_without_a_masked_position_are_not_read():
  head, hidden, texts = example()
  seen = []

  def read_logits(part):
    jax.debug.callback(lambda: seen.append(1))
    return part @ head

  few = texts.replace(is_masked=texts.is_masked.at[:, 5:].set(False))
  chunked_log_likelihoods(
    hidden, few, mask_id=MASK, read_logits=read_logits, chunk=2
  ).block_until_ready()
  jax.effects_barrier()
  largest = int(few.is_masked.sum(axis=1).max())
  assert len(seen) == -(-largest // 2) < LENGTH // 2
