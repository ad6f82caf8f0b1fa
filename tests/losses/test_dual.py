"""The dual loss: its value at initialisation, and that splitting is exact."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.diffusion.masked_diffusion import MaskedDiffusion
from ddit_jax.experiment.model import DualModel
from ddit_jax.losses.dual import DualLoss, MergedRows
from ddit_jax.models.config import size
from ddit_jax.models.module import Network
from ddit_jax.sharding.mesh import MeshConfig

VOCAB, LENGTH, BATCH = 11, 5, 8
NETWORK = Network(
  dataclasses.replace(
    size("tiny", vocab_size=VOCAB, max_text_length=LENGTH),
    depth=1,
    width=16,
    num_heads=2,
    num_null_image_tokens=2,
  )
)


def batch() -> DualBatch:
  draw = np.random.default_rng(0)
  images = draw.integers(0, 256, (2, BATCH, 8, 8, 3), dtype=np.uint8)
  tokens = draw.integers(0, VOCAB - 1, (2, BATCH, LENGTH)).astype(np.int32)
  loss_mask = np.broadcast_to(np.arange(LENGTH) >= 2, (BATCH, LENGTH))
  examples = DualBatch(
    TextToImageBatch(images[0], tokens[0]),
    ImageToTextBatch(images[1], tokens[1], loss_mask),
  )
  return jax.tree.map(jnp.asarray, examples)


def dual_loss(**changes) -> DualLoss:
  mask_count = changes.pop("mask_count", "bernoulli")
  masked_diffusion = MaskedDiffusion(mask_count=mask_count)
  return DualLoss(masked_diffusion=masked_diffusion, **changes)


MODEL = DualModel(network=NETWORK, mask_id=VOCAB - 1)


@functools.partial(jax.jit, static_argnums=0)
def weighed(loss: DualLoss, variables, examples):
  """(total loss, each stream's)."""
  losses, _ = loss.losses(MODEL, {"network": variables}, examples)
  return loss.total(losses), losses


@functools.cache
def corrupted(loss: DualLoss):
  return loss.corrupt(
    batch(),
    jax.random.key(0),
    jnp.int32(0),
    model=MODEL,
    variables={},
    null_tokens=jnp.ones(LENGTH, jnp.int32),
  )


@pytest.mark.parametrize("is_merged", [False, True])
@pytest.mark.parametrize("mask_count", ["bernoulli", "exact"])
@pytest.mark.parametrize("divisor", ["all_positions", "target_positions"])
def test_first_loss_is_its_analytic_value(divisor, mask_count, is_merged):
  """Zero heads: velocity 0, and every token but the mask equally likely."""
  loss = dual_loss(
    loss_normalization=divisor, mask_count=mask_count, is_merged=is_merged
  )
  examples = corrupted(loss)
  variables = fresh_variables()
  total, losses = weighed(loss, variables, examples)
  target = np.asarray(examples.images.velocity, np.float64)
  image_loss = np.square(target).mean()
  masked = np.asarray(examples.texts.is_masked.sum(-1), np.float64)
  text_loss = (np.asarray(examples.texts.weight) * masked).sum()
  text_loss *= np.log(VOCAB - 1)
  # Errors measured: below 2e-7 relative.
  np.testing.assert_allclose(losses["image"], image_loss, rtol=2e-6)
  np.testing.assert_allclose(losses["text"], text_loss, rtol=2e-6)
  np.testing.assert_allclose(total, image_loss + 0.2 * text_loss, rtol=2e-6)
  if mask_count == "exact" and divisor == "target_positions":
    # Every example weighs its targets' number: the analytic log(V - 1).
    np.testing.assert_allclose(text_loss, np.log(VOCAB - 1), rtol=1e-6)


@functools.cache
def fresh_variables():
  return jax.jit(NETWORK.init)(jax.random.key(1))


@functools.cache
def trained_like_variables():
  """Parameters away from zero, so that both heads answer."""
  variables = fresh_variables()
  draw = np.random.default_rng(2)

  def moved(leaf):
    return leaf + np.float32(0.1) * draw.normal(size=leaf.shape).astype("f4")

  return {**variables, "params": jax.tree.map(moved, variables["params"])}


@pytest.mark.parametrize("num_texts", [BATCH, 2])
def test_merging_the_streams_changes_nothing(num_texts):
  """Neither losses nor gradients, also with fewer texts than images."""
  variables = trained_like_variables()
  apart, merged = dual_loss(), dual_loss(is_merged=True)
  examples = corrupted(apart)
  texts = jax.tree.map(lambda array: array[:num_texts], examples.texts)
  examples = examples.replace(texts=texts)

  def gradient(loss):
    def total(params):
      total, losses = weighed(loss, {**variables, "params": params}, examples)
      return total, losses

    return jax.jit(jax.grad(total, has_aux=True))(variables["params"])

  (want, want_losses), (got, losses) = gradient(apart), gradient(merged)
  for name, value in want_losses.items():
    # Error measured: 6e-8.
    np.testing.assert_allclose(losses[name], value, rtol=1e-6)
  for ours, theirs in zip(
    jax.tree.leaves(got), jax.tree.leaves(want), strict=True
  ):
    # Error measured: 2e-7 of the norm.
    error = np.linalg.norm(ours - theirs)
    assert error <= 3e-6 * np.linalg.norm(theirs) + 1e-8


@pytest.mark.parametrize("sizes", [(16, 16), (16, 8)])
def test_no_example_changes_its_device_to_be_merged(sizes):
  mesh = MeshConfig(fsdp=8).make()
  split = NamedSharding(mesh, PartitionSpec(("replica", "fsdp")))
  first, second = (
    jax.device_put(jnp.arange(3.0 * n).reshape(n, 3), split) for n in sizes
  )
  rows = MergedRows(*sizes, num_shards=8)
  merge = jax.jit(rows.merge, out_shardings=split)
  merged = merge(first, second)
  program = merge.lower(first, second).compile().as_text()
  unmerge = jax.jit(rows.split, out_shardings=(split, split))
  program += unmerge.lower(merged).compile().as_text()
  for name in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
    assert name not in program
  together = np.concatenate([first, second])
  assert sorted(map(tuple, merged)) == sorted(map(tuple, together))
  for ours, theirs in zip(unmerge(merged), (first, second), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_parts_of_a_batch_add_up_to_the_whole():
  variables = trained_like_variables()
  loss = dual_loss(loss_normalization="target_positions")
  examples = corrupted(loss)
  whole = weighed(loss, variables, examples)[0]
  first = jax.tree.map(lambda x: x[:3], examples)
  second = jax.tree.map(lambda x: x[3:], examples)
  halves = [weighed(loss, variables, part)[0] for part in (first, second)]
  # Error measured: 6e-8 relative.
  np.testing.assert_allclose(sum(halves), whole, rtol=1e-6)


def test_merging_unequal_shapes_is_refused():
  loss = dual_loss(is_merged=True)
  examples = corrupted(loss)
  texts = examples.texts.replace(latents=examples.texts.latents[:, :4])
  variables = fresh_variables()
  with pytest.raises(ValueError, match=r"is_merged=False"):
    weighed(loss, variables, examples.replace(texts=texts))


@pytest.mark.parametrize(
  ("values", "part"),
  [
    ({"text_weight": -1.0}, "-1.0"),
    ({"condition_dropout": 1.5}, "1.5"),
  ],
)
def test_bad_settings_name_the_value(values, part):
  with pytest.raises(ValueError, match=part):
    dual_loss(**values)


@pytest.mark.parametrize("is_merged", [False, True])
def test_texts_without_an_image_do_not_see_their_pixels(is_merged):
  variables = trained_like_variables()
  loss = dual_loss(is_merged=is_merged)
  examples = corrupted(loss)
  has_image = jnp.arange(BATCH) % 2 == 0

  def text_loss(has_image, noise):
    latents = examples.texts.latents
    latents += noise * ~(jnp.arange(BATCH) % 2 == 0)[:, None, None, None]
    texts = examples.texts.replace(latents=latents, has_image=has_image)
    now = examples.replace(texts=texts)
    return weighed(loss, variables, now)[1]["text"]

  assert text_loss(has_image, 0.0) == text_loss(has_image, 1.0)
  everywhere = jnp.ones(BATCH, bool)
  assert text_loss(everywhere, 0.0) != text_loss(everywhere, 1.0)
  # Error measured: 6e-8 relative.
  np.testing.assert_allclose(
    text_loss(everywhere, 0.0), text_loss(None, 0.0), rtol=1e-6
  )
