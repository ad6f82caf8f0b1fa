"""A step whose loss or gradient is not finite changes nothing but counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.experiment.model import DualModel
from ddit_jax.losses.dual import DualLoss
from ddit_jax.models.config import size
from ddit_jax.models.module import Network
from ddit_jax.train.loop import TrainConfig
from ddit_jax.train.optimizer import OptimizerConfig
from ddit_jax.train.state import init_state
from ddit_jax.train.step import TrainStep

VOCAB, LENGTH, BATCH = 8, 4, 4
NETWORK = Network(
  size(
    "tiny",
    depth=1,
    width=16,
    vocab_size=VOCAB,
    max_text_length=LENGTH,
    num_null_image_tokens=2,
  )
)
SETTINGS = OptimizerConfig(learning_rate=1e-2, warmup_steps=0, ema_decay=0.9)
OPTIMIZER = SETTINGS.make(10)
NULL = jnp.zeros(LENGTH, jnp.int32)


class Breakable(DualModel):
  """Latents of an image that is all 255 are infinite."""

  def encode(self, variables, images, key=None):
    latents = super().encode(variables, images, key)
    is_white = (images == 255).all(axis=(1, 2, 3), keepdims=True)
    return jnp.where(is_white, jnp.inf, latents)


def batch(*, is_broken=False, has_images=True, has_texts=True) -> DualBatch:
  draw = np.random.default_rng(0)
  images = draw.integers(0, 255, (2, BATCH, 8, 8, 3), dtype=np.uint8)
  if is_broken:
    images[0, 1] = 255
  tokens = draw.integers(0, VOCAB - 1, (2, BATCH, LENGTH)).astype(np.int32)
  loss_mask = np.ones((BATCH, LENGTH), bool)
  return DualBatch(
    TextToImageBatch(images[0], tokens[0]) if has_images else None,
    ImageToTextBatch(images[1], tokens[1], loss_mask) if has_texts else None,
  )


@functools.cache
def train_step(*, num_microbatches=1, is_merged=False, has_task_norms=False):
  """The jitted step, whose programs all tests share."""
  return jax.jit(
    TrainStep(
      model=Breakable(network=NETWORK, mask_id=VOCAB - 1),
      loss=DualLoss(text_weight=0.5, is_merged=is_merged),
      optimizer=SETTINGS,
      train=TrainConfig(num_steps=10, num_microbatches=num_microbatches),
      seed=0,
      has_task_norms=has_task_norms,
    )
  )


@functools.cache
def fresh():
  create = functools.partial(init_state, NETWORK, OPTIMIZER)
  return jax.jit(create)(jax.random.key(1))


MICROBATCHES = [1, pytest.param(2, marks=pytest.mark.slow)]


def assert_equal(got, want):
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("num_microbatches", MICROBATCHES)
def test_a_broken_batch_never_reaches_the_weights(num_microbatches):
  step = train_step(num_microbatches=num_microbatches)
  before, _ = step(fresh(), batch(), NULL)
  after, metrics = step(before, batch(is_broken=True), NULL)
  assert not np.isfinite(metrics["loss/total"])
  for name in ("params", "ema", "opt_state"):
    assert_equal(getattr(after, name), getattr(before, name))
  counts = after.step, after.num_skipped, after.num_skipped_in_row
  assert tuple(map(int, counts)) == (2, 1, 1)
  later, _ = step(after, batch(), NULL)
  counts = later.step, later.num_skipped, later.num_skipped_in_row
  assert tuple(map(int, counts)) == (3, 1, 0)
  changes = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), later.params, after.params
  )
  assert max(jax.tree.leaves(changes)) > 1e-4


@pytest.mark.parametrize(
  ("num_microbatches", "is_merged"),
  [(1, True), pytest.param(2, False, marks=pytest.mark.slow)],
)
def test_norms_of_each_stream_are_those_of_the_stream_alone(
  num_microbatches, is_merged
):
  options = {
    "has_task_norms": True,
    "num_microbatches": num_microbatches,
    "is_merged": is_merged,
  }
  state = fresh()
  new, metrics = train_step(**options)(state, batch(), NULL)
  plain, want = train_step()(state, batch(), NULL)
  _, image = train_step()(state, batch(has_texts=False), NULL)
  _, text = train_step()(state, batch(has_images=False), NULL)
  # Measured: equal; another compiler may add up in another order.
  for name, alone in (("image", image), ("text", text)):
    np.testing.assert_allclose(
      metrics[f"grad_norm/{name}"], alone["grad_norm"], rtol=1e-5
    )
    np.testing.assert_allclose(
      metrics[f"loss/{name}"], alone[f"loss/{name}"], rtol=1e-5
    )
  np.testing.assert_allclose(metrics["grad_norm"], want["grad_norm"], rtol=1e-5)
  for mine, theirs in zip(
    jax.tree.leaves(new.opt_state),
    jax.tree.leaves(plain.opt_state),
    strict=True,
  ):
    np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_a_stream_that_is_off_has_no_loss():
  _, image = train_step()(fresh(), batch(has_texts=False), NULL)
  assert "loss/text" not in image
  assert float(image["loss/total"]) == float(image["loss/image"])
  _, text = train_step()(fresh(), batch(has_images=False), NULL)
  assert "loss/image" not in text
  np.testing.assert_allclose(text["loss/total"], 0.5 * text["loss/text"])


def test_text_alone_is_seen_beside_the_null_image():
  """As with images that no row is said to have."""
  texts = batch(has_images=False).image_to_text
  no_image = np.zeros(BATCH, bool)
  alone = DualBatch(None, texts.replace(images=None))
  hidden = DualBatch(None, texts.replace(has_image=no_image))
  # Away from the zero heads, so that the text sees the null image.
  params = jax.tree.map(lambda x: x + 0.1, fresh().params)
  state = fresh().replace(params=params)
  _, got = train_step()(state, alone, NULL)
  _, want = train_step()(state, hidden, NULL)
  for name in ("loss/text", "grad_norm"):
    # Measured: equal; another compiler may add up in another order.
    np.testing.assert_allclose(got[name], want[name], rtol=1e-5)
